//! Pages of memcached servers where they earn hits: from the class that loses least by one to the class that gains most.
//! docs/policies/slab-marginal.md is the essay.

mod flash;
mod rest;
mod scripts;

use super::{Advice, Class as Rank, Policy, Proposal, View};
use crate::config::{Caches as Knobs, Config};
use crate::model::caches::{Class, Gain, Loss};
use crate::model::{Cache, Sight};
use crate::plan::Served;
use crate::vocab::{
    Action, CacheStream, Charge, ClassId, Hold, Idle, Measure, Need, Place, PolicyId, Quantity, Reason, Rule, ServerId, Source,
    Span, Subject, Time,
};
pub use flash::loss;
use flash::{enough, free_chunks, is_short, refill};
use rest::{rests, trifle, wakes};

/// A server keeps the last two pages of a class.
const KEPT: u64 = 2;
/// A class has enough that has room for what comes in this time.
const AHEAD: Span = Span::from_secs(1);
/// A class that is this much free, in tenths of a page, gives one to the pool.
const FREE_TENTHS: u64 = 25;
/// What a page costs from then on is known only when it is felt, so a class gives no more than this part of its pages in a quarter
/// of the window, ...
const PART: u64 = 8;
/// A class that was given pages evicts nobody for a while; what it evicted in so many windows still counts.
const EVICTED: u64 = 4;
/// ... unless the page earns so many times as much elsewhere.
const BY_FAR: u64 = 4;
/// Longest wait between two pages of a class whose items expire.
const EXPIRY_MOST: Span = Span::from_secs(4);
/// The same advice is not given again before.
const ADVICE: Span = Span::from_secs(10);
const LIFETIME: Span = Span::from_secs(5);
/// Blindness is told this often; else it is looks that are answered.
const TURN: Span = Span::from_secs(5);

/// slab-marginal, or one of memcached's scripts: `SlabExtstore`, `SlabAutomove`.
#[derive(Debug)]
pub struct Slab(pub PolicyId);

impl Policy for Slab {
    fn id(&self) -> PolicyId {
        self.0
    }
    fn wanted(&self, config: &Config) -> bool {
        config.cache.iter().any(|rule| rule.policy() == self.id())
    }
    /// It answers looks; a server that gives none has its turn all the same.
    fn period(&self, config: &Config) -> Option<Span> {
        self.wanted(config).then_some(TURN)
    }
    fn acts(&self) -> bool {
        true
    }
    /// That a server is the one that was meant, the step itself finds out.
    fn meets_processes(&self) -> bool {
        false
    }
    fn needs(&self) -> &'static [Need] {
        &[]
    }
    fn sources(&self) -> &'static [Source] {
        &[]
    }

    fn advise(&self, view: &View<'_>) -> Advice {
        advise(view, self.0, |server| match self.0 {
            PolicyId::SlabMarginal => step(view, server),
            by => scripts::step(view, server, by),
        })
    }
}

/// For each server of the policy a step, or why there is none.
fn advise(view: &View<'_>, by: PolicyId, step: impl Fn(ServerId) -> Result<Proposal, Reason>) -> Advice {
    let mut advice = Advice::default();
    if !view.config.caches.enabled {
        advice.idles.push(Idle { policy: by, reason: Reason::new(Rule::TurnedOff).note("caches.enabled = false") });
        return advice;
    }
    for (server, _) in (0..).map(ServerId).zip(&view.config.cache).filter(|(_, rule)| rule.policy() == by) {
        match step(server) {
            Ok(proposal) => advice.proposals.push(proposal),
            Err(reason) => advice.holds.push(Hold { subject: Subject::Cache(server), by, reason }),
        }
    }
    advice
}

fn proposal(by: PolicyId, action: Action, gain: u64, reason: Reason) -> Proposal {
    Proposal { action, by, class: Rank::CacheInternal, gain, charge: Charge::default(), lifetime: LIFETIME, reason }
}

/// The server's own mover is switched off before the first page moves.
fn takeover(view: &View<'_>, server: ServerId, cache: &Cache, by: PolicyId) -> Option<Proposal> {
    let mode = cache.look.automove.filter(|mode| *mode != 0 && moves(view))?;
    let proc = cache.server.proc.unwrap_or(server.nobody());
    let reason = Reason::new(Rule::SlabTakeover).note(format!("slabs automove is {mode} at {}", cache.server.address));
    Some(proposal(by, Action::SetMover { server, proc, mode: 0 }, u64::MAX, reason))
}

