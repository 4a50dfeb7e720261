//! What flash behind a server (extstore) changes. Items of large classes that are next to go are written there and leave a header in
//! a small class: what would be a miss is a read of flash. A header that goes takes its item with it.

use super::{AHEAD, Giver, KEPT, Knobs, Page, window};
use crate::model::Cache;
use crate::model::caches::{Class, Gain, Loss};
use crate::plan::Served;
use crate::vocab::{ClassId, Measure, Place, Quantity, Reason, Rule, Span, Time};

/// Free pages of a class that writes to flash, in tenths, at least: the room for items of a page that goes.
const KEPT_TENTHS: u64 = 15;
/// What a class shall have free follows its size this often.
const CHECK: Span = Span::from_secs(60);
/// Later servers do not heed that, and keep up to so many pages free of a class while the pool is low.
const FREE_MOST: u64 = 3;
/// ... which is as long as this holds no more pages than so many, or a part of all.
const EARLY_LEAST: u64 = 2;
/// A class with fewer pages than this beyond what it keeps free has too few items to show what a page earns. Each of its items is
/// then taken to be asked for once in so many times the age of its oldest.
const FEW: u64 = 4;
const AGES: u64 = 4;
/// The next page earns at most this part of what the last one does, in percent.
const NEXT: u64 = 80;

/// Chunks that a class shall have free: it writes to flash while it has fewer. None where nothing goes to flash.
pub(super) fn kept_free(cache: &Cache, class: &Class, knobs: &Knobs) -> u64 {
    if !cache.writes_to_flash(class) {
        return 0;
    }
    (class.chunks().saturating_mul(knobs.flash_free_permil) / 1000).max(class.now.chunks_per_page * KEPT_TENTHS / 10)
}

/// What a page less costs; where it is on flash then, a hit less is a read more.
pub fn loss(cache: &Cache, class: &Class, knobs: &Knobs, now: Time) -> Loss {
    // What it has free is written free again as soon as it is taken, be it by those who take a page.
    let takes = cache.writes_to_flash(class) && class.rates(now, window(knobs)).sets > 0;
    let kept = if takes { u64::MAX } else { enough(cache, class, knobs) };
    let loss = cache.loss(class, now, window(knobs), Span::from_secs(knobs.payback_s), kept);
    Loss { milli: priced(cache, class, knobs, loss.milli), ..loss }
}

fn priced(cache: &Cache, class: &Class, knobs: &Knobs, milli: u64) -> u64 {
    if cache.writes_to_flash(class) { milli.saturating_mul(knobs.flash_read_permil) / 1000 } else { milli }
}

/// More than this is room for what comes.
pub(super) fn enough(cache: &Cache, class: &Class, knobs: &Knobs) -> u64 {
    let kept = kept_free(cache, class, knobs);
    let most = if cache.server.early.is_some() { class.now.chunks_per_page * FREE_MOST } else { 0 };
    if kept == 0 { 0 } else { kept.max(most) }
}

/// Whether it would put a page to use: it writes to flash because it has no more free than it shall.
pub(super) fn is_short(cache: &Cache, class: &Class, knobs: &Knobs, now: Time) -> bool {
    cache.writes_to_flash(class) && class.now.free <= enough(cache, class, knobs) && class.rates(now, window(knobs)).sets > 0
}

/// Nobody tells which reads of flash a larger class would have saved: of a page more they are put as near to those of the last one
/// that is there as its hits show.
pub(super) fn gain(cache: &Cache, class: &Class, knobs: &Knobs, now: Time) -> Option<Gain> {
    let last = loss(cache, class, knobs, now);
    let page = class.now.chunks_per_page;
    let few = class.chunks().saturating_sub(kept_free(cache, class, knobs)) < page * FEW;
    let by_age = if few { page * 1000 / (class.now.age.max(1) * AGES) } else { 0 };
    let milli = (last.milli / 100 * NEXT).max(priced(cache, class, knobs, by_age));
    (!last.free).then_some(Gain { pages: 1, milli, samples: 0, inferred: true })
}

/// Pages that each class in use is left that writes to flash. It loses its hottest items too when all that it has is written free, and
/// what is on flash is read from there ever after (of `ext_recache_rate` reads one brings its item back); so it keeps two beyond what
/// may be free. All such classes together are left half of the server's pages, but two each in any case.
pub(super) fn left(cache: &Cache, knobs: &Knobs, now: Time) -> u64 {
    let writing = cache.classes().filter(|(_, class)| in_use(cache, class, knobs, now)).count() as u64;
    (FREE_MOST + KEPT).min(cache.pages() / 2 / writing.max(1)).max(KEPT)
}

/// A class that writes to flash, and that somebody asks.
pub(super) fn in_use(cache: &Cache, class: &Class, knobs: &Knobs, now: Time) -> bool {
    let (hits, sets, _) = class.counts(now, window(knobs));
    cache.writes_to_flash(class) && hits + sets > 0
}

