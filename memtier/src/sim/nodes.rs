//! The simulated host's nodes: which CPUs and how much memory each has, where memory comes to lie, and what moves it.
//!
//! A block lies on one node as a whole. One of an unbound process lies on a node by its number, as if its threads had run
//! everywhere; one of a bound process on a node of its CPUs, while there is room.

use super::process::Process;
use super::world::{TICK, World};
use crate::vocab::{
    AddrRange, BLOCK_BYTES, Bytes, CpuId, CpuTime, Event, NodeFacts, NodeId, NodeSample, NodesSample, Pages, Permil, ProcKey,
    Sample, Span,
};

/// One node: its share of the host's memory, and how many CPUs it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    pub share: Permil,
    pub cpus: u32,
}

/// What a move did.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub pages: u64,
    /// Pages found on other nodes.
    pub elsewhere: u64,
    /// What it did not come to.
    pub missed: Vec<AddrRange>,
}

impl NodeSpec {
    /// Half of the memory with two CPUs, half of it without any.
    pub const USUAL: [Self; 2] = [Self { share: Permil(500), cpus: 2 }, Self { share: Permil(500), cpus: 0 }];
    /// Halves of everything.
    pub const EVEN: [Self; 2] = [Self { share: Permil(500), cpus: 2 }, Self { share: Permil(500), cpus: 2 }];
}

impl World {
    pub(super) fn cpus(&self) -> u32 {
        self.nodes.iter().map(|node| node.cpus).sum()
    }

    /// CPUs are numbered through the nodes.
    fn cpus_of(&self, node: usize) -> std::ops::Range<u32> {
        let first = self.nodes[..node].iter().map(|node| node.cpus).sum();
        first..first + self.nodes[node].cpus
    }

    fn node_of(&self, cpu: u32) -> usize {
        (0..self.nodes.len()).find(|&node| self.cpus_of(node).contains(&cpu)).unwrap_or(0)
    }

    fn total_of(&self, node: usize) -> Bytes {
        self.memory.scale(self.nodes[node].share.0, 1000)
    }

    /// Pages of all processes on each node.
    fn held(&self) -> Vec<u64> {
        let mut held = vec![0; self.nodes.len()];
        for block in self.procs.values().flat_map(|p| p.blocks.values()) {
            if let Some(sum) = block.node.and_then(|node| held.get_mut(node)) {
                *sum += u64::from(block.present.count());
            }
        }
        held
    }

    fn free_with(&self, node: usize, held: &[u64]) -> Bytes {
        let processes: Pages = self.procs.values().map(|p| p.resident).sum();
        let others = self.used().saturating_sub(processes.bytes()).scale(self.nodes[node].share.0, 1000);
        self.total_of(node).saturating_sub(others).saturating_sub(Pages(held[node]).bytes())
    }

    pub(super) fn free_on(&self, node: NodeId) -> Option<(Bytes, Bytes)> {
        let node = usize::from(node.0);
        (node < self.nodes.len()).then(|| (self.free_with(node, &self.held()), self.total_of(node)))
    }

    pub(super) fn node_facts(&self) -> Vec<NodeFacts> {
        let ids = || (0..self.nodes.len()).map(|id| NodeId(id as u16));
        let facts = |id: NodeId| NodeFacts {
            id,
            total: self.total_of(usize::from(id.0)),
            cpus: self.cpus_of(usize::from(id.0)).map(CpuId).collect(),
            distances: ids().map(|to| (to, if id == to { 10 } else { 20 })).collect(),
            ..NodeFacts::default()
        };
        ids().map(facts).collect()
    }

    pub(super) fn node_free(&self) -> Vec<(NodeId, Bytes)> {
        let held = self.held();
        (0..self.nodes.len()).map(|node| (NodeId(node as u16), self.free_with(node, &held))).collect()
    }

    pub(super) fn tell_nodes(&mut self) {
        if self.nodes.len() < 2 {
            return;
        }
        let free = self.node_free();
        let nodes = free.into_iter().map(|(node, free)| NodeSample {
            node,
            total: self.total_of(usize::from(node.0)),
            free,
            inactive_file: Bytes::ZERO,
            idle: Span(self.idle_ns[usize::from(node.0)]),
            cpus: self.nodes[usize::from(node.0)].cpus,
        });
        let nodes = nodes.collect();
        self.tell(Event::Sample(Sample::Nodes(NodesSample { nodes })));
    }

    /// What each thread ran in the last second, and where.
    pub(super) fn cpu_times(&self) -> Vec<CpuTime> {
        let mut times = Vec::new();
        for p in self.procs.values() {
            for thread in 0..p.spec.threads {
                let at = p.key.pid.wrapping_add(thread);
                let (all, may) = (self.cpus().max(1), p.cpus_of(thread));
                let cpu = if may.is_empty() { at % all } else { may[at as usize % may.len()] };
                let tid = p.tid(thread);
                times.push(CpuTime { proc: p.key, tid, cpu: CpuId(cpu), runtime_ns: p.runs_ns(), switches: 10 });
            }
        }
        times
    }

