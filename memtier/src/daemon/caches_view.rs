//! What GET /v1/caches answers, of the planner's own state.

use super::views::{CacheView, CachesView, ClassView, MoveView};
use crate::config::CacheRule;
use crate::model::{Cache, Sight};
use crate::plan::{Governor, Served};
use crate::policy::{slab_gains, slab_loss};
use crate::vocab::{Action, CacheStream, Place, ServerId, Span, Subject, Time};
use std::collections::VecDeque;

/// Steps shown, the latest.
const MOST_LINES: usize = 12;

pub fn view(governor: &Governor, now: Time) -> CachesView {
    let rules = (0..).map(ServerId).zip(&governor.config().cache);
    CachesView { servers: rules.map(|(id, rule)| server(governor, now, id, rule)).collect() }
}

fn server(governor: &Governor, now: Time, id: ServerId, rule: &CacheRule) -> CacheView {
    let nothing = Cache::default();
    let cache = governor.models().caches.get(id).unwrap_or(&nothing);
    let config = governor.config();
    let blind = match &cache.sight {
        Sight::Seeing { .. } => None,
        Sight::Blind { why, .. } => Some(why.clone()),
        Sight::Never => Some("not heard of yet".to_owned()),
    };
    let lacks = [CacheStream::Evictions, CacheStream::Fetchers].into_iter();
    let served = governor.ledger().served(id);
    let number = |place: Place| match place {
        Place::Pool => 0,
        Place::Class(class) => class.0,
    };
    let moving = governor.in_flight().find_map(|step| {
        let Action::MoveSlabPage { server, from, to, .. } = step.action else { return None };
        (server == id).then(|| MoveView { from: number(from), to: number(to) })
    });
    let held = governor.journal().holds().find(|hold| hold.what.subject == Subject::Cache(id));
    let idle = governor.journal().idles().find(|idle| idle.what.policy == rule.policy());
    CacheView {
        id: id.0,
        server: rule.server.clone(),
        version: cache.server.version.clone(),
        pid: cache.server.life.map(|life| life.pid),
        blind,
        lacks: lacks.filter_map(|stream| Some(format!("{stream}: {}", cache.lacks(stream)?))).collect(),
        policy: rule.policy().name().to_owned(),
        acts: config.daemon.act && config.caches.enabled,
        pages: cache.pages(),
        pool: cache.look.pool,
        moves: served.map_or(0, |served| served.moved),
        moving,
        events: cache.records,
        lost: cache.lost,
        rested_s: cache.rest().map(|rest| now.since(rest.since).as_secs()),
        held: held.map(|hold| hold.what.to_string()).or_else(|| idle.map(|idle| idle.what.to_string())),
        classes: classes(governor, cache, served, now),
        log: log(governor, id),
    }
}

fn classes(governor: &Governor, cache: &Cache, served: Option<&Served>, now: Time) -> Vec<ClassView> {
    let knobs = &governor.config().caches;
    let window = Span::from_secs(knobs.window_s);
    let all: Vec<_> = cache.classes().map(|(id, class)| (id, class, class.rates(now, window))).collect();
    let share = |part: u64, whole: u64| part.saturating_mul(1000) / whole.max(1);
    let (pages, items) = (cache.pages(), all.iter().map(|(_, class, _)| class.now.items).sum());
    let evictions = all.iter().map(|(.., rates)| rates.evictions).sum();
    let oldest = all.iter().map(|(_, class, _)| class.now.age).max().unwrap_or(0);
    let view = |(id, class, rates): &(_, &crate::model::caches::Class, crate::model::caches::Rates)| {
        let told = served.map(|served| served.told(Place::Class(*id))).unwrap_or_default();
        let gain = slab_gains(cache, class, knobs, now, pages).into_iter().map(|gain| gain.milli).max();
        ClassView {
            class: id.0,
            chunk_size: class.now.chunk_size,
            pages: class.now.pages,
            pages_permil: share(class.now.pages, pages),
            items: class.now.items,
            items_permil: share(class.now.items, items),
            free_chunks: class.now.free,
            age_s: class.now.age,
            age_permil: share(class.now.age, oldest),
            evictions_per_s: rates.evictions,
            evictions_permil: share(rates.evictions, evictions),
            hits_per_s: rates.hits,
            sets_per_s: rates.sets,
            loss_milli: slab_loss(cache, class, knobs, now).milli,
            gain_milli: gain.unwrap_or(0),
            confidence_permil: class.confidence(now, window).0,
            near_permil: cache.reuse().hits_within(*id, class.chunks() / 2).map(|(near, _)| near.0),
            got: told.got,
            gave: told.gave,
        }
    };
    all.iter().map(view).collect()
}

fn log(governor: &Governor, id: ServerId) -> Vec<String> {
    let steps = governor.journal().turns().rev().flat_map(|turn| turn.steps.iter().rev());
    let mine = steps.filter(|step| step.server == Some(id)).take(MOST_LINES);
    let mut lines = VecDeque::new();
    for step in mine {
        let end = step.outcome.as_ref().map_or_else(|| "no outcome yet".to_owned(), |outcome| outcome.end.to_string());
        lines.push_front(format!("{} {step}; {end}", step.at));
    }
    lines.into()
}
