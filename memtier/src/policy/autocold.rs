//! The default: pages out the oldest idle ages of which the predicted promotion rate stays under the SLO.
//! docs/policies/autocold.md is the essay.

use super::taking::{self, Refusal, calming, released};
use super::{Advice, Policy, Proposal, View};
use crate::config::Config;
use crate::model::{Cold, ProcHeat};
use crate::plan::Selection;
use crate::vocab::{
    AddrRange, BLOCK_PAGES, Measure, Need, Pages, Permil, PolicyId, ProcKey, Quantity, Reason, Rule, Source, Span, Time,
};

/// Under this share of asked pages the promotion histogram speaks for too little of the process.
const TRUSTED: Permil = Permil(500);
/// Who hardly ran for so long before a walk did not touch in it what it uses.
const LATELY: Span = Span::from_secs(30);
/// Idle ages are told in ticks; so many are sure to be over at most.
const MOST_TICKS: u64 = 254;

#[derive(Debug)]
pub struct Autocold;

impl Policy for Autocold {
    fn id(&self) -> PolicyId {
        PolicyId::Autocold
    }
    fn period(&self, config: &Config) -> Option<Span> {
        Some(Span::from_millis(config.autocold.period_ms))
    }
    fn acts(&self) -> bool {
        true
    }
    fn needs(&self) -> &'static [Need] {
        &[Need::SwapPages, Need::ProcessMadvise]
    }
    fn sources(&self) -> &'static [Source] {
        &[Source::Walker, Source::Host, Source::Psi]
    }

    fn advise(&self, view: &View<'_>) -> Advice {
        let id = self.id();
        if !view.config.autocold.enabled || view.config.autocold.slo_permil_per_min == 0 {
            let note = "autocold.enabled is false or autocold.slo_permil_per_min is 0";
            return Refusal::Idle(Reason::new(Rule::TurnedOff).note(note)).into_advice(id);
        }
        let release = match taking::host(view) {
            Ok(release) => release,
            Err(refusal) => return refusal.into_advice(id),
        };
        let mut advice = Advice::default();
        for (proc, selection) in view.selected(id).filter(|(proc, _)| !view.is_answered(*proc)) {
            match consider(view, proc, selection, release) {
                Ok(proposal) => advice.proposals.push(proposal),
                Err(reason) => advice.holds.push(View::hold(id, proc, reason)),
            }
        }
        advice
    }
}

/// Whether more comes back to this process than the SLO allows, with the numbers.
#[must_use]
pub fn refaulting(heat: &ProcHeat, config: &Config, now: Time) -> (bool, u64) {
    let (working_set, refaults) = (heat.working_set(now), heat.refaults_per_min(now));
    (refaults > allowed(config.autocold.slo_permil_per_min, working_set), per_working_set(refaults, working_set))
}

/// Promotions per minute that the SLO allows.
const fn allowed(slo: u64, working_set: Pages) -> u64 {
    working_set.scale(slo, 1000).0
}

/// Pages per minute in thousandths of the working set, rounded up: what an SLO must be to allow them.
const fn per_working_set(pages: u64, working_set: Pages) -> u64 {
    let thousandths = pages as u128 * 1000;
    let whole = if working_set.0 == 0 { 1 } else { working_set.0 as u128 };
    let rate = thousandths.div_ceil(whole);
    if rate > u64::MAX as u128 { u64::MAX } else { rate as u64 }
}