    /// One second of the CPUs.
    pub(super) fn idle(&mut self) {
        let mut left: Vec<u64> = self.nodes.iter().map(|node| u64::from(node.cpus) * TICK.0).collect();
        for time in self.cpu_times() {
            let node = self.node_of(time.cpu.0);
            left[node] = left[node].saturating_sub(time.runtime_ns);
        }
        self.idle_ns.resize(self.nodes.len(), 0);
        self.idle_ns.iter_mut().zip(left).for_each(|(sum, left)| *sum += left);
    }

    /// Gives every block that is new its node.
    pub(super) fn lie_down(&mut self) {
        let mut free: Vec<Bytes> = self.node_free().into_iter().map(|(_, free)| free).collect();
        let homes: Vec<(u32, Vec<usize>)> = self.procs.iter().map(|(&pid, p)| (pid, self.homes(p))).collect();
        for (pid, homes) in homes {
            let Some(p) = self.procs.get_mut(&pid) else { continue };
            for (&id, block) in p.blocks.iter_mut().filter(|(_, block)| block.node.is_none() && !block.present.is_empty()) {
                let bytes = Pages(u64::from(block.present.count())).bytes();
                let wanted = homes[id as usize % homes.len()];
                let roomiest = || (0..free.len()).max_by_key(|&node| (free[node], std::cmp::Reverse(node))).unwrap_or(0);
                let node = if free[wanted] >= bytes { wanted } else { roomiest() };
                free[node] = free[node].saturating_sub(bytes);
                block.node = Some(node);
            }
        }
    }

    fn homes(&self, p: &Process) -> Vec<usize> {
        let mut nodes: Vec<usize> = p.cpus.iter().map(|&cpu| self.node_of(cpu)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.is_empty() { (0..self.nodes.len()).collect() } else { nodes }
    }

    /// Moves blocks of the ranges that lie on one of `from` (all others, if none is named) until no more than `least` would stay
    /// free.
    pub(super) fn move_to(&mut self, proc: ProcKey, ranges: &[AddrRange], from: &[NodeId], to: NodeId, least: Bytes) -> Moved {
        let mut out = Moved::default();
        let Some((mut free, total)) = self.free_on(to) else { return out };
        let (now, to) = (self.now, usize::from(to.0));
        let Some(p) = self.procs.get_mut(&proc.pid) else { return out };
        let pinned: Vec<AddrRange> = p.regions.iter().filter(|r| r.spec.pinned).map(|r| r.range).collect();
        let touches =
            |ranges: &[AddrRange], id: u64| ranges.iter().any(|r| r.start < (id + 1) * BLOCK_BYTES && id * BLOCK_BYTES < r.end);
        let mut ids = Vec::new();
        for (&id, block) in p.blocks.iter_mut().filter(|(id, _)| touches(ranges, **id)) {
            let named = |node: usize| from.is_empty() || from.iter().any(|n| usize::from(n.0) == node);
            let pages = Pages(u64::from(block.present.count()));
            if block.node.is_none_or(|node| node == to || !named(node)) {
                continue;
            }
            if free < pages.bytes().saturating_add(least) {
                let rest = |r: &AddrRange| AddrRange { start: r.start.max(id * BLOCK_BYTES), end: r.end };
                out.missed = ranges.iter().map(rest).filter(|r| r.start < r.end).collect();
                break;
            }
            out.elsewhere += pages.0;
            if !touches(&pinned, id) {
                free = free.saturating_sub(pages.bytes());
                block.node = Some(to);
                out.pages += pages.0;
                ids.push(id);
            }
        }
        self.truth.moved(now, proc, &ids, Pages(out.pages), Permil::of(free.0, total.0));
        out
    }

    /// A node and its memory go; what lay there lies elsewhere.
    pub(super) fn remove_node(&mut self, bytes: Bytes) {
        self.memory = self.memory.saturating_sub(bytes);
        if self.nodes.len() > 1 {
            self.nodes.pop();
        }
        let shares: u64 = self.nodes.iter().map(|node| node.share.0).sum();
        self.nodes.iter_mut().for_each(|node| node.share = Permil(node.share.0 * 1000 / shares.max(1)));
        let (nodes, cpus) = (self.nodes.len(), self.cpus());
        for p in self.procs.values_mut() {
            p.blocks.values_mut().filter(|b| b.node.is_some_and(|node| node >= nodes)).for_each(|b| b.node = None);
            // The kernel lets run anywhere who may run nowhere.
            p.cpus.retain(|&cpu| cpu < cpus);
            p.apart.retain(|_, may| {
                may.retain(|&cpu| cpu < cpus);
                !may.is_empty()
            });
        }
        self.lie_down();
    }
}
