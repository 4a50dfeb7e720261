//! What we believe. Each model folds events, is capped, and never fails; replay builds the same models from a trace.
//!
//! Deliberately absent: decisions, thresholds of policies, I/O.

pub mod caches;
pub mod heat;

mod capped;
mod freshness;
mod nodes;
mod pressure;
mod procs;
mod reclaim;
mod sched;
pub(crate) mod series;
mod swap;
mod threads;

pub use caches::{Cache, Caches};
pub use freshness::{Freshness, Sight, kernel_source};
pub use heat::{Cold, DueBlock, Heat, HeatCell, IDLE_EDGES, IdleHistogram, ProcHeat};
pub use nodes::{BUSY_PART, Held, Lying, NodeNow, Nodes};
pub use pressure::Pressures;
pub use procs::{ProcInfo, Procs};
pub use reclaim::{Reclaim, ReclaimSign, SCANNED};
pub use sched::{CpuShare, Sched};
pub use swap::{Swap, SwapCost, area_cost, wears};
pub use threads::{Group, Groups, Threads};

use crate::config::Config;
use crate::vocab::{Action, Bytes, CgroupId, Outcome, ProcKey, Stamped, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that policies look at, folded from one stream of events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    pub heat: Heat,
    pub procs: Procs,
    pub sched: Sched,
    pub swap: Swap,
    pub pressure: Pressures,
    pub freshness: Freshness,
    pub reclaim: Reclaim,
    #[serde(default)]
    pub nodes: Nodes,
    #[serde(default)]
    pub threads: Threads,
    #[serde(default)]
    pub caches: Caches,
}

/// How full a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fill {
    pub model: &'static str,
    pub bytes: Bytes,
    /// What it had to drop at its cap so far.
    pub evicted: u64,
}

impl Models {
    pub fn fold(&mut self, stamped: &Stamped, config: &Config) {
        let Self { heat, procs, sched, swap, pressure, freshness, reclaim, nodes, threads, caches } = self;
        heat.fold(stamped, config, sched);
        procs.fold(stamped);
        sched.fold(stamped);
        swap.fold(stamped);
        pressure.fold(stamped, config);
        freshness.fold(stamped);
        reclaim.fold(stamped);
        nodes.fold(stamped, heat);
        threads.fold(stamped);
        caches.fold(stamped, config);
    }

