//! Who ran, for how long, and on which node.

use super::capped::Capped;
use super::series::Series;
use crate::vocab::{
    Bytes, CpuId, Event, KernelEvent, NodeId, ProcKey, ProcSample, Sample, SchedSample, Source, Span, Stamped, Time,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const PROCS: usize = 4_096;
/// Node sums cover this half-window and the one before it.
const HALF: Span = Span::from_secs(30);
/// Samples come with the walks, and nobody asks far back.
const TOLD: usize = 16;
/// USER_HZ is 100 wherever /proc tells it.
const CLOCK_TICK: Span = Span::from_millis(10);

/// CPU time that a process got, and time that it waited for a CPU, as of its last sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    at: Time,
    waited: Span,
    got: Series<TOLD>,
    lacked: Series<TOLD>,
}

impl Told {
    fn hear(&mut self, at: Time, sample: &ProcSample) {
        // A thread that ended takes its waiting along.
        let delta = if self.at == Time::ZERO { Span::ZERO } else { sample.waited.saturating_sub(self.waited) };
        (self.at, self.waited) = (at, sample.waited);
        self.got.set(at, sample.cpu_ticks.saturating_mul(CLOCK_TICK.0));
        self.lacked.add(at, Span::ZERO, delta.0);
    }
}

/// What came of the CPU time that a process wanted, between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare {
    pub got: Span,
    /// Ready to run and waiting, summed over its threads.
    pub waited: Span,
}

/// CPU time of one half-window and the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Halves {
    half: u64,
    now_ns: u64,
    before_ns: u64,
}

