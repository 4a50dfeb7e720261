//! One slab class: its counters over time, and what a page more would earn it or a page less cost.

use super::super::series::Series;
use crate::vocab::{ClassEvictions, ClassLook, Permil, Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Keys that came back and are remembered, of each class. Where they come fast the time that they tell of is short.
const MAX_RETURNS: usize = 2048;
/// A rate is over this much time at least.
const LEAST: Span = Span::from_millis(500);
/// ... and one that shows which part of a list is asked for, over this much.
const BRIEF: Span = Span::from_secs(2);
/// Pages of items that left last count as evidence, however long ago that was.
const LEAST_PAGES: u64 = 2;
/// Samples that make half a certainty.
const HALF_SURE: u64 = 16;
/// A sampled return is set against so many times its weight of evictions at least: fewer say nothing of the others.
const LEAST_SEEN: u64 = 4;
/// What makes hits seem fewer lately than they were counts for this part: who sleeps wakes up.
const LONG_MEMORY: u64 = 256;
/// The next page beyond the end of a list is asked for about as often as the last one on it. This is by how much less, at
/// most, in percent.
const OVER_THE_EDGE: u64 = 125;
/// And however little that is, the last page has this part of what a cold one has on the average.
const TAIL_PART: u64 = 16;

/// A key that was stored again after its eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Return {
    /// Of its class when that was seen.
    order: u64,
    /// So many places before that it left.
    #[serde(default)]
    back: u64,
    /// So many chunks had the class to have to have it still.
    distance: u64,
    /// So many keys stand behind it.
    weight: u64,
}

/// What pages more earn, each, in thousandths of a hit per second; at least, as far as chance goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gain {
    /// If so many pages are added.
    pub pages: u64,
    pub milli: u64,
    pub samples: u64,
    /// Nothing is known of so large a class yet: it is inferred from how often what is nearer comes back.
    pub inferred: bool,
}

/// What one page less costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// From then on, in thousandths of a hit per second; at most, as far as chance goes.
    pub milli: u64,
    /// Once: hits of items that lie on the page that goes, which is the class's first and not its coldest.
    pub once: u64,
    /// All of it is free.
    pub free: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    pub now: ClassLook,
    /// Since when the class is known.
    since: Time,
    looked: Time,
    hits: Series,
    cold_hits: Series,
    #[serde(default)]
    warm_hits: Series,
    sets: Series,
    evicted: Series,
    reclaimed: Series,
    /// Chunks that were needed: of items that came, whatever went for them.
    taken: Series,
    taken_total: u64,
    /// Of evictions, those of items that had been asked for.
    fetched: Series,
    /// How many items left at the end of the list so far, and how many with a page.
    order: u64,
    left_with_page: u64,
    /// What left before that is not known by name.
    known_from: u64,
    /// ... over time.
    #[serde(default)]
    unknown: Series,
    /// Where in the order the stream of evictions began to tell.
    #[serde(default)]
    gap: u64,
    evicted_at: Option<Time>,
    returns: VecDeque<Return>,
}

impl Class {
    pub(super) fn look(&mut self, at: Time, now: &ClassLook) {
        let was = self.now;
        let gone = |look: &ClassLook| look.evicted.saturating_add(look.reclaimed).saturating_add(look.crawled);
        if self.since == Time::ZERO {
            (self.since, self.known_from, self.gap) = (at, gone(now), gone(now));
        } else {
            let left = gone(now).saturating_sub(gone(&was));
            self.taken_total = self.taken_total.saturating_add(left).saturating_add(now.used.saturating_sub(was.used));
            // With a page go those on it, unless there was room for them.
            let pages = was.pages.saturating_sub(now.pages);
            let moved = pages.saturating_mul(now.chunks_per_page).saturating_sub(was.free);
            self.left_with_page = self.left_with_page.saturating_add(moved.min(was.used));
        }
        self.hits.set(at, now.hits);
        self.cold_hits.set(at, now.cold_hits);
        self.warm_hits.set(at, now.warm_hits);
        self.sets.set(at, now.sets);
        self.evicted.set(at, now.evicted);
        self.reclaimed.set(at, now.reclaimed);
        self.taken.set(at, self.taken_total);
        self.unknown.set(at, self.known_from);
        self.order = self.order.max(gone(now).saturating_add(self.left_with_page));
        if now.evicted > was.evicted && self.looked > Time::ZERO {
            self.evicted_at = Some(at);
        }
        (self.now, self.looked) = (*now, at);
    }

