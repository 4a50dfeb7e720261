//! Nodes: what each has left of memory and of CPU time, and on which of them the memory of each process lies, hot and cold.
//!
//! Kept only where more than one node has memory. Cost: walks tell the node of each block beside its bits; blocks in a row
//! that lie alike are one run of 24 bytes, so a process on one node costs a few of them, one whose huge pages alternate between
//! nodes 24 bytes for 2 MiB (0.011 permil), and one pass over its blocks per walk sums it up. At the cap the process with the
//! most runs goes, and what its memory lies on is not known until it is walked again.
//!
//! Of a block that lies on several nodes the two with the most pages are kept; what lies on a third counts as on the second.
//!
//! Deliberately absent: what a node should be used for, and by whom (policies); distances and CPUs, which are facts.

use super::capped::Capped;
use super::heat::{Heat, ProcHeat};
use super::series::Series;
use crate::vocab::{
    AddrRange, BLOCK_BYTES, BlockId, BlockSample, Bytes, End, Event, HostFacts, KernelEvent, Leaf, NodeId, NodeSample, Outcome,
    PageChunk, Pages, ProcKey, Sample, Span, Stamped, Time,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Nodes told at most: MAX_NUMNODES of the largest kernels.
const NODES: usize = 1_024;
/// Processes known at most; `scan.max_procs` is 64.
const PROCS: usize = 1_024;
/// Runs of all processes together: 1.5 MiB.
const RUNS: usize = 65_536;
/// Entries that a vector of runs may hold in reserve, beside an eighth.
const SLACK: usize = 16;
/// Of two samples that are nearer than this the CPUs' idle time says little: it is counted in ticks of 10 ms.
const LEAST_APART: Span = Span::from_millis(500);
/// What a walk tells that began sooner after a move may have been read before it.
const MARGIN: Span = Span::from_millis(100);
/// All pages of the block, however many there are.
const WHOLE: u16 = u16::MAX;
/// No walk has seen yet what the move left.
const UNSEEN: u16 = u16::MAX;

/// Idle time is known for so long, by so many samples.
const IDLED_FOR: Span = Span::from_secs(24);
const IDLED: usize = 16;

/// One node as of its last sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNow {
    pub total: Bytes,
    free: Bytes,
    /// File pages that nobody used lately.
    pub inactive_file: Bytes,
    /// Thousandths of a CPU that idled between the last two samples; none before the second.
    pub idle: Option<u64>,
    /// How far those were apart.
    pub apart: Span,
    /// Idle time of its CPUs, as long as they are the same.
    #[serde(default)]
    idled: Series<IDLED>,
    cpus: u32,
    sampled: Time,
    /// Moved here by us since, which that sample does not know.
    coming: Bytes,
}

impl NodeNow {
    /// Free by the last sample, less what we moved here since.
    #[must_use]
    pub const fn free(&self) -> Bytes {
        self.free.saturating_sub(self.coming)
    }

    /// When what the last sample said was so.
    #[must_use]
    pub const fn sampled(&self) -> Time {
        self.sampled
    }

    fn sample(&mut self, at: Time, sample: &NodeSample) {
        let NodeSample { node: _, total, free, inactive_file, idle, cpus } = *sample;
        let apart = at.since(self.sampled);
        (self.total, self.free, self.inactive_file, self.coming) = (total, free, inactive_file, Bytes::ZERO);
        if self.sampled > Time::ZERO && apart < LEAST_APART {
            return;
        }
        let counted = self.idled.total();
        // A CPU that goes offline takes its idle time along, and one that comes brings it.
        if idle.0 < counted || cpus != self.cpus {
            self.idled = Series::default();
        }
        self.idle = self.idled.first().map(|_| Span(idle.0 - counted).scale(1000, apart.0).0);
        self.idled.forget(Time(at.0.saturating_sub(IDLED_FOR.0)));
        self.idled.set(at, idle.0);
        (self.sampled, self.apart, self.cpus) = (at, apart, cpus);
    }

    /// Since when it is known how long its CPUs idled; none before the second sample.
    #[must_use]
    pub fn idled_from(&self) -> Option<Time> {
        self.idled.first().filter(|&first| first < self.sampled)
    }

