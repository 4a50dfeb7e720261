//! The hands: they carry out steps and say what really happened.
//!
//! Deliberately absent: choices and retries. A step names its ranges, guards and expiry; whatever goes wrong is part of
//! its one outcome. Nothing here outlives a step, so there is nothing to undo: pages come back when they are touched.

mod kernel;
mod pages;
mod snapshot;
#[cfg(test)]
mod tests;

pub use kernel::Kernel;
pub use pages::{Calls, Hands, Reins};

use crate::vocab::{Outcome, Step};

/// Carries out one step at a time. Steps block: the dispatcher gives each hand a thread of its own, which also makes the
/// thread's clock the hand's CPU time.
pub trait Actuator {
    /// Exactly one outcome per step, whatever happens: never an error.
    fn apply(&mut self, step: &Step) -> Outcome;
}
