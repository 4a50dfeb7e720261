//! Policies turn models into advice. A policy has no memory, no clock and no I/O: same view, same advice.

mod apart;
mod arm;
mod autocold;
mod board;
mod cgroups;
mod flow;
mod numa;
mod placement;
mod slab;
mod slide;
mod taking;
mod tier;
mod watch;

use crate::config::Config;
use crate::model::{Models, ProcHeat};
use crate::plan::{Ledger, Selection, Targets};
use crate::vocab::{Action, Charge, Hold, HostFacts, Idle, Need, PolicyId, ProcKey, Reason, Source, Span, Subject, Time};
use std::collections::BTreeSet;

pub use autocold::refaulting;
pub use board::gap;
pub use placement::{Place, far};
pub use slab::{gains as slab_gains, loss as slab_loss};
pub use tier::slow_end;
pub use watch::{Spacing, comes_up, hurried_at};

/// All that a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub now: Time,
    pub facts: &'a HostFacts,
    pub config: &'a Config,
    pub models: &'a Models,
    pub ledger: &'a Ledger,
    pub targets: &'a Targets,
    /// Processes that somebody asked to see.
    pub looks: &'a BTreeSet<ProcKey>,
    /// In a turn between two of the policy's period: its last one, which has answered what was walked before. Else zero.
    pub answered: Time,
}

/// Rank of a proposal in the arbiter; earlier is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Safety,
    Admission,
    /// Looking and arming: without it nobody knows anything.
    Observation,
    Placement,
    Tiering,
    Elastic,
    CacheInternal,
    Plugin,
}

/// A step that a policy would take. The arbiter adds the guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub action: Action,
    pub by: PolicyId,
    pub class: Class,
    /// Expected gain, comparable within a class (pages that become free, pages that become known).
    pub gain: u64,
    /// The arbiter adds the system calls.
    pub charge: Charge,
    pub lifetime: Span,
    pub reason: Reason,
}

/// What a policy says in one turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    pub proposals: Vec<Proposal>,
    pub holds: Vec<Hold>,
    pub idles: Vec<Idle>,
    /// Worth another turn then, if it has none before.
    pub again: Option<Time>,
}

/// One way to turn models into steps.
pub trait Policy: Sync {
    fn id(&self) -> PolicyId;
    /// Whether the configuration has any use for it; a policy without one says nothing at all.
    fn wanted(&self, _: &Config) -> bool {
        true
    }
    /// Time between two turns; none for a policy that only answers the ends of walks.
    fn period(&self, config: &Config) -> Option<Span>;
    /// Whether it changes anything on the host; if so it stands still while the operator pauses memtier.
    fn acts(&self) -> bool;
    /// Whether it meets processes when it acts: it must then be told who ended and who became another.
    fn meets_processes(&self) -> bool {
        self.acts()
    }
    /// Facts of which the host must have one (each is a way to carry out what the policy says), else it idles; none for a
    /// policy that says nothing of the kind.
    fn needs(&self) -> &'static [Need];
    /// Sources that must tell; the policy idles while one is blind or stale. Whoever acts stands on `Procs` besides.
    fn sources(&self) -> &'static [Source];
    fn advise(&self, view: &View<'_>) -> Advice;
}

/// Every policy, in the order of their ids.
#[must_use]
pub fn all() -> [&'static dyn Policy; 9] {
    [
        &watch::Watch,
        &arm::Arm,
        &slide::Slide,
        &autocold::Autocold,
        &numa::Numa,
        &tier::Tier,
        &slab::Slab(PolicyId::SlabMarginal),
        &slab::Slab(PolicyId::SlabExtstore),
        &slab::Slab(PolicyId::SlabAutomove),
    ]
}

impl View<'_> {
    /// The refusal of one policy for one process.
    #[must_use]
    pub const fn hold(by: PolicyId, proc: ProcKey, reason: Reason) -> Hold {
        Hold { subject: Subject::Proc(proc), by, reason }
    }

    /// Whether the policy's last turn has answered the last walk of a process.
    #[must_use]
    pub fn is_answered(&self, proc: ProcKey) -> bool {
        let walked = self.models.heat.get(proc).and_then(ProcHeat::scan_at);
        walked.is_some_and(|walked| walked <= self.answered)
    }

    /// Selected processes whose threads and memory may be placed among nodes, ascending.
    pub fn placed(&self) -> impl Iterator<Item = (ProcKey, Selection)> {
        self.targets.iter().filter(|(_, selection)| selection.placed())
    }

    /// Selected processes whose memory may be moved between fast and slow nodes, ascending.
    pub fn tiered(&self) -> impl Iterator<Item = (ProcKey, Selection)> {
        self.targets.iter().filter(|(_, selection)| selection.tiered())
    }

    /// Processes selected for a policy, ascending.
    pub fn selected(&self, policy: PolicyId) -> impl Iterator<Item = (ProcKey, Selection)> {
        self.targets.iter().filter(move |(_, selection)| selection.policy() == Some(policy))
    }
}
