//! Everything that can come in. One closed enum, numbered and timestamped at one ingest point (daemon/ingest).

use super::{
    AddrRange, Bytes, CacheSample, CgroupId, CpuId, HostFacts, IdSet, NodeId, Outcome, PageChunk, Pages, ProcKey, Span, Time,
};
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Position in the stream: 1, 2, 3, ... without gaps.
    pub seq: u64,
    pub at: Time,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    Facts(Box<HostFacts>),
    /// The whole merged configuration as canonical TOML; checked before it is let in.
    Config(String),
    Kernel(KernelEvent),
    Sample(Sample),
    /// Records that a source is known to have dropped.
    Lost {
        source: Source,
        count: u64,
    },
    /// A source stopped telling; its dependants idle until `Sight`.
    Blind {
        source: Source,
        why: String,
    },
    /// A source tells (again).
    Sight {
        source: Source,
    },
    Request(Request),
    Outcome(Outcome),
}

/// Where events come from. Each is optional, and its absence is a `Blind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Page-table walker, or what stands in for it.
    Walker,
    /// Fork, exec, exit.
    Procs,
    /// sched_switch aggregation and task migration.
    Sched,
    /// Reclaim tracepoints: evictions and swap writes.
    Reclaim,
    /// Sampled page faults.
    Faults,
    /// Page migration tracepoints.
    Migrate,
    /// /proc/meminfo, vmstat, swap areas.
    Host,
    /// Pressure stall information.
    Psi,
    /// Memory cgroups.
    Cgroup,
    /// Regions of address spaces that somebody has DAMON watch.
    Damon,
    /// memcached servers. That one of them cannot be talked to is told of that one, not of the source.
    Caches,
}

