//! The eyes: everything that BPF programs tell, as one stream of events. Each family is optional.
//!
//! Records come through one ring buffer as they happen; what is counted in the kernel is drained once a period on a thread
//! of its own (drain.rs). The page walker is opened here and handed to whoever walks.
//!
//! Deliberately absent: word of sight about walker and processes where they could not be attached. Both have stand-ins
//! that read /proc; whoever starts those tells it.

use super::attach;
use super::drain::{Drain, Losses};
use super::object::{Object, Options};
use super::wire::{Record, record};
use crate::observe::walker::Walker;
use crate::observe::{Observer, every};
use crate::sys::bpf::{ProgramStats, program_stats};
use crate::sys::memory::trim_heap;
use crate::vocab::{Answer, Bytes, CpuTime, Event, Fact, Need, Source, Span};
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use memtier_common::lost;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::Interval;

/// Between two drains of what the kernel counts.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Records taken from the ring before the caller gets the first of them.
const BATCH: usize = 1024;

/// The families, and what each needs of the host in the facts' words.
const FAMILIES: [(Source, Need); 7] = [
    (Source::Walker, Need::Walker),
    (Source::Procs, Need::SchedEvents),
    (Source::Sched, Need::SchedEvents),
    (Source::Reclaim, Need::ReclaimEvents),
    (Source::Faults, Need::FaultSamples),
    (Source::Migrate, Need::MigrateEvents),
    (Source::Damon, Need::DamonEvents),
];

/// Families by program, for the runs that the kernel leaves out.
const PROGRAMS: [(&str, Source); 12] = [
    ("proc_fork", Source::Procs),
    ("proc_exec", Source::Procs),
    ("proc_exit", Source::Procs),
    ("sched_switch", Source::Sched),
    ("sched_migrate", Source::Sched),
    ("swap_write", Source::Reclaim),
    ("direct_reclaim", Source::Reclaim),
    ("memcg_reclaim", Source::Reclaim),
    ("minor_fault", Source::Faults),
    ("major_fault", Source::Faults),
    ("migrate_pages", Source::Migrate),
    ("damon_region", Source::Damon),
];

/// What one loaded program cost so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    pub name: String,
    pub stats: ProgramStats,
}

/// Handles to the loaded programs, to be asked at any time from anywhere.
#[derive(Clone, Debug, Default)]
pub struct Costs(Arc<Vec<(String, OwnedFd)>>);

impl Costs {
    /// Per program, by name.
    #[must_use]
    pub fn programs(&self) -> Vec<ProgramCost> {
        let cost =
            |(name, fd): &(String, OwnedFd)| Some(ProgramCost { name: name.clone(), stats: program_stats(fd.as_fd()).ok()? });
        self.0.iter().filter_map(cost).collect()
    }

    /// Run time of all programs; `None` unless the kernel counts it.
    #[must_use]
    pub fn run_time(&self) -> Option<Span> {
        let (runs, ns) = self.programs().iter().fold((0, 0), |sum, p| (sum.0 + p.stats.runs, sum.1 + p.stats.run_ns));
        (runs > 0).then_some(Span(ns))
    }
}

/// The files that wake us; made when the event loop first asks.
struct Wakers {
    events: Option<AsyncFd<RingBuf<MapData>>>,
    log: Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>,
    period: Interval,
}

pub struct Eyes {
    /// Keeps programs attached.
    ebpf: Option<Ebpf>,
    /// What each family came to: in place, or why not.
    families: BTreeMap<Source, Result<(), String>>,
    /// What to do where the object did not load.
    remedy: String,
    walker: Option<Walker>,
    costs: Costs,
    /// The kernel counts run times while this is open.
    _stats: Option<OwnedFd>,
    ring: Option<RingBuf<MapData>>,
    /// Records that wait for the end of a period.
    samples: Option<RingBuf<MapData>>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    wakers: Option<Wakers>,
    drain: Option<Drain>,
    draining: Option<JoinHandle<(Drain, Vec<Event>)>>,
    spilled: Vec<CpuTime>,
    queue: VecDeque<Event>,
}

impl std::fmt::Debug for Eyes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eyes").field("families", &self.families).finish_non_exhaustive()
    }
}

impl Eyes {
    /// Opens what this host allows. Never fails: what is not there says why.
    #[must_use]
    pub fn open(options: &Options) -> Self {
        let mut eyes = Self {
            ebpf: None,
            families: BTreeMap::new(),
            walker: None,
            costs: Costs::default(),
            _stats: None,
            ring: None,
            samples: None,
            logger: None,
            wakers: None,
            drain: None,
            draining: None,
            spilled: Vec::new(),
            remedy: String::new(),
            queue: VecDeque::new(),
        };
        match Object::load(options) {
            Ok(object) => eyes.attach(object, options),
            Err(error) => {
                let why = super::deepest(&error);
                eyes.remedy = error.remedy();
                eyes.families = FAMILIES.iter().map(|(source, _)| (*source, Err(why.clone()))).collect();
            }
        }
        for (source, family) in &eyes.families {
            match (source, family) {
                (Source::Walker, _) | (Source::Procs, Err(_)) => {}
                (&source, Ok(())) => eyes.queue.push_back(Event::Sight { source }),
                (&source, Err(why)) => eyes.queue.push_back(Event::Blind { source, why: why.clone() }),
            }
        }
        eyes
    }