    /// Thousandths of a CPU that idled from `from` to its last sample.
    #[must_use]
    pub fn idled_since(&self, from: Time) -> u64 {
        Span(self.idled.since(from)).scale(1000, self.sampled.since(from).0.max(1)).0
    }
}

/// Where the present pages of a block lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lie {
    /// The node with the most of them, the next one, and how many the first has.
    main: NodeId,
    second: NodeId,
    on_main: u16,
    /// The node that its pages were last asked to go to, and how many stayed away.
    asked: Option<(NodeId, u16)>,
}

impl Lie {
    fn of(sample: &BlockSample) -> Self {
        let Some(runs) = &sample.mixed else {
            return Self { main: sample.node, second: sample.node, on_main: WHOLE, asked: None };
        };
        let mut counts: Vec<(u16, NodeId)> = Vec::new();
        for run in runs {
            match counts.iter_mut().find(|(_, node)| *node == run.node) {
                Some((pages, _)) => *pages = pages.saturating_add(run.pages),
                None => counts.push((run.pages, run.node)),
            }
        }
        counts.sort_by_key(|&(pages, node)| (std::cmp::Reverse(pages), node));
        let (on_main, main) = counts.first().copied().unwrap_or((WHOLE, sample.node));
        let second = counts.get(1).map_or(main, |(_, node)| *node);
        Self { main, second, on_main: if main == second { WHOLE } else { on_main }, asked: None }
    }

    fn on(&self, node: NodeId, present: u32) -> u32 {
        let on_main = present.min(u32::from(self.on_main));
        match (self.main == node, self.second == node) {
            (true, true) => present,
            (true, false) => on_main,
            (false, true) => present - on_main,
            (false, false) => 0,
        }
    }
}

/// Blocks in a row, holes between them included, that lie alike; without holes if they were asked, for what comes there was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    first: BlockId,
    blocks: u32,
    lie: Lie,
}

impl Run {
    const fn end(&self) -> u64 {
        self.first.0 + self.blocks as u64
    }
    /// Both as one, if they may be; the other one is behind it.
    fn with(&self, next: &Self) -> Option<Self> {
        let joins = self.lie == next.lie && (self.lie.asked.is_none() || self.end() == next.first.0);
        let blocks = u32::try_from(next.end() - self.first.0).ok().filter(|_| joins)?;
        Some(Self { blocks, ..*self })
    }
    /// The part of it that lies in blocks `from..to`.
    fn part(&self, from: u64, to: u64) -> Option<Self> {
        let (first, end) = (self.first.0.max(from), self.end().min(to));
        (first < end).then(|| Self { first: BlockId(first), blocks: (end - first) as u32, lie: self.lie })
    }
}

/// Appends a run, joined with the last one where they lie alike.
fn push(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut().and_then(|last| Some((last.with(&run)?, last))) {
        Some((both, last)) => *last = both,
        None => runs.push(run),
    }
}

/// Memory of a process on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub pages: Pages,
    /// In use, as far as is known.
    pub hot: Pages,
    /// Asked to go to another node, and seen to have stayed.
    pub stayed: Pages,
    /// Whether a block that lies on it, in part at least, was busy (`Lying::busy`) at the end of the last walk. What was recorded
    /// before this was known may be.
    #[serde(default = "may_be")]
    pub busy: bool,
}

const fn may_be() -> bool {
    true
}

/// A block goes to another node as a whole: it is in use if at least so much of it is, an eighth.
pub const BUSY_PART: u32 = 8;

/// One block of a process: how much of it there is, how much of that is in use, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lying {
    pub block: BlockId,
    pub leaf: Leaf,
    pub present: u32,
    pub hot: u32,
    lie: Lie,
}

impl Lying {
    /// Whether the whole block may count as in use: at least an eighth of it was accessed; or accesses are counted, where what was
    /// not accessed since the last walk may be hot all the same.
    #[must_use]
    pub const fn busy(&self, counting: bool) -> bool {
        counting || self.hot > 0 && self.hot * BUSY_PART >= self.present
    }
    /// Pages on this node.
    #[must_use]
    pub fn on(&self, node: NodeId) -> u32 {
        self.lie.on(node, self.present)
    }

