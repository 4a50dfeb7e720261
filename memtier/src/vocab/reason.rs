//! Why something was or was not done: the rule, the numbers seen, the bounds, and the knob that set each bound.

use super::{Bytes, CgroupId, Pages, Permil, PolicyId, ProcKey, ServerId, Span};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// Every rule that can make or veto a step. docs/rules.md has a paragraph for each; a tidy test holds that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A process is due for a walk.
    ScanDue,
    /// Somebody asked to look at this process.
    ScanAsked,
    /// Blocks read young and were not asked for a while.
    ArmYoung,
    /// Pages counted fewer than T accesses in n scans.
    SlideCold,
    /// Pages idle longer than the age at which the predicted promotion rate meets the SLO.
    AutocoldIdle,
    /// The nodes that suit a process are known and its threads may run elsewhere too.
    NumaBind,
    /// Groups of threads that share no memory go to nodes of their own, for their process fits on none.
    NumaPart,
    /// Pages lie on other nodes than those of their process, and moving them pays.
    NumaMove,
    /// Pages on a slow node are in use, and a fast one has room.
    TierPromote,
    /// A fast node needs room, and pages on it are not in use.
    TierDemote,
    /// A page earns more hits in another class of its server.
    SlabGain,
    /// A page holds nothing that anybody asks for: it goes to the pool.
    SlabFree,
    /// A server's own mover rests while memtier moves its pages.
    SlabTakeover,
    /// Nothing was worth a move for a while: the streams of a server's records rest.
    SlabRest,
    /// What a server's counters say is no longer what it was when its streams were closed.
    SlabWake,
    /// Classes of a server that write to flash are told how much to keep free.
    SlabFlash,
    /// The pool of a server with flash is low, so that all its classes write early.
    SlabPool,
    /// By one of memcached's scripts: items of a class go too young, or the pool is low or high.
    SlabAge,
    /// Not selected by any target rule.
    NotSelected,
    /// Excluded by a target rule.
    Excluded,
    /// Protected in code, under --all too.
    Protected,
    /// Only so much resident memory is taken from this target.
    Floor,
    /// The policy has not watched long enough to trust its model.
    WarmUp,
    /// Nothing is cold enough.
    NothingCold,
    /// The gate of slide (free memory, swap or size threshold) is closed.
    GateClosed,
    /// Measured refaults exceed the SLO: paused, then released slowly.
    RefaultBrake,
    /// Pressure stall information is over its bound.
    PressureBrake,
    /// The kernel is reclaiming from this process or the host: clearing bits now would mislead it.
    UnderReclaim,
    /// The target hardly ran since the last round: it only looks cold.
    Starved,
    /// A budget is used up for this window.
    BudgetSpent,
    /// Free swap would fall under the reserve.
    SwapReserve,
    /// The cgroup's own swap limit leaves no room.
    CgroupSwapLimit,
    /// Swapping saves nothing: the swap area costs nearly as much memory as it takes.
    SwapSavesNothing,
    /// No swap area is on.
    NoSwap,
    /// A source that the policy needs is blind or stale.
    SourceBlind,
    /// The host lacks something that the policy needs.
    HostLacks,
    /// Another step for the same subject won this turn.
    SubjectTaken,
    /// A step for this subject is still under way.
    InFlight,
    /// The region crossed tiers too recently.
    Settling,
    /// The operator paused memtier.
    Paused,
    /// The policy is off in the configuration.
    TurnedOff,
    /// The independent audit found the step unfit.
    AuditVeto,
    /// The proposal is older than the facts it stands on.
    Stale,
    /// A model is at its memory cap and dropped something.
    ModelCap,
    /// A configuration that came in does not hold; the old one stays.
    BadConfig,
    /// Smaller than what is worth walking, or not among the largest.
    TooSmall,
    /// Threads and pages are where they belong.
    AtHome,
    /// Moving would cost more than it gains.
    NotWorth,
    /// No node, and no set of them, has room for the process.
    NoNode,
    /// Free memory of a node would fall under what is kept free on it.
    NodeReserve,
    /// Somebody else set on which CPUs or nodes the process may be.
    BoundByOthers,
    /// Its rule wants its cgroup bound as one, and something is in the way; or another process stands for it.
    CgroupBind,
    /// The kernel balances NUMA memory itself, and would move the same pages.
    KernelBalances,
    /// Pages that would not move are not asked again.
    Unmovable,
    /// The server refused the last move, or did not carry it out.
    ServerRefuses,
    /// Whoever could use a page has room still.
    HasFree,
}

