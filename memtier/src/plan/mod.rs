//! From advice to a plan: one state machine (`Governor`), one arbiter, one independent audit, one ledger.

mod arbiter;
mod audit;
mod audit_caches;
pub mod calls;
mod crossings;
mod explain;
#[cfg(test)]
pub(crate) mod fixture;
mod governor;
mod journal;
mod ledger;
mod protect;
mod served;
mod targets;

pub use crossings::Crossings;
pub use explain::{Explained, Explanation, cgroup_of, explain};
pub use governor::Governor;
pub use journal::{Journal, Noted, Standing, Turn};
pub use ledger::{Account, Ledger, Part, Placed, Taken, WINDOW, limits};
pub use protect::{Protection, protection};
pub use served::Served;
pub use targets::{Selection, Targets, anything_selected, vain_rules};

use crate::vocab::{Hold, Idle, Step, Time};
use serde::{Deserialize, Serialize};

/// What one turn decided, complete: the plan leaves no choice to whoever carries it out, the report holds every refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// 1, 2, 3, ... without gaps.
    pub number: u64,
    pub at: Time,
    /// Number of the last event that was absorbed before.
    pub after: u64,
    pub plan: Vec<Step>,
    pub report: Report,
}

/// What was not done, and why.
#[must_use = "an unread report is not actionable"]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub holds: Vec<Hold>,
    pub idles: Vec<Idle>,
}

/// A step under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Flight {
    decided: Time,
    step: Step,
}