    pub(super) const fn order(&self) -> u64 {
        self.order
    }

    /// Records are missing before what comes next.
    pub(super) const fn gap(&mut self) {
        (self.known_from, self.gap) = (self.order, self.order);
    }

    pub(super) fn known_from(&mut self, order: u64) {
        self.known_from = self.known_from.max(order);
    }

    pub(super) fn evicted(&mut self, at: Time, began: Time, told: &ClassEvictions) {
        self.order = self.order.saturating_add(told.evicted);
        self.fetched.add(at, at.since(began), told.fetched);
        if told.evicted > 0 {
            self.evicted_at = Some(at);
        }
    }

    /// The key that left as the so-manieth, or that would now be the next to come, left as number `before`. If that was before
    /// a gap, it may have come and gone in it.
    pub(super) fn came_back(&mut self, before: u64, order: u64, distance: u64, shift: u8) {
        if before < self.gap {
            return;
        }
        if self.returns.len() == MAX_RETURNS {
            self.returns.pop_front();
        }
        let back = order.saturating_sub(before);
        self.returns.push_back(Return { order, back, distance, weight: 1 << shift.min(32) });
    }

    /// So many of those who left are known by name.
    #[must_use]
    pub const fn known(&self) -> u64 {
        self.order.saturating_sub(self.known_from)
    }

    /// Hits, sets and evictions in that time.
    #[must_use]
    pub fn counts(&self, now: Time, window: Span) -> (u64, u64, u64) {
        let from = Time(now.0.saturating_sub(window.0));
        (self.hits.since(from), self.sets.since(from), self.evicted.since(from))
    }

    /// Chunks that its pages hold.
    #[must_use]
    pub const fn chunks(&self) -> u64 {
        self.now.pages.saturating_mul(self.now.chunks_per_page)
    }

    /// Whether it evicted anything in that time.
    #[must_use]
    pub fn evicts(&self, now: Time, window: Span) -> bool {
        self.evicted_at.is_some_and(|last| now.since(last) < window)
    }

    /// Chunks that it will need for what comes in that time, going by a quarter of the window.
    #[must_use]
    pub fn appetite(&self, now: Time, window: Span, ahead: Span) -> u64 {
        wide(milli(&self.taken, now, self.short(now, window)), ahead.as_millis()) / 1_000_000
    }

    /// Per second, over a quarter of the window.
    #[must_use]
    pub fn rates(&self, now: Time, window: Span) -> Rates {
        let short = self.short(now, window);
        let per_s = |series: &Series| milli(series, now, short) / 1000;
        Rates {
            hits: per_s(&self.hits),
            sets: per_s(&self.sets),
            evictions: per_s(&self.evicted),
            reclaimed: per_s(&self.reclaimed),
            fetched: per_s(&self.fetched),
        }
    }

    fn short(&self, now: Time, window: Span) -> Span {
        Span(window.0 / 4).min(now.since(self.since)).max(LEAST)
    }