impl Rule {
    pub const ALL: [Self; 56] = [
        Self::ScanDue,
        Self::ScanAsked,
        Self::ArmYoung,
        Self::SlideCold,
        Self::AutocoldIdle,
        Self::NumaBind,
        Self::NumaPart,
        Self::NumaMove,
        Self::TierPromote,
        Self::TierDemote,
        Self::SlabGain,
        Self::SlabFree,
        Self::SlabTakeover,
        Self::SlabRest,
        Self::SlabWake,
        Self::SlabFlash,
        Self::SlabPool,
        Self::SlabAge,
        Self::NotSelected,
        Self::Excluded,
        Self::Protected,
        Self::Floor,
        Self::WarmUp,
        Self::NothingCold,
        Self::GateClosed,
        Self::RefaultBrake,
        Self::PressureBrake,
        Self::UnderReclaim,
        Self::Starved,
        Self::BudgetSpent,
        Self::SwapReserve,
        Self::CgroupSwapLimit,
        Self::SwapSavesNothing,
        Self::NoSwap,
        Self::SourceBlind,
        Self::HostLacks,
        Self::SubjectTaken,
        Self::InFlight,
        Self::Settling,
        Self::Paused,
        Self::TurnedOff,
        Self::AuditVeto,
        Self::Stale,
        Self::ModelCap,
        Self::BadConfig,
        Self::TooSmall,
        Self::AtHome,
        Self::NotWorth,
        Self::NoNode,
        Self::NodeReserve,
        Self::BoundByOthers,
        Self::CgroupBind,
        Self::KernelBalances,
        Self::Unmovable,
        Self::ServerRefuses,
        Self::HasFree,
    ];

    /// The name in logs, traces and docs/rules.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ScanDue => "scan-due",
            Self::ScanAsked => "scan-asked",
            Self::ArmYoung => "arm-young",
            Self::SlideCold => "slide-cold",
            Self::AutocoldIdle => "autocold-idle",
            Self::NumaBind => "numa-bind",
            Self::NumaPart => "numa-part",
            Self::NumaMove => "numa-move",
            Self::TierPromote => "tier-promote",
            Self::TierDemote => "tier-demote",
            Self::SlabGain => "slab-gain",
            Self::SlabFree => "slab-free",
            Self::SlabTakeover => "slab-takeover",
            Self::SlabRest => "slab-rest",
            Self::SlabWake => "slab-wake",
            Self::SlabFlash => "slab-flash",
            Self::SlabPool => "slab-pool",
            Self::SlabAge => "slab-age",
            Self::NotSelected => "not-selected",
            Self::Excluded => "excluded",
            Self::Protected => "protected",
            Self::Floor => "floor",
            Self::WarmUp => "warm-up",
            Self::NothingCold => "nothing-cold",
            Self::GateClosed => "gate-closed",
            Self::RefaultBrake => "refault-brake",
            Self::PressureBrake => "pressure-brake",
            Self::UnderReclaim => "under-reclaim",
            Self::Starved => "starved",
            Self::BudgetSpent => "budget-spent",
            Self::SwapReserve => "swap-reserve",
            Self::CgroupSwapLimit => "cgroup-swap-limit",
            Self::SwapSavesNothing => "swap-saves-nothing",
            Self::NoSwap => "no-swap",
            Self::SourceBlind => "source-blind",
            Self::HostLacks => "host-lacks",
            Self::SubjectTaken => "subject-taken",
            Self::InFlight => "in-flight",
            Self::Settling => "settling",
            Self::Paused => "paused",
            Self::TurnedOff => "turned-off",
            Self::AuditVeto => "audit-veto",
            Self::Stale => "stale",
            Self::ModelCap => "model-cap",
            Self::BadConfig => "bad-config",
            Self::TooSmall => "too-small",
            Self::AtHome => "at-home",
            Self::NotWorth => "not-worth",
            Self::NoNode => "no-node",
            Self::NodeReserve => "node-reserve",
            Self::BoundByOthers => "bound-by-others",
            Self::CgroupBind => "cgroup-bind",
            Self::KernelBalances => "kernel-balances",
            Self::Unmovable => "unmovable",
            Self::ServerRefuses => "server-refuses",
            Self::HasFree => "has-free",
        }
    }
}

