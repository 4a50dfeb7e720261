//! A memcached server that exists only here: classes of pages of chunks, a list of three parts for each, and a page that takes
//! with it what lies on it. Whoever asks in vain stores what was asked for.
//!
//! Deliberately absent: keys and values, memory that is not in pages, hash tables; flash is as large as it need be.

use super::rng::{Purpose, Rng};
use crate::vocab::{
    CacheEvictions, CacheLook, CacheServer, ClassEvictions, ClassId, ClassLook, EvictedKey, Permil, Place, ServerLife, Span, Time,
};
use std::collections::{BTreeMap, VecDeque};

/// Parts of a list, in percent of its items: what is new, and what was asked for again. The rest is cold, and goes.
const HOT: usize = 20;
const WARM: usize = 40;

/// While the pool has no more than this part of all pages, two at least, classes write to flash that have fewer than so many pages free
/// (memcached 1.6.18, storage.c), here as fast as they must. What they are told to keep free they do not heed.
const EARLY: Permil = Permil(10);
const EARLY_LEAST: u64 = 2;
const EARLY_PAGES: usize = 3;

/// Who is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// The n-th about n times as seldom as the first.
    Skewed,
    /// All alike.
    Even,
    /// One after the other, none twice.
    Scan,
}

/// A stream of requests for items of one class.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub class: ClassId,
    pub traffic: Traffic,
    pub keys: u64,
    pub per_s: u64,
    /// What is stored lives so long.
    pub ttl: Option<Span>,
    /// Seconds of the run.
    pub from: u64,
    pub until: u64,
}

#[derive(Clone, Debug)]
pub struct CacheSpec {
    pub pages: u64,
    /// Chunks of a page, by class from 1.
    pub chunks: Vec<u64>,
    pub loads: Vec<Load>,
    /// It has no record of evictions.
    pub mute: bool,
    /// Headers of what is on flash are items of this class; what leaves the classes after it goes there.
    pub headers: Option<ClassId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Hot,
    Warm,
    Cold,
}

#[derive(Clone, Debug)]
struct Item {
    page: u64,
    slot: u64,
    part: Part,
    stamp: u64,
    fetched: bool,
    active: bool,
    used: Time,
    expires: Time,
}

#[derive(Clone, Debug, Default)]
struct SimClass {
    chunks: u64,
    /// By number, oldest first, each with its items by slot.
    pages: VecDeque<(u64, BTreeMap<u64, u64>)>,
    free: Vec<(u64, u64)>,
    items: BTreeMap<u64, Item>,
    hot: BTreeMap<u64, u64>,
    warm: BTreeMap<u64, u64>,
    cold: BTreeMap<u64, u64>,
    look: ClassLook,
    batch: Counted,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    evicted: u64,
    fetched: u64,
    idle: u64,
}

/// One server.
#[derive(Clone, Debug)]
pub struct CacheSim {
    pub spec: CacheSpec,
    rng: Rng,
    pub began: Time,
    classes: Vec<SimClass>,
    unused: u64,
    next_page: u64,
    next_stamp: u64,
    keys: Vec<EvictedKey>,
    scanned: u64,
    pub automove: u8,
    /// Its record of evictions is read.
    pub watched: bool,
    pub moved: u64,
    pub hits: u64,
    pub misses: u64,
    pub flash_reads: u64,
}

impl CacheSim {
    #[must_use]
    pub fn new(spec: &CacheSpec, seed: u64, began: Time) -> Self {
        let class = |(at, chunks): (usize, &u64)| {
            let class = ClassId(at as u8 + 1);
            let look = ClassLook { class, chunk_size: (1 << 20) / chunks, chunks_per_page: *chunks, ..ClassLook::default() };
            SimClass { chunks: *chunks, look, ..SimClass::default() }
        };
        Self {
            rng: Rng::of(seed, Purpose::Cache, 0),
            began,
            classes: spec.chunks.iter().enumerate().map(class).collect(),
            unused: spec.pages,
            next_page: 0,
            next_stamp: 0,
            keys: Vec::new(),
            scanned: 0,
            automove: 1,
            watched: true,
            moved: 0,
            hits: 0,
            misses: 0,
            flash_reads: 0,
            spec: spec.clone(),
        }
    }

