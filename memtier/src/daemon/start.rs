//! Brings the live loop up and down: lock, leftovers of a killed daemon, eyes, hands, control socket, signals.
//!
//! `heat` and `record` bring the same loop up inside their own process where no daemon runs: same lock, same socket.

use super::caches::Caches;
use super::control::{self, Ask, Door, Query, SOCKET};
use super::dispatch::{Crew, Dispatch};
use super::footprint::{Footprint, FootprintError, HostSettings, Shared};
use super::ingest::{Inlet, Intake};
use super::live::{Live, Parts, Wiring};
use super::lock::{Lock, LockError};
use super::log::Log;
use super::recorder::Recorder;
use super::setup::{Setup, SetupError};
use super::{boot_id, notify, usage, walk};
use crate::act::{Actuator as _, Hands, Placer};
use crate::config::Config;
use crate::model::kernel_source;
use crate::observe::bpf::{Eyes, Options};
use crate::observe::cgroup::{CgroupSensor, Hierarchy};
use crate::observe::host::HostSensor;
use crate::observe::proc::{self, ProcObserver};
use crate::observe::psi::PsiObserver;
use crate::observe::{Observer, Polled, Watched, probe};
use crate::plan::vain_rules;
use crate::sys::clock::boottime;
use crate::sys::files::Root;
use crate::sys::slice::Slice;
use crate::trace::TraceError;
use crate::vocab::{Event, HostFacts, KernelEvent, Need, Source};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How often the sensors look. Pressure also tells by triggers, at once.
const HOST_EVERY: Duration = Duration::from_secs(2);
const PRESSURE_EVERY: Duration = Duration::from_secs(2);
const CGROUPS_EVERY: Duration = Duration::from_secs(5);
/// Sweeps over /proc where fork, exec and exit are not told by the kernel.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Footprint(#[from] FootprintError),
    #[error("recording: {0}")]
    Trace(#[from] TraceError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// What SIGTERM and SIGINT do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// Stop the loop, put everything back.
    Stop,
    /// Nothing: a command that we run decides (`record -- COMMAND`).
    Ignore,
}

/// What to start.
pub struct Start {
    pub run_dir: PathBuf,
    /// Who holds the lock, in a word.
    pub role: &'static str,
    pub setup: Setup,
    pub record: Option<PathBuf>,
    pub signals: Signals,
    pub eyes: Options,
    /// The decision log.
    pub log: Box<dyn Write + Send>,
}

impl Start {
    /// Runs until a signal or `stop` comes. `ready` is called when the control socket answers.
    pub fn run(self, stop: oneshot::Receiver<()>, ready: impl FnOnce()) -> Result<(), StartError> {
        let Self { run_dir, role, setup, record, signals, eyes, log } = self;
        let (loaded, _) = setup.load()?;
        let _lock = Lock::take(&run_dir, role)?;
        let boot = boot_id().map_err(io("boot id"))?;
        let mut footprint = Footprint::open(&run_dir, &boot)?;
        for undone in footprint.undo(&mut HostSettings)? {
            tracing::warn!(%undone, "left behind by a daemon that was killed");
        }
        // All that is started from here on gives way to those who have work to do.
        Slice::Patient.set().unwrap_or_else(|error| tracing::debug!(%error, "sched_setattr"));
        let runtime = runtime().map_err(io("starting the event loop"))?;
        let _entered = runtime.enter();
        let stopped = stopped(signals, stop).map_err(io("signals"))?;
        let eyes = Eyes::open(&eyes);
        let used = usage::Ledger::open(&run_dir, boottime());
        let intake = Intake::new();
        let footprint = Shared::new(footprint);
        let (facts, wiring, dispatch) = limbs(&loaded.config, eyes, &footprint, &run_dir, &intake.inlet(), runtime.handle())
            .map_err(io("starting the hands"))?;
        let log = Log::new(log).map_err(io("starting the decision log"))?;
        let facts = HostFacts { swap_written_today: used.today(), ..facts };
        warn_of_vain_rules(&loaded.config, &facts);
        let parts = Parts { intake, dispatch, wiring, setup, recorder: Recorder::new(&boot), footprint, log, used };
        let (mut live, door) = Live::new(parts);
        live.begin(facts, record)?;
        live.stay_paused();
        let listener = control::bind(&run_dir).map_err(io("control socket"))?;
        runtime.spawn(hangups(door.clone()));
        runtime.spawn(control::serve(listener, door));
        notify(&[sd_notify::NotifyState::Ready]);
        ready();
        runtime.block_on(live.run(stopped));
        remove(&run_dir.join(SOCKET));
        // A walk that hangs in the kernel must not hold the process.
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    }
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start").field("run_dir", &self.run_dir).field("role", &self.role).finish_non_exhaustive()
    }
}

/// Sources, readers and the loop share one thread: what one tells another then wakes no CPU. Walks, hands, looks at /proc and the
/// decision log have threads of their own; the loop itself waits for the disk when it keeps a setting or ends a segment of a
/// recording, and for servers whose settings go back.
fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().thread_name("memtier-io").enable_all().build()
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, path = %path.display(), "cannot remove"),
        Ok(()) | Err(_) => {}
    }
}

fn stopped(signals: Signals, stop: oneshot::Receiver<()>) -> io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        let mut stop = std::pin::pin!(stop);
        loop {
            let by_signal = tokio::select! {
                _ = term.recv() => true,
                _ = int.recv() => true,
                _ = &mut stop => false,
            };
            if !by_signal || signals == Signals::Stop {
                return;
            }
        }
    })
}

