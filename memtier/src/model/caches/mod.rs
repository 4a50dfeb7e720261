//! memcached servers: counters of each class over time, and what comes back after it was evicted.
//!
//! A key that is evicted twice was asked for in vain in between, for whoever sets it anew had missed it. Items of a class go in
//! about the order in which they came, so the so-manieth that is evicted is the so-manieth that was stored: from one eviction
//! of a key to its next lie as many stored items as the class must hold to have it still. That makes a miss-ratio curve of
//! nothing but eviction records, beyond the size that a class has. Keys are sampled by hash, at one rate for all, so that a
//! key is seen each time or never (SHARDS). Sampled fetches tell the same sooner, and how near to each other the hits are.
//!
//! Deliberately absent: which page goes where, and every bound that a knob sets (policy/slab).

mod class;
mod ghosts;
mod rest;
mod reuse;
mod scripted;
#[cfg(test)]
mod tests;

pub use class::{Class, Gain, Loss, Rates};
pub use ghosts::MAX_GHOSTS;
pub use rest::{Rest, Stir};
pub use reuse::Reuse;
pub use scripted::Scripted;

use super::freshness::Sight;
use super::series::Series;
use crate::config::{CacheRule, Config};
use crate::vocab::{
    Bytes, CacheEvictions, CacheFetches, CacheLook, CacheSample, CacheServer, CacheStream, CacheTold, ClassId, Event, MOST_SERVERS,
    Sample, ServerId, Span, Stamped, Time,
};
use class::Part;
use ghosts::Ghosts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// memcached has 63 classes.
const MAX_CLASSES: usize = 64;
/// Fetches tell of the time around them, and only if there were enough of them.
const FRESH: Span = Span::from_secs(180);
const SURE: u64 = 500;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caches {
    servers: BTreeMap<ServerId, Cache>,
    /// Addresses of the rules, in their order.
    named: Vec<String>,
}

/// One server, for as long as it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub server: CacheServer,
    pub sight: Sight,
    /// The last look, and when it was.
    pub look: CacheLook,
    pub looked: Option<Time>,
    classes: BTreeMap<ClassId, Class>,
    /// Pages that moved, as the server counts them: to the pool too, and whoever moved them.
    #[serde(default)]
    moved: Series,
    ghosts: Ghosts,
    reuse: Reuse,
    /// Streams that the server lacks, and its words.
    lacks: BTreeMap<CacheStream, String>,
    /// The stream of evictions tells without a gap since then.
    telling: Option<Time>,
    /// A step closed its streams.
    #[serde(default)]
    rest: Option<Rest>,
    /// What a script makes of it, where the rule wants one.
    #[serde(default)]
    scripted: Option<Scripted>,
    /// Records of streams that were read, and that are known to be lost.
    pub records: u64,
    pub lost: u64,
}

impl Caches {
    pub(super) fn fold(&mut self, stamped: &Stamped, config: &Config) {
        match &stamped.event {
            Event::Sample(Sample::Cache(CacheSample { server, told })) => {
                if usize::from(server.0) < MOST_SERVERS {
                    let window = Span::from_secs(config.caches.window_s);
                    let cache = self.servers.entry(*server).or_default();
                    cache.fold(stamped.at, told, window);
                    cache.show(stamped.at, told, config.cache.get(usize::from(server.0)));
                }
            }
            Event::Config(_) => {
                // A number that means another server now has no past.
                let named: Vec<String> = config.cache.iter().map(|rule| rule.server.clone()).collect();
                let same = |server: &ServerId| {
                    let at = usize::from(server.0);
                    self.named.get(at).is_some_and(|was| named.get(at) == Some(was))
                };
                self.servers.retain(|server, _| same(server));
                self.named = named;
            }
            Event::Sample(
                Sample::Proc(_)
                | Sample::Maps(_)
                | Sample::Pages(_)
                | Sample::Host(_)
                | Sample::Pressure(_)
                | Sample::Sched(_)
                | Sample::Reclaim(_)
                | Sample::Cgroup(_)
                | Sample::Nodes(_),
            )
            | Event::Kernel(_)
            | Event::Facts(_)
            | Event::Lost { .. }
            | Event::Blind { .. }
            | Event::Sight { .. }
            | Event::Request(_)
            | Event::Outcome(_) => {}
        }
    }

