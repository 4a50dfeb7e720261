//! etmem's slide: what was counted fewer than T accesses in a round of scans goes out. docs/policies/slide.md is the essay.

use super::taking::{self, Refusal};
use super::{Advice, Policy, Proposal, View};
use crate::config::Config;
use crate::plan::Selection;
use crate::vocab::{
    BLOCK_PAGES, Bytes, Hold, Measure, Need, Pages, Permil, PolicyId, ProcKey, ProcSample, Quantity, Reason, Rule, Source, Span,
    Subject, Time,
};

/// `free_below_percent` that means: do not look at free memory, nor at sizes.
const ALWAYS: u64 = 100;

#[derive(Debug)]
pub struct Slide;

impl Policy for Slide {
    fn id(&self) -> PolicyId {
        PolicyId::Slide
    }
    fn wanted(&self, config: &Config) -> bool {
        config.target.iter().any(|rule| rule.policy == Some(PolicyId::Slide))
    }
    /// It also answers the end of each walk: counts are only whole between two rounds. By itself it says why nothing goes
    /// where nobody walks.
    fn period(&self, config: &Config) -> Option<Span> {
        Some(Span::from_millis(config.scan.period_ms))
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
        let knobs = &view.config.slide;
        if !knobs.enabled || knobs.threshold == 0 {
            return Refusal::Idle(Reason::new(Rule::TurnedOff).note("slide.enabled is false or slide.threshold is 0"))
                .into_advice(id);
        }
        let release = match taking::host(view) {
            Ok(release) => release,
            Err(refusal) => return refusal.into_advice(id),
        };
        let mut advice = Advice::default();
        if let Some(reason) = plenty(view) {
            advice.holds.push(Hold { subject: Subject::Host, by: id, reason });
            return advice;
        }
        for (proc, selection) in view.selected(id) {
            match consider(view, proc, selection, release) {
                Ok(proposal) => advice.proposals.push(proposal),
                Err(reason) => advice.holds.push(View::hold(id, proc, reason)),
            }
            let ripe = ripe_at(view, proc).filter(|&ripe| ripe > view.now);
            advice.again = [advice.again, ripe].into_iter().flatten().min();
        }
        advice
    }
}

/// When a complete round has lasted as long as its walks are apart: walks that somebody asked for make it shorter.
fn ripe_at(view: &View<'_>, proc: ProcKey) -> Option<Time> {
    let heat = view.models.heat.get(proc).filter(|heat| heat.counts_ready())?;
    let between = view.config.scan.period_ms.saturating_mul(view.config.slide.scans.saturating_sub(1));
    Some(heat.counting_since()?.after(Span::from_millis(between)))
}

/// The host's gate: enough memory is free.
fn plenty(view: &View<'_>) -> Option<Reason> {
    let below = view.config.slide.free_below_percent;
    let host = view.models.swap.host()?;
    let free = host.free.scale(100, host.total.0).0;
    (below < ALWAYS && free >= below).then(|| {
        Reason::new(Rule::GateClosed)
            .saw(Measure::MemoryFree, Permil(free * 10), Permil(below * 10), "slide.free_below_percent")
            .flips_at(free + 1)
    })
}

/// The gate of the process, in KiB as etmem computes: large enough, or little of it swapped yet.
fn gate(config: &Config, sample: &ProcSample) -> Result<(), Reason> {
    let knobs = &config.slide;
    if knobs.free_below_percent >= ALWAYS {
        return Ok(());
    }
    let closed = Reason::new(Rule::GateClosed);
    if knobs.resident_over_mib > 0 {
        let bound = Bytes::from_mib(knobs.resident_over_mib);
        return if sample.rss > bound {
            Ok(())
        } else {
            let flip = (sample.rss.0 >> 20).saturating_sub(1);
            Err(closed.saw(Measure::Resident, sample.rss, bound, "slide.resident_over_mib").flips_at(flip))
        };
    }
    let (rss, swapped) = (sample.rss.0 >> 10, sample.swapped.0 >> 10);
    let hundredth = (rss + swapped) / 100;
    if hundredth * knobs.free_below_percent > swapped {
        return Ok(());
    }
    let bound = Bytes::from_kib(hundredth * knobs.free_below_percent);
    let reason = closed.saw(Measure::Swapped, sample.swapped, bound, "slide.free_below_percent");
    Err(match swapped.checked_div(hundredth) {
        Some(percent) => reason.flips_at(percent + 1),
        None => reason,
    })
}

