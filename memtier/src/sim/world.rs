//! The host: clock, memory, swap, processes, reclaim, pressure, and the queue of what happens next.

use super::cache::CacheSim;
use super::hands::Walk;
use super::process::{Pattern, ProcSpec, Process, RegionSpec, Touched};
use super::rng::{Purpose, Rng};
use super::scenario::{Change, Faults, Scenario, SwapSpec};
use super::truth::Truth;
use crate::vocab::{
    AddrRange, BLOCK_BYTES, Bytes, CgroupId, Event, FaultKind, KernelEvent, PAGE_SHIFT, Pages, Permil, ProcKey, Source, Span,
    Stamped, Step, SwapBacking, Time,
};
use std::collections::{BTreeMap, BTreeSet};

/// Every second the world's processes live once.
pub(super) const TICK: Span = Span::from_secs(1);
/// Boot lies a while back, so that no age reaches zero.
const START: Time = Time(1_000_000_000_000);
/// What the kernel keeps for itself, and the watermarks between which it reclaims.
const KERNEL: Permil = Permil(50);
const LOW: Permil = Permil(20);
const HIGH: Permil = Permil(40);
/// Truth looks back over two windows of this.
const TRUTH_WINDOW: Span = Span::from_secs(300);

#[derive(Debug)]
pub(super) enum Happening {
    Tick,
    Change(Change),
    Die(ProcKey),
    Reuse(ProcKey),
    Begin(Box<Step>),
    Walk(Box<Walk>),
    Tell(Event),
    /// A server answered requests for a while, and is looked at.
    Serve(u16),
}

/// Totals since boot, as /proc/vmstat has them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub swapped_in: u64,
    pub swapped_out: u64,
    pub scanned: u64,
    pub stolen: u64,
    pub major: u64,
}

/// Stall time as PSI averages it, in thousandths of its hundredths of a percent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stall {
    pub this_tick_us: u64,
    pub total_us: u64,
    avg10: u64,
    avg60: u64,
}

impl Stall {
    fn turn(&mut self) {
        let us = std::mem::take(&mut self.this_tick_us).min(TICK.0 / 1000);
        self.total_us += us;
        let now = us * 10_000_000 / (TICK.0 / 1000);
        // 1 - exp(-1/10) and 1 - exp(-1/60)
        self.avg10 = (self.avg10 * 905 + now * 95) / 1000;
        self.avg60 = (self.avg60 * 983 + now * 17) / 1000;
    }
    pub(super) const fn avg10(&self) -> u32 {
        (self.avg10 / 1000) as u32
    }
    pub(super) const fn avg60(&self) -> u32 {
        (self.avg60 / 1000) as u32
    }
}

