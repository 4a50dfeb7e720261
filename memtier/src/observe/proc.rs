//! Processes as /proc shows them. One sweep at the start; then those that somebody asks for, and new ones as fork and exec
//! tell of them. Without those events the sweep repeats.
//!
//! Cost: some 60 us a process and 12 us a thread, so a sweep of 1,000 processes takes 0.1 s beside the event loop.

use super::{Observer, Sight, cgroup::Hierarchy, every, off_loop};
use crate::sys::files::{ReadError, Root};
use crate::vocab::{Bytes, CgroupId, Event, IdSet, KernelEvent, ProcKey, ProcSample, Sample, SchedClass, Source, Span};
use procfs::process::{Stat, Status};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval};

// include/linux/sched.h; the first two are what prctl(PR_SET_IO_FLUSHER) sets on the thread that calls it.
const PF_MEMALLOC_NOIO: u32 = 0x0008_0000;
const PF_LOCAL_THROTTLE: u32 = 0x0010_0000;
const PF_KTHREAD: u32 = 0x0020_0000;
const IO_FLUSHER: u32 = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE;

// include/uapi/linux/sched.h
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_DEADLINE: u32 = 6;

/// A CPU or node number beyond this is none that the kernel writes.
const MOST_NUMBERED: u32 = 1 << 16;

/// A whole `ProcSample` of the process that has this pid now.
pub fn sample(root: &Root, hierarchy: Option<&Hierarchy>, pid: u32) -> Result<ProcSample, ReadError> {
    let dir = format!("/proc/{pid}");
    let stat = stat(root, &dir)?;
    let status: Status = root.parse(format!("{dir}/status"))?;
    let bytes = |kib: Option<u64>| Bytes::from_kib(kib.unwrap_or_default());
    let (cgroup, cgroup_id) = cgroup(root, hierarchy, &dir)?;
    let kernel_thread = stat.flags & PF_KTHREAD != 0;
    let mems_allowed = numbers(status.mems_allowed_list);
    let mempolicy = if kernel_thread || mems_allowed.len() < 2 { String::new() } else { mempolicy(root, &dir)? };
    let (class, io_flusher, waited) = if kernel_thread { (class_of(&stat), false, Span::ZERO) } else { threads(root, &dir)? };
    Ok(ProcSample {
        proc: ProcKey { pid, start: stat.starttime },
        parent: stat.ppid.unsigned_abs(),
        exe: exe(root, &dir)?,
        uid: status.euid,
        cgroup,
        cgroup_id,
        threads: stat.num_threads.max(0) as u32,
        rss: bytes(status.vmrss),
        rss_anon: bytes(status.rssanon),
        rss_file: bytes(status.rssfile),
        swapped: bytes(status.vmswap),
        locked: bytes(status.vmlck).saturating_add(bytes(status.vmpin)),
        oom_score_adj: oom_score_adj(root, &dir)?,
        class,
        kernel_thread,
        io_flusher,
        minor_faults: stat.minflt,
        major_faults: stat.majflt,
        cpu_ticks: stat.utime + stat.stime,
        waited,
        cpus_allowed: numbers(status.cpus_allowed_list),
        mems_allowed,
        mempolicy,
        comm: stat.comm,
    })
}

fn numbers(ranges: Option<Vec<(u32, u32)>>) -> IdSet {
    ranges.into_iter().flatten().flat_map(|(low, high)| low..=high.min(MOST_NUMBERED)).collect()
}

/// `procfs` slices behind the closing parenthesis without looking, so cut text is caught here.
fn stat(root: &Root, dir: &str) -> Result<Stat, ReadError> {
    let path = format!("{dir}/stat");
    let text = root.text(&path)?;
    let whole = text.find(" (").zip(text.rfind(") ")).is_some_and(|(open, close)| open > 0 && open + 1 < close);
    if !whole {
        return Err(root.nonsense(path, "is cut short"));
    }
    procfs::FromRead::from_read(text.as_bytes()).map_err(|e| root.nonsense(path, e))
}

