//! What can be done, and what came of it. A step leaves no choice to whoever executes it.

use super::{
    AddrRange, Bytes, CgroupId, ClassId, CpuId, NodeId, Pages, Permil, Place, PolicyId, ProcKey, Reason, ServerId, ServerLife,
    Span, Subject, Time,
};
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Walk the page tables of a process; the samples come back as events before the outcome.
    Scan { proc: ProcKey },
    /// Clear accessed bits so that the next walk says something. Whole blocks.
    Arm { proc: ProcKey, ranges: Vec<AddrRange> },
    /// Move pages to swap.
    PageOut { proc: ProcKey, ranges: Vec<AddrRange> },
    /// The mild form: put pages at the end of the LRU and let the kernel's own reclaim take them when it must.
    Deactivate { proc: ProcKey, ranges: Vec<AddrRange> },
    /// From now on whoever is meant runs on these CPUs only. Ascending, never empty.
    Bind {
        proc: ProcKey,
        cpus: Vec<CpuId>,
        #[serde(default, skip_serializing_if = "Whom::is_all")]
        whom: Whom,
    },
    /// What lies on other nodes goes to this one. Ranges ascend.
    MovePages { proc: ProcKey, to: NodeId, ranges: Vec<AddrRange> },
    /// All movable pages of the process that lie on `from` go to `to`: the blunt way.
    Migrate { proc: ProcKey, from: Vec<NodeId>, to: NodeId },
    /// A page of a memcached server goes from a class to another, or to the pool. `proc` is the server's process, or
    /// [`ServerId::nobody`].
    MoveSlabPage { server: ServerId, proc: ProcKey, from: Place, to: Place },
    /// The server's own mover (`slabs automove`) gets this mode: two movers would undo each other's work.
    SetMover { server: ServerId, proc: ProcKey, mode: u8 },
    /// The streams of a server's records are read, or left closed. It is looked at all the same.
    SetWatch { server: ServerId, proc: ProcKey, on: bool },
    /// With extstore: each of these classes writes items to flash while it has fewer free chunks than this (`free_memchunks`; from memcached
    /// 1.6.17 on nobody heeds it).
    SetFree { server: ServerId, proc: ProcKey, chunks: Vec<(ClassId, u64)> },
}

/// Whom a bind is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whom {
    /// Every task of the process, those born meanwhile too.
    #[default]
    All,
    /// These threads alone; ascending, never empty.
    Threads(Vec<u32>),
    /// All who are in a cgroup: its cpuset is written instead of their affinities.
    Cgroup(Group),
}

impl Whom {
    /// The threads that are named; where none is, all of the process.
    #[must_use]
    pub fn of(tids: &[u32]) -> Self {
        if tids.is_empty() { Self::All } else { Self::Threads(tids.to_vec()) }
    }
    #[must_use]
    pub const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
    /// The threads that are named; none where all are meant.
    #[must_use]
    pub fn tids(&self) -> &[u32] {
        match self {
            Self::Threads(tids) => tids,
            Self::All | Self::Cgroup(_) => &[],
        }
    }
    #[must_use]
    pub const fn cgroup(&self) -> Option<&Group> {
        match self {
            Self::Cgroup(group) => Some(group),
            Self::All | Self::Threads(_) => None,
        }
    }
}

/// A cgroup of version 2 that is bound as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub id: CgroupId,
    /// From the root of the hierarchy.
    pub path: String,
    /// All who are in it and below, ascending. They and whoever descends from them are meant, and nobody else.
    pub members: Vec<ProcKey>,
}

impl Action {
    #[must_use]
    pub const fn proc(&self) -> ProcKey {
        match self {
            Self::Scan { proc }
            | Self::Arm { proc, .. }
            | Self::PageOut { proc, .. }
            | Self::Deactivate { proc, .. }
            | Self::Bind { proc, .. }
            | Self::MovePages { proc, .. }
            | Self::Migrate { proc, .. }
            | Self::MoveSlabPage { proc, .. }
            | Self::SetMover { proc, .. }
            | Self::SetWatch { proc, .. }
            | Self::SetFree { proc, .. } => *proc,
        }
    }
    /// The server that it is about, if it is about one.
    #[must_use]
    pub const fn server(&self) -> Option<ServerId> {
        match self {
            Self::Scan { .. }
            | Self::Arm { .. }
            | Self::PageOut { .. }
            | Self::Deactivate { .. }
            | Self::Bind { .. }
            | Self::MovePages { .. }
            | Self::Migrate { .. } => None,
            Self::MoveSlabPage { server, .. }
            | Self::SetMover { server, .. }
            | Self::SetWatch { server, .. }
            | Self::SetFree { server, .. } => Some(*server),
        }
    }
    #[must_use]
    pub const fn subject(&self) -> Subject {
        match self.server() {
            Some(server) => Subject::Cache(server),
            None => Subject::Proc(self.proc()),
        }
    }
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Scan { .. } => "scan",
            Self::Arm { .. } => "arm",
            Self::PageOut { .. } => "page-out",
            Self::Deactivate { .. } => "deactivate",
            Self::Bind { .. } => "bind",
            Self::MovePages { .. } => "move-pages",
            Self::Migrate { .. } => "migrate",
            Self::MoveSlabPage { .. } => "move-slab-page",
            Self::SetMover { .. } => "set-mover",
            Self::SetWatch { .. } => "set-watch",
            Self::SetFree { .. } => "set-free",
        }
    }
    #[must_use]
    pub fn ranges(&self) -> &[AddrRange] {
        match self {
            Self::Scan { .. }
            | Self::Bind { .. }
            | Self::Migrate { .. }
            | Self::MoveSlabPage { .. }
            | Self::SetMover { .. }
            | Self::SetWatch { .. }
            | Self::SetFree { .. } => &[],
            Self::Arm { ranges, .. }
            | Self::PageOut { ranges, .. }
            | Self::Deactivate { ranges, .. }
            | Self::MovePages { ranges, .. } => ranges,
        }
    }
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.ranges().iter().map(AddrRange::pages).sum()
    }
}