/// What a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    Bytes,
    Pages,
    Nanos,
    Permil,
    /// Hundredths of a percent, as PSI prints.
    Centipercent,
    /// Pages a minute per thousand pages of working set.
    PermilPerMinute,
    BytesPerSecond,
    /// Thousandths of a hit per second.
    MilliHits,
    Count,
}

/// An integer with its unit; displayed in that unit's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantity {
    pub value: u64,
    pub unit: Unit,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    SinceLastScan,
    SinceLastArm,
    YoungPages,
    /// Pages touched again after their bit was cleared, in ten minutes.
    Retouched,
    ColdPages,
    IdleAge,
    AccessCount,
    WorkingSet,
    Resident,
    PredictedPromotion,
    MeasuredRefault,
    Confidence,
    Rounds,
    MemoryPressure,
    IoPressure,
    SwapFree,
    SwapCost,
    SwapWrittenToday,
    MovedInWindow,
    ArmedInWindow,
    SyscallsInWindow,
    MemoryFree,
    Scanned,
    CpuTime,
    CpuWait,
    CgroupSwap,
    SourceAge,
    ModelBytes,
    SinceLastMove,
    /// Since a brake's cause was last seen.
    SinceOver,
    Watched,
    MovedPages,
    Rank,
    Swapped,
    /// Free memory of one node, named in the note.
    NodeFree,
    /// CPUs of a node that idle, in thousandths of one.
    NodeIdle,
    /// Memory or CPUs that a process wants of a node.
    Wanted,
    /// Memory on nodes other than those of its process.
    Elsewhere,
    /// The part of that in use.
    HotElsewhere,
    HotPages,
    /// Waiting for memory that a move saves, over the time that it pays off in.
    Benefit,
    /// CPU time that a move takes.
    Cost,
    NodeMovedInWindow,
    /// Chance that a hot page is accessed between two walks.
    AccessRate,
    /// Hits that one page more earns a slab class.
    PageGain,
    /// Hits that one page less costs a slab class, the items that go with it included.
    PageLoss,
    /// Chunks of a slab class, or pages of the pool, that hold nothing.
    FreeChunks,
    SlabPages,
    SlabMovedInWindow,
    /// The part of a server's requests, or of its evictions, that went over to other classes since its streams were closed.
    TrafficShift,
    /// Since a server's streams were closed.
    Rested,
    /// Of the oldest items of a slab class.
    ItemAge,
}

/// One number that a rule looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub measure: Measure,
    pub seen: Quantity,
    /// What it was compared with.
    pub bound: Quantity,
    /// The knob that sets the bound, as `table.key`; none where the bound is the law of the code.
    pub knob: Option<Cow<'static, str>>,
    /// The value of that knob at which the rule would have decided otherwise, all else equal.
    pub flips_at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub rule: Rule,
    pub evidence: Vec<Evidence>,
    /// Words that numbers cannot say: the name of the blind source, what is missing, why protected.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What a step or a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Host,
    Proc(ProcKey),
    Cgroup(CgroupId),
    Cache(ServerId),
}

/// A step that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub subject: Subject,
    pub by: PolicyId,
    pub reason: Reason,
}

/// A policy that cannot work at all for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    pub policy: PolicyId,
    pub reason: Reason,
}

impl Quantity {
    #[must_use]
    pub const fn count(value: u64) -> Self {
        Self { value, unit: Unit::Count }
    }
    #[must_use]
    pub const fn milli_hits(value: u64) -> Self {
        Self { value, unit: Unit::MilliHits }
    }
    #[must_use]
    pub const fn centipercent(value: u64) -> Self {
        Self { value, unit: Unit::Centipercent }
    }
    #[must_use]
    pub const fn permil_per_min(value: u64) -> Self {
        Self { value, unit: Unit::PermilPerMinute }
    }
}

impl From<Bytes> for Quantity {
    fn from(v: Bytes) -> Self {
        Self { value: v.0, unit: Unit::Bytes }
    }
}
impl From<Pages> for Quantity {
    fn from(v: Pages) -> Self {
        Self { value: v.0, unit: Unit::Pages }
    }
}
impl From<Span> for Quantity {
    fn from(v: Span) -> Self {
        Self { value: v.0, unit: Unit::Nanos }
    }
}
impl From<Permil> for Quantity {
    fn from(v: Permil) -> Self {
        Self { value: v.0, unit: Unit::Permil }
    }
}