/// A host that exists only here.
#[derive(Debug)]
pub struct World {
    pub(super) seed: u64,
    pub(super) now: Time,
    pub(super) memory: Bytes,
    pub(super) taken: Bytes,
    pub(super) nodes: Vec<super::nodes::NodeSpec>,
    /// What the CPUs of each node idled since boot.
    pub(super) idle_ns: Vec<u64>,
    pub(super) swap: Option<SwapSpec>,
    pub(super) lacks: BTreeSet<crate::vocab::Need>,
    pub(super) balancing: bool,
    pub(super) procs: BTreeMap<u32, Process>,
    pub(super) caches: Vec<CacheSim>,
    pub(super) cgroups: Vec<(&'static str, Bytes)>,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
    pub(super) memory_stall: Stall,
    pub(super) io_stall: Stall,
    pub(super) cpu_stall: Stall,
    /// Since the last report: evictions by cgroup, swap writes and major faults by process.
    pub(super) evicted: BTreeMap<CgroupId, u64>,
    pub(super) written: BTreeMap<ProcKey, u64>,
    pub(super) majors: BTreeMap<ProcKey, u64>,
    pub(super) direct: BTreeMap<ProcKey, u64>,
    pub(super) blind: BTreeMap<Source, Time>,
    pub(super) mute: BTreeSet<Source>,
    pub(super) lost: BTreeMap<Source, u64>,
    pub(super) losing: BTreeMap<Source, u64>,
    pub(super) loss: Rng,
    pub(super) walks: u64,
    pub(super) ticks: u64,
    pub(super) truth: Truth,
    queue: BTreeMap<(Time, u64), Happening>,
    pushed: u64,
    told: u64,
    next_pid: u32,
    hand: (u32, u64),
}

impl World {
    /// The host at its first moment, `config` being what the operator wrote.
    #[must_use]
    pub fn new(seed: u64, scenario: &Scenario, config: &crate::config::Config) -> Self {
        let Scenario { name: _, memory, nodes, swap, procs, caches, script, faults, lacks, balancing, length: _ } = scenario;
        let mut w = Self {
            seed,
            now: START,
            memory: *memory,
            taken: Bytes::ZERO,
            nodes: nodes.clone(),
            idle_ns: vec![0; nodes.len()],
            swap: *swap,
            lacks: lacks.iter().copied().collect(),
            balancing: *balancing,
            procs: BTreeMap::new(),
            caches: caches.iter().zip(seed..).map(|(spec, seed)| CacheSim::new(spec, seed, START)).collect(),
            cgroups: vec![("/", Bytes::MAX)],
            faults: *faults,
            counters: Counters::default(),
            memory_stall: Stall::default(),
            io_stall: Stall::default(),
            cpu_stall: Stall::default(),
            evicted: BTreeMap::new(),
            written: BTreeMap::new(),
            majors: BTreeMap::new(),
            direct: BTreeMap::new(),
            blind: BTreeMap::new(),
            mute: BTreeSet::new(),
            lost: BTreeMap::new(),
            losing: BTreeMap::new(),
            loss: Rng::of(seed, Purpose::Lost, 0),
            walks: 0,
            ticks: 0,
            truth: Truth::default(),
            queue: BTreeMap::new(),
            pushed: 0,
            told: 0,
            next_pid: 1000,
            hand: (0, 0),
        };
        w.tell_start(config);
        for spec in procs {
            let pid = w.free_pid();
            w.start(pid, 1, spec, false);
        }
        for (after, change) in script {
            w.push(START.after(*after), Happening::Change(change.clone()));
        }
        w.push(START, Happening::Tick);
        w.meet_caches();
        for id in 0..caches.len() as u16 {
            w.push(START, Happening::Serve(id));
        }
        w
    }

    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// A server, by its place in the scenario.
    #[must_use]
    pub fn cache(&self, id: u16) -> Option<&CacheSim> {
        self.caches.get(usize::from(id))
    }

    pub(super) fn push(&mut self, at: Time, what: Happening) {
        self.pushed += 1;
        self.queue.insert((at.max(self.now), self.pushed), what);
    }