/// How much must go until `dram_percent` of the process is resident; everything at 0.
fn surplus(config: &Config, sample: &ProcSample) -> Pages {
    let percent = config.slide.dram_percent;
    if percent == 0 {
        return Pages::MAX;
    }
    let (rss, swapped) = (sample.rss.0 >> 10, sample.swapped.0 >> 10);
    Bytes::from_kib(rss.saturating_sub((rss + swapped) / 100 * percent)).pages()
}

fn consider(view: &View<'_>, proc: ProcKey, selection: Selection, release: Permil) -> Result<Proposal, Reason> {
    let knobs = &view.config.slide;
    let (Some(heat), Some(sample)) = (view.models.heat.get(proc), view.models.procs.sample(proc)) else {
        return Err(Reason::new(Rule::WarmUp).note("not walked yet"));
    };
    gate(view.config, sample)?;
    if !heat.counts_ready() {
        return Err(Reason::new(Rule::WarmUp).note(format!("a round of {} scans is not complete", knobs.scans)));
    }
    if let Some(ripe) = ripe_at(view, proc).filter(|&ripe| ripe > view.now) {
        let note = format!("the round of counts was hurried; it counts in {}", ripe.since(view.now));
        return Err(Reason::new(Rule::WarmUp).note(note));
    }
    taking::settled(view, proc)?;
    rounds_apart(view, proc, heat.scans())?;
    let resident = heat.resident();
    let needed = surplus(view.config, sample);
    if needed == Pages::ZERO {
        let bound = Bytes::from_kib(((sample.rss.0 >> 10) + (sample.swapped.0 >> 10)) / 100 * knobs.dram_percent);
        return Err(Reason::new(Rule::GateClosed).saw(Measure::Resident, sample.rss, bound, "slide.dram_percent"));
    }
    let room = taking::above_floor(view, proc, selection, resident)?;
    let most = room.min(needed).min(taking::step(resident, Permil(1000), release));
    let threshold = u8::try_from(knobs.threshold).unwrap_or(u8::MAX);
    let cold = heat.counted_below(threshold, most, &taking::eligible(view, proc));
    if cold.pages == Pages::ZERO {
        let block = Pages(BLOCK_PAGES as u64);
        if room < block && heat.counted_below(threshold, block, &taking::eligible(view, proc)).pages > Pages::ZERO {
            return Err(taking::too_near_the_floor(view, proc, selection, resident));
        }
        let bound = Quantity::count(knobs.threshold);
        return Err(Reason::new(Rule::NothingCold).saw(Measure::AccessCount, bound, bound, "slide.threshold"));
    }
    let reason = Reason::new(Rule::SlideCold)
        .saw(Measure::AccessCount, Quantity::count(knobs.threshold - 1), Quantity::count(knobs.threshold), "slide.threshold")
        .flips_at(0)
        .saw(Measure::Rounds, Quantity::count(u64::from(heat.scans())), Quantity::count(knobs.scans), "slide.scans")
        .saw(Measure::ColdPages, cold.pages, most.min(resident), "slide.dram_percent");
    Ok(taking::proposal(view, PolicyId::Slide, proc, cold, false, reason))
}

/// What came back since the last page-out must be counted over a whole round before it may go again.
fn rounds_apart(view: &View<'_>, proc: ProcKey, walks: u32) -> Result<(), Reason> {
    let Some(taken) = view.ledger.account(proc).taken else { return Ok(()) };
    let (since, bound) = (u64::from(walks.saturating_sub(taken.walks)), view.config.slide.scans);
    if since >= bound {
        return Ok(());
    }
    let seen = Quantity::count(since);
    Err(Reason::new(Rule::Settling).saw(Measure::Rounds, seen, Quantity::count(bound), "slide.scans").flips_at(since))
}