    #[must_use]
    pub fn server(&self, address: &str) -> CacheServer {
        CacheServer {
            address: address.to_owned(),
            version: "simulated".to_owned(),
            life: Some(ServerLife { pid: 77, since: self.began.0 / 1_000_000_000 }),
            proc: None,
            reassign: true,
            segmented: true,
            extstore: self.spec.headers.is_some(),
            flash_from: self.spec.headers.map_or(0, |class| self.classes[usize::from(class.0) - 1].look.chunk_size + 1),
            early: self.spec.headers.map(|_| EARLY),
        }
    }

    /// Requests of the time up to `now`.
    pub fn serve(&mut self, now: Time, span: Span) {
        let second = now.since(self.began).as_secs();
        for load in self.spec.loads.clone() {
            if second < load.from || second >= load.until {
                continue;
            }
            for _ in 0..load.per_s * span.as_millis() / 1000 {
                let key = match load.traffic {
                    Traffic::Even => self.rng.below(load.keys),
                    Traffic::Skewed => {
                        // As many requests for each doubling of the rank.
                        let low = 1u64 << self.rng.below(u64::from(load.keys.max(2).ilog2()) + 1);
                        (low + self.rng.below(low)).min(load.keys) - 1
                    }
                    Traffic::Scan => {
                        self.scanned += 1;
                        (1 << 40) + self.scanned
                    }
                };
                let expires = load.ttl.map_or(Time::MAX, |ttl| now.after(ttl));
                self.request(now, load.class, key, expires);
            }
        }
        for at in 0..self.classes.len() {
            if let Some(headers) = self.headers_of(at) {
                self.write_early(now, at, headers);
            }
        }
    }

    fn request(&mut self, now: Time, class: ClassId, key: u64, expires: Time) {
        let at = usize::from(class.0) - 1;
        if self.classes[at].hit(now, key, &mut self.next_stamp) {
            self.hits += 1;
            return;
        }
        if let Some(headers) = self.headers_of(at)
            && self.classes[headers].hit(now, header(at, key), &mut self.next_stamp)
        {
            self.hits += 1;
            self.flash_reads += 1;
            return;
        }
        self.misses += 1;
        self.store(now, at, key, expires);
    }

    /// Where the headers of a class are that writes to flash.
    fn headers_of(&self, at: usize) -> Option<usize> {
        let headers = usize::from(self.spec.headers?.0) - 1;
        (at > headers).then_some(headers)
    }

    fn write_early(&mut self, now: Time, at: usize, headers: usize) {
        let (pool, few) = ((self.spec.pages * EARLY.0 / 1000).max(EARLY_LEAST), self.classes[at].chunks as usize * EARLY_PAGES);
        while self.unused <= pool && self.classes[at].free.len() < few && !self.classes[at].items.is_empty() {
            self.write_out(now, at, headers);
        }
    }

    /// The item that is next to go leaves a header.
    fn write_out(&mut self, now: Time, at: usize, headers: usize) {
        let Some((key, item)) = self.classes[at].next_to_go() else { return };
        if item.expires > now {
            self.store(now, headers, header(at, key), item.expires);
        } else {
            self.classes[at].look.reclaimed += 1;
        }
    }