impl Halves {
    pub(super) fn add(&mut self, at: Time, ns: u64) {
        let half = at.0 / HALF.0;
        if half != self.half {
            self.before_ns = if half == self.half + 1 { self.now_ns } else { 0 };
            (self.half, self.now_ns) = (half, 0);
        }
        self.now_ns = self.now_ns.saturating_add(ns);
    }
    pub(super) fn sum(&self, now: Time) -> Span {
        match (now.0 / HALF.0).saturating_sub(self.half) {
            0 => Span(self.now_ns.saturating_add(self.before_ns)),
            1 => Span(self.now_ns),
            _ => Span::ZERO,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProcSched {
    ran: Series,
    /// As its samples tell: one clock tells what it got and what it wanted.
    told: Told,
    nodes: Vec<(NodeId, Halves)>,
    moves: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sched {
    procs: Capped<ProcKey, ProcSched, PROCS>,
    node_of: BTreeMap<CpuId, NodeId>,
    nodes: Vec<(NodeId, Halves)>,
    /// End of the last drained period.
    heard: Option<Time>,
    /// When it was last said that samples are missing, or missing no longer.
    #[serde(default)]
    gap: Option<Time>,
}

impl Sched {
    pub(super) fn fold(&mut self, stamped: &Stamped) {
        let at = stamped.at;
        match &stamped.event {
            Event::Facts(facts) => {
                self.node_of = facts.nodes.iter().flat_map(|n| n.cpus.iter().map(|c| (*c, n.id))).collect();
            }
            Event::Sample(Sample::Sched(sample)) => self.drain(at, sample),
            Event::Sample(Sample::Proc(sample)) if !sample.kernel_thread => {
                self.procs.touch(at, sample.proc).told.hear(at, sample);
            }
            Event::Kernel(KernelEvent::TaskMoved { proc, count, .. }) => {
                let moves = &mut self.procs.touch(at, *proc).moves;
                *moves = moves.saturating_add(*count);
            }
            Event::Kernel(KernelEvent::Exit { proc }) => {
                self.procs.remove(proc);
            }
            Event::Lost { source: Source::Sched, .. }
            | Event::Blind { source: Source::Sched, .. }
            | Event::Sight { source: Source::Sched } => self.gap = Some(at),
            Event::Kernel(
                KernelEvent::Fork { .. }
                | KernelEvent::Exec { .. }
                | KernelEvent::Fault { .. }
                | KernelEvent::PagesMoved { .. }
                | KernelEvent::Region { .. },
            )
            | Event::Sample(
                Sample::Proc(_)
                | Sample::Maps(_)
                | Sample::Pages(_)
                | Sample::Host(_)
                | Sample::Pressure(_)
                | Sample::Reclaim(_)
                | Sample::Cgroup(_)
                | Sample::Nodes(_)
                | Sample::Cache(_),
            )
            | Event::Config(_)
            | Event::Lost { .. }
            | Event::Blind { .. }
            | Event::Sight { .. }
            | Event::Request(_)
            | Event::Outcome(_) => {}
        }
    }

    fn drain(&mut self, at: Time, sample: &SchedSample) {
        self.heard = Some(at);
        for time in &sample.times {
            let node = self.node_of.get(&time.cpu).copied().unwrap_or_default();
            let proc = self.procs.touch(at, time.proc);
            proc.ran.add(at, Span(sample.period_ns), time.runtime_ns);
            halves(&mut proc.nodes, node).add(at, time.runtime_ns);
            halves(&mut self.nodes, node).add(at, time.runtime_ns);
        }
    }

    /// What `ran_since` tells of the time since `from` reaches up to here; nothing if part of it was lost.
    #[must_use]
    pub fn heard(&self, from: Time) -> Option<Time> {
        self.heard.filter(|_| self.gap.is_none_or(|gap| gap <= from))
    }

    /// CPU time of the process since `from`; zero for one that was never seen running.
    #[must_use]
    pub fn ran_since(&self, proc: ProcKey, from: Time) -> Span {
        Span(self.procs.get(&proc).map_or(0, |p| p.ran.since(from)))
    }
    /// When its CPU time and its waiting were last told.
    #[must_use]
    pub fn told_at(&self, proc: ProcKey) -> Option<Time> {
        self.procs.get(&proc).map(|p| p.told.at).filter(|&at| at > Time::ZERO)
    }
    /// What the process got of the CPU time it wanted, by its samples.
    #[must_use]
    pub fn share(&self, proc: ProcKey, from: Time, until: Time) -> CpuShare {
        let between = |series: &Series<TOLD>| Span(series.since(from).saturating_sub(series.since(until)));
        let told = self.procs.get(&proc).map(|p| &p.told);
        CpuShare { got: told.map_or(Span::ZERO, |t| between(&t.got)), waited: told.map_or(Span::ZERO, |t| between(&t.lacked)) }
    }
    /// CPU time of the process per node in the last 30 to 60 s, ascending by node.
    #[must_use]
    pub fn by_node(&self, proc: ProcKey, now: Time) -> Vec<(NodeId, Span)> {
        sums(self.procs.get(&proc).map_or(&[], |p| &p.nodes), now)
    }
    /// The same for all processes together.
    #[must_use]
    pub fn node_busy(&self, now: Time) -> Vec<(NodeId, Span)> {
        sums(&self.nodes, now)
    }
    /// Moves of its threads between CPUs so far.
    #[must_use]
    pub fn moves(&self, proc: ProcKey) -> u64 {
        self.procs.get(&proc).map_or(0, |p| p.moves)
    }
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        // A series is 32 points at most, or `TOLD`; nodes are few.
        Bytes(
            self.procs.bytes()
                + self.procs.len() as u64 * ((32 + 2 * TOLD) * size_of::<(Time, u64)>() + 2 * size_of::<(NodeId, Halves)>()) as u64,
        )
    }
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.procs.evicted()
    }
}

fn halves(nodes: &mut Vec<(NodeId, Halves)>, node: NodeId) -> &mut Halves {
    let place = nodes.binary_search_by_key(&node, |n| n.0).unwrap_or_else(|place| {
        nodes.insert(place, (node, Halves::default()));
        place
    });
    &mut nodes[place].1
}

fn sums(nodes: &[(NodeId, Halves)], now: Time) -> Vec<(NodeId, Span)> {
    nodes.iter().map(|(n, h)| (*n, h.sum(now))).filter(|(_, s)| *s > Span::ZERO).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{CpuTime, HostFacts, NodeFacts};

    #[test]
    fn time_is_told_per_process_and_node() {
        let mut sched = Sched::default();
        let node = |id, cpus: &[u32]| NodeFacts {
            id: NodeId(id),
            total: Bytes(0),
            cpus: cpus.iter().map(|c| CpuId(*c)).collect(),
            ..NodeFacts::default()
        };
        let facts = HostFacts { nodes: vec![node(0, &[0, 1]), node(3, &[2])], ..HostFacts::default() };
        sched.fold(&Stamped { seq: 1, at: Time(0), event: Event::Facts(Box::new(facts)) });
        let proc = ProcKey { pid: 5, start: 1 };
        let other = ProcKey { pid: 6, start: 1 };
        for second in 1..=100 {
            let time = |proc, cpu, runtime_ns| CpuTime { proc, tid: 9, cpu: CpuId(cpu), runtime_ns, switches: 1 };
            let times = vec![time(proc, 1, 100), time(proc, 2, 200), time(other, 0, 7)];
            let sample = SchedSample { period_ns: 1_000_000_000, times };
            let at = Time(0).after(Span::from_secs(second));
            sched.fold(&Stamped { seq: second, at, event: Event::Sample(Sample::Sched(sample)) });
        }
        let now = Time(0).after(Span::from_secs(100));
        assert_eq!(sched.ran_since(proc, Time(0).after(Span::from_secs(90))), Span(3000));
        assert_eq!(sched.ran_since(proc, Time(0)), Span(30_000));
        assert_eq!(sched.ran_since(ProcKey::default(), Time(0)), Span::ZERO);
        // The half-window since 90 s (90..=100) and the one before it.
        assert_eq!(sched.by_node(proc, now), [(NodeId(0), Span(4100)), (NodeId(3), Span(8200))]);
        assert_eq!(sched.node_busy(now), [(NodeId(0), Span(4387)), (NodeId(3), Span(8200))]);
        assert_eq!(sched.by_node(proc, now.after(Span::from_secs(60))), []);
        sched.fold(&Stamped { seq: 200, at: now, event: Event::Kernel(KernelEvent::Exit { proc }) });
        assert_eq!(sched.ran_since(proc, Time(0)), Span::ZERO);
    }
}