    /// The next event up to `until`; none when nothing more happens until then, and it is then `until`.
    pub fn next(&mut self, until: Time) -> Option<Stamped> {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), what) = entry.remove_entry();
            self.now = self.now.max(at);
            match what {
                Happening::Tell(event) => {
                    self.told += 1;
                    return Some(Stamped { seq: self.told, at: self.now, event });
                }
                Happening::Tick => self.tick(),
                Happening::Change(change) => self.change(change),
                Happening::Die(key) => self.exit(key),
                Happening::Reuse(key) => self.reuse(key),
                Happening::Begin(step) => self.begin(*step),
                Happening::Walk(walk) => self.walk(*walk),
                Happening::Serve(id) => self.serve(id),
            }
        }
        self.now = self.now.max(until);
        None
    }

    /// The daemon was killed, its hands with it, and a new one starts: it hears what any new daemon hears.
    pub fn restart(&mut self, config: &crate::config::Config) {
        self.queue.retain(|_, what| match what {
            Happening::Begin(_) | Happening::Walk(_) | Happening::Tell(_) => false,
            Happening::Tick | Happening::Change(_) | Happening::Die(_) | Happening::Reuse(_) | Happening::Serve(_) => true,
        });
        self.told = 0;
        // A new daemon undoes what the old one left behind.
        self.procs.values_mut().for_each(|p| {
            p.cpus.clone_from(&p.spec.cpus);
            p.apart.clear();
        });
        self.tell_start(config);
        for pid in self.procs.keys().copied().collect::<Vec<_>>() {
            self.tell_proc(pid);
        }
        // And what it had set on servers.
        self.caches.iter_mut().for_each(|cache| cache.automove = 1);
        self.meet_caches();
    }

    /// Hands the world a step of a plan; exactly one outcome comes back among the events, some time.
    pub fn submit(&mut self, step: &Step) {
        self.truth.steps += 1;
        let id = u64::from(step.id.index) ^ step.id.decision << 20;
        let mut rng = Rng::of(self.seed, Purpose::Step, id);
        if rng.chance(self.faults.pid_reuse) {
            self.push(self.now, Happening::Reuse(step.action.proc()));
        }
        self.push(self.now.after(Span::from_millis(1 + u64::from(step.id.index))), Happening::Begin(Box::new(step.clone())));
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.push(self.now.after(TICK), Happening::Tick);
        let pids: Vec<u32> = self.procs.keys().copied().collect();
        for pid in pids {
            let Some(p) = self.procs.get_mut(&pid) else { continue };
            let touched = p.live(self.now);
            let key = p.key;
            self.account(key, &touched);
            self.tell_first_touches(pid);
            self.relieve(Some(key));
        }
        self.idle();
        self.lie_down();
        self.mischief();
        if self.procs.values().any(|p| p.starved) {
            self.cpu_stall.this_tick_us = TICK.0 / 1000;
        }
        for stall in [&mut self.memory_stall, &mut self.io_stall, &mut self.cpu_stall] {
            stall.turn();
        }
        if self.ticks.is_multiple_of(TRUTH_WINDOW.as_secs()) {
            self.procs.values_mut().for_each(Process::turn_truth_window);
        }
        self.tell_samples();
    }

    /// Refaults cost time, and truth remembers them.
    fn account(&mut self, key: ProcKey, touched: &Touched) {
        let Touched { filled: _, refaulted } = touched;
        let n = refaulted.len() as u64;
        if n == 0 {
            return;
        }
        self.counters.swapped_in += n;
        self.counters.major += n;
        *self.majors.entry(key).or_default() += n;
        let on_disk = self.swap.is_some_and(|s| s.backing != SwapBacking::Zram);
        self.memory_stall.this_tick_us += n * if on_disk { 150 } else { 10 };
        self.io_stall.this_tick_us += if on_disk { n * 150 } else { 0 };
        let comm = self.procs.get(&key.pid).map_or("", |p| p.spec.comm);
        self.truth.refaulted(self.now, key, comm, refaulted);
        for page in refaulted.iter().step_by(super::eyes::FAULT_PERIOD as usize) {
            let kind = FaultKind::Major;
            // Major faults are told without their thread: what a thread is known by here is its first touches.
            let (tid, period) = (0, super::eyes::FAULT_PERIOD);
            self.tell(Event::Kernel(KernelEvent::Fault { proc: key, tid, addr: page << PAGE_SHIFT, kind, period }));
        }
    }

    /// Pages that were filled since this was last told, by the threads that touched them.
    fn tell_first_touches(&mut self, pid: u32) {
        let Some(p) = self.procs.get_mut(&pid) else { return };
        let faults = std::mem::take(&mut p.faults);
        let (proc, tids): (ProcKey, Vec<u32>) = (p.key, faults.iter().map(|(thread, _)| p.tid(*thread)).collect());
        for ((_, block), tid) in faults.into_iter().zip(tids) {
            let (addr, kind, period) = (block * BLOCK_BYTES, FaultKind::Minor, super::eyes::FAULT_PERIOD);
            self.tell(Event::Kernel(KernelEvent::Fault { proc, tid, addr, kind, period }));
        }
    }

    pub(super) fn used(&self) -> Bytes {
        let resident: Bytes = self.procs.values().map(|p| p.resident.bytes()).sum();
        let kernel = self.memory.scale(KERNEL.0, 1000);
        [kernel, self.taken, resident, self.swap_cost()].into_iter().sum()
    }
    pub(super) fn free(&self) -> Bytes {
        self.memory.saturating_sub(self.used())
    }
    pub(super) fn swapped(&self) -> Pages {
        self.procs.values().map(|p| p.swapped).sum()
    }
    /// Memory that the swap area takes.
    pub(super) fn swap_cost(&self) -> Bytes {
        match self.swap {
            Some(SwapSpec { backing: SwapBacking::Zram, .. }) => self.procs.values().map(|p| p.cost).sum(),
            Some(_) | None => Bytes::ZERO,
        }
    }
    pub(super) fn swap_size(&self) -> Pages {
        self.swap.map_or(Pages::ZERO, |s| s.size.pages())
    }
    /// Pages that still fit into swap, and bytes that they may cost.
    pub(super) fn swap_room(&self, cgroup: CgroupId) -> (u64, Bytes) {
        let pages = self.swap_size().saturating_sub(self.swapped());
        let cost = match self.swap {
            Some(SwapSpec { backing: SwapBacking::Zram, limit, .. }) if limit != Bytes::ZERO => {
                limit.saturating_sub(self.swap_cost())
            }
            Some(_) | None => Bytes::MAX,
        };
        let own: Pages = self.procs.values().filter(|p| p.cgroup == cgroup).map(|p| p.swapped).sum();
        let group = self.cgroups[cgroup.0 as usize - 1].1.pages().saturating_sub(own);
        (pages.0.min(group.0), cost)
    }

    /// The kernel's reclaim: a second-chance clock over all blocks while memory is short, the OOM killer after that.
    fn relieve(&mut self, for_whom: Option<ProcKey>) {
        let (low, high) = (self.memory.scale(LOW.0, 1000), self.memory.scale(HIGH.0, 1000));
        if self.free() >= low {
            return;
        }
        if let Some(key) = for_whom {
            *self.direct.entry(key).or_default() += 1;
        }
        let blocks: u64 = self.procs.values().map(|p| p.blocks.len() as u64).sum();
        for _ in 0..2 * blocks + 1 {
            if self.free() >= high {
                return;
            }
            let Some((pid, block)) = self.turn_hand() else { break };
            let cgroup = self.procs[&pid].cgroup;
            let (room, bytes) = self.swap_room(cgroup);
            let Some(p) = self.procs.get_mut(&pid) else { continue };
            let (key, before) = (p.key, p.resident);
            let victims = p.second_chance(block);
            let looked = p.blocks.get(&block).map_or(0, |b| u64::from(b.present.count()));
            let gone = p.page_out(&victims, room, bytes);
            self.counters.scanned += looked;
            let n = before.0 - self.procs[&pid].resident.0;
            self.counters.stolen += n;
            self.counters.swapped_out += n;
            self.truth.reclaimed.0 += n;
            *self.evicted.entry(cgroup).or_default() += n;
            *self.written.entry(ProcKey::default()).or_default() += n;
            self.memory_stall.this_tick_us += 2 * looked + 20 * n;
            self.truth.forget(key, &gone.pages);
        }
        if self.free() == Bytes::ZERO
            && let Some(key) = self.procs.values().max_by_key(|p| (p.resident, p.key)).map(|p| p.key)
        {
            self.truth.oom_kills += 1;
            self.exit(key);
        }
    }

    fn turn_hand(&mut self) -> Option<(u32, u64)> {
        let (pid, block) = self.hand;
        let in_proc = self.procs.get(&pid).and_then(|p| p.blocks.range(block + 1..).next()).map(|(&b, _)| (pid, b));
        let onward = || {
            let mut rest = self.procs.range(pid + 1..).chain(self.procs.range(..=pid));
            rest.find_map(|(&pid, p)| p.blocks.first_key_value().map(|(&b, _)| (pid, b)))
        };
        self.hand = in_proc.or_else(onward)?;
        Some(self.hand)
    }

    fn free_pid(&mut self) -> u32 {
        self.next_pid += 1;
        self.next_pid
    }

    pub(super) fn cgroup_id(&mut self, path: &'static str) -> CgroupId {
        let at = self.cgroups.iter().position(|(p, _)| *p == path).unwrap_or_else(|| {
            self.cgroups.push((path, Bytes::MAX));
            self.cgroups.len() - 1
        });
        CgroupId(at as u64 + 1)
    }

    pub(super) fn find(&self, comm: &str) -> Option<ProcKey> {
        self.procs.values().filter(|p| p.spec.comm == comm).map(|p| p.key).min_by_key(|k| k.start)
    }

    fn start(&mut self, pid: u32, parent: u32, spec: &ProcSpec, forked: bool) -> ProcKey {
        // One clock tick ahead of the truth where a pid is reused at once: /proc never shows the same pair twice.
        let start = self.now.0 / 10_000_000;
        let key = ProcKey { pid, start: self.truth.last_start.insert(pid, start).map_or(start, |old| start.max(old + 1)) };
        self.truth.last_start.insert(pid, key.start);
        let cgroup = self.cgroup_id(spec.cgroup);
        self.procs.insert(pid, Process::new(self.seed, self.now, key, parent, cgroup, spec));
        if forked {
            let parent = self.procs.get(&parent).map_or(ProcKey { pid: parent, start: 1 }, |p| p.key);
            self.tell(Event::Kernel(KernelEvent::Fork { parent, child: key }));
        }
        self.lie_down();
        self.tell_proc(pid);
        self.tell_first_touches(pid);
        self.relieve(None);
        key
    }

    pub(super) fn exit(&mut self, key: ProcKey) {
        if self.procs.get(&key.pid).is_some_and(|p| p.key == key) {
            self.procs.remove(&key.pid);
            self.truth.exited(key);
            self.tell(Event::Kernel(KernelEvent::Exit { proc: key }));
        }
    }

    pub(super) fn reuse(&mut self, key: ProcKey) {
        if self.procs.get(&key.pid).is_some_and(|p| p.key == key) {
            self.exit(key);
            self.start(key.pid, 1, &ProcSpec::new("stranger", vec![RegionSpec::new(3000, Pattern::Hot { pages: 3000 })]), true);
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Start(spec) => {
                let pid = self.free_pid();
                self.start(pid, 1, &spec, true);
            }
            Change::Exit(comm) => self.find(comm).into_iter().for_each(|key| self.exit(key)),
            Change::Exec(comm) => {
                if let Some(key) = self.find(comm) {
                    let old = self.procs.remove(&key.pid).expect("find only returns processes that live");
                    self.truth.exited(key);
                    let mut new = Process::new(self.seed, self.now, key, old.parent, old.cgroup, &old.spec);
                    new.cpus = old.cpus;
                    self.procs.insert(key.pid, new);
                    self.lie_down();
                    self.tell(Event::Kernel(KernelEvent::Exec { proc: key }));
                    self.tell_proc(key.pid);
                    self.tell_first_touches(key.pid);
                }
            }
            Change::ReusePid(comm) => self.find(comm).into_iter().for_each(|key| self.reuse(key)),
            Change::Pattern { comm, region, pattern } => self.proc_named(comm, |p| p.regions[region].spec.pattern = pattern),
            Change::Busy { comm, busy } => self.proc_named(comm, |p| p.spec.busy = busy),
            Change::Starve(comm) => self.proc_named(comm, |p| p.starved = true),
            Change::Feed(comm) => self.proc_named(comm, |p| p.starved = false),
            Change::Blind(source) => self.go_blind(source, Time::MAX),
            Change::Sight(source) => self.see_again(source),
            Change::Mute(source) => drop(self.mute.insert(source)),
            Change::Take(bytes) => {
                self.taken = self.taken.saturating_add(bytes);
                self.relieve(None);
            }
            Change::RemoveNode(bytes) => {
                self.remove_node(bytes);
                self.relieve(None);
                self.tell(Event::Facts(Box::new(self.facts())));
            }
            Change::Affinity { comm, cpus } => self.proc_named(comm, |p| {
                p.apart.clear();
                (p.spec.cpus, p.cpus) = (cpus.clone(), cpus);
            }),
            Change::SwapLimit { cgroup, limit } => {
                let id = self.cgroup_id(cgroup);
                self.cgroups[id.0 as usize - 1].1 = limit;
            }
            Change::Reload(config) => self.tell_config(&config),
            Change::Request(request, comm) => {
                let key = self.find(comm).unwrap_or_default();
                self.tell(Event::Request(request(key)));
            }
            Change::Faults(faults) => self.faults = faults,
            Change::RestartCache(id) => self.restart_cache(id),
        }
    }

    fn proc_named(&mut self, comm: &str, f: impl FnOnce(&mut Process)) {
        if let Some(p) = self.find(comm).and_then(|key| self.procs.get_mut(&key.pid)) {
            f(p);
        }
    }

    /// Faults that do not belong to a step.
    fn mischief(&mut self) {
        for source in self.blind.iter().filter(|(_, until)| **until <= self.now).map(|(s, _)| *s).collect::<Vec<_>>() {
            self.see_again(source);
        }
        let mut rng = Rng::of(self.seed, Purpose::Blind, self.ticks);
        if rng.chance(self.faults.blind) {
            let source = Source::ALL[rng.below(Source::ALL.len() as u64) as usize];
            self.go_blind(source, self.now.after(Span::from_secs(1 + rng.below(60))));
        }
        let mut rng = Rng::of(self.seed, Purpose::Churn, self.ticks);
        if rng.chance(self.faults.churn)
            && let Some((&parent, _)) = self.procs.iter().nth(rng.below(self.procs.len() as u64) as usize)
        {
            let pid = self.free_pid();
            let spec = ProcSpec::new("child", vec![RegionSpec::new(rng.below(2000) + 1, Pattern::Idle)]);
            let child = self.start(pid, parent, &spec, true);
            self.push(self.now.after(Span::from_secs(1 + rng.below(40))), Happening::Die(child));
        }
    }

    /// What is left when all is over.
    #[must_use]
    pub fn truth(mut self) -> Truth {
        let cost = self.swap_cost();
        let swapped = self.swapped();
        self.truth.end(self.procs.values(), swapped, cost);
        self.truth
    }
}

/// Ranges in order, neighbours joined.
pub(super) fn runs(pages: impl Iterator<Item = usize>, block: u64) -> Vec<AddrRange> {
    let mut out: Vec<AddrRange> = Vec::new();
    for i in pages {
        let start = block * BLOCK_BYTES + ((i as u64) << PAGE_SHIFT);
        let end = start + (1 << PAGE_SHIFT);
        match out.last_mut() {
            Some(last) if last.end == start => last.end = end,
            Some(_) | None => out.push(AddrRange { start, end }),
        }
    }
    out
}
