//! What the model makes of made-up streams.

use super::*;
use crate::vocab::{ClassEvictions, ClassLook, EvictedKey, FetchedKey, ServerLife};

const ID: ServerId = ServerId(0);
const WINDOW: Span = Span::from_secs(16);
const PAYBACK: Span = Span::from_secs(30);

fn at(ms: u64) -> Time {
    Time(0).after(Span::from_secs(1000)).after(Span::from_millis(ms))
}

/// A class of ten chunks a page that is full.
fn full(pages: u64) -> ClassLook {
    ClassLook {
        class: ClassId(1),
        chunk_size: 100,
        chunks_per_page: 10,
        pages,
        used: pages * 10,
        items: pages * 10,
        cold: pages * 4,
        ..ClassLook::default()
    }
}

struct Told {
    caches: Caches,
    now: u64,
    look: ClassLook,
}

impl Told {
    fn new(look: ClassLook) -> Self {
        let mut told = Self { caches: Caches::default(), now: 0, look };
        told.met(7);
        told.look();
        told
    }
    fn tell(&mut self, what: CacheTold) {
        let event = Event::Sample(Sample::Cache(CacheSample { server: ID, told: what }));
        self.caches.fold(&Stamped { seq: 1, at: at(self.now), event }, &Config::default());
    }
    fn met(&mut self, pid: u32) {
        let life = Some(ServerLife { pid, since: 5 });
        self.tell(CacheTold::Met(Box::new(CacheServer { life, segmented: true, ..CacheServer::default() })));
    }
    fn look(&mut self) {
        let classes = vec![self.look];
        self.tell(CacheTold::Look(Box::new(CacheLook { classes, ..CacheLook::default() })));
    }
    /// These keys go, in this order, within a tenth of a second.
    fn evict(&mut self, keys: impl IntoIterator<Item = u64>) {
        self.now += 100;
        let key = |(nth, hash): (u64, u64)| EvictedKey { class: ClassId(1), hash, nth, key: None };
        let keys: Vec<EvictedKey> = (1..).zip(keys).map(key).collect();
        let evicted = keys.len() as u64;
        let classes = vec![ClassEvictions { class: ClassId(1), evicted, fetched: 0, bytes: 0, idle: 0 }];
        self.look.evicted += evicted;
        self.tell(CacheTold::Evictions(CacheEvictions { span_ns: 100_000_000, classes, keys, ..CacheEvictions::default() }));
        self.look();
    }
    /// Fifty keys go in turn, ten at a time.
    fn cycle(&mut self, turns: std::ops::Range<u64>) {
        turns.for_each(|turn| self.evict((turn * 10..turn * 10 + 10).map(|n| n % 50)));
    }
    fn class(&self) -> &Class {
        self.cache().class(ClassId(1)).expect("it was told of")
    }
    fn cache(&self) -> &Cache {
        self.caches.get(ID).expect("it was told of")
    }
    fn gains(&self) -> Vec<(u64, u64, bool)> {
        self.class().gains(at(self.now), WINDOW, 64).iter().map(|g| (g.pages, g.milli, g.inferred)).collect()
    }
    fn loss(&self) -> Loss {
        self.cache().loss(self.class(), at(self.now), WINDOW, PAYBACK, 0)
    }
}

#[test]
fn a_cycle_is_worth_all_the_pages_that_it_takes_and_none_before() {
    let mut told = Told::new(full(2));
    // Twenty of the fifty fit: three pages more would hold all.
    told.cycle(0..40);
    let gains = told.gains();
    let of = |pages| gains.iter().find(|g| g.0 == pages).map_or(0, |g| g.1);
    assert_eq!((of(1), of(2)), (0, 0), "{gains:?}");
    // A hundred evictions a second over four pages, less a little for chance.
    assert!((23_000..=25_000).contains(&of(4)), "{gains:?}");
    assert!((11_500..=12_500).contains(&of(8)), "{gains:?}");
}

