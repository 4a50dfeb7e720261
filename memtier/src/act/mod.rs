//! The hands: they carry out steps and say what really happened.
//!
//! Deliberately absent: choices and retries. A step names its ranges, guards and expiry; whatever goes wrong is part of
//! its one outcome. What is done to pages needs no undo: they come back when they are touched, and work on any node. Where
//! threads may run outlives a step: a [`Diary`] keeps what it was before it is changed.

mod bind;
mod cpuset;
mod former;
mod ground;
mod kernel;
mod moves;
mod pace;
mod pages;
mod place;
#[cfg(test)]
mod placing;
mod reins;
mod snapshot;
#[cfg(test)]
mod tests;

pub use cpuset::Cgroups;
pub use former::{Diary, Former, Whose};
pub use ground::Ground;
pub use kernel::Kernel;
pub use pages::{Calls, Hands};
pub use place::{Placer, Placing};
pub use reins::Reins;

use crate::vocab::{Outcome, Step};

/// Carries out one step at a time. Steps block: the dispatcher gives each hand a thread of its own, which also makes the
/// thread's clock the hand's CPU time.
pub trait Actuator {
    /// Exactly one outcome per step, whatever happens: never an error.
    fn apply(&mut self, step: &Step) -> Outcome;
}
