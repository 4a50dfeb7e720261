//! The second opinion on steps about memcached servers, from the rules and not from the arbiter.

use super::Flight;
use crate::model::Cache;
use crate::policy::View;
use crate::vocab::{Action, ClassId, Guard, Place, PolicyId, ServerId, Span, Step, StepId};
use std::collections::BTreeMap;

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// What is wrong with a step about a server, given the steps already let through this turn.
pub fn audit(
    view: &View<'_>,
    in_flight: &BTreeMap<StepId, Flight>,
    passed: &[Step],
    step: &Step,
    server: ServerId,
) -> Result<(), String> {
    ensure(view.config.caches.enabled, "its policy moves nothing")?;
    ensure(usize::from(server.0) < view.config.cache.len(), "no rule names the server")?;
    let cache = view.models.caches.get(server).ok_or("the server was never seen")?;
    let guard = Guard::SameLife { server, life: cache.server.life };
    ensure(step.guards.contains(&guard), "the guard against a server that was started anew is missing")?;
    let others = in_flight.values().map(|flight| &flight.step).chain(passed);
    ensure(others.into_iter().all(|other| other.action.server() != Some(server)), "another step for the server is under way")?;
    match step.action {
        Action::MoveSlabPage { from: Place::Pool, to, .. } => {
            ensure(step.by == PolicyId::SlabExtstore && cache.look.pool >= 2, "the pool needs nobody to give its pages")?;
            moves(view, cache, server, passed, Place::Pool, to)
        }
        Action::MoveSlabPage { from, to, .. } => moves(view, cache, server, passed, from, to),
        Action::SetWatch { on: true, .. } => ensure(cache.rest().is_some(), "its streams are open"),
        Action::SetWatch { on: false, .. } => {
            let after = Span::from_secs(view.config.caches.rest_after_s);
            let moved = view.ledger.served(server).and_then(|served| served.moved_at);
            ensure(after > Span::ZERO && moved.is_none_or(|at| view.now.since(at) >= after), "a page of it moved just now")?;
            ensure(cache.told_for(view.now).is_some_and(|told| told >= after), "its streams were not read for long enough")
        }
        Action::SetFree { ref chunks, .. } => {
            ensure(cache.server.extstore, "it has no flash")?;
            ensure(!chunks.is_empty() && chunks.iter().all(|(id, _)| cache.class(*id).is_some()), "no such class")
        }
        Action::SetMover { mode, .. } => {
            ensure(mode == 0 && cache.look.automove.is_some_and(|mode| mode != 0), "it has no mover to be stilled")
        }
        Action::Scan { .. }
        | Action::Arm { .. }
        | Action::PageOut { .. }
        | Action::Deactivate { .. }
        | Action::Bind { .. }
        | Action::MovePages { .. }
        | Action::Migrate { .. } => Err("it is not about a server".to_owned()),
    }
}

fn moves(view: &View<'_>, cache: &Cache, server: ServerId, passed: &[Step], from: Place, to: Place) -> Result<(), String> {
    ensure(from != to, "it goes nowhere")?;
    ensure(cache.server.reassign, "the server moves no pages")?;
    ensure(!cache.look.moving, "the server moves a page already")?;
    let pages = |id: ClassId| cache.look.classes.iter().find(|class| class.class == id).map(|class| class.pages);
    if let Place::Class(source) = from {
        ensure(pages(source).is_some_and(|pages| pages > 2), "the class would be left with less than two pages")?;
    }
    if let Place::Class(target) = to {
        ensure(pages(target).is_some(), "no such class")?;
    }
    let now = passed.iter().filter(|p| matches!(p.action, Action::MoveSlabPage { server: other, .. } if other == server)).count();
    let spent = view.ledger.pages_asked(server) + now as u64 + 1;
    ensure(spent <= 10 * view.config.caches.pages_per_s, "caches.pages_per_s is exceeded")
}
