//! What the host is and can do, gathered once by observe/probe.rs. Facts only: the rules that use them live in policies.

use super::{Bytes, CpuId, NodeId};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// "Unknown" is a third answer, never "no".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Yes,
    No,
    Unknown,
}

/// One fact: the answer, how it was learned, and what would change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub answer: Answer,
    /// What was looked at and what it said, e.g. "/sys/kernel/btf/vmlinux: 5.4 MB".
    pub how: String,
    /// How to enable it; empty when the answer is yes or nothing helps.
    pub remedy: String,
}

/// Something that a source, policy or actuator needs from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Root, or CAP_SYS_ADMIN in the initial user namespace.
    Root,
    /// bpf(2) with CAP_BPF and CAP_PERFMON, not locked down.
    Bpf,
    /// Type information of the running kernel.
    Btf,
    /// The BPF object, embedded or beside the binary.
    BpfObject,
    /// The page-table walker: proved on a region of our own at load.
    Walker,
    /// tp_btf and tracepoints of the scheduler.
    SchedEvents,
    /// vmscan tracepoints and swap-write tracepoint.
    ReclaimEvents,
    /// migrate tracepoints.
    MigrateEvents,
    /// Software page-fault perf events with the faulting address.
    FaultSamples,
    /// DAMON's aggregation tracepoint.
    DamonEvents,
    /// fentry programs.
    Fentry,
    /// kprobes.
    Kprobes,
    /// Hardware memory sampling (PEBS or IBS).
    Pmu,
    /// /proc/pressure with triggers.
    Psi,
    /// process_madvise(2) with MADV_COLD and MADV_PAGEOUT, and pidfd_open(2).
    ProcessMadvise,
    /// openEuler's /proc/PID/idle_pages.
    IdlePages,
    /// openEuler's /proc/PID/swap_pages.
    SwapPages,
    /// /sys/kernel/mm/page_idle/bitmap, to be written, and frame numbers to find pages in it.
    PageIdle,
    /// DAMON for virtual address spaces.
    DamonVaddr,
    /// PAGEMAP_SCAN ioctl.
    PagemapScan,
    /// Soft-dirty bits (a reason not to write 4 to clear_refs).
    SoftDirty,
    /// At least one swap area is on.
    Swap,
    CgroupV1Memory,
    CgroupV2Memory,
    /// More than one node with memory.
    ManyNodes,
    /// Memory that is slower than that of the nodes with CPUs.
    SlowNodes,
    /// The kernel balances NUMA memory by itself.
    NumaBalancing,
    /// The multi-generational LRU.
    Mglru,
}

impl Need {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Bpf => "bpf",
            Self::Btf => "btf",
            Self::BpfObject => "bpf-object",
            Self::Walker => "walker",
            Self::SchedEvents => "sched-events",
            Self::ReclaimEvents => "reclaim-events",
            Self::MigrateEvents => "migrate-events",
            Self::FaultSamples => "fault-samples",
            Self::DamonEvents => "damon-events",
            Self::Fentry => "fentry",
            Self::Kprobes => "kprobes",
            Self::Pmu => "pmu",
            Self::Psi => "psi",
            Self::ProcessMadvise => "process-madvise",
            Self::IdlePages => "idle-pages",
            Self::SwapPages => "swap-pages",
            Self::PageIdle => "page-idle",
            Self::DamonVaddr => "damon-vaddr",
            Self::PagemapScan => "pagemap-scan",
            Self::SoftDirty => "soft-dirty",
            Self::Swap => "swap",
            Self::CgroupV1Memory => "cgroup-v1-memory",
            Self::CgroupV2Memory => "cgroup-v2-memory",
            Self::ManyNodes => "many-nodes",
            Self::SlowNodes => "slow-nodes",
            Self::NumaBalancing => "numa-balancing",
            Self::Mglru => "mglru",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub id: NodeId,
    pub total: Bytes,
    pub cpus: Vec<CpuId>,
    /// (other node, distance) as in /sys/devices/system/node/nodeN/distance.
    pub distances: Vec<(NodeId, u16)>,
    /// What a read from the nearest CPUs gets and takes at best, by the firmware's HMAT: nodeN/access1/initiators, else
    /// access0 (nearest initiators of any kind). None where it does not tell.
    #[serde(default)]
    pub bandwidth_mb_s: Option<u64>,
    #[serde(default)]
    pub latency_ns: Option<u64>,
    /// Number of its memory tier (/sys/devices/virtual/memory_tiering): a smaller one is faster.
    #[serde(default)]
    pub tier: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub kernel: String,
    pub arch: String,
    pub page_bytes: u64,
    pub memory: Bytes,
    pub cpus: u32,
    /// Hardware threads of one core; 0: not told.
    #[serde(default)]
    pub smt_width: u32,
    pub nodes: Vec<NodeFacts>,
    pub facts: BTreeMap<Need, Fact>,
    /// Swap-out bytes already charged in the current day window by an earlier run of the daemon.
    pub swap_written_today: Bytes,
    /// pid of the daemon that gathered this; protected.
    pub own_pid: u32,
}