    /// What pages more earn each: one, two, four and so on, up to `most`. What part of those who leave come back is known of the
    /// last that left; how many come back now depends on how many come at all.
    #[must_use]
    pub fn gains(&self, now: Time, window: Span, most: u64) -> Vec<Gain> {
        let (chunks, page) = (self.chunks(), self.now.chunks_per_page.max(1));
        let known = self.known();
        let evidence = self.evidence(now, window);
        let mut gains = Vec::new();
        let mut pages = 1;
        while pages <= most && chunks.saturating_add(wide(pages, page)) <= known {
            let came = self.came_back_from(evidence, chunks, chunks.saturating_add(wide(pages, page)));
            let milli = evidence.per_second(came.at_least()) / pages;
            gains.push(Gain { pages, milli, samples: came.samples, inferred: false });
            pages *= 2;
        }
        if gains.is_empty() && most > 0 {
            gains.extend(self.inferred(evidence, known));
        }
        gains
    }

    /// A class that grows is larger than what it has been seen to lose. What lies as far again is asked for half as often.
    fn inferred(&self, evidence: Evidence, known: u64) -> Option<Gain> {
        let (chunks, page) = (self.chunks(), self.now.chunks_per_page.max(1));
        let came = self.came_back_from(evidence, known / 2, known);
        let width = (known - known / 2).max(1);
        let page_there = wide(evidence.per_second(came.at_least()), page) / width;
        let milli = wide(page_there, known / 4 * 3) / chunks.saturating_add(page / 2).max(1);
        (came.samples > 0).then_some(Gain { pages: 1, milli, samples: came.samples, inferred: true })
    }

    /// What came back of what a class of `from` chunks loses, and one of `to` chunks does not. A return over many places is seen only
    /// if its key left after the records began. So it counts for what left in the window, over what of that left so many places or
    /// more after the beginning.
    fn came_back_from(&self, evidence: Evidence, from: u64, to: u64) -> Came {
        let Evidence { left, told, come_milli: _ } = evidence;
        let since = self.order.saturating_sub(left);
        let lately = self.returns.iter().rev().take_while(|r| r.order >= since);
        let mut came = Came::default();
        for Return { order: _, back, distance: _, weight } in lately.filter(|r| r.distance > from && r.distance <= to) {
            let seen = told.saturating_sub(*back).max(self.now.chunks_per_page).max(wide(*weight, LEAST_SEEN)).min(left);
            came.add(u128::from(*weight) * 1000 * u128::from(left) / u128::from(seen.max(1)));
        }
        came
    }

    /// Those who left in the window, or the last ones before it: a class that was given pages loses nobody for a while, and
    /// what it lost before still says what it is asked for.
    fn evidence(&self, now: Time, window: Span) -> Evidence {
        let lately = self.evicted.since(Time(now.0.saturating_sub(window.0)));
        let least = wide(self.now.chunks_per_page, LEAST_PAGES).min(self.known());
        let full = self.returns.len() == MAX_RETURNS;
        let remembered = self.returns.front().filter(|_| full).map_or(u64::MAX, |r| self.order.saturating_sub(r.order));
        // Of what left in a gap nobody knows who came back, nor of what was forgotten when the window began.
        let forgotten = self.unknown.since(Time(now.0.saturating_sub(window.0)));
        let told = self.order.saturating_sub(self.gap.max(self.known_from.saturating_sub(forgotten)));
        let left = lately.max(least).min(remembered).min(told).max(1);
        Evidence { left, told, come_milli: milli(&self.taken, now, self.short(now, window)) }
    }