const fn moves(view: &View<'_>) -> bool {
    view.config.daemon.act && view.config.caches.pages_per_s > 0
}

fn step(view: &View<'_>, server: ServerId) -> Result<Proposal, Reason> {
    let (knobs, now) = (&view.config.caches, view.now);
    let (cache, served) = able(view, server)?;
    if cache.rest().is_none() {
        ready(cache, knobs, now)?;
    }
    let proc = cache.server.proc.unwrap_or(server.nobody());
    let proposal = |action, gain, reason| proposal(PolicyId::SlabMarginal, action, gain, reason);
    // Its own mover rests for one that will do better, and for none else.
    let sees = cache.told_for(now).is_some() || cache.lacks(CacheStream::Evictions).is_some() || cache.rest().is_some();
    if let Some(step) = takeover(view, server, cache, PolicyId::SlabMarginal).filter(|_| sees) {
        return Ok(step);
    }
    if let Some((chunks, reason)) = free_chunks(cache, served, knobs, now).filter(|_| moves(view) && sees) {
        return Ok(proposal(Action::SetFree { server, proc, chunks }, u64::MAX, reason));
    }
    if let Some(reason) = wakes(cache, knobs, now) {
        return Ok(proposal(Action::SetWatch { server, proc, on: true }, u64::MAX, reason?));
    }
    let page = choose(cache, served, knobs, now).and_then(|page| trifle(cache, knobs, now, &page).map_or(Ok(page), Err));
    let Page { from, to, worth, together: _, reason } = match page {
        Ok(page) => page,
        Err(reason) => {
            let rests = rests(cache, served, knobs, now, &reason).ok_or(reason)?;
            return Ok(proposal(Action::SetWatch { server, proc, on: false }, 0, rests));
        }
    };
    Ok(proposal(Action::MoveSlabPage { server, proc, from, to }, worth, reason))
}

/// Whether anything may be done at all.
fn able<'v>(view: &View<'v>, server: ServerId) -> Result<(&'v Cache, Option<&'v Served>), Reason> {
    let now = view.now;
    let cache = view.models.caches.get(server).ok_or_else(|| Reason::new(Rule::SourceBlind).note("not heard of yet"))?;
    let served = view.ledger.served(server);
    match &cache.sight {
        Sight::Seeing { .. } => {}
        Sight::Blind { why, .. } => return Err(Reason::new(Rule::SourceBlind).note(why.clone())),
        Sight::Never => return Err(Reason::new(Rule::SourceBlind).note("not heard of yet")),
    }
    if !cache.server.reassign {
        return Err(Reason::new(Rule::HostLacks).note(format!("{} was started without slab_reassign", cache.server.address)));
    }
    if let Some(served) = served {
        if let Some(until) = served.futile_until().filter(|until| *until > now) {
            let reason =
                Reason::new(Rule::ServerRefuses).saw(Measure::SinceLastMove, now.since(served.at), until.since(served.at), "");
            return Err(reason.note(served.why.clone()));
        }
        if served.unchanged && now.since(served.at) < ADVICE {
            let reason = Reason::new(Rule::Settling).saw(Measure::SinceLastMove, now.since(served.at), ADVICE, "");
            return Err(reason.note("the same advice was given"));
        }
    }
    if cache.look.moving {
        return Err(Reason::new(Rule::InFlight).note("the server moves a page"));
    }
    Ok((cache, served))
}

/// Whether enough was seen.
fn ready(cache: &Cache, knobs: &Knobs, now: Time) -> Result<(), Reason> {
    let seen = if let Sight::Seeing { since } = cache.sight { now.since(since) } else { Span::ZERO };
    let (watched, warmup) = (cache.told_for(now).unwrap_or(seen), Span::from_secs(knobs.warmup_s));
    if cache.looked.is_none() || watched < warmup {
        return Err(Reason::new(Rule::WarmUp)
            .saw(Measure::Watched, watched, warmup, "caches.warmup_s")
            .flips_at(watched.as_secs()));
    }
    Ok(())
}