    #[must_use]
    pub fn get(&self, server: ServerId) -> Option<&Cache> {
        self.servers.get(&server)
    }
    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = (ServerId, &Cache)> {
        self.servers.iter().map(|(&server, cache)| (server, cache))
    }
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes(self.servers.values().map(Cache::bytes).sum())
    }
    /// Keys forgotten at the caps.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.servers.values().map(|cache| cache.ghosts.forgotten()).sum()
    }
}

impl Cache {
    fn fold(&mut self, at: Time, told: &CacheTold, window: Span) {
        match told {
            CacheTold::Met(server) => self.met(at, server),
            CacheTold::Look(look) => self.look(at, look),
            CacheTold::Evictions(batch) => self.evictions(at, batch),
            CacheTold::Fetches(batch) => self.fetches(at, batch),
            CacheTold::Lacks { stream, why } => {
                self.lacks.insert(*stream, why.clone());
                if *stream == CacheStream::Evictions {
                    self.telling = None;
                }
            }
            CacheTold::Watch { on } => {
                self.rest = (!on).then(|| Rest::begin(at, &self.classes, window));
                self.telling = None;
            }
            CacheTold::Blind { why } => {
                self.sight = Sight::Blind { since: at, why: why.clone() };
                (self.telling, self.rest) = (None, None);
            }
        }
    }

    /// A script is shown each look.
    fn show(&mut self, at: Time, told: &CacheTold, rule: Option<&CacheRule>) {
        match (told, rule.and_then(scripted::settings)) {
            (_, None) => self.scripted = None,
            (CacheTold::Look(look), Some(settings)) => {
                let known = self.scripted.take();
                self.scripted = Some(Scripted::look(known, settings, at, self.server.life, look));
            }
            (CacheTold::Blind { .. }, Some(_)) => {
                if let Some(scripted) = &mut self.scripted {
                    scripted.disconnected();
                }
            }
            (
                CacheTold::Met(_)
                | CacheTold::Evictions(_)
                | CacheTold::Fetches(_)
                | CacheTold::Lacks { .. }
                | CacheTold::Watch { .. },
                Some(_),
            ) => {}
        }
    }

    /// Another life has other items; the same one has gone on unseen, and its streams have a gap.
    fn met(&mut self, at: Time, server: &CacheServer) {
        if server.life != self.server.life || server.life.is_none() {
            *self = Self::default();
        }
        self.server = server.clone();
        self.sight = Sight::Seeing { since: at };
        self.lacks.clear();
        (self.telling, self.rest) = (None, None);
    }

    fn look(&mut self, at: Time, look: &CacheLook) {
        self.lost = self.lost.saturating_add(look.dropped.saturating_sub(self.look.dropped));
        for now in look.classes.iter().take(MAX_CLASSES) {
            self.classes.entry(now.class).or_default().look(at, now);
        }
        self.classes.retain(|class, _| look.classes.iter().any(|now| now.class == *class));
        self.moved.set(at, look.moved);
        self.look = look.clone();
        self.looked = Some(at);
    }

    fn evictions(&mut self, at: Time, batch: &CacheEvictions) {
        let CacheEvictions { span_ns, shift, classes, keys, skipped } = batch;
        let began = Time(at.0.saturating_sub(*span_ns));
        if self.telling.is_none() {
            self.lacks.remove(&CacheStream::Evictions);
            self.telling = Some(began);
            self.classes.values_mut().for_each(Class::gap);
        }
        self.lost = self.lost.saturating_add(*skipped);
        for key in keys {
            let Some(class) = self.classes.get_mut(&key.class) else { continue };
            let order = class.order().saturating_add(key.nth);
            let came_back = self.ghosts.evicted(key.hash, key.class, order, *shift);
            if let Some((before, shift)) = came_back {
                class.came_back(before, order, order.saturating_sub(before), shift);
            }
        }
        for told in classes {
            self.records = self.records.saturating_add(told.evicted);
            if let Some(class) = self.classes.get_mut(&told.class) {
                class.evicted(at, began, told);
            }
        }
        for (class, order) in self.ghosts.take_dropped() {
            if let Some(class) = self.classes.get_mut(&class) {
                class.known_from(order);
            }
        }
    }