impl Reason {
    #[must_use]
    pub const fn new(rule: Rule) -> Self {
        Self { rule, evidence: Vec::new(), note: String::new() }
    }
    #[must_use]
    pub fn saw(mut self, measure: Measure, seen: impl Into<Quantity>, bound: impl Into<Quantity>, knob: &'static str) -> Self {
        let (seen, bound) = (seen.into(), bound.into());
        let knob = (!knob.is_empty()).then_some(Cow::Borrowed(knob));
        self.evidence.push(Evidence { measure, seen, bound, knob, flips_at: None });
        self
    }
    /// Names the knob value that would have turned the last evidence the other way.
    #[must_use]
    pub fn flips_at(mut self, value: u64) -> Self {
        if let Some(last) = self.evidence.last_mut() {
            last.flips_at = Some(value);
        }
        self
    }
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.value;
        match self.unit {
            Unit::Bytes => Bytes(v).fmt(f),
            Unit::Pages => Pages(v).fmt(f),
            Unit::Nanos => Span(v).fmt(f),
            Unit::Permil => Permil(v).fmt(f),
            Unit::Centipercent => write!(f, "{}.{:02}%", v / 100, v % 100),
            Unit::PermilPerMinute => write!(f, "{}.{}%/min", v / 10, v % 10),
            Unit::BytesPerSecond => write!(f, "{}/s", Bytes(v)),
            Unit::MilliHits => write!(f, "{}.{:03} hits/s", v / 1000, v % 1000),
            Unit::Count => v.fmt(f),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SinceLastScan => "since last scan",
            Self::SinceLastArm => "since last arming",
            Self::Retouched => "retouched",
            Self::YoungPages => "young",
            Self::ColdPages => "cold",
            Self::IdleAge => "idle",
            Self::AccessCount => "accesses counted",
            Self::WorkingSet => "working set",
            Self::Resident => "resident",
            Self::PredictedPromotion => "predicted promotion",
            Self::MeasuredRefault => "measured refaults",
            Self::Confidence => "confidence",
            Self::Rounds => "rounds",
            Self::MemoryPressure => "memory pressure",
            Self::IoPressure => "io pressure",
            Self::SwapFree => "swap free",
            Self::SwapCost => "memory cost of swap",
            Self::SwapWrittenToday => "swap written today",
            Self::MovedInWindow => "moved in window",
            Self::ArmedInWindow => "armed in window",
            Self::SyscallsInWindow => "syscalls in window",
            Self::MemoryFree => "memory free",
            Self::Scanned => "reclaim scanned",
            Self::CpuTime => "cpu time",
            Self::CpuWait => "waited for a cpu",
            Self::CgroupSwap => "cgroup swap",
            Self::SourceAge => "source silent for",
            Self::ModelBytes => "model size",
            Self::SinceLastMove => "since last move",
            Self::SinceOver => "since over its bound",
            Self::Watched => "watched for",
            Self::MovedPages => "moved",
            Self::Rank => "rank by size",
            Self::Swapped => "swapped",
            Self::NodeFree => "free on the node",
            Self::NodeIdle => "idle on the node",
            Self::Wanted => "wanted",
            Self::Elsewhere => "elsewhere",
            Self::HotElsewhere => "hot elsewhere",
            Self::HotPages => "hot",
            Self::Benefit => "gain",
            Self::Cost => "cost",
            Self::NodeMovedInWindow => "moved between nodes in window",
            Self::AccessRate => "accessed between walks",
            Self::PageGain => "a page more earns",
            Self::PageLoss => "a page less costs",
            Self::FreeChunks => "free chunks",
            Self::SlabPages => "slab pages",
            Self::SlabMovedInWindow => "slab pages moved in window",
            Self::TrafficShift => "traffic shift",
            Self::Rested => "rested",
            Self::ItemAge => "item age",
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Proc(proc) => proc.fmt(f),
            Self::Cgroup(id) => id.fmt(f),
            Self::Cache(server) => server.fmt(f),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, seen, bound, knob, flips_at } = self;
        write!(f, "{measure} {seen} against {bound}")?;
        if let Some(knob) = knob {
            write!(f, " ({knob}")?;
            if let Some(value) = flips_at {
                write!(f, "; would differ at {value}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, evidence, note } = self;
        write!(f, "{rule}")?;
        for (i, e) in evidence.iter().enumerate() {
            write!(f, "{} {e}", if i == 0 { ":" } else { "," })?;
        }
        if !note.is_empty() {
            write!(f, "; {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, by, reason } = self;
        write!(f, "hold {subject} by {by}; {reason}")
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, reason } = self;
        write!(f, "idle {policy}; {reason}")
    }
}
