//! numad, running: rounds of compat/numad's loop on this host, orders of later invocations, signals, and what is put back when
//! it ends.
//!
//! Four threads: rounds, which may wait for a bind; orders, which may not wait for one; signals; and the one that started them
//! and ends them.
//!
//! Deliberately absent: which process moves where (compat/numad), and the command line (cli/numad).

mod binder;
mod log;
mod pidfile;
pub mod socket;

pub use log::Log;
pub use pidfile::PidFileError;

use self::binder::Hands;
use self::pidfile::PidFile;
use self::socket::Reply;
use super::footprint::{Footprint, FootprintError, HostSettings, Shared};
use super::lock::{Lock, LockError};
use crate::act::Reins;
use crate::compat::numad::{
    self, Advice, Allowed, Bind, Binder, Bound, Host, Look, Manager, Mode, Options, Order, PageSizes, Sample, Spread, figures,
};
use crate::config;
use crate::observe::nodes::{self, Idle};
use crate::observe::tenants;
use crate::sys::clock::monotonic;
use crate::sys::detach::Detached;
use crate::sys::files::{ReadError, Root};
use crate::vocab::Span;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Two samples of /proc/stat, which counts in hundredths, hardly differ if they are closer.
const APART: Duration = Duration::from_millis(70);
/// Before the first round, and before the first answer.
const FIRST: Duration = Duration::from_millis(100);
const THP_SCAN: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";
const BALANCING: &str = "/proc/sys/kernel/numa_balancing";

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error(transparent)]
    Footprint(#[from] FootprintError),
    #[error(transparent)]
    Unread(#[from] ReadError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// What to start.
#[derive(Debug)]
pub struct Start {
    pub run_dir: PathBuf,
    pub pid_file: PathBuf,
    pub log_file: PathBuf,
    pub options: Options,
    /// As the log names it.
    pub version: &'static str,
}

/// What all threads share.
struct State {
    options: Options,
    /// The last look at the nodes, and from where on the next one counts how long CPUs idled.
    look: Look,
    idle: Idle,
}

/// Why it ends, or what else it is told by others than rounds.
enum Wake {
    Reopen,
    End,
}

/// Without rounds there is nothing to run for, and without orders nobody can end it: a panic ends the daemon, and what it set
/// is put back.
struct Over(Sender<Wake>);

impl Drop for Over {
    fn drop(&mut self) {
        // Nobody listens any more if it was told to end.
        let _ = self.0.send(Wake::End);
    }
}

impl Start {
    /// Runs until it is told to end. `detached` when it answers.
    pub fn run(self, detached: Detached) -> Result<(), StartError> {
        let Self { run_dir, pid_file, log_file, options, version } = self;
        let (mode, thp) = (options.measure.mode, options.thp_sleep_ms);
        let _lock = Lock::take(&run_dir, "numad")?;
        let pid_file = PidFile::take(&pid_file)?;
        let log = Arc::new(Log::open(&log_file, options.level));
        let footprint = Shared::new(Footprint::open(&run_dir, &super::boot_id().map_err(io("boot id"))?)?);
        // What one left that was killed.
        put_back(&footprint, mode, &log)?;
        let signals = blocked().map_err(io("signals"))?;
        let root = Root::host();
        let sizes = tenants::page_sizes(&root)?;
        let before = nodes::idle(&root)?;
        thread::sleep(FIRST);
        let (look, idle) = nodes::look_since(&root, &before)?;
        let listener = socket::bind(&run_dir).map_err(io("socket for orders"))?;
        let reins = Reins::new(&config::Arm::default());
        let hands = Hands::new(footprint.clone(), reins.clone(), Arc::clone(&log), mode);
        set_thp(thp, &footprint, &log);
        log.say(5, &format!("Registering numad version {version} PID {}", std::process::id()));
        if look.nodes.len() > 1 && root.number(BALANCING).is_ok_and(|mode| mode > 0) {
            log.say(5, "kernel.numa_balancing is on: the kernel moves memory of its own accord too, and is left to it");
        }
        let state = Arc::new(Mutex::new(State { options, look, idle }));
        let (wake, woken) = channel();
        let orders = Orders { state: Arc::clone(&state), log: Arc::clone(&log), footprint: footprint.clone(), wake: wake.clone() };
        let deaf = Over(wake.clone());
        thread::spawn(move || {
            let _deaf = deaf;
            orders.serve(&listener);
        });
        let live = Live { root, sizes, mode, hands, log: Arc::clone(&log) };
        let ((stop, stopped), over) = (channel(), Over(wake.clone()));
        thread::spawn(move || forward(&signals, &wake));
        let rounds = thread::spawn(move || {
            let _over = over;
            rounds(live, &state, &stopped);
        });
        // Who started it may be gone; it runs all the same.
        detached.ready(log.to_stderr()).unwrap_or_else(|error| tracing::debug!(%error, "nobody waits for it"));
        while let Ok(Wake::Reopen) = woken.recv() {
            log.reopen();
        }
        log.say(5, "Shutting down numad");
        drop(stop);
        reins.stop(true);
        // A bind under way finds the door shut.
        footprint.lock().close();
        if let Err(error) = put_back(&footprint, mode, &log) {
            log.say(5, &format!("{error}; `memtier undo` tries again"));
        }
        remove(&run_dir.join(socket::SOCKET));
        // A move that is under way cannot be stopped, and who starts the next one is to see that this one is still there.
        if rounds.join().is_err() {
            log.say(5, "a round panicked; please report this with the log");
        }
        drop(pid_file);
        Ok(())
    }
}

/// Puts back what was changed. The original leaves it; then `memtier undo` still may.
fn put_back(footprint: &Shared, mode: Mode, log: &Log) -> Result<(), FootprintError> {
    match mode {
        Mode::Compat => {}
        Mode::Repaired => footprint.lock().undo(&mut HostSettings)?.iter().for_each(|undone| log.say(6, &undone.to_string())),
    }
    Ok(())
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, path = %path.display(), "cannot remove"),
        Ok(()) | Err(_) => {}
    }
}