impl Source {
    pub const ALL: [Self; 11] = [
        Self::Walker,
        Self::Procs,
        Self::Sched,
        Self::Reclaim,
        Self::Faults,
        Self::Migrate,
        Self::Host,
        Self::Psi,
        Self::Cgroup,
        Self::Damon,
        Self::Caches,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Walker => "walker",
            Self::Procs => "procs",
            Self::Sched => "sched",
            Self::Reclaim => "reclaim",
            Self::Faults => "faults",
            Self::Migrate => "migrate",
            Self::Host => "host",
            Self::Psi => "psi",
            Self::Cgroup => "cgroup",
            Self::Damon => "damon",
            Self::Caches => "caches",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What BPF programs report one by one. Fork and exec carry keys only; facts about the process follow as a `ProcSample`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelEvent {
    /// A new process (threads are not reported).
    Fork {
        parent: ProcKey,
        child: ProcKey,
    },
    Exec {
        proc: ProcKey,
    },
    /// The last thread of a process is gone.
    Exit {
        proc: ProcKey,
    },
    /// One page fault of the sampled ones; `period` faults stand behind each sample.
    Fault {
        proc: ProcKey,
        /// The thread that it happened to; 0: not told.
        #[serde(default, skip_serializing_if = "untold")]
        tid: u32,
        addr: u64,
        kind: FaultKind,
        period: u64,
    },
    /// A task moved between CPUs; `count` moves of that kind since the last report.
    TaskMoved {
        proc: ProcKey,
        tid: u32,
        from: CpuId,
        to: CpuId,
        count: u64,
    },
    /// Pages migrated between nodes or compacted, host-wide since the last report.
    PagesMoved {
        succeeded: Pages,
        failed: Pages,
    },
    /// A region in which DAMON found accesses: of `samples` looks at a page of it, so many found it accessed since the
    /// look before. Of one aggregation a second at most.
    Region {
        proc: ProcKey,
        range: AddrRange,
        accesses: u32,
        samples: u32,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn untold(tid: &u32) -> bool {
    *tid == 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Filled without I/O.
    Minor,
    /// Waited for swap or a file.
    Major,
}

/// What is read at intervals or drained from kernel-side aggregates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sample {
    Proc(Box<ProcSample>),
    Maps(MapsSample),
    Pages(PageChunk),
    Host(Box<HostSample>),
    Pressure(Pressure),
    Sched(SchedSample),
    Reclaim(ReclaimCounts),
    Cgroup(CgroupSample),
    /// Read with the host sample, only where there is more than one node.
    Nodes(NodesSample),
    /// Of a memcached server.
    Cache(CacheSample),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedClass {
    #[default]
    Normal,
    /// SCHED_FIFO or SCHED_RR.
    RealTime,
    /// SCHED_DEADLINE.
    Deadline,
}

/// A process as /proc shows it. Sizes that the kernel does not give are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcSample {
    pub proc: ProcKey,
    pub parent: u32,
    pub comm: String,
    /// Target of /proc/PID/exe; empty for kernel threads.
    pub exe: String,
    pub uid: u32,
    /// Path inside the memory hierarchy (v2, or v1's memory controller), e.g. "/system.slice/memcached.service".
    pub cgroup: String,
    pub cgroup_id: CgroupId,
    pub threads: u32,
    pub rss: Bytes,
    pub rss_anon: Bytes,
    pub rss_file: Bytes,
    pub swapped: Bytes,
    /// VmLck + VmPin: memory that must not be touched.
    pub locked: Bytes,
    pub oom_score_adj: i32,
    /// Any thread's class; the strictest wins.
    pub class: SchedClass,
    pub kernel_thread: bool,
    /// PR_SET_IO_FLUSHER (PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE in the flags of /proc/PID/stat).
    pub io_flusher: bool,
    pub minor_faults: u64,
    pub major_faults: u64,
    /// User + system time so far, in clock ticks.
    pub cpu_ticks: u64,
    /// How long its living threads were ready to run and had to wait for a CPU so far: run_delay of
    /// /proc/PID/task/TID/schedstat. Zero where the kernel does not tell.
    #[serde(default)]
    pub waited: Span,
    /// What its main thread may run on. Empty: not told.
    #[serde(default)]
    pub cpus_allowed: IdSet,
    /// Nodes that its cpuset lets it have memory on. Empty: not told.
    #[serde(default)]
    pub mems_allowed: IdSet,
    /// The memory policy that somebody gave it (set_mempolicy(2), numactl), as the kernel prints it: `interleave:0-1`. Empty:
    /// none, or one node.
    #[serde(default)]
    pub mempolicy: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmaKind {
    #[default]
    Anon,
    /// Private mapping of a file.
    File,
    /// Shared mapping of a file.
    SharedFile,
    /// Shared memory: tmpfs, memfd, SysV.
    Shmem,
    Hugetlb,
    /// vdso, vvar, vsyscall, device memory, PFN maps.
    Special,
}

/// Set of VMA properties that matter to a hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmaFlags(pub u16);

impl VmaFlags {
    pub const WRITE: Self = Self(1);
    pub const EXEC: Self = Self(2);
    /// mlock, mlockall.
    pub const LOCKED: Self = Self(4);
    /// VM_IO or VM_PFNMAP: no struct pages behind it.
    pub const IO: Self = Self(8);
    /// MADV_HUGEPAGE.
    pub const HUGE: Self = Self(16);
    /// MADV_NOHUGEPAGE.
    pub const NOHUGE: Self = Self(32);
    /// Registered with userfaultfd.
    pub const UFFD: Self = Self(64);
    /// Its owner said on which nodes it lies (mbind).
    pub const POLICY: Self = Self(128);

    #[must_use]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
    #[must_use]
    pub const fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vma {
    pub start: u64,
    pub end: u64,
    pub kind: VmaKind,
    pub flags: VmaFlags,
}

/// All mappings of a process, ascending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapsSample {
    pub proc: ProcKey,
    pub vmas: Vec<Vma>,
}

/// What a swap area stands on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwapBacking {
    #[default]
    Disk,
    File,
    Zram,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapSample {
    pub path: String,
    pub backing: SwapBacking,
    pub size: Bytes,
    pub used: Bytes,
    pub priority: i32,
    /// zram only: uncompressed bytes held, bytes of memory they cost (mem_used_total), its limit (0 = none).
    pub stored: Bytes,
    pub cost: Bytes,
    pub limit: Bytes,
}

/// The host's memory, swap and paging counters. Counters are totals since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSample {
    pub total: Bytes,
    pub free: Bytes,
    pub available: Bytes,
    pub swap_total: Bytes,
    pub swap_free: Bytes,
    pub swaps: Vec<SwapSample>,
    pub zswap_enabled: bool,
    /// pswpin, pswpout.
    pub swapped_in: Pages,
    pub swapped_out: Pages,
    /// pgscan_kswapd + pgscan_direct + pgscan_khugepaged, without proactive reclaim.
    pub scanned: Pages,
    /// pgscan_anon: anonymous pages scanned for whatever reason, proactive reclaim and that of cgroups included. Linux
    /// before 5.8 does not tell them apart.
    #[serde(default)]
    pub scanned_anon: Option<Pages>,
    /// pgsteal_* of the same.
    pub stolen: Pages,
    pub refault_anon: Pages,
    pub refault_file: Pages,
    pub major_faults: u64,
    /// Free memory per node.
    pub node_free: Vec<(NodeId, Bytes)>,
}

/// One NUMA node now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSample {
    pub node: NodeId,
    pub total: Bytes,
    pub free: Bytes,
    /// File pages on the inactive list: given up without writing to swap.
    pub inactive_file: Bytes,
    /// How long its online CPUs have idled since boot, together. Zero for a node without any.
    pub idle: Span,
    /// How many those are.
    #[serde(default)]
    pub cpus: u32,
}

/// All nodes that were there, ascending; one that went away while it was read is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesSample {
    pub nodes: Vec<NodeSample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PressureKind {
    Memory,
    Io,
    Cpu,
}

/// Pressure stall information of the host (empty cgroup) or of one cgroup. avg10 in hundredths of a percent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub kind: PressureKind,
    pub cgroup: String,
    pub some_avg10: u32,
    pub some_avg60: u32,
    pub full_avg10: u32,
    /// Total stall time in microseconds.
    pub some_total_us: u64,
    pub full_total_us: u64,
    /// A poll(2) trigger fired: the stall crossed its threshold within its window just now.
    pub triggered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTime {
    pub proc: ProcKey,
    pub tid: u32,
    pub cpu: CpuId,
    pub runtime_ns: u64,
    pub switches: u64,
}

/// CPU time per task and CPU in the period that ends now, drained from the kernel-side aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedSample {
    pub period_ns: u64,
    pub times: Vec<CpuTime>,
}

/// Evictions in the period that ends now, per process (pid 0: by kswapd or unattributed) and per cgroup (0: unknown).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimCounts {
    pub period_ns: u64,
    /// Pages written to swap, by the task that wrote them.
    pub swap_writes: Vec<(ProcKey, Pages)>,
    /// Pages reclaimed, by memory cgroup.
    pub reclaimed: Vec<(CgroupId, Pages)>,
    /// Major faults, by process.
    pub major_faults: Vec<(ProcKey, u64)>,
    /// Direct reclaim passes, by process.
    pub direct_reclaim: Vec<(ProcKey, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSample {
    pub id: CgroupId,
    pub path: String,
    pub usage: Bytes,
    /// u64::MAX: no limit.
    pub limit: Bytes,
    pub swap_usage: Bytes,
    pub swap_limit: Bytes,
    pub anon: Bytes,
    pub file: Bytes,
    pub scanned: Pages,
    pub refault_anon: Pages,
    pub refault_file: Pages,
}

/// What an operator asked for over the control socket or by a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    Pause {
        by: String,
    },
    Resume {
        by: String,
    },
    /// Look at this process soon, whatever the targets say (`memtier heat PID`).
    Look {
        proc: ProcKey,
        by: String,
    },
}