    fn attach(&mut self, mut object: Object, options: &Options) {
        if options.run_times {
            self._stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
        }
        // The rings are taken out before programs are loaded and live on here, so that they still find them.
        let mut ring = |name| object.ebpf.take_map(name).map(RingBuf::<MapData>::try_from).and_then(Result::ok);
        (self.ring, self.samples) = (ring("EVENTS"), ring("SAMPLES"));
        let walker = Walker::open(&mut object).map(|walker| self.walker = Some(walker));
        let (mut sched, mut tallies) = (None, None);
        let counted = attach::tallies(&object).map(|t| tallies = Some(t));
        let told = if self.ring.is_some() && self.samples.is_some() {
            counted
        } else {
            Err("the BPF object has no map EVENTS or none SAMPLES: it is of another version".to_owned())
        };
        let mut family = |source, attached: &mut dyn FnMut(&mut Object) -> Result<(), String>| {
            let attached = told.clone().and_then(|()| attached(&mut object));
            self.families.insert(source, attached);
        };
        family(Source::Procs, &mut attach::procs);
        family(Source::Sched, &mut |object| attach::sched(object).map(|slots| sched = Some(slots)));
        family(Source::Reclaim, &mut attach::reclaim);
        family(Source::Faults, &mut attach::faults);
        family(Source::Migrate, &mut attach::migrate);
        family(Source::Damon, &mut attach::damon);
        self.families.insert(Source::Walker, walker);
        if options.probe_log {
            self.logger = EbpfLogger::init(&mut object.ebpf).inspect_err(|e| tracing::warn!("probe log: {e}")).ok();
        }
        self.costs = Costs(Arc::new(object.loaded()));
        let counters = object.mapped("LOST", lost::FAMILIES as usize * 8);
        let source = |name: &str| PROGRAMS.iter().find(|p| p.0 == name).map(|p| p.1);
        let programs = self.costs.0.iter().filter_map(|(name, fd)| Some((source(name)?, fd.try_clone().ok()?))).collect();
        let losses = counters.ok().map(|counters| Losses { counters, programs, told: BTreeMap::new() });
        if self.families.iter().any(|(source, family)| *source != Source::Walker && family.is_ok()) {
            self.drain = Some(Drain { sched, tallies, losses, since: Instant::now() });
        }
        let Object { ebpf, btf, types, lacking: _, cpus: _ } = object;
        self.ebpf = Some(ebpf);
        drop((btf, types));
        trim_heap();
    }

    /// What each family came to: in place, or why not.
    #[must_use]
    pub const fn families(&self) -> &BTreeMap<Source, Result<(), String>> {
        &self.families
    }

    /// The page walker, once.
    pub const fn take_walker(&mut self) -> Option<Walker> {
        self.walker.take()
    }

    #[must_use]
    pub fn costs(&self) -> Costs {
        self.costs.clone()
    }

    /// Memory of all BPF maps, as the kernel counts it.
    #[must_use]
    pub fn map_bytes(&self) -> Bytes {
        let memory = |fd: i32| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            info.lines().find_map(|l| l.strip_prefix("memlock:")?.trim().parse::<u64>().ok())
        };
        let maps =
            self.ebpf.iter().flat_map(Ebpf::maps).filter_map(|(_, map)| Some(super::object::data(map)?.fd().as_fd().as_raw_fd()));
        let ring = match &self.wakers {
            Some(wakers) => wakers.events.as_ref().map(|ring| ring.get_ref().as_raw_fd()),
            None => self.ring.as_ref().map(AsRawFd::as_raw_fd),
        };
        let samples = self.samples.as_ref().map(AsRawFd::as_raw_fd);
        Bytes(maps.chain(ring).chain(samples).filter_map(memory).sum())
    }

    /// The facts that only trying can tell.
    #[must_use]
    pub fn learned(&self) -> Vec<(Need, Fact)> {
        let fact = |answer, how: &str| Fact { answer, how: how.to_owned(), remedy: String::new() };
        let mut facts: BTreeMap<Need, Fact> = BTreeMap::new();
        for (source, need) in FAMILIES {
            let new = match self.families.get(&source) {
                Some(Ok(())) => fact(
                    Answer::Yes,
                    if need == Need::Walker { "loaded; proved itself on memory of its own" } else { "loaded and attached" },
                ),
                Some(Err(why)) => Fact { remedy: self.remedy.clone(), ..fact(Answer::No, why) },
                None => continue,
            };
            // Two families share a need: it is met when both are in place.
            if facts.get(&need).is_none_or(|old| old.answer == Answer::Yes) {
                facts.insert(need, new);
            }
        }
        if self.ebpf.is_some() {
            facts.insert(Need::BpfObject, fact(Answer::Yes, "loaded"));
        } else if let Some(Err(why)) = self.families.get(&Source::Walker) {
            facts.insert(Need::BpfObject, Fact { answer: Answer::No, how: why.clone(), remedy: self.remedy.clone() });
        }
        facts.into_iter().collect()
    }

    fn wakers(&mut self) -> &mut Wakers {
        let (ring, logger) = (&mut self.ring, &mut self.logger);
        self.wakers.get_or_insert_with(|| Wakers {
            events: ring.take().and_then(waker),
            log: logger.take().and_then(waker),
            period: every(PERIOD),
        })
    }
}

