//! What the simulated host's observers tell: the same events that the real ones do, with losses and blindness.

use super::cache::CacheSim;
use super::world::{Happening, TICK, World};
use crate::config::Config;
use crate::vocab::{
    Answer, CacheEvictions, CacheSample, CacheStream, CacheTold, CgroupId, CgroupSample, Event, Fact, HostFacts, HostSample,
    KernelEvent, Need, Pages, Pressure, PressureKind, ProcSample, ReclaimCounts, Sample, SchedSample, ServerId, Source, Span,
    SwapSample, Time, VmaKind, is_slow,
};

/// One of so many major faults is sampled.
pub(super) const FAULT_PERIOD: u64 = 16;
/// Seconds between samples of the host and its pressure, and of processes and cgroups.
const HOST_EVERY: u64 = 2;
const PROC_EVERY: u64 = 5;
/// A server is looked at this often.
const SERVES: Span = Span::from_millis(250);

const fn source_of(event: &Event) -> Option<Source> {
    match event {
        Event::Kernel(KernelEvent::Fork { .. } | KernelEvent::Exec { .. } | KernelEvent::Exit { .. }) => Some(Source::Procs),
        Event::Kernel(KernelEvent::Fault { .. }) => Some(Source::Faults),
        Event::Kernel(KernelEvent::TaskMoved { .. }) | Event::Sample(Sample::Sched(_)) => Some(Source::Sched),
        Event::Kernel(KernelEvent::PagesMoved { .. }) => Some(Source::Migrate),
        Event::Kernel(KernelEvent::Region { .. }) => Some(Source::Damon),
        Event::Sample(Sample::Pages(_)) => Some(Source::Walker),
        Event::Sample(Sample::Host(_) | Sample::Nodes(_)) => Some(Source::Host),
        Event::Sample(Sample::Pressure(_)) => Some(Source::Psi),
        Event::Sample(Sample::Reclaim(_)) => Some(Source::Reclaim),
        Event::Sample(Sample::Cgroup(_)) => Some(Source::Cgroup),
        Event::Sample(Sample::Cache(_)) => Some(Source::Caches),
        Event::Facts(_)
        | Event::Config(_)
        | Event::Sample(Sample::Proc(_) | Sample::Maps(_))
        | Event::Lost { .. }
        | Event::Blind { .. }
        | Event::Sight { .. }
        | Event::Request(_)
        | Event::Outcome(_) => None,
    }
}

impl World {
    /// Tells an event now, unless its source is blind or the ring buffer is full; whether it got through.
    pub(super) fn tell(&mut self, event: Event) -> bool {
        if let Some(source) = source_of(&event) {
            if self.blind.contains_key(&source) || self.mute.contains(&source) {
                return false;
            }
            if matches!(source, Source::Procs | Source::Faults | Source::Walker) && self.loses(source) {
                return false;
            }
        }
        self.push(self.now, Happening::Tell(event));
        true
    }

    fn loses(&mut self, source: Source) -> bool {
        if self.loss.chance(self.faults.lost) {
            let burst = 1 + self.loss.below(16);
            self.losing.insert(source, burst);
        }
        let Some(left) = self.losing.get_mut(&source).filter(|left| **left > 0) else { return false };
        *left -= 1;
        *self.lost.entry(source).or_default() += 1;
        true
    }

    pub(super) fn go_blind(&mut self, source: Source, until: Time) {
        if self.blind.insert(source, until).is_none() {
            self.tell(Event::Blind { source, why: "the simulation says so".into() });
        }
    }
    pub(super) fn see_again(&mut self, source: Source) {
        if self.blind.remove(&source).is_some() {
            self.tell(Event::Sight { source });
        }
    }

    pub(super) fn tell_start(&mut self, config: &Config) {
        self.tell(Event::Facts(Box::new(self.facts())));
        self.tell_config(config);
        for source in Source::ALL {
            self.tell(Event::Sight { source });
        }
    }

    /// What a connection to each server tells first.
    pub(super) fn meet_caches(&mut self) {
        for id in 0..self.caches.len() as u16 {
            self.caches[usize::from(id)].watched = true;
            let met = self.caches[usize::from(id)].server(&format!("simulated:{id}"));
            self.tell_cache(id, CacheTold::Met(Box::new(met)));
            if self.caches[usize::from(id)].spec.mute {
                self.tell_cache(id, CacheTold::Lacks { stream: CacheStream::Evictions, why: "ERROR".into() });
            }
        }
    }