#[test]
fn a_cycle_is_worth_as_much_when_its_records_have_just_begun() {
    let mut told = Told::new(full(2));
    told.cycle(0..8);
    // Only the last thirty of eighty were seen to leave before; of thirty chance takes more than of hundreds.
    let gains = told.gains();
    assert!(gains.iter().any(|g| g.0 == 4 && (16_000..17_000).contains(&g.1)), "{gains:?}");
}

#[test]
fn a_cycle_is_worth_as_much_when_what_left_before_it_was_forgotten() {
    let mut look = full(2);
    look.evicted = 100_000;
    let mut class = Class::default();
    class.look(at(0), &full(2));
    class.look(at(1000), &look);
    class.known_from(100_000);
    class.look(at(2000), &look);
    for turn in 0..8u64 {
        let now = at(20_000 + turn * 100);
        let order = class.order();
        (order + 1..=order + 10).filter(|n| *n > 100_050).for_each(|n| class.came_back(n - 50, n, 50, 0));
        look.evicted += 10;
        let told = ClassEvictions { class: ClassId(1), evicted: 10, fetched: 0, bytes: 0, idle: 0 };
        class.evicted(now, at(20_000 + turn * 100 - 100), &told);
        class.look(now, &look);
    }
    // Eighty in four seconds.
    let gains = class.gains(at(20_700), WINDOW, 64);
    assert!(gains.iter().any(|g| g.pages == 4 && (3_500..=5_000).contains(&g.milli)), "{gains:?}");
}

#[test]
fn what_fetches_tell_of_is_weighed_by_how_long_ago_it_left() {
    let mut told = Told::new(full(4));
    for turn in 0..8 {
        told.evict(turn * 10..turn * 10 + 10);
    }
    // The last thirty of eighty are asked for: two pages and a half more would have them still.
    let keys = (50..80).map(|hash| FetchedKey { class: None, hash, key: None }).collect();
    told.tell(CacheTold::Fetches(CacheFetches { missed: 30, keys, last: true, ..CacheFetches::default() }));
    let gains = told.gains();
    // Of the thirty, the last was seen by all of eighty and the first by fifty: they stand for some thirty-six, less chance.
    assert!(gains.iter().any(|g| g.0 == 4 && (7_000..=7_900).contains(&g.1)), "{gains:?}");
}

#[test]
fn a_scan_is_worth_nothing() {
    let mut told = Told::new(full(2));
    for turn in 0..60 {
        told.evict(turn * 10..turn * 10 + 10);
    }
    assert!(told.class().evicts(at(told.now), WINDOW));
    assert!(told.gains().iter().all(|g| g.1 == 0), "{:?}", told.gains());
    assert_eq!(told.class().confidence(at(told.now), WINDOW).0, 0);
}

#[test]
fn what_is_not_known_of_so_large_a_class_is_inferred_from_what_is_near() {
    let mut told = Told::new(full(2));
    for turn in 0..20 {
        told.evict((0..10).map(|n| (turn * 10 + n) % 25));
    }
    // It was given pages meanwhile, and nothing it lost was nearly so far apart.
    told.look.pages = 120;
    told.look.used = 1200;
    told.look();
    assert_eq!(told.gains(), []);
    for turn in 0..70 {
        told.evict((0..10).map(|n| 1000 + (turn * 10 + n) % 500));
    }
    let gains = told.gains();
    assert!(matches!(gains[..], [(1, milli, true)] if milli > 0), "{gains:?}");
}