/// Takes records from the ring; false where some are left.
fn take(ring: &mut RingBuf<MapData>, queue: &mut VecDeque<Event>, spilled: &mut Vec<CpuTime>) -> bool {
    for _ in 0..BATCH {
        let Some(bytes) = ring.next() else { return true };
        match record(&bytes) {
            Ok(Record::Kernel(event)) => queue.push_back(Event::Kernel(event)),
            Ok(Record::Sched(time)) => spilled.push(time),
            Err(malformed) => {
                tracing::warn!("{malformed}");
                queue.push_back(Event::Lost { source: Source::Procs, count: 1 });
            }
        }
    }
    false
}

/// What woke us.
enum Woken {
    /// Records or log lines came, and are taken.
    Told,
    Period,
    Drained(Box<(Drain, Vec<Event>)>),
    Broke(String),
}

impl Observer for Eyes {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return event;
            }
            match self.woken().await {
                Woken::Told => {}
                Woken::Period => {
                    // Spills of the period that ends now must be in before it is told.
                    if let Some(ring) = self.wakers.as_mut().and_then(|w| w.events.as_mut()) {
                        while !take(ring.get_mut(), &mut self.queue, &mut self.spilled) {}
                    }
                    if let Some(samples) = &mut self.samples {
                        while !take(samples, &mut self.queue, &mut self.spilled) {}
                    }
                    let spilled = std::mem::take(&mut self.spilled);
                    self.draining = self.drain.take().map(|mut drain| {
                        tokio::task::spawn_blocking(move || {
                            let events = drain.run(spilled);
                            (drain, events)
                        })
                    });
                }
                Woken::Drained(drained) => {
                    self.draining = None;
                    self.drain = Some(drained.0);
                    self.queue.extend(drained.1);
                }
                Woken::Broke(why) => {
                    self.draining = None;
                    let told = [Source::Sched, Source::Reclaim, Source::Migrate];
                    self.queue.extend(told.map(|source| Event::Blind { source, why: why.clone() }));
                }
            }
        }
    }
}

impl Eyes {
    /// Waits for the next thing to do. May be dropped at any point.
    async fn woken(&mut self) -> Woken {
        self.wakers();
        let Self { wakers, drain, draining, queue, spilled, .. } = self;
        let Some(Wakers { events, log, period }) = wakers else { return std::future::pending().await };
        let due = draining.is_none() && drain.is_some();
        let drained = async {
            match draining {
                Some(handle) => match handle.await {
                    Ok(drained) => Woken::Drained(Box::new(drained)),
                    Err(broken) => Woken::Broke(format!("draining broke off: {broken}")),
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = readable(events.as_mut(), |ring| take(ring, queue, spilled)) => Woken::Told,
            () = readable(log.as_mut(), |log| { log.flush(); true }) => Woken::Told,
            _ = period.tick(), if due => Woken::Period,
            woken = drained => woken,
        }
    }
}

/// Has a file of ours wake us.
fn waker<T: AsFd + AsRawFd>(file: T) -> Option<AsyncFd<T>> {
    // SAFETY: a ring keeps the one descriptor of its map, open, for as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
    registered.inspect_err(|error| tracing::error!(%error, "cannot wait for a BPF ring")).ok()
}

/// Reads when there is something to read; never where there is no file. The file wakes us again only after it was read
/// empty, so it counts as readable until then.
async fn readable<T: AsRawFd>(file: Option<&mut AsyncFd<T>>, read: impl FnOnce(&mut T) -> bool) {
    match file {
        Some(file) => match file.readable_mut().await {
            Ok(mut ready) => {
                if read(ready.get_inner_mut()) {
                    ready.clear_ready();
                }
            }
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