    /// The nodes that it lies on, most of it on the first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let Lie { main, second, .. } = self.lie;
        [Some(main), (second != main).then_some(second)].into_iter().flatten()
    }

    /// Pages on `from` that were not asked to go to `to` in vain.
    #[must_use]
    pub fn movable_from(&self, from: NodeId, to: NodeId) -> u32 {
        let pages = self.on(from);
        match self.lie.asked {
            Some((_, UNSEEN)) => 0,
            Some((asked, stayed)) if asked == to => pages.saturating_sub(u32::from(stayed)),
            Some(_) | None => pages,
        }
    }

    /// Pages that lie outside `home` and were not asked to go to `to` in vain.
    #[must_use]
    pub fn movable(&self, home: &[NodeId], to: NodeId) -> u32 {
        let Lie { main, second, asked, .. } = self.lie;
        let outside = |node: NodeId| if home.contains(&node) { 0 } else { self.on(node) };
        let pages = outside(main) + if main == second { 0 } else { outside(second) };
        match asked {
            Some((_, UNSEEN)) => 0,
            Some((asked, stayed)) if asked == to => pages.saturating_sub(u32::from(stayed)),
            Some(_) | None => pages,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProcNodes {
    /// Ascending.
    runs: Vec<Run>,
    /// Number of the walk under way, and whether it began long enough after the last move.
    walk: Option<(u64, bool)>,
    walked: Option<Time>,
    /// Ascending by node, as of the last walk or move.
    held: Vec<(NodeId, Held)>,
    moved: Option<Time>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// More than one node has memory.
    many: bool,
    nodes: BTreeMap<NodeId, NodeNow>,
    procs: Capped<ProcKey, ProcNodes, PROCS>,
    evicted: u64,
}

impl Nodes {
    /// After heat, which knows the pages of each block.
    pub(super) fn fold(&mut self, stamped: &Stamped, heat: &Heat) {
        let at = stamped.at;
        match &stamped.event {
            Event::Facts(facts) => self.host(facts),
            Event::Sample(Sample::Nodes(sample)) => {
                self.nodes.retain(|id, _| sample.nodes.iter().any(|node| node.node == *id));
                for node in sample.nodes.iter().take(NODES) {
                    self.nodes.entry(node.node).or_default().sample(at, node);
                }
            }
            Event::Sample(Sample::Pages(chunk)) if self.many => {
                self.procs.touch(at, chunk.proc).fold(at, chunk, heat.get(chunk.proc));
                self.keep_under_cap(chunk.proc);
            }
            Event::Kernel(KernelEvent::Exec { proc } | KernelEvent::Exit { proc }) => drop(self.procs.remove(proc)),
            Event::Kernel(
                KernelEvent::Fork { .. }
                | KernelEvent::Fault { .. }
                | KernelEvent::TaskMoved { .. }
                | KernelEvent::PagesMoved { .. }
                | KernelEvent::Region { .. },
            )
            | Event::Sample(
                Sample::Proc(_)
                | Sample::Maps(_)
                | Sample::Pages(_)
                | Sample::Host(_)
                | Sample::Pressure(_)
                | Sample::Sched(_)
                | Sample::Reclaim(_)
                | Sample::Cgroup(_)
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

    fn host(&mut self, facts: &HostFacts) {
        self.many = facts.nodes.iter().filter(|node| node.total > Bytes::ZERO).count() > 1;
        if !self.many {
            (self.nodes, self.procs) = (BTreeMap::new(), Capped::default());
        }
    }

    /// A move to `to` is over. What exactly it moved the next walk tells; until then all that was tried counts as moved, and
    /// is not asked again.
    pub(super) fn moved(&mut self, proc: ProcKey, to: NodeId, ranges: &[AddrRange], outcome: &Outcome, heat: Option<&ProcHeat>) {
        let Outcome { ended, done, end, missed, .. } = outcome;
        self.came(*ended, to, done.pages);
        let (Some(known), Some(heat)) = (self.procs.get_mut(&proc), heat) else { return };
        let left = match end {
            End::Done => Pages::MAX,
            // It may have ended before it had looked at all: what it found elsewhere was the first part.
            End::Partial(_) if missed.is_empty() => done.asked,
            End::Partial(_) => Pages::MAX,
            End::Skipped(_) | End::Expired | End::Failed(_) => return,
        };
        known.moved = Some(*ended);
        let tried = known.tried(to, ranges, missed, left, heat);
        let lie = Lie { main: to, second: to, on_main: WHOLE, asked: Some((to, UNSEEN)) };
        known.ask(&tried, lie);
        known.sum(Some(heat));
    }

    /// Pages came to a node by our doing: its last sample does not know of those that came later.
    pub(super) fn came(&mut self, at: Time, to: NodeId, pages: Pages) {
        if let Some(node) = self.nodes.get_mut(&to).filter(|node| at >= node.sampled) {
            node.coming = node.coming.saturating_add(pages.bytes());
        }
    }

    fn keep_under_cap(&mut self, current: ProcKey) {
        let mut total: usize = self.procs.iter().map(|(_, known)| known.runs.len()).sum();
        while total > RUNS {
            let most = self.procs.iter().max_by_key(|(proc, known)| (known.runs.len(), **proc != current, **proc));
            let Some(proc) = most.map(|(proc, _)| *proc) else { break };
            let dropped = self.procs.remove(&proc).map_or(0, |known| known.runs.len());
            total -= dropped;
            self.evicted += dropped as u64;
        }
    }

    /// Ascending by number; nothing where there is only one.
    pub fn now(&self) -> impl Iterator<Item = (NodeId, &NodeNow)> {
        self.nodes.iter().map(|(&id, node)| (id, node))
    }
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&NodeNow> {
        self.nodes.get(&node)
    }
    /// Memory of a process by node, ascending; nothing before its first complete walk.
    #[must_use]
    pub fn held(&self, proc: ProcKey) -> &[(NodeId, Held)] {
        self.procs.get(&proc).filter(|known| known.walked.is_some()).map_or(&[], |known| &known.held)
    }
    /// The blocks of a process of which is known where they lie, ascending. `heat` is that of the process.
    pub fn lying<'a>(&'a self, proc: ProcKey, heat: &'a ProcHeat) -> impl Iterator<Item = Lying> + 'a {
        lying(self.procs.get(&proc).map_or(&[], |known| &known.runs), heat)
    }
    /// The nodes that a block lies on, most of it on the first.
    #[must_use]
    pub fn lies(&self, proc: ProcKey, block: BlockId) -> Option<[NodeId; 2]> {
        let runs = &self.procs.get(&proc)?.runs;
        let run = runs.get(runs.partition_point(|run| run.end() <= block.0)).filter(|run| run.first <= block)?;
        Some([run.lie.main, run.lie.second])
    }
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let runs = |known: &ProcNodes| (known.runs.len() * 9 / 8 + SLACK) * size_of::<Run>();
        let held = |known: &ProcNodes| known.held.len() * size_of::<(NodeId, Held)>() * 2;
        let hanging: usize = self.procs.iter().map(|(_, known)| runs(known) + held(known)).sum();
        let nodes = self.nodes.len() * (size_of::<(NodeId, NodeNow)>() + IDLED * size_of::<(Time, u64)>()) * 2;
        Bytes(self.procs.bytes() + (hanging + nodes) as u64)
    }
    /// Processes and runs dropped at their caps.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.procs.evicted() + self.evicted
    }
}

impl ProcNodes {
    fn fold(&mut self, at: Time, chunk: &PageChunk, heat: Option<&ProcHeat>) {
        let sure = match self.walk {
            Some((scan, sure)) if scan == chunk.scan => sure,
            Some(_) | None => self.moved.is_none_or(|moved| at.since(moved) >= MARGIN),
        };
        self.walk = (!chunk.last).then_some((chunk.scan, sure));
        // A block that the range covers only in part says nothing by its absence.
        let (mut from, mut to) = (chunk.range.start.div_ceil(BLOCK_BYTES), chunk.range.end / BLOCK_BYTES);
        if let (Some(first), Some(last)) = (chunk.blocks.first(), chunk.blocks.last()) {
            (from, to) = (from.min(first.block.0), to.max(last.block.0.saturating_add(1)));
        }
        let low = self.runs.partition_point(|run| run.end() <= from);
        let high = self.runs.partition_point(|run| run.first.0 < to).max(low);
        let mut fresh: Vec<Run> = self.runs[low..high].first().and_then(|run| run.part(0, from)).into_iter().collect();
        let mut old = self.runs[low..high].iter().peekable();
        let mut next = from;
        for sample in &chunk.blocks {
            // Blocks ascend and end below 2^64; a record that says otherwise is not worth a panic.
            if sample.block.0 < next || sample.present.is_empty() || sample.block.0 >= u64::MAX / BLOCK_BYTES {
                continue;
            }
            next = sample.block.0 + 1;
            while old.next_if(|run| run.end() <= sample.block.0).is_some() {}
            let before = old.peek().filter(|run| run.first <= sample.block).and_then(|run| run.lie.asked);
            let mut lie = Lie::of(sample);
            lie.asked = before.and_then(|asked| seen(asked, &lie, sample.present.count(), sure));
            push(&mut fresh, Run { first: sample.block, blocks: 1, lie });
        }
        fresh.extend(self.runs[low..high].last().and_then(|run| run.part(to, u64::MAX)));
        self.runs.splice(low..high, fresh);
        self.join(low);
        if chunk.last {
            self.walked = Some(at);
            self.tidy();
            self.sum(heat);
        }
    }

    /// Where two chunks meet, their runs may be one.
    fn join(&mut self, at: usize) {
        if let Some(before) = at.checked_sub(1)
            && let (Some(a), Some(b)) = (self.runs.get(before), self.runs.get(at))
            && let Some(both) = a.with(b)
        {
            self.runs[before] = both;
            self.runs.remove(at);
        }
    }

    fn tidy(&mut self) {
        let len = self.runs.len();
        if self.runs.capacity() > len + len / 8 + SLACK {
            self.runs.shrink_to(len + len / 16);
        }
    }

    /// The blocks (first, end; ascending) of `ranges` without `missed` in which the first `left` pages lie that are not on
    /// the node.
    fn tried(&self, to: NodeId, ranges: &[AddrRange], missed: &[AddrRange], left: Pages, heat: &ProcHeat) -> Vec<(u64, u64)> {
        let within = |ranges: &[AddrRange], block: u64| {
            let at = ranges.partition_point(|range| range.end <= block * BLOCK_BYTES);
            ranges.get(at).is_some_and(|range| range.start < (block + 1) * BLOCK_BYTES)
        };
        let (mut left, mut tried) = (left.0, Vec::<(u64, u64)>::new());
        for one in lying(&self.runs, heat) {
            let block = one.block.0;
            if !within(ranges, block) || within(missed, block) {
                continue;
            }
            let away = u64::from(one.present.saturating_sub(one.on(to)));
            if away > left {
                break;
            }
            left -= away;
            match tried.last_mut() {
                Some((_, end)) if *end == block => *end = block + 1,
                Some(_) | None => tried.push((block, block + 1)),
            }
        }
        tried
    }

    /// These blocks (first, end; ascending) lie like this from now on.
    fn ask(&mut self, asked: &[(u64, u64)], lie: Lie) {
        let mut asked = asked.iter().copied().peekable();
        let mut runs = Vec::with_capacity(self.runs.len() + SLACK);
        for run in std::mem::take(&mut self.runs) {
            let mut at = run.first.0;
            while asked.next_if(|&(_, end)| end <= at).is_some() {}
            while at < run.end() {
                let Some((first, end)) = asked.peek().copied().filter(|&(first, _)| first < run.end()) else {
                    run.part(at, run.end()).into_iter().for_each(|rest| push(&mut runs, rest));
                    break;
                };
                run.part(at, first).into_iter().for_each(|rest| push(&mut runs, rest));
                run.part(at.max(first), end).into_iter().for_each(|part| push(&mut runs, Run { lie, ..part }));
                at = run.end().min(end);
                while asked.next_if(|&(_, end)| end <= at).is_some() {}
            }
        }
        self.runs = runs;
        self.tidy();
    }

    fn sum(&mut self, heat: Option<&ProcHeat>) {
        let mut held = BTreeMap::<NodeId, Held>::new();
        for one in heat.into_iter().flat_map(|heat| lying(&self.runs, heat)) {
            let asked = one.lie.asked;
            let busy = one.busy(heat.is_some_and(ProcHeat::counting));
            for node in one.nodes() {
                let pages = u64::from(one.on(node));
                let sum = held.entry(node).or_default();
                sum.pages.0 += pages;
                sum.busy |= busy;
                sum.hot.0 += u64::from(one.hot) * pages / u64::from(one.present.max(1));
                sum.stayed.0 += match asked {
                    Some((to, stayed)) if stayed != UNSEEN && to != node => u64::from(stayed).min(pages),
                    Some(_) | None => 0,
                };
            }
        }
        self.held = held.into_iter().collect();
    }
}

/// What a walk says of a block that was asked to go to a node: how much of it stayed away, if any did.
fn seen((to, stayed): (NodeId, u16), lie: &Lie, present: u32, sure: bool) -> Option<(NodeId, u16)> {
    if !sure {
        return Some((to, stayed));
    }
    let away = present.saturating_sub(lie.on(to, present)).min(u32::from(UNSEEN - 1)) as u16;
    Some((to, stayed.min(away))).filter(|(_, stayed)| *stayed > 0)
}

fn lying<'a>(runs: &'a [Run], heat: &'a ProcHeat) -> impl Iterator<Item = Lying> + 'a {
    let mut rest = runs;
    heat.residents().filter_map(move |(block, leaf, present, hot)| {
        while rest.first().is_some_and(|run| run.end() <= block.0) {
            rest = &rest[1..];
        }
        let run = rest.first().filter(|run| run.first <= block)?;
        Some(Lying { block, leaf, present, hot, lie: run.lie })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::Sched;
    use crate::vocab::{Amount, Bits, NodeFacts, NodeRun, NodesSample, StepId};

    const PROC: ProcKey = ProcKey { pid: 7, start: 1 };
    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(70);

    struct Host {
        nodes: Nodes,
        heat: Heat,
        scan: u64,
    }

    impl Host {
        fn new() -> Self {
            let mut host = Self { nodes: Nodes::default(), heat: Heat::default(), scan: 0 };
            let node = |id| NodeFacts { id, total: Bytes(1 << 30), ..NodeFacts::default() };
            let facts = HostFacts { nodes: vec![node(A), node(B)], ..HostFacts::default() };
            host.tell(0, Event::Facts(Box::new(facts)));
            host
        }
        fn tell(&mut self, ms: u64, event: Event) {
            let stamped = Stamped { seq: 1, at: Time(Span::from_millis(ms).0), event };
            self.heat.fold(&stamped, &Config::default(), &Sched::default());
            self.nodes.fold(&stamped, &self.heat);
        }
        /// One walk in chunks of three blocks. A block is ('a', 'b', 'm'ixed half and half, '.' absent).
        fn walk(&mut self, ms: u64, picture: &str) {
            self.scan += 1;
            let blocks: Vec<BlockSample> = (1..).zip(picture.chars()).filter_map(|(id, c)| block(id, c)).collect();
            let all: Vec<&[BlockSample]> = blocks.chunks(3).collect();
            let mut from = 0;
            for (place, part) in all.iter().enumerate() {
                let last = place + 1 == all.len();
                let end = if last { AddrRange::EVERYTHING.end } else { part.last().map_or(0, |b| b.block.0 + 1) * BLOCK_BYTES };
                let range = AddrRange { start: from, end };
                from = end;
                let chunk = PageChunk { proc: PROC, scan: self.scan, range, blocks: part.to_vec(), last };
                self.tell(ms, Event::Sample(Sample::Pages(chunk)));
            }
        }
        fn moved(&mut self, ms: u64, to: NodeId, (first, end): (u64, u64), (pages, asked): (u64, u64), missed: &[(u64, u64)]) {
            let range = |(first, end): (u64, u64)| AddrRange { start: first * BLOCK_BYTES, end: end * BLOCK_BYTES };
            let at = Time(Span::from_millis(ms).0);
            let done = Amount { pages: Pages(pages), asked: Pages(asked), ..Amount::default() };
            let end_of = if pages < asked { End::Partial("busy".into()) } else { End::Done };
            let missed = missed.iter().copied().map(range).collect();
            let outcome = Outcome { step: StepId::default(), began: at, ended: at, done, end: end_of, missed };
            self.nodes.moved(PROC, to, &[range((first, end))], &outcome, self.heat.get(PROC));
        }
        fn held(&self) -> Vec<(u16, u64, u64)> {
            self.nodes.held(PROC).iter().map(|(node, held)| (node.0, held.pages.0, held.stayed.0)).collect()
        }
        fn movable(&self, to: NodeId) -> Vec<(u64, u32)> {
            let heat = self.heat.get(PROC).expect("walked");
            let other = if to == A { B } else { A };
            let movable = |one: Lying| {
                assert_eq!(one.movable(&[to], to), one.movable_from(other, to));
                (one.block.0, one.movable_from(other, to))
            };
            self.nodes.lying(PROC, heat).map(movable).filter(|(_, n)| *n > 0).collect()
        }
    }

    fn block(id: u64, c: char) -> Option<BlockSample> {
        let sample = BlockSample { block: BlockId(id), present: Bits::ALL, accessed: Bits::ALL, ..BlockSample::default() };
        let half = |pages, node| NodeRun { pages, node };
        match c {
            'a' => Some(BlockSample { node: A, ..sample }),
            'b' => Some(BlockSample { node: B, ..sample }),
            'm' => Some(BlockSample { mixed: Some(vec![half(200, A), half(100, B), half(200, A), half(12, B)].into()), ..sample }),
            _ => None,
        }
    }

    #[test]
    fn an_eighth_in_use_makes_a_block_busy() {
        let lie = Lie { main: NodeId(0), second: NodeId(0), on_main: 0, asked: None };
        let busy = |present, hot, counting| Lying { block: BlockId(1), leaf: Leaf::Base, present, hot, lie }.busy(counting);
        let cases = [(512, 64, true), (512, 63, false), (9, 2, true), (9, 1, false), (8, 1, true), (1, 0, false), (512, 512, true)];
        for (present, hot, expect) in cases {
            assert_eq!((busy(present, hot, false), busy(present, hot, true)), (expect, true), "{hot} of {present}");
        }
        let told: Held = serde_json::from_str(r#"{"pages":1,"hot":0,"stayed":0}"#)
            .expect("`busy` may be missing: recordings before it are still read");
        assert!(told.busy, "unknown is not idle");
    }

    #[test]
    fn where_memory_lies_is_told_by_node_and_by_block() {
        let mut host = Host::new();
        host.walk(1000, "aaaa..abbm");
        assert_eq!(host.held(), [(0, 5 * 512 + 400, 0), (70, 2 * 512 + 112, 0)]);
        assert_eq!(host.movable(A), [(8, 512), (9, 512), (10, 112)]);
        assert_eq!(host.movable(B), [(1, 512), (2, 512), (3, 512), (4, 512), (7, 512), (10, 400)]);
        let lies = |block| host.nodes.lies(PROC, BlockId(block));
        assert_eq!([lies(0), lies(4), lies(8), lies(10)], [None, Some([A, A]), Some([B, B]), Some([A, B])]);
        // Alike blocks in a row are one run, however they were cut into chunks.
        assert_eq!(host.nodes.procs.get(&PROC).map(|p| p.runs.len()), Some(3));
        host.walk(2000, "bbbbbbbbbb");
        assert_eq!((host.held(), host.nodes.procs.get(&PROC).map(|p| p.runs.len())), (vec![(70, 5120, 0)], Some(1)));
        host.tell(3000, Event::Kernel(KernelEvent::Exec { proc: PROC }));
        assert!(host.held().is_empty());
    }

    #[test]
    fn what_was_asked_in_vain_is_not_asked_again() {
        let mut host = Host::new();
        host.walk(1000, "aabbbm");
        host.moved(2000, A, (3, 7), (1500, 3 * 512 + 112), &[]);
        assert_eq!((host.held(), host.movable(A)), (vec![(0, 6 * 512, 0)], vec![]));
        // A walk that may have begun before the move was done proves nothing.
        host.walk(2050, "aabbbm");
        assert_eq!(host.movable(A), []);
        host.walk(3000, "aabama");
        assert_eq!(host.held(), [(0, 4 * 512 + 400, 0), (70, 512 + 112, 512 + 112)]);
        assert_eq!(host.movable(A), []);
        // What comes there later is something else, and so is another node.
        host.walk(4000, "aabaab");
        assert_eq!((host.movable(A), host.movable(B).len()), (vec![(6, 512)], 4));
    }

    #[test]
    fn what_was_not_come_to_was_not_asked() {
        let mut host = Host::new();
        host.walk(1000, "bbbbbb");
        // It was stopped when it had looked at three blocks.
        host.moved(2000, A, (1, 7), (1024, 1536), &[]);
        assert_eq!(host.movable(A), [(4, 512), (5, 512), (6, 512)]);
        host.moved(2000, A, (4, 7), (512, 1024), &[(5, 6)]);
        assert_eq!(host.movable(A), [(5, 512)]);
    }

    #[test]
    fn what_comes_between_blocks_that_were_asked_was_not_asked() {
        let mut host = Host::new();
        host.walk(1000, "bb.bb");
        host.moved(2000, A, (1, 6), (2048, 2048), &[]);
        // Too soon to tell what the move left.
        host.walk(2050, "aabaa");
        assert_eq!(host.movable(A), [(3, 512)]);
        host.walk(3000, "aabab");
        assert_eq!((host.movable(A), host.held()), (vec![(3, 512)], vec![(0, 1536, 0), (70, 1024, 512)]));
    }

    #[test]
    fn a_node_is_what_its_last_sample_said_less_what_we_moved_there() {
        let mut host = Host::new();
        let sample = |free, idle_ms| {
            let one = |node, cpus, idle| NodeSample {
                node,
                total: Bytes(1 << 30),
                free: Bytes(free),
                inactive_file: Bytes(5),
                idle,
                cpus,
            };
            let cpus = if idle_ms < 90_000 { 2 } else { 3 };
            let nodes = vec![one(A, cpus, Span::from_millis(idle_ms)), one(B, 0, Span::ZERO)];
            Event::Sample(Sample::Nodes(NodesSample { nodes }))
        };
        host.tell(1000, sample(1 << 20, 5000));
        let node = |host: &Host| host.nodes.get(A).map(|n| (n.free().0, n.idle));
        assert_eq!(node(&host), Some((1 << 20, None)));
        host.tell(3000, sample(1 << 20, 8000));
        assert_eq!(node(&host), Some((1 << 20, Some(1500))));
        host.walk(3000, "b");
        host.moved(3500, A, (1, 2), (256, 256), &[]);
        assert_eq!(node(&host), Some((0, Some(1500))));
        host.tell(5000, sample(7 << 12, 8000));
        // Known only now, and done before that sample.
        host.nodes.came(Time(Span::from_millis(4000).0), A, Pages(1));
        assert_eq!(node(&host), Some((7 << 12, Some(0))));
        // A CPU came online, and brings what it idled since boot.
        host.tell(6000, sample(7 << 12, 98_000));
        assert_eq!(node(&host), Some((7 << 12, None)));
        host.tell(8000, Event::Sample(Sample::Nodes(NodesSample { nodes: Vec::new() })));
        assert_eq!(node(&host), None);
    }

    #[test]
    fn one_node_costs_nothing_and_many_runs_are_capped() {
        let mut host = Host::new();
        host.tell(1, Event::Facts(Box::default()));
        host.walk(1000, "aabb");
        assert!(host.held().is_empty() && host.nodes.bytes() == Bytes::ZERO);
        let mut host = Host::new();
        let alternating = |n: usize| "ab".repeat(n / 2);
        host.walk(1000, &alternating(RUNS));
        assert_eq!((host.nodes.evicted(), host.held().len()), (0, 2));
        assert!(host.nodes.bytes() < Bytes::from_mib(2), "{}", host.nodes.bytes());
        host.walk(2000, &alternating(RUNS + 2));
        assert!(host.nodes.evicted() > 0 && host.held().is_empty());
    }
}