    /// What a page less costs, if what it costs once is to be paid for in `payback` and so many chunks are not to be spared.
    #[must_use]
    pub(super) fn loss(&self, now: Time, window: Span, payback: Span, kept_free: u64, part: Part) -> Loss {
        let page = self.now.chunks_per_page.max(1);
        // What was given to it for what is coming is not free.
        let spare = self.now.free.saturating_sub(self.appetite(now, window, Span(window.0 / 8)).saturating_add(kept_free));
        if spare >= page {
            return Loss { milli: 0, once: 0, free: true };
        }
        // Items that are asked for meanwhile, each missed once: cold ones seldom. The rates of those in one part of the list are taken to
        // be spread as wide as their mean (exponentially), so that of n items m requests ask for nm / (n + m).
        // A class that has turned to other items shows it soon, by hits in another part.
        let short = self.short(now, window);
        let of = |series: &[&Series], time| Self::rate_of(series, now, window, time);
        let rate = |series: &[&Series]| of(series, short).min(of(series, Span(short.0 / 4).max(BRIEF)));
        let (cold, warm) = if part.segmented { (self.now.cold, self.now.warm) } else { (0, 0) };
        let cold = cold.min(self.now.items);
        let warm = warm.min(self.now.items - cold);
        let hot_hits = if part.segmented { rate(&[&self.hits, &self.cold_hits, &self.warm_hits]) } else { rate(&[&self.hits]) };
        let parts = [(cold, rate(&[&self.cold_hits])), (warm, rate(&[&self.warm_hits])), (self.now.items - cold - warm, hot_hits)];
        let asked = parts.map(|(items, hits)| {
            let requests = wide(hits, payback.as_millis()) / 1_000_000;
            wide(items, requests) / items.saturating_add(requests).max(1)
        });
        let once = (asked.iter().sum::<u64>() / self.now.pages.max(1)).min(page.saturating_sub(self.now.free));
        Loss { milli: self.tail(now, window, part), once, free: false }
    }

    /// Hits of the page that is next to go, in thousandths per second.
    fn tail(&self, now: Time, window: Span, Part { segmented, near }: Part) -> u64 {
        let page = self.now.chunks_per_page.max(1);
        // Once what is asked for again leaves the cold part, hits there are hits near the end.
        let average = if segmented && self.now.cold >= (page / 2).max(1) {
            wide(self.rate(&self.cold_hits, now, window), page) / self.now.cold
        } else {
            self.rate(&self.hits, now, window) / self.now.pages.max(1)
        };
        // Hits that half of the class would have had, too, are no work of the other half.
        let far = near.map(|near| wide(self.rate(&self.hits, now, window), 1000 - near.0.min(1000)) / 500 / self.now.pages.max(1));
        let average = far.map_or(average, |far| average.min(far));
        let short = Time(now.0.saturating_sub(self.short(now, window).0));
        let (evicted, reclaimed) = (self.evicted.since(short), self.reclaimed.since(short));
        if reclaimed > 0 {
            // What has expired at the end of the list is worth nothing, and goes first.
            return wide(average, evicted) / evicted.saturating_add(reclaimed);
        }
        let known = self.known();
        let beyond = self.chunks().saturating_add(page.max(self.chunks() / 8));
        let seen = page.max(wide(self.returns.back().map_or(1, |r| r.weight), LEAST_SEEN));
        if known < beyond.saturating_add(seen) || !self.evicts(now, window) {
            return average;
        }
        let evidence = self.evidence(now, window);
        let came = self.came_back_from(evidence, self.chunks(), beyond);
        let edge = wide(evidence.per_second(came.at_most()), page) / (beyond - self.chunks());
        average.min((edge / 100 * OVER_THE_EDGE).max(average / TAIL_PART))
    }

    /// Thousandths per second, at most, over a quarter of the window.
    fn rate(&self, series: &Series, now: Time, window: Span) -> u64 {
        Self::rate_of(&[series], now, window, self.short(now, window))
    }

    /// Thousandths per second, at most: over `short`, or a part of what it was for long. Of the first series without the others.
    fn rate_of(series: &[&Series], now: Time, window: Span, short: Span) -> u64 {
        let of = |count: &dyn Fn(&Series) -> u64| {
            let mut counts = series.iter().map(|series| count(series));
            counts.next().map_or(0, |first| counts.fold(first, u64::saturating_sub))
        };
        let count = of(&|series| series.since(Time(now.0.saturating_sub(short.0))));
        let lately = per_second(count.saturating_add(count.isqrt() + 1), short);
        lately.max(of(&|series| milli(series, now, Span(window.0 * 2))) / LONG_MEMORY)
    }