/// A page that shall go, and what it earns more than it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    from: Place,
    to: Place,
    worth: u64,
    /// Of all pages that are worth it together, to whichever class.
    together: u64,
    reason: Reason,
}

/// A class that gives.
#[derive(Clone, Copy, Debug)]
struct Giver {
    id: ClassId,
    pages: u64,
    /// Of these, what it may give.
    spare: u64,
    loss: Loss,
    /// From then on, with the hysteresis.
    lasting: u64,
    /// What a page must earn elsewhere, with all that it costs.
    price: u64,
}

/// The page whose move earns most, or why none moves.
fn choose(cache: &Cache, served: Option<&Served>, knobs: &Knobs, now: Time) -> Result<Page, Reason> {
    let sources = sources(cache, served, knobs, now);
    let evicts = |class: &Class| class.evicts(now, Span(window(knobs).0 * EVICTED));
    let gaining = cache.classes().filter(|(_, class)| evicts(class) || is_short(cache, class, knobs, now));
    let (mut best, mut refusal) = match refill(cache, served, knobs, now, &sources) {
        None => (None, None),
        Some(Ok(page)) => (Some(page), None),
        Some(Err(refusal)) => (None, Some(refusal)),
    };
    let mut together = best.as_ref().map_or(0, |page| page.together);
    for (id, class) in gaining {
        match page_for(cache, served, knobs, now, (id, class), &sources) {
            Ok(page) => {
                together = together.saturating_add(page.together);
                if best.as_ref().is_none_or(|best| page.worth > best.worth) {
                    best = Some(page);
                }
            }
            Err((gain, reason)) if refusal.as_ref().is_none_or(|(most, _)| gain > *most) => refusal = Some((gain, reason)),
            Err(_) => {}
        }
    }
    best.map(|best| Page { together, ..best }).or_else(|| to_the_pool(cache, knobs, now, &sources)).ok_or_else(|| {
        let quiet = || Reason::new(Rule::NotWorth).note("no class evicts: more memory would earn none of them a hit");
        refusal.map_or_else(quiet, |(_, reason)| reason)
    })
}

const fn window(knobs: &Knobs) -> Span {
    Span::from_secs(knobs.window_s)
}

/// Cheapest first.
fn sources(cache: &Cache, served: Option<&Served>, knobs: &Knobs, now: Time) -> Vec<Giver> {
    let (window, left) = (window(knobs), flash::left(cache, knobs, now));
    let source = |(id, class): (ClassId, &Class)| {
        let pages = class.now.pages;
        let spare = pages.saturating_sub(if flash::in_use(cache, class, knobs, now) { left } else { KEPT });
        let loss = loss(cache, class, knobs, now);
        // Who was given a page keeps it, but for what it did not come to use.
        let got = served.and_then(|served| served.got_at(Place::Class(id))).is_some_and(|at| now.since(at) < window);
        let lasting = loss.milli.saturating_mul(1000 + knobs.hysteresis_permil) / 1000;
        let price = lasting.saturating_add(loss.once.saturating_mul(1000) / knobs.payback_s.max(1));
        (spare > 0 && (loss.free || !got)).then_some(Giver { id, pages, spare, loss, lasting, price })
    };
    let mut sources: Vec<Giver> = cache.classes().filter_map(source).collect();
    sources.sort_by_key(|source| (source.price, std::cmp::Reverse(source.pages), source.id));
    sources
}