fn consider(view: &View<'_>, proc: ProcKey, selection: Selection, release: Permil) -> Result<Proposal, Reason> {
    let heat = trusted(view, proc)?;
    let release = release.min(braked(view, proc, heat)?);
    taking::settled(view, proc)?;
    let knobs = &view.config.autocold;
    let resident = heat.resident();
    // What is only marked stays where it is and would be chosen again: all of it at once, then.
    let share = if knobs.mild { Permil(1000) } else { Permil(knobs.step_permil) };
    let most = taking::above_floor(view, proc, selection, resident)?.min(taking::step(resident, share, release));
    let (age, predicted, working_set) = age(view, heat)?;
    // What it touched since the last walk is not known yet.
    let walked = heat.scan_at().unwrap_or(view.now);
    taking::starved(view, proc, Time(walked.0.saturating_sub(LATELY.0)), walked)?;
    let eligible = taking::eligible(view, proc);
    let cold = idle_for(view, heat, age, most, &eligible);
    if cold.pages == Pages::ZERO {
        let block = Pages(BLOCK_PAGES as u64);
        if most < block && idle_for(view, heat, age, block, &eligible).pages > Pages::ZERO {
            return Err(taking::too_near_the_floor(view, proc, selection, resident));
        }
        return Err(too_young(view, heat, age, working_set, &eligible));
    }
    let reason =
        why(view, heat, &cold, (age, predicted, working_set)).saw(Measure::ColdPages, cold.pages, most, "autocold.step_permil");
    Ok(taking::proposal(view, PolicyId::Autocold, proc, cold, knobs.mild, reason))
}

/// Idle when last seen: what came since, nobody knows. Idleness begins somewhere inside a tick, so of the ticks that the
/// model tells one may not be over.
fn idle_for(view: &View<'_>, heat: &ProcHeat, age: Span, most: Pages, within: &[AddrRange]) -> Cold {
    let tick = Span::from_millis(view.config.heat.age_tick_ms);
    let seen = heat.scan_at().unwrap_or(view.now);
    let mut cold = heat.cold(seen, age.saturating_add(tick), most, within);
    (cold.youngest, cold.oldest) = (cold.youngest.saturating_sub(tick), cold.oldest.saturating_sub(tick));
    cold
}

/// Nothing is as old as it must be: what there is, and which knob asks for more.
fn too_young(view: &View<'_>, heat: &ProcHeat, age: Span, working_set: Pages, eligible: &[AddrRange]) -> Reason {
    let knobs = &view.config.autocold;
    let old = idle_for(view, heat, Span::ZERO, Pages::MAX, eligible);
    let reason = Reason::new(Rule::NothingCold);
    if old.pages == Pages::ZERO {
        return reason
            .saw(Measure::ColdPages, old.pages, Pages(1), "")
            .note("every page that may go was accessed since it was asked");
    }
    // Lowering one knob alone only helps where the other one lets these pages go.
    let needed = per_working_set(promotions(heat, view.now, old.oldest), working_set);
    let (least, slo) = (Span::from_secs(knobs.min_idle_s), knobs.slo_permil_per_min);
    let reason = reason.saw(Measure::IdleAge, old.oldest, age, "autocold.min_idle_s");
    if needed <= slo {
        return reason.flips_at(old.oldest.as_secs().max(1));
    }
    let rates = (Quantity::permil_per_min(needed), Quantity::permil_per_min(slo));
    let reason = reason.saw(Measure::PredictedPromotion, rates.0, rates.1, "autocold.slo_permil_per_min");
    if old.oldest >= least { reason.flips_at(needed) } else { reason }
}

fn why(view: &View<'_>, heat: &ProcHeat, cold: &Cold, (age, predicted, working_set): (Span, u64, Pages)) -> Reason {
    let rate = |pages| per_working_set(pages, working_set);
    let slo = Quantity::permil_per_min(view.config.autocold.slo_permil_per_min);
    // An SLO just under the rate of the youngest of these pages keeps it.
    let flip = rate(promotions(heat, view.now, cold.youngest)).checked_sub(1);
    let reason = Reason::new(Rule::AutocoldIdle)
        .saw(Measure::IdleAge, cold.youngest, age, "autocold.min_idle_s")
        .flips_at(cold.oldest.as_secs().saturating_add(1))
        .saw(Measure::PredictedPromotion, Quantity::permil_per_min(rate(predicted)), slo, "autocold.slo_permil_per_min");
    let reason = flip.into_iter().fold(reason, Reason::flips_at);
    reason.saw(Measure::WorkingSet, working_set, heat.resident(), "")
}

