//! When the records of a server are read: while there is something to gain by them.

use super::{EVICTED, Knobs, Page, window};
use crate::model::Cache;
use crate::plan::Served;
use crate::vocab::{Measure, Permil, Place, Quantity, Reason, Rule, Span, Time};

/// Records of a server that writes fewer of them a second cost it a thousandth of a CPU at most, and are read on.
const CHEAP_PER_S: u64 = 200;
/// A class that evicts slowly is not known soon, and is waited for so many times as long.
const PATIENCE: u64 = 4;

/// Whether its streams may be closed: for so long nothing was worth a move, and as much is known as will be.
pub(super) fn rests(cache: &Cache, served: Option<&Served>, knobs: &Knobs, now: Time, refusal: &Reason) -> Option<Reason> {
    let still = cache.told_for(now)?.min(served.and_then(|served| served.paged_at).map_or(Span(u64::MAX), |at| now.since(at)));
    let per_s = ripe(cache, knobs, now, still).filter(|_| refusal.rule == Rule::NotWorth)?;
    Some(
        Reason::new(Rule::SlabRest)
            .saw(Measure::Watched, still, Span::from_secs(knobs.rest_after_s), "caches.rest_after_s")
            .flips_at(still.as_secs() + 1)
            .note(format!("{} writes {per_s} records of evictions a second, and no move was worth having", cache.server.address)),
    )
}

/// Records that it writes per second, if they cost something and after so long no more is to be learned from them.
fn ripe(cache: &Cache, knobs: &Knobs, now: Time, watched: Span) -> Option<u64> {
    let after = Span::from_secs(knobs.rest_after_s);
    let evicting = || cache.classes().map(|(_, class)| class).filter(|class| class.evicts(now, Span(window(knobs).0 * EVICTED)));
    let known = evicting().all(|class| class.known() >= class.chunks().saturating_add(class.now.chunks_per_page));
    let per_s: u64 = evicting().map(|class| class.rates(now, window(knobs)).evictions).sum();
    let dear = per_s >= CHEAP_PER_S || evicting().next().is_none();
    let long = after > Span::ZERO && watched >= after && (known || watched.0 / PATIENCE >= after.0);
    (dear && long).then_some(per_s)
}

/// Why this page does not move after all: its server would rest by now, and is not kept from it by what comes to little.
pub(super) fn trifle(cache: &Cache, knobs: &Knobs, now: Time, page: &Page) -> Option<Reason> {
    ripe(cache, knobs, now, cache.told_for(now)?)?;
    little(cache, knobs, now, page)
}

/// Whether all pages that are worth it together, and as many such as this one as moved of late, would spare next to no misses. A
/// record is written for about each miss, so what they spare is set against misses.
fn little(cache: &Cache, knobs: &Knobs, now: Time, page: &Page) -> Option<Reason> {
    let Place::Class(_) = page.to else { return None };
    let after = Span::from_secs(knobs.rest_after_s);
    let spared = page.worth.saturating_mul(cache.moved(now, after)).saturating_add(page.together);
    let misses = cache.misses_milli(now, after);
    let least = misses.saturating_mul(knobs.rest_gain_permil) / 1000;
    let reason = || {
        Reason::new(Rule::NotWorth)
            .saw(Measure::PageGain, Quantity::milli_hits(spared), Quantity::milli_hits(least), "caches.rest_gain_permil")
            .flips_at(spared.saturating_mul(1000) / misses.max(1))
            .note("all that classes would gain, and what moved of late, comes to no more")
    };
    (spared < least).then(reason)
}

/// Of a server whose streams are closed: why they should be open again, or (`Err`) why not yet.
pub(super) fn wakes(cache: &Cache, knobs: &Knobs, now: Time) -> Option<Result<Reason, Reason>> {
    let (stir, rested) = (cache.stir(now, window(knobs))?, now.since(cache.rest()?.since));
    let (shift, most) = (stir.shift, Permil(knobs.rest_shift_permil));
    let seen = |rule| Reason::new(rule).saw(Measure::TrafficShift, shift, most, "caches.rest_shift_permil");
    let wake = if shift > most {
        Some(seen(Rule::SlabWake).flips_at(shift.0))
    } else if let Some(class) = stir.class {
        Some(seen(Rule::SlabWake).note(format!("class {} has other pages, or found none", class.0)))
    } else {
        let most = Span::from_secs(knobs.rest_s);
        let over = || Reason::new(Rule::SlabWake).saw(Measure::Rested, rested, most, "caches.rest_s");
        (rested >= most).then(|| over().flips_at(rested.as_secs() + 1))
    };
    let held = || seen(Rule::SlabRest).note("its records are not read: nothing was worth a move");
    Some(wake.ok_or_else(held))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::Models;
    use crate::vocab::{CacheLook, CacheSample, CacheTold, ClassId, ClassLook, Event, Sample, ServerId, Stamped};

    const AFTER: u64 = 120;

    /// After three minutes of so many misses a second, and pages that moved in the last of them.
    fn server(misses_per_s: u64, moved: u64) -> (Models, Time) {
        let (mut models, config, mut now) = (Models::default(), Config::default(), Time(0));
        for second in 0..=180 {
            now = Time(0).after(Span::from_secs(1000 + second));
            let class = ClassLook { class: ClassId(1), sets: second * misses_per_s, ..ClassLook::default() };
            let moved = if second < 150 { 7 } else { 7 + moved };
            let told = CacheTold::Look(Box::new(CacheLook { moved, classes: vec![class], ..CacheLook::default() }));
            let event = Event::Sample(Sample::Cache(CacheSample { server: ServerId(0), told }));
            models.fold(&Stamped { seq: second, at: now, event }, &config);
        }
        (models, now)
    }

    #[test]
    fn what_spares_next_to_no_misses_is_little() {
        let knobs = Knobs { rest_after_s: AFTER, rest_gain_permil: 10, ..Config::default().caches };
        // Misses a second, pages that moved; pages that are worth it together, thousandths of a hit a second of each; and whether.
        let cases = [
            (1000, 0, 1, 9_900, true),
            (1000, 0, 1, 10_100, false),
            (1000, 0, 16, 600, true),
            (1000, 0, 16, 700, false),
            (1000, 9, 1, 900, true),
            (1000, 9, 1, 1_100, false),
            (100, 0, 1, 1_100, false),
            (0, 0, 1, 1, false),
        ];
        for (misses, moved, pages, worth, expect) in cases {
            let (models, now) = server(misses, moved);
            let cache = models.caches.get(ServerId(0)).expect("it was looked at");
            let reason = || Reason::new(Rule::SlabGain);
            let page = |to| Page { from: Place::Class(ClassId(2)), to, worth, together: worth * pages, reason: reason() };
            let case = format!("{misses} misses, {moved} moved, {pages} pages of {worth}");
            assert_eq!(little(cache, &knobs, now, &page(Place::Class(ClassId(1)))).is_some(), expect, "{case}");
            assert_eq!(little(cache, &knobs, now, &page(Place::Pool)), None, "what is free goes to the pool: {case}");
            let off = Knobs { rest_gain_permil: 0, ..knobs.clone() };
            assert_eq!(little(cache, &off, now, &page(Place::Class(ClassId(1)))), None, "turned off: {case}");
        }
    }
}