/// A page for this class. `Err`: what it would gain, and why it gets none.
fn page_for(
    cache: &Cache,
    served: Option<&Served>,
    knobs: &Knobs,
    now: Time,
    (id, class): (ClassId, &Class),
    sources: &[Giver],
) -> Result<Page, (u64, Reason)> {
    let others = move || sources.iter().filter(move |source| source.id != id);
    let most: u64 = others().map(|source| source.spare).sum();
    let known = gains(cache, class, knobs, now, most);
    // As many pages as there are that cost less than they earn there.
    let affordable =
        |gain: &Gain| others().filter(|source| source.price < gain.milli).map(|source| source.spare).sum::<u64>() >= gain.pages;
    let best = known.iter().filter(|gain| affordable(gain)).max_by_key(|gain| gain.milli);
    let Some(gain) = best.or_else(|| known.iter().max_by_key(|gain| gain.milli)).copied() else {
        return Err((
            0,
            Reason::new(Rule::NotWorth).note(format!("nothing of what class {id} evicts is known to come back", id = id.0)),
        ));
    };
    let refuse = |reason| Err((gain.milli, reason));
    let (earns, least) = (Quantity::milli_hits(gain.milli), Quantity::milli_hits(knobs.least_gain_milli));
    if gain.milli < knobs.least_gain_milli {
        let reason = Reason::new(Rule::NotWorth).saw(Measure::PageGain, earns, least, "caches.least_gain_milli");
        return refuse(reason.flips_at(gain.milli).note(format!("for class {}", id.0)));
    }
    // Who writes to flash takes none of a pool that is low.
    let low = flash::early(cache).filter(|_| cache.writes_to_flash(class)).unwrap_or(0);
    if cache.look.pool > low {
        let (pool, low) = (Quantity::count(cache.look.pool), Quantity::count(low));
        let reason = Reason::new(Rule::HasFree).saw(Measure::SlabPages, pool, low, "");
        return refuse(reason.note(format!("class {} takes of the pool", id.0)));
    }
    let needs = class.appetite(now, window(knobs), AHEAD).saturating_add(enough(cache, class, knobs));
    if class.now.free > needs {
        let reason =
            Reason::new(Rule::HasFree).saw(Measure::FreeChunks, Quantity::count(class.now.free), Quantity::count(needs), "");
        return refuse(reason.note(format!("class {} has room for what comes in a second", id.0)));
    }
    let Some(source) = others().find(|source| source.price < gain.milli && !paced(cache, served, knobs, now, source, gain.milli))
    else {
        return refuse(dear(others().next(), &gain, knobs, id));
    };
    let price = Quantity::milli_hits(source.price);
    let knob = if source.loss.milli > 0 { "caches.hysteresis_permil" } else { "caches.payback_s" };
    let mut reason = Reason::new(Rule::SlabGain).saw(Measure::PageGain, earns, price, knob);
    if let Some(flip) = dearest(&gain, source, knobs) {
        reason = reason.flips_at(flip);
    }
    let reason = reason.saw(Measure::PageLoss, Quantity::milli_hits(source.loss.milli), earns, "").note(format!(
        "a page of class {} to class {} at {}; {}",
        source.id.0,
        id.0,
        cache.server.address,
        by(&gain, source)
    ));
    let worth = gain.milli - source.price;
    Ok(Page { from: Place::Class(source.id), to: Place::Class(id), worth, together: worth.saturating_mul(gain.pages), reason })
}

/// By the records of evictions; by counters where there are none: the page that would come is asked for about as often as the
/// last one that is there.
pub fn gains(cache: &Cache, class: &Class, knobs: &Knobs, now: Time, most: u64) -> Vec<Gain> {
    let window = window(knobs);
    // What is evicted all the same, for flash is slow, is lost as elsewhere.
    let reads = is_short(cache, class, knobs, now).then(|| flash::gain(cache, class, knobs, now)).flatten().filter(|_| most > 0);
    if cache.told_for(now).is_some() {
        return class.gains(now, window, most).into_iter().chain(reads).collect();
    }
    if reads.is_some() {
        return reads.into_iter().collect();
    }
    let last = cache.loss(class, now, window, Span::ZERO, 0);
    let known = cache.lacks(CacheStream::Evictions).is_some() && most > 0 && !last.free;
    known.then_some(Gain { pages: 1, milli: last.milli / 5 * 4, samples: 0, inferred: true }).into_iter().collect()
}

/// Whether this class gave enough for now.
fn paced(cache: &Cache, served: Option<&Served>, knobs: &Knobs, now: Time, source: &Giver, gain: u64) -> bool {
    let (Some(served), Some(class)) = (served, cache.class(source.id)) else { return false };
    let place = Place::Class(source.id);
    if source.loss.free {
        return false;
    }
    let reclaimed = class.rates(now, window(knobs)).reclaimed;
    if reclaimed > 0 && source.loss.milli == 0 {
        // Its dead items make room for new ones at this rate; how many there are nobody says.
        let wait = Span::from_millis(class.now.chunks_per_page.saturating_mul(1000) / reclaimed).min(EXPIRY_MOST);
        return served.gave_at(place).is_some_and(|at| now.since(at) < wait);
    }
    if gain / BY_FAR >= source.loss.milli {
        return false;
    }
    let from = Time(now.0.saturating_sub(window(knobs).0 / 4));
    served.gave_since(place, from) >= (source.pages / PART).max(1)
}