/// Every thread made from now on leaves them to the one that waits for them.
fn blocked() -> io::Result<SigSet> {
    let signals: SigSet = [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT].into_iter().collect();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    Ok(signals)
}

fn forward(signals: &SigSet, wake: &Sender<Wake>) {
    loop {
        let told = match signals.wait() {
            Ok(Signal::SIGHUP) => Wake::Reopen,
            Ok(_) | Err(_) => Wake::End,
        };
        if wake.send(told).is_err() {
            return;
        }
    }
}

/// Lets khugepaged scan more or less often; nought leaves it.
fn set_thp(ms: u64, footprint: &Shared, log: &Log) {
    let path = Path::new(THP_SCAN);
    let Some(old) = std::fs::read_to_string(path).ok().filter(|old| ms > 0 && old.trim() != ms.to_string()) else { return };
    let mut footprint = footprint.lock();
    let mut change = || footprint.change(&mut HostSettings, path, &ms.to_string());
    // Somebody set it after us, and now this is ordered: what they set is what goes back.
    match change().and_then(|ours| if ours { Ok(true) } else { change() }) {
        Ok(_) => log.say(5, &format!("Changing THP scan time in {THP_SCAN} from {} to {ms} ms.", old.trim())),
        Err(error) => log.say(5, &error.to_string()),
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rounds until somebody hangs up.
fn rounds(mut live: Live, state: &Mutex<State>, stopped: &Receiver<()>) {
    let mut manager = Manager::new(locked(state).options.clone());
    loop {
        let wait = match round(&mut manager, &mut live, state) {
            Ok(wait) => wait,
            Err(error) => {
                live.say(5, format!("Cannot look at this host: {error}"));
                manager.options.interval.max
            }
        };
        match stopped.recv_timeout(Duration::from_secs(wait)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn round(manager: &mut Manager, live: &mut Live, state: &Mutex<State>) -> Result<u64, ReadError> {
    let figures = {
        let mut state = locked(state);
        manager.options = state.options.clone();
        state.refresh(&live.root, true)?;
        figures(&state.look, &state.options.measure)
    };
    let tenants = tenants::tenants(&live.root, manager.wanted().as_ref(), live.mode)?;
    let at = i64::try_from(monotonic().0 / Span::from_millis(10).0).unwrap_or(i64::MAX);
    let listed = manager.options.included.clone();
    let round = manager.round(Sample { at, nodes: &figures, tenants }, live);
    live.hands.forget_dead();
    // Dead ones left the list; others may have come on it meanwhile.
    let dead: BTreeSet<u32> = listed.difference(&manager.options.included).copied().collect();
    locked(state).options.included.retain(|pid| !dead.contains(pid));
    Ok(round.wait)
}

impl State {
    /// Looks again, unless the last look was just now. Idle time counts from the last round on: `anew` begins one.
    fn refresh(&mut self, root: &Root, anew: bool) -> Result<(), ReadError> {
        if self.idle.at.elapsed() >= APART {
            let (look, idle) = nodes::look_since(root, &self.idle)?;
            self.look = look;
            if anew {
                self.idle = idle;
            }
        }
        Ok(())
    }
}

/// The thread that heeds later invocations.
struct Orders {
    state: Arc<Mutex<State>>,
    log: Arc<Log>,
    footprint: Shared,
    wake: Sender<Wake>,
}

impl Orders {
    fn serve(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            let mut ends = false;
            if stream.is_err() {
                // Out of file descriptors: not to spin until there are some.
                thread::sleep(FIRST);
            }
            let told = stream.and_then(|stream| socket::serve(&stream, |orders| self.heed(&orders, &mut ends)));
            if let Err(error) = told {
                tracing::debug!(%error, "a client that went away");
            }
            // Not before it was answered.
            if ends && self.wake.send(Wake::End).is_err() {
                return;
            }
        }
    }

    fn heed(&self, orders: &[Order], ends: &mut bool) -> Reply {
        let mut reply = Reply::default();
        for order in orders.iter().copied() {
            locked(&self.state).options.heed(order);
            // The end has a line of its own.
            *ends |= matches!(order, Order::Interval(interval) if interval.max == 0);
            if let Some(line) = numad::heeded(order).filter(|_| !*ends) {
                self.log.say(5, &line);
            }
            match order {
                Order::Level(level) => self.log.set_level(level),
                Order::ThpSleep(ms) => set_thp(ms, &self.footprint, &self.log),
                Order::Advise(request) => reply = self.advise(request).unwrap_or_else(Reply::Refused),
                Order::CacheIsFree(_)
                | Order::Interval(_)
                | Order::KeepInterleaved(_)
                | Order::Locality(_)
                | Order::Include(_)
                | Order::Exclude(_)
                | Order::Remove(_)
                | Order::ScanAll(_)
                | Order::Smt(_)
                | Order::Utilization(_) => {}
            }
        }
        reply
    }

    fn advise(&self, request: numad::Request) -> Result<Reply, String> {
        let (look, settings) = {
            let mut state = locked(&self.state);
            state.refresh(&Root::host(), false).map_err(|e| e.to_string())?;
            (state.look.clone(), state.options.measure.clone())
        };
        let advice = Advice::on(&look, request, &settings, |level, line| self.log.say(level, line)).map_err(|e| e.to_string())?;
        Ok(Reply::Advice(Box::new(advice)))
    }
}

/// This host, to a round.
struct Live {
    root: Root,
    sizes: PageSizes,
    mode: Mode,
    hands: Hands,
    log: Arc<Log>,
}

impl Binder for Live {
    fn bind(&mut self, bind: &Bind) -> Result<Bound, String> {
        self.hands.bind(bind)
    }
}

impl Host for Live {
    fn allowed(&mut self, pid: u32) -> Option<Allowed> {
        tenants::allowed(&self.root, pid)
    }
    fn spread(&mut self, pid: u32) -> Option<Spread> {
        tenants::spread(&self.root, pid, self.sizes, self.mode)
    }
    fn command_line(&mut self, pid: u32) -> Option<Vec<u8>> {
        tenants::command_line(&self.root, pid)
    }
    fn say(&mut self, level: i64, line: String) {
        self.log.say(level, &line);
    }
}