/// Decision number and position in its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepId {
    pub decision: u64,
    pub index: u32,
}

/// Checked by the actuator at the last moment; a guard that does not hold skips the step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// The pid still belongs to the process that was meant.
    Alive(ProcKey),
    /// Free swap stays at or above this share of all swap.
    SwapFree { least: Permil },
    /// Memory pressure "some" avg10 of the host, in hundredths of a percent, is at or below this.
    Calm { most_avg10: u32 },
    /// Free memory of the node stays at or above this after the slice that is about to go there.
    NodeFree { node: NodeId, least: Bytes },
    /// It is still that life of the server: after a restart its classes are others.
    SameLife { server: ServerId, life: Option<ServerLife> },
    /// Set by the daemon when it only advises: never executed.
    DryRun,
}

/// What a step may use up; the ledger holds the same units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Bytes moved or paged out.
    pub moved: Bytes,
    /// Bytes written to a swap area (0 for zram: it wears nothing).
    pub swap_written: Bytes,
    /// Bytes whose accessed bits are cleared.
    pub armed: Bytes,
    pub syscalls: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub id: StepId,
    pub action: Action,
    pub guards: Vec<Guard>,
    pub expires: Time,
    pub charge: Charge,
    pub by: PolicyId,
    pub reason: Reason,
}

/// What really happened, measured, not taken from a return value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Pages seen (scan), cleared (arm), gone from memory to swap (page-out), or on the node now and not before
    /// (move-pages, migrate). Of a bind the tasks bound; of a server the slab pages that went, or settings that took.
    pub pages: Pages,
    /// Pages that were asked for; of a move those found on other nodes, of a bind the tasks seen.
    pub asked: Pages,
    pub syscalls: u64,
    /// CPU time of the hand, user and system.
    pub cpu_ns: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    Done,
    /// Less than asked, and why.
    Partial(String),
    Skipped(Guard),
    Expired,
    Failed(Fault),
}

/// The call that failed, on what, and the errno.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub call: String,
    pub on: String,
    pub errno: i32,
    pub message: String,
}

/// Exactly one per step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub step: StepId,
    pub began: Time,
    pub ended: Time,
    pub done: Amount,
    pub end: End,
    /// Of an arming: where bits could not be cleared, ascending. Those pages prove nothing. Of a move of pages: what it did
    /// not come to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<AddrRange>,
}

impl Outcome {
    #[must_use]
    pub const fn took(&self) -> Span {
        self.ended.since(self.began)
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.decision, self.index)
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive(proc) => write!(f, "{proc} is gone or its pid is reused"),
            Self::SwapFree { least } => write!(f, "free swap is under {least}"),
            Self::Calm { most_avg10 } => write!(f, "memory pressure avg10 is over {}.{:02}%", most_avg10 / 100, most_avg10 % 100),
            Self::NodeFree { node, least } => write!(f, "{node} would have less than {least} free"),
            Self::SameLife { server, .. } => write!(f, "{server} was started anew"),
            Self::DryRun => f.write_str("advice only (give --act and a selection to act)"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, on, errno, message } = self;
        write!(f, "{call} on {on}: {message}")?;
        // The words of the standard library name it already.
        if *errno == 0 || message.ends_with(&format!("(os error {errno})")) { Ok(()) } else { write!(f, " (errno {errno})") }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Partial(why) => write!(f, "partly done: {why}"),
            Self::Skipped(guard) => write!(f, "skipped: {guard}"),
            Self::Expired => f.write_str("expired before its turn came"),
            Self::Failed(fault) => write!(f, "failed: {fault}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, began: _, ended: _, done: Amount { pages, asked, syscalls, cpu_ns }, end, missed: _ } = self;
        write!(f, "outcome {step} {end}; {} of {asked}, {syscalls} calls, {}", pages.0, self.took())?;
        if *cpu_ns > 0 { write!(f, ", CPU {}", Span(*cpu_ns)) } else { Ok(()) }
    }
}