#[test]
fn hits_are_set_against_the_pages_that_have_them() {
    let mut look = full(10);
    look.cold = 50;
    let mut told = Told::new(look);
    for _ in 0..100 {
        told.now += 200;
        told.look.hits += 100;
        told.look.cold_hits += 10;
        told.look();
    }
    // 50 cold hits a second on five pages.
    let Loss { milli, once, free } = told.loss();
    assert!((10_000..=12_000).contains(&milli) && !free, "{milli}");
    // 500 hits a second, 50 of them cold: nearly all of its hundred items are asked for within the payback.
    assert_eq!(once, 9);
    // In a second half of the fifty cold ones, and nine tenths of the others.
    let once = |payback| told.cache().loss(told.class(), at(told.now), WINDOW, payback, 0).once;
    assert_eq!((once(Span::from_secs(1)), once(Span::ZERO)), (7, 0));
    // The hits end: of late there are none, and little is left of what was.
    for _ in 0..30 {
        told.now += 200;
        told.look();
    }
    assert!((20..=200).contains(&told.loss().milli), "{:?}", told.loss());
    for _ in 0..200 {
        told.now += 200;
        told.look();
    }
    assert!(told.loss().milli < 100, "{:?}", told.loss());
}

/// The class has turned to twenty new items; the eighty others lie on the page that goes as well.
#[test]
fn each_part_of_a_list_is_asked_for_by_its_own_hits() {
    let mut told = Told::new(ClassLook { cold: 50, warm: 30, ..full(10) });
    for _ in 0..100 {
        told.now += 200;
        told.look.hits += 100;
        told.look();
    }
    let hot = told.loss().once;
    for _ in 0..100 {
        told.now += 200;
        told.look.hits += 100;
        told.look.warm_hits += 60;
        told.look();
    }
    // That no hit was seen may be chance: of the eighty, some are reckoned with.
    assert_eq!((hot, told.loss().once), (3, 5));
    // It shows before a quarter of a window is over.
    let window = Span::from_secs(60);
    let once = |told: &Told| told.cache().loss(told.class(), at(told.now), window, Span::from_secs(120), 0).once;
    let before = once(&told);
    for _ in 0..25 {
        told.now += 200;
        told.look.hits += 100;
        told.look();
    }
    assert_eq!((before, once(&told)), (5, 4));
}

#[test]
fn what_has_expired_or_is_free_costs_nothing() {
    let mut told = Told::new(full(10));
    for _ in 0..40 {
        told.now += 200;
        (told.look.hits, told.look.cold_hits) = (told.look.hits + 100, told.look.cold_hits + 50);
        told.look.reclaimed += 5;
        told.look();
    }
    assert_eq!(told.loss().milli, 0);
    told.look.evicted += 1000;
    told.now += 200;
    told.look();
    assert!(told.loss().milli > 10_000, "{:?}", told.loss());
    // Two pages free, and nobody who takes them.
    let mut told = Told::new(ClassLook { free: 20, used: 80, ..full(10) });
    told.now += 8000;
    told.look();
    assert_eq!(told.loss(), Loss { milli: 0, once: 0, free: true });
    // As fast as this they are needed within the second.
    for _ in 0..20 {
        told.now += 200;
        told.look.evicted += 20;
        told.look();
    }
    assert!(!told.loss().free);
}

#[test]
fn misses_tell_a_return_at_once_and_only_once() {
    let mut told = Told::new(full(2));
    told.evict(0..30);
    let fetched = |hash, class| FetchedKey { class, hash, key: None };
    let keys = vec![fetched(5, None), fetched(5, None), fetched(99, None), fetched(7, Some(ClassId(1)))];
    told.tell(CacheTold::Fetches(CacheFetches { found: 1, missed: 3, keys, last: true, ..CacheFetches::default() }));
    let sure = |told: &Told| told.class().confidence(at(told.now), WINDOW).0;
    assert_eq!(sure(&told), 1000 / 17);
    assert_eq!((told.cache().records, told.cache().lost), (34, 0));
    // Its next eviction is its first again.
    told.evict([5]);
    assert_eq!(sure(&told), 1000 / 17);
}

#[test]
fn fetches_tell_how_near_hits_are() {
    let mut reuse = Reuse::default();
    for turn in 0..10 {
        for key in 0..4 {
            reuse.found(ClassId(1), key, 0);
        }
        reuse.found(ClassId(1), 100 + turn, 0);
    }
    reuse.closed(at(0));
    // 36 of 50 come again with four others between; fourteen come once or for the first time.
    assert_eq!(reuse.hits_within(ClassId(1), 8).map(|(near, _)| near.0), Some(720));
    assert_eq!(reuse.hits_within(ClassId(1), 2).map(|(near, _)| near.0), Some(0));
    assert_eq!(reuse.hits_within(ClassId(2), 8), None);
}

