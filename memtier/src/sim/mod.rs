//! A deterministic world: one seed reproduces memory, processes, pages, pressure, faults and the order of all events.
//!
//! It tells the same events that the observers tell and carries out the same steps that the hands carry out, so the
//! Governor cannot know the difference. Time is simulated: an hour of a small host takes a second.
//!
//! Deliberately absent: page cache, latencies of nodes, CPU contention. What no policy decides by is not simulated.

mod cache;
mod eyes;
mod hands;
mod nodes;
mod process;
mod rng;
mod scenario;
mod truth;
mod world;

pub use cache::{CacheSim, CacheSpec, Load, Traffic};
pub use nodes::NodeSpec;
pub use process::{Pattern, ProcSpec, RegionSpec};
pub use scenario::{Change, Faults, INCOMPRESSIBLE, Scenario, SwapSpec};
pub use truth::{ProcTruth, Truth};
pub use world::World;

use crate::config::Config;
use crate::plan::{Decision, Governor};
use crate::vocab::{Stamped, Time};

/// One run, complete.
#[derive(Debug)]
pub struct SimReport {
    pub events: Vec<Stamped>,
    pub decisions: Vec<Decision>,
    pub truth: Truth,
    /// As it stood at the end.
    pub governor: Governor,
}

/// Runs a scenario from its first second to its last.
#[must_use]
pub fn run(seed: u64, scenario: &Scenario, config: &Config) -> SimReport {
    let mut world = World::new(seed, scenario, config);
    let mut governor = Governor::new();
    let (mut events, mut decisions) = (Vec::new(), Vec::new());
    let until = world.now().after(scenario.length);
    drive(&mut world, &mut governor, until, |turn, _| match turn {
        Turn::Event(event) => events.push(event),
        Turn::Decision(decision) => decisions.push(decision),
    });
    SimReport { events, decisions, truth: world.truth(), governor }
}

/// What passed in the loop.
#[derive(Debug)]
pub enum Turn {
    Event(Stamped),
    Decision(Decision),
}

/// The loop: events in, decisions out, steps to the world; the shape of daemon/live.rs without a daemon.
///
/// # Panics
/// When a decision does not move the Governor's next turn ahead: the loop would never end.
pub fn drive(world: &mut World, governor: &mut Governor, until: Time, mut see: impl FnMut(Turn, &Governor)) {
    loop {
        if let Some(event) = world.next(governor.due().min(until)) {
            governor.absorb(&event);
            see(Turn::Event(event), governor);
            continue;
        }
        let now = world.now();
        if governor.due() <= now {
            let decision = governor.decide(now);
            assert!(governor.due() > now, "decision {} at {now} left the next turn at {}", decision.number, governor.due());
            decision.plan.iter().for_each(|step| world.submit(step));
            see(Turn::Decision(decision), governor);
        } else if now >= until {
            return;
        }
    }
}