fn class_of(stat: &Stat) -> SchedClass {
    match stat.policy {
        Some(SCHED_FIFO | SCHED_RR) => SchedClass::RealTime,
        Some(SCHED_DEADLINE) => SchedClass::Deadline,
        Some(_) | None => SchedClass::Normal,
    }
}

/// The strictest class of all threads, whether any of them writes back for others, and how long they waited for CPUs.
fn threads(root: &Root, dir: &str) -> Result<(SchedClass, bool, Span), ReadError> {
    let (mut class, mut io_flusher, mut waited) = (SchedClass::Normal, false, Span::ZERO);
    for tid in root.list(format!("{dir}/task"))? {
        let stat = match stat(root, &format!("{dir}/task/{tid}")) {
            // A thread may end at any time.
            Err(e) if e.is_gone() => continue,
            stat => stat?,
        };
        io_flusher |= stat.flags & IO_FLUSHER == IO_FLUSHER;
        waited = waited.saturating_add(run_delay(root, &format!("{dir}/task/{tid}"))?);
        class = match (class, class_of(&stat)) {
            (SchedClass::Deadline, _) | (_, SchedClass::Deadline) => SchedClass::Deadline,
            (SchedClass::RealTime, _) | (_, SchedClass::RealTime) => SchedClass::RealTime,
            (SchedClass::Normal, SchedClass::Normal) => SchedClass::Normal,
        };
    }
    Ok((class, io_flusher, waited))
}

/// The policy of the main thread: what numa_maps tells of the first mapping, which is of the program. Reading on would walk
/// all page tables of the process.
fn mempolicy(root: &Root, dir: &str) -> Result<String, ReadError> {
    let path = root.path(format!("{dir}/numa_maps"));
    let mut line = [0; 64];
    let read = File::open(&path).and_then(|mut file| file.read(&mut line)).map_err(|source| ReadError::Io { path, source });
    let len = match read {
        // A kernel without NUMA, or nobody who may look.
        Err(e) if e.is_gone() => 0,
        Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => 0,
        read => read?,
    };
    let text = String::from_utf8_lossy(&line[..len]);
    let policy = text.split_ascii_whitespace().nth(1).filter(|policy| !["default", "local"].contains(policy));
    Ok(policy.map(str::to_owned).unwrap_or_default())
}

/// The second number of schedstat: nanoseconds in a run queue. Kernels without CONFIG_SCHED_INFO have no such file.
fn run_delay(root: &Root, dir: &str) -> Result<Span, ReadError> {
    let path = format!("{dir}/schedstat");
    let text = match root.text(&path) {
        Err(e) if e.is_gone() => return Ok(Span::ZERO),
        text => text?,
    };
    let delay = text.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    delay.map(Span).ok_or_else(|| root.nonsense(path, "no run delay"))
}

fn cgroup(root: &Root, hierarchy: Option<&Hierarchy>, dir: &str) -> Result<(String, CgroupId), ReadError> {
    let Some(hierarchy) = hierarchy else { return Ok(Default::default()) };
    let text = match root.text(format!("{dir}/cgroup")) {
        // No cgroups in this kernel.
        Err(e) if e.is_gone() => return Ok(Default::default()),
        text => text?,
    };
    Ok(hierarchy.path_in(&text).map_or_else(Default::default, |path| (path.to_owned(), hierarchy.id(root, path))))
}

/// Empty for kernel threads and zombies, which have none, and where we may not look.
fn exe(root: &Root, dir: &str) -> Result<String, ReadError> {
    let path = root.path(format!("{dir}/exe"));
    match std::fs::read_link(&path).map_err(|source| ReadError::Io { path, source }) {
        Ok(target) => Ok(target.to_string_lossy().into_owned()),
        Err(e) if e.is_gone() || e.is_denied() => Ok(String::new()),
        Err(e) => Err(e),
    }
}

