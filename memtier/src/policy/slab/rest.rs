//! When the records of a server are read: while there is something to gain by them.

use super::{EVICTED, Knobs, window};
use crate::model::Cache;
use crate::plan::Served;
use crate::vocab::{Measure, Permil, Reason, Rule, Span, Time};

/// Records of a server that writes fewer of them a second cost it a thousandth of a CPU at most, and are read on.
const CHEAP_PER_S: u64 = 200;
/// A class that evicts slowly is not known soon, and is waited for so many times as long.
const PATIENCE: u64 = 4;

/// Whether its streams may be closed: for so long nothing was worth a move, and as much is known as will be.
pub(super) fn rests(cache: &Cache, served: Option<&Served>, knobs: &Knobs, now: Time, refusal: &Reason) -> Option<Reason> {
    let after = Span::from_secs(knobs.rest_after_s);
    let still = cache.told_for(now)?.min(served.and_then(|served| served.paged_at).map_or(Span(u64::MAX), |at| now.since(at)));
    if refusal.rule != Rule::NotWorth || after == Span::ZERO || still < after {
        return None;
    }
    let evicting = || cache.classes().map(|(_, class)| class).filter(|class| class.evicts(now, Span(window(knobs).0 * EVICTED)));
    let known = evicting().all(|class| class.known() >= class.chunks().saturating_add(class.now.chunks_per_page));
    let per_s: u64 = evicting().map(|class| class.rates(now, window(knobs)).evictions).sum();
    let dear = per_s >= CHEAP_PER_S || evicting().next().is_none();
    (dear && (known || still.0 / PATIENCE >= after.0)).then(|| {
        Reason::new(Rule::SlabRest)
            .saw(Measure::Watched, still, after, "caches.rest_after_s")
            .flips_at(still.as_secs() + 1)
            .note(format!("{} writes {per_s} records of evictions a second, and nothing was worth a move", cache.server.address))
    })
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