/// Whether the memory of a node is slower than that of nodes with CPUs: its tier is a higher one, or it has no CPUs itself and
/// nobody told that it is as fast (memory on the package, HBM). Firmware may tell latencies where the kernel made no tiers
/// of them (Linux 6.1).
#[must_use]
pub fn is_slow(nodes: &[NodeFacts], node: &NodeFacts) -> bool {
    let least = |of: fn(&NodeFacts) -> Option<u64>| nodes.iter().filter(|node| !node.cpus.is_empty()).filter_map(of).min();
    let than_usual = |of: fn(&NodeFacts) -> Option<u64>| Some(of(node)?.cmp(&least(of)?));
    let tier = than_usual(|node| node.tier.map(u64::from));
    let latency = than_usual(|node| node.latency_ns);
    match (tier, node.cpus.is_empty()) {
        _ if node.total == Bytes::ZERO => false,
        (Some(Ordering::Greater), _) => true,
        (Some(Ordering::Less), _) | (_, false) => false,
        (Some(Ordering::Equal) | None, true) => latency.is_none_or(|latency| latency == Ordering::Greater),
    }
}

impl HostFacts {
    /// `Ok` when the host answers yes; else the sentence to show.
    pub fn has(&self, need: Need) -> Result<(), String> {
        match self.facts.get(&need) {
            Some(Fact { answer: Answer::Yes, .. }) => Ok(()),
            Some(Fact { answer: Answer::No, how, .. }) => Err(format!("no {need}: {how}")),
            Some(Fact { answer: Answer::Unknown, how, .. }) => Err(format!("{need} unknown: {how}")),
            None => Err(format!("{need} was not probed")),
        }
    }

    /// Whether threads have a choice: more than one node with memory, and more than one with CPUs.
    #[must_use]
    pub fn can_place(&self) -> bool {
        self.has(Need::ManyNodes).is_ok() && self.nodes.iter().filter(|node| !node.cpus.is_empty()).count() > 1
    }

    /// Nodes of slow memory, ascending as they were told.
    pub fn slow_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|node| is_slow(&self.nodes, node)).map(|node| node.id)
    }

    #[must_use]
    pub fn is_slow(&self, id: NodeId) -> bool {
        self.slow_nodes().any(|slow| slow == id)
    }

    /// `Ok` when the host answers yes to one of `needs`, or nothing is needed; else what is wrong with each.
    pub fn has_one(&self, needs: &[Need]) -> Result<(), String> {
        let lacks: Vec<String> = needs.iter().map_while(|need| self.has(*need).err()).collect();
        if lacks.is_empty() || lacks.len() < needs.len() { Ok(()) } else { Err(lacks.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (CPUs, latency, tier) of each node, and which are slow.
    fn check(nodes: &[(u32, Option<u64>, Option<u16>)], expect: &[u16]) {
        let node = |(id, &(cpus, latency_ns, tier)): (usize, &(u32, Option<u64>, Option<u16>))| NodeFacts {
            id: NodeId(id as u16),
            total: Bytes(1 << 30),
            cpus: (0..cpus).map(CpuId).collect(),
            latency_ns,
            tier,
            ..NodeFacts::default()
        };
        let facts = HostFacts { nodes: nodes.iter().enumerate().map(node).collect(), ..HostFacts::default() };
        let slow: Vec<u16> = facts.slow_nodes().map(|id| id.0).collect();
        assert_eq!(slow, expect, "{nodes:?}");
    }

    #[test]
    fn slow_is_what_is_told_to_be_slower_and_what_has_no_cpus_and_nobody_tells_of() {
        check(&[(4, None, None), (4, None, None)], &[]);
        check(&[(4, None, None), (0, None, None)], &[1]);
        check(&[(4, Some(10), Some(4)), (4, Some(10), Some(4)), (0, Some(300), Some(1350))], &[2]);
        // Latencies without tiers of them.
        check(&[(4, Some(10), Some(4)), (0, Some(300), Some(4))], &[1]);
        // On the package: faster, or as fast.
        check(&[(4, Some(100), Some(4)), (0, Some(120), Some(2))], &[]);
        check(&[(4, Some(100), None), (0, Some(100), None)], &[]);
        // CPUs do not make its memory faster.
        check(&[(4, None, Some(4)), (2, None, Some(22))], &[1]);
    }
}