#[test]
fn a_gap_and_another_life_are_no_past() {
    let mut told = Told::new(full(2));
    for _ in 0..10 {
        told.evict((0..30).map(|n| n % 30));
    }
    assert!(told.gains().iter().any(|g| g.1 > 0), "{:?}", told.gains());
    told.tell(CacheTold::Lacks { stream: CacheStream::Evictions, why: "cut off".into() });
    assert_eq!((told.cache().told_for(at(told.now)), told.cache().lacks(CacheStream::Evictions)), (None, Some("cut off")));
    told.evict([]);
    assert!(told.cache().told_for(at(told.now)).is_some() && told.cache().lacks(CacheStream::Evictions).is_none());
    told.tell(CacheTold::Blind { why: "gone".into() });
    told.met(7);
    assert!(told.cache().class(ClassId(1)).is_some(), "the same life, history kept");
    told.met(8);
    assert!(told.cache().class(ClassId(1)).is_none());
}

#[test]
fn what_comes_and_goes_in_a_gap_is_neither_gained_nor_held_against_the_class() {
    let mut told = Told::new(full(2));
    told.cycle(0..40);
    let before = told.gains().into_iter().find(|g| g.0 == 4).map_or(0, |g| g.1);
    assert!(before > 23_000, "{:?}", told.gains());
    told.tell(CacheTold::Watch { on: false });
    assert!(told.cache().rest().is_some() && told.cache().told_for(at(told.now)).is_none());
    // The same goes on unseen, at the same rate, and then is seen again.
    for _ in 0..80 {
        told.now += 100;
        told.look.evicted += 10;
        told.look();
    }
    assert_eq!(told.cache().stir(at(told.now), WINDOW).map(|stir| (stir.shift.0, stir.class)), Some((0, None)));
    told.tell(CacheTold::Watch { on: true });
    told.tell(CacheTold::Evictions(CacheEvictions::default()));
    assert!(told.cache().rest().is_none());
    // Each key comes back once, from before the gap: it may have been away and back meanwhile.
    told.cycle(0..5);
    assert_eq!(told.class().confidence(at(told.now), WINDOW).0, 0);
    told.cycle(5..40);
    let after = told.gains().into_iter().find(|g| g.0 == 4).map_or(0, |g| g.1);
    assert!(after.abs_diff(before) < before / 20, "{before} before, {after} after");
}

#[test]
fn what_is_remembered_has_a_cap() {
    let mut told = Told::new(full(2));
    for turn in 0..200u64 {
        told.evict((turn * 1000..turn * 1000 + 1000).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
    assert!(told.caches.evicted() >= 200_000 - 2 * MAX_GHOSTS as u64);
    assert!(told.caches.bytes() < Bytes::from_mib(6), "{}", told.caches.bytes());
}

#[test]
fn a_number_that_means_another_server_has_no_past() {
    let mut told = Told::new(full(2));
    let config = |names: &[&str]| {
        let rule = |name: &&str| crate::config::CacheRule { server: (*name).to_owned(), ..CacheRule::default() };
        Config { cache: names.iter().map(rule).collect(), ..Config::default() }
    };
    let mut configure = |names: &[&str]| {
        let event = Event::Config(String::new());
        told.caches.fold(&Stamped { seq: 1, at: at(0), event }, &config(names));
        told.caches.iter().count()
    };
    assert_eq!(configure(&["a"]), 0);
    told.met(7);
    let mut configure = |names: &[&str]| {
        let event = Event::Config(String::new());
        told.caches.fold(&Stamped { seq: 1, at: at(0), event }, &config(names));
        told.caches.iter().count()
    };
    assert_eq!((configure(&["a", "b"]), configure(&["b"])), (1, 0));
}