fn oom_score_adj(root: &Root, dir: &str) -> Result<i32, ReadError> {
    let path = format!("{dir}/oom_score_adj");
    let text = root.text(&path)?;
    text.trim().parse().map_err(|_| root.nonsense(path, format_args!("{:?} is no number", text.trim())))
}

/// All pids in /proc, ascending.
pub fn pids(root: &Root) -> Result<Vec<u32>, ReadError> {
    let mut pids: Vec<u32> = root.list("/proc")?.iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// Every process that we may look at, once.
pub fn samples(root: &Root, hierarchy: Option<&Hierarchy>) -> Result<Vec<ProcSample>, ReadError> {
    // Who went away meanwhile, or is hidden, is not there for us.
    Ok(pids(root)?.into_iter().filter_map(|pid| sample(root, hierarchy, pid).ok()).collect())
}

/// Beyond this many questions a sweep costs less, and forgets none.
const MOST_ASKED: usize = 4096;
/// After a look the next one waits for nine times as long as that took, so that a storm of forks takes a tenth of a thread;
/// who exits meanwhile is never looked at.
const REST: u32 = 9;
const LEAST_REST: Duration = Duration::from_millis(20);
/// However long a look took: it may have been we who were stopped.
const MOST_REST: Duration = Duration::from_secs(5);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Asks a `ProcObserver` about processes; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Asks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    keys: BTreeSet<ProcKey>,
    /// Told by the kernel as gone.
    gone: BTreeSet<ProcKey>,
    sweep: bool,
}

