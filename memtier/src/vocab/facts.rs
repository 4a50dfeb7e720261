//! What the host is and can do, gathered once by observe/probe.rs. Facts only: the rules that use them live in policies.

use super::{Bytes, CpuId, NodeId};
use serde::{Deserialize, Serialize};
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
    /// Of these, those that the scheduler gives to nobody who was not put there: isolcpus=, isolated cpusets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolated: Vec<CpuId>,
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

impl NodeFacts {
    /// CPUs on which whoever may run anywhere runs.
    pub fn shared_cpus(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.cpus.iter().copied().filter(|cpu| !self.isolated.contains(cpu))
    }
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
        self.has(Need::ManyNodes).is_ok() && self.nodes.iter().filter(|node| node.shared_cpus().next().is_some()).count() > 1
    }

    /// `Ok` when the host answers yes to one of `needs`, or nothing is needed; else what is wrong with each.
    pub fn has_one(&self, needs: &[Need]) -> Result<(), String> {
        let lacks: Vec<String> = needs.iter().map_while(|need| self.has(*need).err()).collect();
        if lacks.is_empty() || lacks.len() < needs.len() { Ok(()) } else { Err(lacks.join("; ")) }
    }
}