    /// How much evictions have told of what it would earn: all, in the end.
    #[must_use]
    pub fn confidence(&self, now: Time, window: Span) -> Permil {
        let samples = self.came_back_from(self.evidence(now, window), 0, u64::MAX).samples;
        Permil(1000 * samples / (samples + HALF_SURE))
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of::<Self>() as u64 + 9 * 32 * 16 + self.returns.len() as u64 * 32
    }
}

/// What the returns are set against.
#[derive(Clone, Copy, Debug)]
struct Evidence {
    /// Items that left while they came.
    left: u64,
    /// ... and since who leaves is known by name.
    told: u64,
    /// Items that come now, in thousandths per second.
    come_milli: u64,
}

impl Evidence {
    /// So many thousandths of those who left, in thousandths per second of now.
    fn per_second(self, thousandths: u128) -> u64 {
        let milli = thousandths.saturating_mul(u128::from(self.come_milli)) / 1000 / u128::from(self.left);
        u64::try_from(milli).unwrap_or(u64::MAX)
    }
}

/// What came back, in thousandths of an item.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    weight: u128,
    /// Of the weights: chance is in these.
    squares: u128,
    heaviest: u128,
    /// Keys that told of it.
    samples: u64,
}

impl Came {
    fn add(&mut self, weight: u128) {
        self.weight = self.weight.saturating_add(weight);
        self.squares = self.squares.saturating_add(weight.saturating_mul(weight));
        self.heaviest = self.heaviest.max(weight);
        self.samples += 1;
    }

    /// The part that is there by more than chance: a standard deviation less, and nothing of fewer than three, or of as few that
    /// weigh more than all others; without the heaviest one, where that leaves more.
    fn at_least(&self) -> u128 {
        let sure = |weight: u128, squares: u128| {
            let few = weight.saturating_mul(weight) < squares.saturating_mul(3);
            if few { 0 } else { weight.saturating_sub(squares.isqrt()) }
        };
        let others = self.squares.saturating_sub(self.heaviest.saturating_mul(self.heaviest));
        sure(self.weight, self.squares).max(sure(self.weight - self.heaviest, others))
    }

    /// A standard deviation and one more.
    fn at_most(&self) -> u128 {
        self.weight.saturating_add(self.squares.isqrt()).saturating_add(self.weight / u128::from(self.samples.max(1)))
    }
}

/// Which part of a class its coldest page is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// What is asked for again leaves the cold part of the list.
    pub segmented: bool,
    /// So many of the hits half of the class would have had, too; none where that is not known.
    pub near: Option<Permil>,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub hits: u64,
    pub sets: u64,
    pub evictions: u64,
    pub reclaimed: u64,
    /// Evictions of items that had been asked for.
    pub fetched: u64,
}

/// Growth in thousandths per second.
fn milli(series: &Series, now: Time, over: Span) -> u64 {
    series.per_min(now, over).saturating_mul(50) / 3
}

/// Thousandths per second of so many in that time.
fn per_second(count: u64, over: Span) -> u64 {
    wide(count, 1_000_000) / over.as_millis().max(1)
}

fn wide(a: u64, b: u64) -> u64 {
    a.saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use super::Came;

    fn came(weights: impl IntoIterator<Item = u128>) -> Came {
        let mut came = Came::default();
        weights.into_iter().for_each(|weight| came.add(weight));
        came
    }

    #[test]
    fn chance_is_in_the_weights() {
        assert_eq!([came([1000; 2]), came([1000; 100])].map(|c| (c.at_least(), c.at_most())), [(0, 4414), (90_000, 111_000)]);
        // One that stands for a hundred is one chance, whatever there is beside it.
        let one = came([1000; 99].into_iter().chain([100_000]));
        assert_eq!((one.at_least() / 1000, one.at_most() / 1000), (98, 301));
        assert_eq!(came([1000; 99].into_iter().chain([200_000])).at_least(), came([1000; 99]).at_least());
        assert_eq!(came([1000, 1000, 100_000]).at_least(), 0);
        assert_eq!((came([]).at_least(), came([]).at_most()), (0, 0));
    }
}