impl Asks {
    /// Look at these soon: watched or large ones once a period, new ones when fork or exec told of them.
    pub fn refresh(&self, keys: impl IntoIterator<Item = ProcKey>) {
        let mut pending = self.lock();
        pending.keys.extend(keys);
        pending.sweep |= pending.keys.len() > MOST_ASKED;
        drop(pending);
        self.0.bell.notify_one();
    }
    /// It is gone: no need to look.
    pub fn forget(&self, proc: ProcKey) {
        let mut pending = self.lock();
        pending.keys.remove(&proc);
        pending.gone.insert(proc);
    }
    /// Look at all processes soon: after events were lost.
    pub fn sweep(&self) {
        self.lock().sweep = true;
        self.0.bell.notify_one();
    }
    fn take(&self) -> Pending {
        std::mem::take(&mut *self.lock())
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of processes: `ProcSample`s, and an exit for each that was asked for or known and is gone.
#[derive(Debug)]
pub struct ProcObserver {
    eyes: Arc<Eyes>,
    asks: Asks,
    /// Sweeps at this pace, where fork, exec and exit are not told by the kernel.
    sweeps: Option<Interval>,
    /// Told of, or asked about, and not told as gone since.
    known: BTreeSet<ProcKey>,
    rested: Instant,
    sight: Sight,
    queue: VecDeque<Event>,
}

#[derive(Debug)]
struct Eyes {
    root: Root,
    hierarchy: Option<Hierarchy>,
}

impl ProcObserver {
    /// `sweep_every`: `None` where fork, exec and exit events come.
    #[must_use]
    pub fn new(root: Root, hierarchy: Option<Hierarchy>, sweep_every: Option<Duration>) -> (Self, Asks) {
        let asks = Asks::default();
        asks.sweep();
        let observer = Self {
            eyes: Arc::new(Eyes { root, hierarchy }),
            asks: asks.clone(),
            sweeps: sweep_every.map(every),
            known: BTreeSet::new(),
            rested: Instant::now(),
            sight: Sight::new(Source::Procs),
            queue: VecDeque::new(),
        };
        (observer, asks)
    }

    async fn look(&mut self, pending: Pending) {
        let (eyes, began) = (Arc::clone(&self.eyes), Instant::now());
        let Pending { keys, gone: _, sweep } = pending;
        self.known.extend(&keys);
        let looked =
            off_loop(move || if sweep { eyes.all() } else { eyes.some(&keys).map(|events| (events, BTreeSet::new())) }).await;
        let rest = match &looked {
            Ok(_) => (began.elapsed() * REST).clamp(LEAST_REST, MOST_REST),
            Err(_) => {
                // What was asked for is known by now: a sweep answers it.
                self.asks.sweep();
                RETRY
            }
        };
        self.rested = Instant::now() + rest;
        let looked = looked.map(|(mut events, hidden)| {
            if sweep {
                // Who is there and cannot be looked at has not gone.
                self.known.retain(|proc| !hidden.contains(&proc.pid));
                let now: BTreeSet<ProcKey> = events.iter().filter_map(key_of).collect();
                let gone = self.known.difference(&now).map(|proc| Event::Kernel(KernelEvent::Exit { proc: *proc }));
                events = gone.chain(events.iter().cloned()).collect();
                self.known = now;
            } else {
                self.known.extend(events.iter().filter_map(key_of));
                let gone = |event: &Event| if let Event::Kernel(KernelEvent::Exit { proc }) = event { Some(*proc) } else { None };
                for proc in events.iter().filter_map(gone) {
                    self.known.remove(&proc);
                }
            }
            events
        });
        self.queue = self.sight.judge(looked);
    }
}

fn key_of(event: &Event) -> Option<ProcKey> {
    match event {
        Event::Sample(Sample::Proc(sample)) => Some(sample.proc),
        _ => None,
    }
}

impl Eyes {
    /// Everybody, and the pids that cannot be looked at.
    fn all(&self) -> Result<(Vec<Event>, BTreeSet<u32>), ReadError> {
        let (mut events, mut hidden) = (Vec::new(), BTreeSet::new());
        for pid in pids(&self.root)? {
            match self.one(pid)? {
                Look::Seen(sample) => events.push(Event::Sample(Sample::Proc(sample))),
                Look::Gone => {}
                Look::Hidden => {
                    hidden.insert(pid);
                }
            }
        }
        Ok((events, hidden))
    }

    fn some(&self, keys: &BTreeSet<ProcKey>) -> Result<Vec<Event>, ReadError> {
        let mut events = Vec::with_capacity(keys.len());
        for key in keys {
            let exit = Event::Kernel(KernelEvent::Exit { proc: *key });
            match self.one(key.pid)? {
                Look::Seen(sample) => {
                    if sample.proc != *key {
                        events.push(exit);
                    }
                    events.push(Event::Sample(Sample::Proc(sample)));
                }
                Look::Gone => events.push(exit),
                Look::Hidden => {}
            }
        }
        Ok(events)
    }

    fn one(&self, pid: u32) -> Result<Look, ReadError> {
        match sample(&self.root, self.hierarchy.as_ref(), pid) {
            Ok(sample) => Ok(Look::Seen(Box::new(sample))),
            Err(e) if e.is_gone() => Ok(Look::Gone),
            Err(e) if e.is_denied() => Ok(Look::Hidden),
            // One process whose files make no sense must not hide the others.
            Err(e @ ReadError::Text { .. }) => {
                tracing::warn!("{e}");
                Ok(Look::Hidden)
            }
            Err(e) => Err(e),
        }
    }
}

enum Look {
    Seen(Box<ProcSample>),
    Gone,
    Hidden,
}

impl Observer for ProcObserver {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return event;
            }
            tokio::time::sleep_until(self.rested).await;
            let mut pending = self.asks.take();
            self.known.retain(|proc| !pending.gone.contains(proc));
            if !pending.sweep && pending.keys.is_empty() {
                tokio::select! {
                    () = self.asks.0.bell.notified() => {}
                    () = tick(&mut self.sweeps) => pending.sweep = true,
                }
            }
            if pending.sweep || !pending.keys.is_empty() {
                self.look(pending).await;
            }
        }
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