    /// A server does its work, and tells of it.
    pub(super) fn serve(&mut self, id: u16) {
        let now = self.now;
        self.push(now.after(SERVES), Happening::Serve(id));
        let cache = &mut self.caches[usize::from(id)];
        cache.serve(now, SERVES);
        let (batch, told) = (cache.batch(SERVES), cache.watched && !cache.spec.mute);
        self.look_at(id);
        if told {
            self.tell_cache(id, CacheTold::Evictions(batch));
        }
    }

    /// The streams of a server are closed, or tell from now on.
    pub(super) fn set_watch(&mut self, id: u16, on: bool) {
        self.tell_cache(id, CacheTold::Watch { on });
        if on {
            self.tell_cache(id, CacheTold::Evictions(CacheEvictions::default()));
        }
    }

    pub(super) fn look_at(&mut self, id: u16) {
        let look = self.caches[usize::from(id)].look(self.now);
        self.tell_cache(id, CacheTold::Look(Box::new(look)));
    }

    fn tell_cache(&mut self, id: u16, told: CacheTold) {
        self.tell(Event::Sample(Sample::Cache(CacheSample { server: ServerId(id), told })));
    }

    pub(super) fn restart_cache(&mut self, id: u16) {
        let now = self.now;
        let seed = self.seed ^ now.0;
        if let Some(cache) = self.caches.get_mut(usize::from(id)) {
            let spec = cache.spec.clone();
            *cache = CacheSim::new(&spec, seed, now);
            self.tell_cache(id, CacheTold::Blind { why: "the connection was closed".into() });
            let met = self.caches[usize::from(id)].server(&format!("simulated:{id}"));
            self.tell_cache(id, CacheTold::Met(Box::new(met)));
        }
    }

    pub(super) fn tell_config(&mut self, config: &Config) {
        self.tell(Event::Config(crate::config::canonical(config)));
    }

    pub(super) fn facts(&self) -> HostFacts {
        const ALL: [Need; 10] = [
            Need::Root,
            Need::Bpf,
            Need::Btf,
            Need::BpfObject,
            Need::Walker,
            Need::SchedEvents,
            Need::ReclaimEvents,
            Need::FaultSamples,
            Need::Psi,
            Need::ProcessMadvise,
        ];
        let fact =
            |yes| Fact { answer: if yes { Answer::Yes } else { Answer::No }, how: "simulated".into(), remedy: String::new() };
        let mut facts: std::collections::BTreeMap<_, _> = ALL.into_iter().map(|n| (n, fact(!self.lacks.contains(&n)))).collect();
        facts.insert(Need::Swap, fact(self.swap.is_some()));
        facts.insert(Need::NumaBalancing, fact(self.balancing));
        let nodes = self.node_facts();
        facts.insert(Need::ManyNodes, fact(nodes.len() > 1));
        facts.insert(Need::SlowNodes, fact(nodes.iter().any(|node| is_slow(&nodes, node))));
        HostFacts {
            kernel: "simulated".into(),
            arch: "x86_64".into(),
            page_bytes: crate::vocab::PAGE_BYTES,
            memory: self.memory,
            cpus: self.cpus(),
            smt_width: 1,
            nodes,
            facts,
            swap_written_today: crate::vocab::Bytes::ZERO,
            own_pid: super::hands::OWN.pid,
        }
    }

    pub(super) fn tell_proc(&mut self, pid: u32) {
        let Some(p) = self.procs.get(&pid) else { return };
        let file: u64 =
            p.regions.iter().filter(|r| r.spec.kind != VmaKind::Anon).map(|r| r.spec.pages).sum::<u64>().min(p.resident.0);
        let sample = ProcSample {
            proc: p.key,
            parent: p.parent,
            comm: p.spec.comm.into(),
            exe: format!("/usr/bin/{}", p.spec.comm),
            uid: p.spec.uid,
            cgroup: p.spec.cgroup.into(),
            cgroup_id: p.cgroup,
            threads: p.spec.threads,
            rss: p.resident.bytes(),
            rss_anon: Pages(p.resident.0 - file).bytes(),
            rss_file: Pages(file).bytes(),
            swapped: p.swapped.bytes(),
            locked: p.spec.locked,
            oom_score_adj: p.spec.oom_score_adj,
            class: p.spec.class,
            kernel_thread: false,
            io_flusher: false,
            minor_faults: p.minor,
            major_faults: p.major,
            cpu_ticks: p.ran_ns / 10_000_000,
            waited: Span(p.waited_ns),
            cpus_allowed: if p.cpus.is_empty() { (0..self.cpus()).collect() } else { p.cpus.iter().copied().collect() },
            mems_allowed: (0..self.nodes.len() as u32).collect(),
            mempolicy: String::new(),
        };
        self.tell(Event::Sample(Sample::Proc(Box::new(sample))));
    }