    fn store(&mut self, now: Time, at: usize, key: u64, expires: Time) {
        if self.classes[at].free.is_empty() && self.unused > 0 {
            self.unused -= 1;
            self.page_to(at);
        }
        // memcached lets a class have a first page beyond its limit.
        if self.classes[at].pages.is_empty() {
            self.page_to(at);
        }
        if let Some(headers) = self.headers_of(at) {
            self.classes[headers].remove(header(at, key));
            self.write_early(now, at, headers);
        }
        let class = &mut self.classes[at];
        class.look.sets += 1;
        if class.free.is_empty()
            && let Some(victim) = class.push_out(now)
        {
            let nth = class.batch.evicted;
            let hash = hash(victim ^ (at as u64) << 56);
            self.keys.push(EvictedKey { class: class.look.class, hash, nth, key: None });
        }
        let Some((page, slot)) = class.free.pop() else { return };
        self.next_stamp += 1;
        class.insert(
            key,
            Item { page, slot, part: Part::Hot, stamp: self.next_stamp, fetched: false, active: false, used: now, expires },
        );
        class.juggle(&mut self.next_stamp);
    }

    fn page_to(&mut self, at: usize) {
        let (class, page) = (&mut self.classes[at], self.next_page);
        self.next_page += 1;
        class.pages.push_back((page, BTreeMap::new()));
        class.free.extend((0..class.chunks).rev().map(|slot| (page, slot)));
    }

    /// What the server answers to `slabs reassign`; what lies on the page goes, unless there is room for it.
    pub fn reassign(&mut self, from: Place, to: Place) -> Result<(), &'static str> {
        let source = match (from, to) {
            (Place::Class(source), _) => source,
            (Place::Pool, Place::Class(target)) => return self.feed(target),
            (Place::Pool, Place::Pool) => return Err("SAME"),
        };
        let at = usize::from(source.0).checked_sub(1).filter(|at| *at < self.classes.len()).ok_or("BADCLASS")?;
        if self.classes[at].pages.len() < 2 {
            return Err("NOSPARE");
        }
        if from == to {
            return Err("SAME");
        }
        self.classes[at].give();
        self.moved += 1;
        match to {
            Place::Pool => self.unused += 1,
            Place::Class(target) => {
                let at = usize::from(target.0).checked_sub(1).filter(|at| *at < self.classes.len()).ok_or("BADCLASS")?;
                self.page_to(at);
            }
        }
        Ok(())
    }

    /// From the pool; the last page stays there.
    fn feed(&mut self, target: ClassId) -> Result<(), &'static str> {
        let at = usize::from(target.0).checked_sub(1).filter(|at| *at < self.classes.len()).ok_or("BADCLASS")?;
        if self.unused < 2 {
            return Err("NOSPARE");
        }
        self.unused -= 1;
        self.moved += 1;
        self.page_to(at);
        Ok(())
    }

    #[must_use]
    pub fn look(&self, now: Time) -> CacheLook {
        let classes = self.classes.iter().filter(|class| !class.pages.is_empty()).map(|class| class.look(now)).collect();
        CacheLook {
            pool: self.unused,
            moving: false,
            moved: self.moved,
            flash_reads: self.flash_reads,
            automove: Some(self.automove),
            dropped: 0,
            classes,
        }
    }

    /// What its record of evictions has since the last call.
    pub fn batch(&mut self, span: Span) -> CacheEvictions {
        let classes = self.classes.iter_mut().filter(|class| class.batch.evicted > 0).map(|class| {
            let Counted { evicted, fetched, idle } = std::mem::take(&mut class.batch);
            ClassEvictions { class: class.look.class, evicted, fetched, bytes: 0, idle }
        });
        let classes = classes.collect();
        CacheEvictions { span_ns: span.0, shift: 0, classes, keys: std::mem::take(&mut self.keys), skipped: 0 }
    }

    /// Pages of every class and of none.
    #[must_use]
    pub fn pages(&self) -> (Vec<u64>, u64) {
        (self.classes.iter().map(|class| class.pages.len() as u64).collect(), self.unused)
    }
}

impl SimClass {
    fn list(&mut self, part: Part) -> &mut BTreeMap<u64, u64> {
        match part {
            Part::Hot => &mut self.hot,
            Part::Warm => &mut self.warm,
            Part::Cold => &mut self.cold,
        }
    }