    /// What a step that moved pages between nodes did.
    pub fn moved(&mut self, action: &Action, outcome: &Outcome) {
        match action {
            Action::MovePages { proc, to, ranges } => self.nodes.moved(*proc, *to, ranges, outcome, self.heat.get(*proc)),
            // From where in the address space, the next walk tells.
            Action::Migrate { to, .. } => self.nodes.came(outcome.ended, *to, outcome.done.pages),
            // The look that follows tells.
            Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. }
            | Action::Scan { .. }
            | Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. } => {}
        }
    }

    /// Idle ages of the walked processes of each cgroup, by its path.
    #[must_use]
    pub fn idle_by_cgroup(&self, now: Time) -> BTreeMap<String, IdleHistogram> {
        let mut sums = BTreeMap::<String, IdleHistogram>::new();
        for (proc, heat) in self.heat.procs() {
            if let Some(sample) = self.procs.sample(proc) {
                sums.entry(sample.cgroup.clone()).or_default().add(&heat.idle_histogram(now));
            }
        }
        sums
    }

    /// Signs that the kernel itself takes memory from this process, its cgroup or the host. The root cgroup is the host.
    #[must_use]
    pub fn under_reclaim(&self, proc: ProcKey, now: Time) -> Option<ReclaimSign> {
        let sample = self.procs.sample(proc).filter(|s| s.cgroup != "/");
        let above = sample.into_iter().flat_map(|s| self.swap.above(&s.cgroup).filter(|g| g.path != "/").map(|g| g.id));
        let cgroups: Vec<CgroupId> = sample.map(|s| s.cgroup_id).into_iter().chain(above).filter(|id| id.0 != 0).collect();
        self.reclaim.under_reclaim(proc, &cgroups, now)
    }

    /// Size of each model, and what it dropped.
    #[must_use]
    pub fn fill(&self) -> [Fill; 9] {
        let Self { heat, procs, sched, swap, pressure, freshness: _, reclaim, nodes, threads, caches } = self;
        let fill = |model, bytes, evicted| Fill { model, bytes, evicted };
        [
            fill("heat", heat.bytes(), heat.evicted()),
            fill("procs", procs.bytes(), procs.evicted()),
            fill("sched", sched.bytes(), sched.evicted()),
            fill("swap", swap.bytes(), swap.evicted()),
            fill("pressure", pressure.bytes(), pressure.evicted()),
            fill("reclaim", reclaim.bytes(), reclaim.evicted()),
            fill("nodes", nodes.bytes(), nodes.evicted()),
            fill("threads", threads.bytes(), threads.evicted()),
            fill("caches", caches.bytes(), caches.evicted()),
        ]
    }
    /// Memory of all models.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.fill().iter().map(|f| f.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::*;
    use proptest::prelude::*;

    fn proc() -> impl Strategy<Value = ProcKey> {
        (1u32..5, 1u64..3).prop_map(|(pid, start)| ProcKey { pid, start })
    }
    fn cgroup() -> impl Strategy<Value = (CgroupId, String)> {
        (0u64..4).prop_map(|n| (CgroupId(n), ["/", "/a", "/a/b", "/c"][n as usize].to_owned()))
    }
    fn source() -> impl Strategy<Value = Source> {
        prop::sample::select(&Source::ALL[..])
    }

    fn kernel() -> impl Strategy<Value = KernelEvent> {
        prop_oneof![
            (proc(), proc()).prop_map(|(parent, child)| KernelEvent::Fork { parent, child }),
            proc().prop_map(|proc| KernelEvent::Exec { proc }),
            proc().prop_map(|proc| KernelEvent::Exit { proc }),
            (proc(), 0..4 * BLOCK_BYTES, any::<u64>()).prop_map(|(proc, addr, period)| KernelEvent::Fault {
                proc,
                tid: 9,
                addr,
                kind: FaultKind::Major,
                period
            }),
            (proc(), 0u32..4, any::<u64>()).prop_map(|(proc, cpu, count)| KernelEvent::TaskMoved {
                proc,
                tid: 1,
                from: CpuId(cpu),
                to: CpuId(0),
                count
            }),
        ]
    }

    fn bits() -> impl Strategy<Value = Bits> {
        prop_oneof![Just(Bits::NONE), Just(Bits::ALL), any::<[u64; 8]>().prop_map(Bits)]
    }
    fn pages() -> impl Strategy<Value = PageChunk> {
        let block = (0u64..4, bits(), bits(), bits()).prop_map(|(block, accessed, present, swapped)| BlockSample {
            block: BlockId(block),
            accessed,
            present,
            swapped,
            ..BlockSample::default()
        });
        (proc(), 0u64..3, prop::collection::vec(block, 0..4), any::<bool>()).prop_map(|(proc, scan, mut blocks, last)| {
            blocks.sort_by_key(|b| b.block);
            PageChunk { proc, scan, range: AddrRange::EVERYTHING, blocks, last }
        })
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let counts = |p: ProcKey, n: u64| SchedSample {
            period_ns: n,
            times: vec![CpuTime { proc: p, tid: 1, cpu: CpuId(n as u32 % 5), runtime_ns: n, switches: 1 }],
        };
        prop_oneof![
            4 => pages().prop_map(Sample::Pages),
            1 => (proc(), cgroup(), any::<u32>()).prop_map(|(proc, (cgroup_id, cgroup), parent)| {
                Sample::Proc(Box::new(ProcSample { proc, parent, cgroup, cgroup_id, ..ProcSample::default() }))
            }),
            1 => (proc(), any::<[u64; 2]>()).prop_map(|(proc, [start, end])| Sample::Maps(MapsSample { proc, vmas: vec![Vma { start, end, ..Vma::default() }] })),
            1 => any::<[u64; 6]>().prop_map(|[total, free, a, b, c, d]| {
                let area = SwapSample { size: Bytes(total), used: Bytes(free), stored: Bytes(a), cost: Bytes(b), limit: Bytes(c), backing: SwapBacking::Zram, ..SwapSample::default() };
                let host = HostSample { total: Bytes(total), free: Bytes(free), swaps: vec![area], swapped_in: Pages(a), scanned: Pages(c), stolen: Pages(d), ..HostSample::default() };
                Sample::Host(Box::new(host))
            }),
            1 => (cgroup(), any::<u32>(), any::<bool>()).prop_map(|((_, cgroup), some_avg10, triggered)| {
                Sample::Pressure(Pressure { kind: PressureKind::Memory, cgroup, some_avg10, some_avg60: 0, full_avg10: 0, some_total_us: 0, full_total_us: 0, triggered })
            }),
            1 => (proc(), any::<u64>()).prop_map(move |(p, n)| Sample::Sched(counts(p, n))),
            1 => (proc(), cgroup(), any::<u64>()).prop_map(|(p, (id, _), n)| {
                Sample::Reclaim(ReclaimCounts { period_ns: n, swap_writes: vec![(p, Pages(n))], reclaimed: vec![(id, Pages(n))], major_faults: vec![(p, n)], direct_reclaim: vec![(p, n)] })
            }),
            1 => (cgroup(), any::<[u64; 3]>()).prop_map(|((id, path), [swap_usage, swap_limit, scanned])| {
                Sample::Cgroup(CgroupSample { id, path, swap_usage: Bytes(swap_usage), swap_limit: Bytes(swap_limit), scanned: Pages(scanned), ..CgroupSample::default() })
            }),
        ]
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => kernel().prop_map(Event::Kernel),
            8 => sample().prop_map(Event::Sample),
            1 => (source(), any::<u64>()).prop_map(|(source, count)| Event::Lost { source, count }),
            1 => source().prop_map(|source| Event::Blind { source, why: "test".into() }),
            1 => source().prop_map(|source| Event::Sight { source }),
            1 => any::<u16>().prop_map(|id| {
                let node = NodeFacts { id: NodeId(id), cpus: vec![CpuId(1)], ..NodeFacts::default() };
                Event::Facts(Box::new(HostFacts { nodes: vec![node], ..HostFacts::default() }))
            }),
        ]
    }

    fn ask(models: &Models, now: Time) {
        let sums = models.idle_by_cgroup(now);
        assert!(sums.values().all(|h| h.idle[0] <= h.resident));
        for pid in 1..5 {
            let proc = models.procs.by_pid(pid).unwrap_or_default();
            let _ = (
                models.under_reclaim(proc, now),
                models.procs.eligible_ranges(proc),
                models.sched.by_node(proc, now),
                models.threads.groups(proc, now, 125),
            );
            let _ = (models.sched.ran_since(proc, Time(now.0 / 2)), models.reclaim.major_faults_per_min(proc, now));
        }
        let _ = (models.swap.cost(), models.swap.cgroup_room("/a/b"), models.swap.swapped_in_per_min(now), models.bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn models_take_anything_and_resume_from_a_checkpoint(
            events in prop::collection::vec((0u64..40_000_000_000, event()), 1..60), cut in any::<prop::sample::Index>()) {
            let config = Config::default();
            let (mut models, mut restored, mut at) = (Models::default(), None::<Models>, Time(0));
            // As the planner has it for those that may be placed.
            let fold = |models: &mut Models, stamped: &Stamped| {
                models.fold(stamped, &config);
                if let Event::Kernel(KernelEvent::Fault { proc, tid, addr, .. }) = &stamped.event {
                    models.threads.touched(stamped.at, *proc, *tid, BlockId::of(*addr));
                }
            };
            for (place, (pause, event)) in events.iter().enumerate() {
                if place == cut.index(events.len()) {
                    let bytes = minicbor_serde::to_vec(&models).unwrap();
                    restored = Some(minicbor_serde::from_slice(&bytes).unwrap());
                }
                at = at.after(Span(*pause));
                let stamped = Stamped { seq: place as u64 + 1, at, event: event.clone() };
                fold(&mut models, &stamped);
                if let Some(restored) = &mut restored {
                    fold(restored, &stamped);
                }
                ask(&models, at);
            }
            prop_assert_eq!(restored.unwrap(), models);
        }
    }

    #[test]
    fn at_their_caps_the_other_models_fit_beside_heat() {
        let (mut models, config) = (Models::default(), Config::default());
        let text = |n: u32| format!("/kubepods.slice/burstable/pod-{n:016}");
        for n in 0..20_000 {
            let proc = ProcKey { pid: n + 1, start: 1 };
            let id = CgroupId(u64::from(n) + 1);
            let counts = |n: u64| ReclaimCounts {
                period_ns: n,
                swap_writes: vec![(proc, Pages(n))],
                reclaimed: vec![(id, Pages(n))],
                major_faults: vec![(proc, n)],
                direct_reclaim: vec![(proc, n)],
            };
            let time = CpuTime { proc, tid: 1, cpu: CpuId(0), runtime_ns: 1, switches: 1 };
            let sample =
                ProcSample { proc, comm: "a-fifteen-bytes".into(), exe: text(n), cgroup: text(n), ..ProcSample::default() };
            let samples = [
                Sample::Proc(Box::new(sample)),
                Sample::Sched(SchedSample { period_ns: 1, times: vec![time] }),
                Sample::Reclaim(counts(1)),
                Sample::Cgroup(CgroupSample { id, path: text(n), ..CgroupSample::default() }),
                Sample::Pressure(Pressure {
                    kind: PressureKind::Memory,
                    cgroup: text(n),
                    some_avg10: 0,
                    some_avg60: 0,
                    full_avg10: 0,
                    some_total_us: 0,
                    full_total_us: 0,
                    triggered: false,
                }),
            ];
            let maps = MapsSample { proc, vmas: vec![Vma::default(); 1024] };
            for sample in samples.into_iter().chain((n % 100 == 0).then_some(Sample::Maps(maps))) {
                models.fold(&Stamped { seq: 0, at: Time(u64::from(n)), event: Event::Sample(sample) }, &config);
            }
        }
        let fill = models.fill();
        assert!(models.bytes() <= Bytes::from_mib(25), "{fill:?}");
        assert!(fill.iter().all(|f| ["heat", "nodes", "threads", "caches"].contains(&f.model) || f.evicted > 0), "{fill:?}");
    }

    #[test]
    fn idle_ages_add_up_by_cgroup() {
        let (mut models, config) = (Models::default(), Config::default());
        let mut fold = |s: u64, event| models.fold(&Stamped { seq: s, at: Time(0).after(Span::from_secs(s)), event }, &config);
        for (pid, cgroup) in [(1, "/a"), (2, "/a"), (3, "/b"), (4, "")] {
            let proc = ProcKey { pid, start: 1 };
            let block = BlockSample { block: BlockId(1), present: Bits::ALL, ..BlockSample::default() };
            let chunk = PageChunk { proc, scan: 1, range: AddrRange::EVERYTHING, blocks: vec![block], last: true };
            fold(0, Event::Sample(Sample::Pages(chunk)));
            if !cgroup.is_empty() {
                fold(1, Event::Sample(Sample::Proc(Box::new(ProcSample { proc, cgroup: cgroup.into(), ..ProcSample::default() }))));
            }
        }
        let sums = models.idle_by_cgroup(Time(0).after(Span::from_secs(120)));
        let idle: Vec<_> = sums.iter().map(|(path, h)| (path.as_str(), h.idle[2], h.idle[3], h.resident)).collect();
        let mib = Bytes::from_mib;
        assert_eq!(idle, [("/a", mib(4), mib(0), mib(4)), ("/b", mib(2), mib(0), mib(2))]);
    }
}