/// The model of this process, if it has watched long enough and enough of it.
fn trusted<'a>(view: &View<'a>, proc: ProcKey) -> Result<&'a ProcHeat, Reason> {
    let warmup = Span::from_secs(view.config.autocold.warmup_s);
    let watched = view.ledger.account(proc).first_walk.map(|first| view.now.since(first));
    let (Some(heat), Some(watched)) = (view.models.heat.get(proc), watched) else {
        return Err(Reason::new(Rule::WarmUp).note("not walked yet"));
    };
    if watched < warmup {
        return Err(Reason::new(Rule::WarmUp)
            .saw(Measure::Watched, watched, warmup, "autocold.warmup_s")
            .flips_at(watched.as_secs()));
    }
    let confidence = heat.confidence();
    if confidence < TRUSTED {
        let reason = Reason::new(Rule::WarmUp).saw(Measure::Confidence, confidence, TRUSTED, "");
        let armed = view.config.daemon.arm || view.config.daemon.act;
        return Err(if armed { reason } else { reason.note("accessed bits are never cleared: allow it by daemon.arm (--arm)") });
    }
    Ok(heat)
}

fn braked(view: &View<'_>, proc: ProcKey, heat: &ProcHeat) -> Result<Permil, Reason> {
    let (over, rate) = refaulting(heat, view.config, view.now);
    let refuse = || {
        let slo = Quantity::permil_per_min(view.config.autocold.slo_permil_per_min);
        Reason::new(Rule::RefaultBrake).saw(
            Measure::MeasuredRefault,
            Quantity::permil_per_min(rate),
            slo,
            "autocold.slo_permil_per_min",
        )
    };
    let account = view.ledger.account(proc);
    let calm = released(view, account.refaulted);
    // What came back before we took anything is not our doing.
    if over && account.total > Pages::ZERO {
        return Err(if calm.is_ok() { refuse().flips_at(rate) } else { refuse() });
    }
    calm.map_err(|since| calming(view, refuse(), since))
}

/// The worse of the mean and the worst recent minute.
fn promotions(heat: &ProcHeat, now: Time, idle: Span) -> u64 {
    heat.promotions_per_min(now, idle).max(heat.worst_promotions_per_min(now, idle))
}

/// The smallest idle age of at least `min_idle_s` whose predicted promotions meet the SLO, those promotions, and the
/// working set. Promotions never rise with the age, so the ages can be halved.
fn age(view: &View<'_>, heat: &ProcHeat) -> Result<(Span, u64, Pages), Reason> {
    let (knobs, now) = (&view.config.autocold, view.now);
    let working_set = heat.working_set(now);
    let allowed = allowed(knobs.slo_permil_per_min, working_set);
    let tick = Span::from_millis(view.config.heat.age_tick_ms);
    let least = Span::from_secs(knobs.min_idle_s);
    let meets = |age: Span| promotions(heat, now, age) <= allowed;
    if meets(least) {
        return Ok((least, promotions(heat, now, least), working_set));
    }
    let (mut low, mut high) = (least.0 / tick.0, MOST_TICKS);
    let oldest = Span(tick.0.saturating_mul(MOST_TICKS));
    if low >= high || !meets(oldest) {
        let rate = per_working_set(promotions(heat, now, oldest), working_set);
        let bound = Quantity::permil_per_min(knobs.slo_permil_per_min);
        return Err(Reason::new(Rule::NothingCold)
            .saw(Measure::PredictedPromotion, Quantity::permil_per_min(rate), bound, "autocold.slo_permil_per_min")
            .flips_at(rate)
            .note("memory of every idle age is touched again too often"));
    }
    // `high` meets the SLO, `low` does not.
    while high - low > 1 {
        let middle = low.midpoint(high);
        if meets(Span(tick.0 * middle)) { high = middle } else { low = middle }
    }
    let age = Span(tick.0 * high);
    Ok((age, promotions(heat, now, age), working_set))
}