    fn hit(&mut self, now: Time, key: u64, stamps: &mut u64) -> bool {
        let Some(item) = self.items.get_mut(&key) else { return false };
        if item.expires <= now {
            self.remove(key);
            return false;
        }
        let part = item.part;
        (item.active, item.fetched, item.used) = (item.fetched, true, now);
        self.look.hits += 1;
        self.look.warm_hits += u64::from(part == Part::Warm);
        if part == Part::Cold {
            self.look.cold_hits += 1;
            if self.items[&key].active {
                self.shift(key, Part::Warm, stamps);
            }
        }
        true
    }

    fn insert(&mut self, key: u64, item: Item) {
        self.list(item.part).insert(item.stamp, key);
        if let Some((_, slots)) = self.pages.iter_mut().find(|(page, _)| *page == item.page) {
            slots.insert(item.slot, key);
        }
        self.items.insert(key, item);
    }

    fn remove(&mut self, key: u64) -> Option<Item> {
        let item = self.items.remove(&key)?;
        self.list(item.part).remove(&item.stamp);
        if let Some((_, slots)) = self.pages.iter_mut().find(|(page, _)| *page == item.page) {
            slots.remove(&item.slot);
            self.free.push((item.page, item.slot));
        }
        Some(item)
    }

    fn shift(&mut self, key: u64, to: Part, stamps: &mut u64) {
        let Some(item) = self.items.get_mut(&key) else { return };
        let (part, stamp) = (item.part, item.stamp);
        *stamps += 1;
        (item.part, item.stamp, item.active) = (to, *stamps, false);
        let fresh = item.stamp;
        self.list(part).remove(&stamp);
        self.list(to).insert(fresh, key);
    }

    /// What is too much in one part goes on to the next.
    fn juggle(&mut self, stamps: &mut u64) {
        for (part, percent) in [(Part::Hot, HOT), (Part::Warm, WARM)] {
            let most = self.items.len() * percent / 100;
            while self.list(part).len() > most {
                let Some(key) = self.list(part).first_key_value().map(|(_, key)| *key) else { break };
                let to = if self.items[&key].active { Part::Warm } else { Part::Cold };
                self.shift(key, to, stamps);
            }
        }
    }

    fn next_to_go(&mut self) -> Option<(u64, Item)> {
        let next =
            [Part::Cold, Part::Hot, Part::Warm].into_iter().find_map(|part| self.list(part).first_key_value().map(|(_, k)| *k))?;
        Some((next, self.remove(next)?))
    }

    /// Makes room for one item; whom it evicts, if anybody.
    fn push_out(&mut self, now: Time) -> Option<u64> {
        let (next, item) = self.next_to_go()?;
        if item.expires <= now {
            self.look.reclaimed += 1;
            return None;
        }
        self.look.evicted += 1;
        self.batch.evicted += 1;
        self.batch.fetched += u64::from(item.fetched);
        self.batch.idle += now.since(item.used).as_secs();
        Some(next)
    }

    /// The first page goes.
    fn give(&mut self) {
        let Some((page, slots)) = self.pages.pop_front() else { return };
        self.free.retain(|(free, _)| *free != page);
        for key in slots.into_values() {
            let Some(mut item) = self.items.remove(&key) else { continue };
            self.list(item.part).remove(&item.stamp);
            if let Some((page, slot)) = self.free.pop() {
                (item.page, item.slot) = (page, slot);
                self.insert(key, item);
            }
        }
    }

    fn look(&self, now: Time) -> ClassLook {
        let tail = self.cold.first_key_value().map_or(now, |(_, key)| self.items[key].used);
        ClassLook {
            pages: self.pages.len() as u64,
            used: self.items.len() as u64,
            free: self.free.len() as u64,
            items: self.items.len() as u64,
            cold: self.cold.len() as u64,
            warm: self.warm.len() as u64,
            age: now.since(tail).as_secs(),
            ..self.look
        }
    }
}

/// Of an item of this class that is on flash.
const fn header(at: usize, key: u64) -> u64 {
    key | (at as u64 + 1) << 48
}

const fn hash(key: u64) -> u64 {
    let mut x = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 27
}