/// SIGHUP is `memtier reload`.
async fn hangups(door: Door) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        let (reply, answered) = oneshot::channel();
        if door.asks.send(Ask { query: Query::Reload, by: "SIGHUP".to_owned(), reply }).await.is_err() {
            return;
        }
        match answered.await {
            Ok(Ok(done)) => tracing::info!(answer = %String::from_utf8_lossy(&done), "SIGHUP"),
            Ok(Err(refusal)) => tracing::error!(error = refusal.error, next = refusal.next, "SIGHUP: reload"),
            Err(_) => return,
        }
    }
}

/// Sources and hands, at work.
fn limbs(
    config: &Config,
    mut eyes: Eyes,
    footprint: &Shared,
    run_dir: &Path,
    inlet: &Inlet,
    runtime: &Handle,
) -> io::Result<(HostFacts, Wiring, Dispatch)> {
    let root = Root::host();
    let facts = probe::facts(&root, eyes.learned());
    let lacks = |source| eyes.families().get(&source).and_then(|family| family.clone().err());
    let sweeps = lacks(Source::Procs).map(|_| SWEEP_EVERY);
    let why = lacks(Source::Walker).unwrap_or_default();
    let (walker, sight) = walk::best(eyes.take_walker().ok_or(why), config.daemon.arm || config.daemon.act);
    tell(runtime, inlet, sight);
    let (cgroups, hierarchy) = (Watched::default(), hierarchy(&root));
    let (procs, asks) = ProcObserver::new(root.clone(), hierarchy.as_ref().ok().cloned(), sweeps);
    pump(runtime, inlet, procs, Room::Waits);
    let costs = eyes.costs();
    pump(runtime, inlet, eyes, Room::Drops);
    pump(runtime, inlet, Polled::new(HostSensor { root: root.clone() }, HOST_EVERY), Room::Waits);
    let threshold = config.brake.memory_some_centipercent;
    let (paths, groups) = (cgroups.clone(), hierarchy.as_ref().ok().cloned());
    pump(runtime, inlet, PsiObserver::new(root.clone(), groups, paths, PRESSURE_EVERY, threshold), Room::Waits);
    match &hierarchy {
        Ok(hierarchy) => {
            let sensor = CgroupSensor { root: root.clone(), hierarchy: hierarchy.clone(), watched: cgroups.clone() };
            pump(runtime, inlet, Polled::new(sensor, CGROUPS_EVERY), Room::Waits);
        }
        Err(why) => tell(runtime, inlet, Event::Blind { source: Source::Cgroup, why: why.clone() }),
    }
    let mut hands = Hands::new(&config.arm);
    let mut placer = Placer::new(footprint.clone(), hands.reins());
    let caches = Caches::new(inlet, runtime, footprint, run_dir);
    let servers = caches.clone();
    let wiring = Wiring {
        caches,
        procs: asks,
        look: Box::new(move |pid| proc::sample(&root, hierarchy.as_ref().ok(), pid).ok()),
        cgroups,
        hands: hands.reins(),
        bpf_run: Box::new(move || costs.run_time()),
    };
    let crew = Crew {
        walker,
        hands: Box::new(move |step, _| hands.apply(step)),
        placer: Box::new(move |step, _| placer.apply(step)),
        marks: facts.has(Need::PageIdle).is_ok(),
        servers: Arc::new(move |step| {
            let servers = servers.clone();
            Box::pin(async move { servers.carry_out(&step).await })
        }),
    };
    Ok((facts, wiring, Dispatch::new(crew, inlet, runtime)?))
}

/// A rule that matches nothing is mostly a slip of the pen; `memtier status` goes on saying it.
fn warn_of_vain_rules(config: &Config, facts: &HostFacts) {
    if config.target.is_empty() {
        return;
    }
    let root = Root::host();
    match proc::samples(&root, hierarchy(&root).ok().as_ref()) {
        Ok(samples) => {
            let vain = vain_rules(&samples.iter().collect::<Vec<_>>(), config, facts);
            vain.iter().for_each(|rule| tracing::warn!("{rule}; `memtier status` tells when that changes"));
        }
        Err(error) => tracing::warn!(%error, "cannot tell which processes the target rules match"),
    }
}

pub(crate) fn hierarchy(root: &Root) -> Result<Hierarchy, String> {
    match Hierarchy::find(root) {
        Ok(Some(hierarchy)) => Ok(hierarchy),
        Ok(None) => Err("no cgroup hierarchy that accounts memory is mounted".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn tell(runtime: &Handle, inlet: &Inlet, event: Event) {
    let inlet = inlet.clone();
    runtime.spawn(async move { inlet.put(event).await });
}

/// What a source does when the loop has no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Waits,
    /// Its events of the kernel come as they come: they are counted as lost.
    Drops,
}

/// So many events in a row; then the loop, which has the same thread, takes them. What waits in the kernel's ring is not lost.
const OFFERS: u32 = 256;

/// Carries a source's events to the loop for as long as it runs.
fn pump<O: Observer + Send + 'static>(runtime: &Handle, inlet: &Inlet, mut observer: O, room: Room) {
    let (inlet, mut offered) = (inlet.clone(), 0);
    runtime.spawn(async move {
        loop {
            let event = observer.next().await;
            match &event {
                // What the kernel only counts comes in bursts, and has room in the kernel while it waits.
                Event::Kernel(kernel)
                    if room == Room::Drops && !matches!(kernel, KernelEvent::TaskMoved { .. } | KernelEvent::PagesMoved { .. }) =>
                {
                    inlet.offer(kernel_source(kernel), event);
                    offered += 1;
                    if offered % OFFERS == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                _ => {
                    if !inlet.put(event).await {
                        return;
                    }
                }
            }
        }
    });
}