    pub(super) fn tell_samples(&mut self) {
        for (source, count) in std::mem::take(&mut self.lost) {
            *self.truth.lost.entry(source).or_default() += count;
            self.tell(Event::Lost { source, count });
        }
        self.tell_sched();
        self.tell_reclaim();
        if self.ticks % HOST_EVERY == 1 {
            self.tell_host();
            self.tell_nodes();
            self.tell_pressure();
        }
        if self.ticks % PROC_EVERY == 1 {
            for pid in self.procs.keys().copied().collect::<Vec<_>>() {
                self.tell_proc(pid);
            }
            self.tell_cgroups();
        }
    }

    fn tell_sched(&mut self) {
        let sample = SchedSample { period_ns: TICK.0, times: self.cpu_times() };
        self.tell(Event::Sample(Sample::Sched(sample)));
    }

    fn tell_reclaim(&mut self) {
        let pages = |n: u64| Pages(n);
        let counts = ReclaimCounts {
            period_ns: TICK.0,
            swap_writes: std::mem::take(&mut self.written).into_iter().map(|(k, n)| (k, pages(n))).collect(),
            reclaimed: std::mem::take(&mut self.evicted).into_iter().map(|(k, n)| (k, pages(n))).collect(),
            major_faults: std::mem::take(&mut self.majors).into_iter().collect(),
            direct_reclaim: std::mem::take(&mut self.direct).into_iter().collect(),
        };
        self.tell(Event::Sample(Sample::Reclaim(counts)));
    }

    fn tell_host(&mut self) {
        let (swapped, size, cost) = (self.swapped(), self.swap_size(), self.swap_cost());
        let c = self.counters;
        let swaps = self.swap.map(|s| SwapSample {
            path: "/dev/zram0".into(),
            backing: s.backing,
            size: s.size,
            used: swapped.bytes(),
            priority: 100,
            stored: if s.backing == crate::vocab::SwapBacking::Zram { swapped.bytes() } else { crate::vocab::Bytes::ZERO },
            cost,
            limit: s.limit,
        });
        let sample = HostSample {
            total: self.memory,
            free: self.free(),
            available: self.free(),
            swap_total: size.bytes(),
            swap_free: size.saturating_sub(swapped).bytes(),
            swaps: swaps.into_iter().collect(),
            zswap_enabled: false,
            swapped_in: Pages(c.swapped_in),
            swapped_out: Pages(c.swapped_out),
            scanned: Pages(c.scanned),
            scanned_anon: Some(Pages(c.scanned)),
            stolen: Pages(c.stolen),
            refault_anon: Pages(c.swapped_in),
            refault_file: Pages::ZERO,
            major_faults: c.major,
            node_free: self.node_free(),
        };
        self.tell(Event::Sample(Sample::Host(Box::new(sample))));
    }

    fn tell_pressure(&mut self) {
        let stalls =
            [(PressureKind::Memory, self.memory_stall), (PressureKind::Io, self.io_stall), (PressureKind::Cpu, self.cpu_stall)];
        for (kind, stall) in stalls {
            let sample = Pressure {
                kind,
                cgroup: String::new(),
                some_avg10: stall.avg10(),
                some_avg60: stall.avg60(),
                full_avg10: stall.avg10() / 2,
                some_total_us: stall.total_us,
                full_total_us: stall.total_us / 2,
                triggered: false,
            };
            self.tell(Event::Sample(Sample::Pressure(sample)));
        }
    }

    fn tell_cgroups(&mut self) {
        for at in 0..self.cgroups.len() {
            let (path, swap_limit) = self.cgroups[at];
            let id = CgroupId(at as u64 + 1);
            let members = || self.procs.values().filter(|p| p.cgroup == id);
            let anon = members().map(|p| p.resident.bytes()).sum();
            let sample = CgroupSample {
                id,
                path: path.into(),
                usage: anon,
                limit: crate::vocab::Bytes::MAX,
                swap_usage: members().map(|p| p.swapped.bytes()).sum(),
                swap_limit,
                anon,
                file: crate::vocab::Bytes::ZERO,
                scanned: Pages::ZERO,
                refault_anon: Pages::ZERO,
                refault_file: Pages::ZERO,
            };
            self.tell(Event::Sample(Sample::Cgroup(sample)));
        }
    }

    /// A walker on this host needs this long for one chunk.
    pub(super) const CHUNK_TAKES: Span = Span::from_millis(1);
}