/// The hysteresis at which it would not have moved.
fn dearest(gain: &Gain, source: &Giver, knobs: &Knobs) -> Option<u64> {
    let once = source.loss.once.saturating_mul(1000) / knobs.payback_s.max(1);
    if source.loss.milli == 0 {
        // By how soon it pays, then.
        return (source.loss.once > 0).then(|| source.loss.once.saturating_mul(1000) / gain.milli.max(1));
    }
    let most = gain.milli.saturating_sub(once).saturating_mul(1000) / source.loss.milli;
    most.checked_sub(1000)
}

fn by(gain: &Gain, source: &Giver) -> String {
    let known = match gain {
        Gain { samples: 0, .. } => "by its last page".to_owned(),
        Gain { samples, inferred: true, .. } => format!("inferred from {samples} keys that came back"),
        Gain { samples, inferred: false, .. } => format!("by {samples} keys that came back"),
    };
    let way = if source.loss.free { "; that page is free".to_owned() } else { format!("; {} items go with it", source.loss.once) };
    format!("{known}, {} pages on{way}", gain.pages)
}

/// Every page costs more than it would earn.
fn dear(cheapest: Option<&Giver>, gain: &Gain, knobs: &Knobs, id: ClassId) -> Reason {
    let Some(source) = cheapest else {
        return Reason::new(Rule::NotWorth).note(format!("no other class has a page to spare for class {}", id.0));
    };
    let (earns, price) = (Quantity::milli_hits(gain.milli), Quantity::milli_hits(source.price));
    if source.price < gain.milli {
        let reason = Reason::new(Rule::Settling).saw(Measure::PageGain, earns, price, "");
        return reason.note(format!("class {} gave pages just now; what that costs must show first", source.id.0));
    }
    let reason = Reason::new(Rule::NotWorth).saw(Measure::PageGain, earns, price, "caches.hysteresis_permil");
    let reason = match dearest(gain, source, knobs) {
        Some(flip) if source.loss.milli > 0 => reason.flips_at(flip),
        Some(_) | None => reason,
    };
    reason.note(format!("for class {}, of class {}", id.0, source.id.0))
}

/// Free pages go back; and as many that earn nothing as the pool shall hold.
fn to_the_pool(cache: &Cache, knobs: &Knobs, now: Time, sources: &[Giver]) -> Option<Page> {
    let page = |source: &Giver, reason: Reason| {
        let note = format!("a page of class {} to the pool at {}", source.id.0, cache.server.address);
        Page { from: Place::Class(source.id), to: Place::Pool, worth: 1, together: 1, reason: reason.note(note) }
    };
    let still = |source: &&Giver| {
        cache
            .class(source.id)
            .is_some_and(|class| !class.evicts(now, window(knobs)) && class.appetite(now, window(knobs), AHEAD) == 0)
    };
    let free = sources.iter().filter(still).find_map(|source| {
        let class = cache.class(source.id)?;
        let bound = class.now.chunks_per_page * FREE_TENTHS / 10;
        let reason =
            Reason::new(Rule::SlabFree).saw(Measure::FreeChunks, Quantity::count(class.now.free), Quantity::count(bound), "");
        (source.loss.free && class.now.free > bound).then(|| page(source, reason))
    });
    let shall = (cache.pages().saturating_mul(knobs.pool_permil) / 1000).max(u64::from(knobs.pool_permil > 0));
    let (pool, most) = (Quantity::count(cache.look.pool), Quantity::count(shall));
    let dead = || {
        // While nobody is short of memory, what sleeps may as well wake up again.
        cache.classes().find(|(_, class)| class.evicts(now, Span(window(knobs).0 * EVICTED)))?;
        let earns_nothing = |source: &&Giver| source.price < knobs.least_gain_milli;
        let source = sources.iter().filter(still).find(earns_nothing)?;
        Some(page(source, Reason::new(Rule::SlabFree).saw(Measure::SlabPages, pool, most, "caches.pool_permil")))
    };
    free.or_else(|| if cache.look.pool < shall { dead() } else { None })
}