/// Pages in the pool with which all classes that write to flash do so early; none where they do not go by the pool.
pub(super) fn early(cache: &Cache) -> Option<u64> {
    let part = cache.server.early.filter(|_| cache.server.extstore)?;
    Some(((cache.pages() + cache.look.pool) * part.0 / 1000).max(EARLY_LEAST))
}

/// A page for a pool that is so low; `Err`: what it would earn, and why none goes. Who takes in most, in pages, takes it next. Once no
/// class writes early, each uses what it keeps free (`FREE_MOST`): the one in which most is stored half of that, on the average, the
/// others as much less as is stored there. Of a pool that lacks many pages three at a time earn that, together. What goes with a page is
/// set against the time since the last one.
pub(super) fn refill(
    cache: &Cache,
    served: Option<&Served>,
    knobs: &Knobs,
    now: Time,
    sources: &[Giver],
) -> Option<Result<Page, (u64, Reason)>> {
    let (pool, early) = (cache.look.pool, early(cache)?);
    if knobs.pool_permil == 0 || pool > early {
        return None;
    }
    let pages = |class: &Class, chunks: u64| chunks.saturating_mul(1000) / class.now.chunks_per_page.max(1);
    let taken = |class: &Class| pages(class, class.appetite(now, window(knobs), window(knobs)));
    let costs = |class| loss(cache, class, knobs, now).milli;
    let (next, taker) = cache.classes().max_by_key(|(_, class)| taken(class)).filter(|(_, class)| taken(class) > 0)?;
    // While they write, what they take makes no class larger: there it is sets.
    let set = |class: &Class| pages(class, class.counts(now, window(knobs)).1);
    let writing = || cache.classes().map(|(_, class)| class).filter(|class| in_use(cache, class, knobs, now));
    let fastest = writing().map(set).max()?.max(1);
    let used = writing().map(|class| costs(class).saturating_mul(FREE_MOST).saturating_mul(set(class)) / fastest / 2);
    let used = used.fold(0, u64::saturating_add) / (early + 1 - pool).div_ceil(EARLY_LEAST + 1);
    let takers = costs(taker) / 100 * NEXT;
    // A free page of a class that takes in items would be taken back.
    let takes = |id| cache.class(id).is_some_and(|class| class.appetite(now, window(knobs), AHEAD) > 0);
    let givers = sources.iter().filter(|source| !(source.loss.free && takes(source.id)));
    let last = served.and_then(|served| served.got_at(Place::Pool)).map_or(Span(u64::MAX), |at| now.since(at));
    let cycle = last.as_millis().clamp(1, knobs.payback_s * 1000);
    let priced = givers.map(|source| {
        let earns = used.saturating_add(if source.id == next { 0 } else { takers });
        (earns, source.lasting.saturating_add(source.loss.once.saturating_mul(1_000_000) / cycle), source)
    });
    let (earns, price, source) = priced.max_by_key(|(earns, price, _)| i128::from(*earns) - i128::from(*price))?;
    let worth = earns.saturating_sub(price);
    let reason = |rule| {
        let (pool, early) = (Quantity::count(pool), Quantity::count(early));
        let (earns, price) = (Quantity::milli_hits(earns), Quantity::milli_hits(price));
        let reason = Reason::new(rule).saw(Measure::SlabPages, pool, early, "");
        reason.saw(Measure::PageGain, earns, price, "caches.least_gain_milli").note(format!(
            "a page of class {} to the pool at {}, where class {} takes it next",
            source.id.0, cache.server.address, next.0
        ))
    };
    if worth < knobs.least_gain_milli {
        return Some(Err((earns, reason(Rule::NotWorth))));
    }
    let from = Place::Class(source.id);
    Some(Ok(Page { from, to: Place::Pool, worth, together: worth, reason: reason(Rule::SlabPool) }))
}

/// What classes of a server that heeds it must be told to keep free: all once, and each minute those for which it changed.
pub(super) fn free_chunks(
    cache: &Cache,
    served: Option<&Served>,
    knobs: &Knobs,
    now: Time,
) -> Option<(Vec<(ClassId, u64)>, Reason)> {
    if cache.server.early.is_some() {
        return None;
    }
    let due = served.and_then(|served| served.freed_at).is_none_or(|at| now.since(at) >= CHECK);
    let told = |id| served.and_then(|served| served.kept_free(id));
    let news = |(id, class): (ClassId, &Class)| {
        let chunks = kept_free(cache, class, knobs);
        let known = told(id);
        (chunks > 0 && known != Some(chunks) && (due || known.is_none())).then_some((id, chunks))
    };
    let news: Vec<(ClassId, u64)> = cache.classes().filter_map(news).collect();
    let &(first, chunks) = news.first()?;
    let (free, shall) = (cache.class(first)?.now.free, Quantity::count(chunks));
    let reason = Reason::new(Rule::SlabFlash)
        .saw(Measure::FreeChunks, Quantity::count(free), shall, "caches.flash_free_permil")
        .note(format!("class {} of {} at {}", first.0, news.len(), cache.server.address));
    Some((news, reason))
}