    fn fetches(&mut self, at: Time, batch: &CacheFetches) {
        let CacheFetches { span_ns: _, shift, found, missed, keys, skipped, last } = batch;
        self.records = self.records.saturating_add(found.saturating_add(*missed));
        self.lost = self.lost.saturating_add(*skipped);
        for key in keys {
            match key.class {
                Some(class) => self.reuse.found(class, key.hash, *shift),
                // A miss of what was evicted: it would be stored now, behind all that the class holds.
                None => {
                    let Some((id, before, shift)) = self.ghosts.missed(key.hash) else { continue };
                    if let Some(class) = self.classes.get_mut(&id) {
                        let (order, stored) = (class.order(), class.order().saturating_add(class.now.used));
                        class.came_back(before, order, stored.saturating_sub(before), shift);
                    }
                }
            }
        }
        if *last {
            self.reuse.closed(at);
        }
    }

    #[must_use]
    pub fn class(&self, class: ClassId) -> Option<&Class> {
        self.classes.get(&class)
    }
    /// Ascending.
    pub fn classes(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        self.classes.iter().map(|(&id, class)| (id, class))
    }
    /// Items of this class that are next to go are written to flash.
    #[must_use]
    pub const fn writes_to_flash(&self, class: &Class) -> bool {
        self.server.extstore && class.now.chunk_size >= self.server.flash_from
    }
    /// What a page less costs a class that shall have so many chunks free.
    #[must_use]
    pub fn loss(&self, class: &Class, now: Time, window: Span, payback: Span, kept_free: u64) -> Loss {
        let fresh = self.reuse.closed_at.is_some_and(|at| now.since(at) < FRESH);
        let near = self.reuse.hits_within(class.now.class, class.chunks() / 2).filter(|(_, sure)| fresh && sure.0 >= SURE);
        class.loss(now, window, payback, kept_free, Part { segmented: self.server.segmented, near: near.map(|(within, _)| within) })
    }
    /// Pages that moved in that time.
    #[must_use]
    pub fn moved(&self, now: Time, span: Span) -> u64 {
        self.moved.since(Time(now.0.saturating_sub(span.0)))
    }
    /// What was missed and stored, in thousandths per second of that time.
    #[must_use]
    pub fn misses_milli(&self, now: Time, span: Span) -> u64 {
        let sets: u64 = self.classes.values().map(|class| class.counts(now, span).1).sum();
        sets.saturating_mul(1_000_000) / span.as_millis().max(1)
    }
    /// Pages of all classes.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.look.classes.iter().map(|class| class.pages).sum()
    }
    /// How near to each other the hits of each class are, of sampled fetches.
    #[must_use]
    pub const fn reuse(&self) -> &Reuse {
        &self.reuse
    }
    /// What the server said when it was asked for this stream, where it has none.
    #[must_use]
    pub fn lacks(&self, stream: CacheStream) -> Option<&str> {
        self.lacks.get(&stream).map(String::as_str)
    }
    /// For how long the stream of evictions has told without a gap; none where it does not tell.
    #[must_use]
    pub fn told_for(&self, now: Time) -> Option<Span> {
        self.telling.map(|since| now.since(since))
    }

    /// Its streams are closed by a step.
    #[must_use]
    pub const fn rest(&self) -> Option<&Rest> {
        self.rest.as_ref()
    }
    /// What is different from when they were closed.
    #[must_use]
    pub fn stir(&self, now: Time, window: Span) -> Option<Stir> {
        self.rest.as_ref().map(|rest| rest.stir(now, &self.classes, window))
    }

    /// What a script makes of it; none where the rule wants none.
    #[must_use]
    pub const fn scripted(&self) -> Option<&Scripted> {
        self.scripted.as_ref()
    }

    fn bytes(&self) -> u64 {
        let scripted = self.scripted.as_ref().map_or(0, |_| Scripted::bytes());
        let classes: u64 = self.classes.values().map(Class::bytes).sum();
        let rest = self.rest.as_ref().map_or(0, Rest::bytes);
        classes + rest + scripted + self.ghosts.bytes() + self.reuse.bytes() + self.server.address.len() as u64 + 512
    }
}
