//! Which accessed bits are cleared so that the next walk says something. docs/policies/arm.md is the essay.

use super::{Advice, Class, Policy, Proposal, View};
use crate::config::Config;
use crate::model::{DueBlock, ProcHeat};
use crate::vocab::{
    Action, AddrRange, BLOCK_BYTES, Bits, Bytes, Charge, Hold, Idle, Leaf, Measure, Need, PAGE_BYTES, Pages, Permil, PolicyId,
    PressureKind, ProcKey, Quantity, Reason, Rule, Source, Span, Subject, Time,
};

/// An access between the walk and the clearing is lost, so a walk is only good for this long.
const FRESH: Span = Span::from_secs(2);
const LIFETIME: Span = Span::from_secs(5);
/// Passing over this many pages that read 0 costs less than another range: 53 ns each against 0.5 to 1.5 us.
const BRIDGE: u64 = 64 * PAGE_BYTES;
/// At least so many pages are asked per walk, lest a small process waits for ever.
const LEAST: Pages = Pages(4096);
/// While the hot set moves the share is this many times as large: all that is accessed, as configured by default. Half as
/// much only makes the same questions wait, for each page is asked once anyway.
const BOOST: u64 = 8;
/// What the first touch of a page costs after its bit was cleared: 180 ns in address order to 505 (`bench cycle`: tax), 408
/// at random. The dearest, for the budget is a promise.
const TOUCH_NS: u64 = 500;
/// What is budgeted in thousandths of a core holds over this.
const CORE_WINDOW: Span = Span::from_secs(600);
/// Share of the asked pages that are touched again, until it is measured.
const RETOUCHED: Permil = Permil(500);

#[derive(Debug)]
pub struct Arm;

impl Policy for Arm {
    fn id(&self) -> PolicyId {
        PolicyId::Arm
    }
    /// It answers the end of each walk.
    fn period(&self, _: &Config) -> Option<Span> {
        None
    }
    fn acts(&self) -> bool {
        true
    }
    fn needs(&self) -> &'static [Need] {
        &[Need::PageIdle, Need::ProcessMadvise]
    }
    fn sources(&self) -> &'static [Source] {
        &[Source::Walker, Source::Host, Source::Psi, Source::Reclaim]
    }

    fn advise(&self, view: &View<'_>) -> Advice {
        let (by, mut advice) = (self.id(), Advice::default());
        let daemon = &view.config.daemon;
        if !daemon.arm && !daemon.act {
            advice.idles.push(Idle { policy: by, reason: Reason::new(Rule::TurnedOff).note("daemon.arm is false (--arm)") });
            return advice;
        }
        if view.config.arm.quota_mib_per_s == 0 {
            advice.idles.push(Idle { policy: by, reason: Reason::new(Rule::TurnedOff).note("arm.quota_mib_per_s is 0") });
            return advice;
        }
        if let Some(reason) = pressed(view) {
            advice.holds.push(Hold { subject: Subject::Host, by, reason });
            return advice;
        }
        for (proc, heat) in walked(view) {
            match consider(view, proc, heat) {
                Ok(Some(proposal)) => advice.proposals.push(proposal),
                Ok(None) => {}
                Err(reason) => advice.holds.push(View::hold(by, proc, reason)),
            }
        }
        advice
    }
}

/// Selected processes whose walk has just ended and was not answered yet.
fn walked<'a>(view: &View<'a>) -> impl Iterator<Item = (ProcKey, &'a ProcHeat)> {
    view.targets.iter().filter_map(|(proc, selection)| {
        match selection.policy()? {
            PolicyId::Arm | PolicyId::Slide | PolicyId::Autocold => {}
            PolicyId::Watch
            | PolicyId::Numa
            | PolicyId::Tier
            | PolicyId::SlabMarginal
            | PolicyId::SlabExtstore
            | PolicyId::SlabAutomove => return None,
        }
        let heat = view.models.heat.get(proc)?;
        let walked = heat.scan_at()?;
        let answered = view.ledger.account(proc).armed.is_some_and(|armed| armed >= walked);
        (!answered && view.now.since(walked) <= FRESH).then_some((proc, heat))
    })
}

/// Under pressure reclaim is near, and it goes by these bits.
fn pressed(view: &View<'_>) -> Option<Reason> {
    let seen = u64::from(view.models.pressure.some_avg10(PressureKind::Memory)?);
    let bound = view.config.brake.memory_some_centipercent;
    (seen > bound).then(|| {
        Reason::new(Rule::PressureBrake)
            .saw(
                Measure::MemoryPressure,
                Quantity::centipercent(seen),
                Quantity::centipercent(bound),
                "brake.memory_some_centipercent",
            )
            .flips_at(seen)
    })
}

/// Clearing took what it may: from now on a walk is followed by the least only.
fn dear(view: &View<'_>) -> bool {
    view.ledger.arming_since(window(view)) >= core(view.config.arm.cpu_permil_of_core)
}

/// Begin of the window that ends now.
const fn window(view: &View<'_>) -> Time {
    Time(view.now.0.saturating_sub(CORE_WINDOW.0))
}

const fn core(permil: u64) -> Span {
    Span(CORE_WINDOW.0 / 1000 * permil)
}

fn consider(view: &View<'_>, proc: ProcKey, heat: &ProcHeat) -> Result<Option<Proposal>, Reason> {
    if let Some(sign) = view.models.under_reclaim(proc, view.now) {
        return Err(Reason::new(Rule::UnderReclaim).note(sign.to_string()));
    }
    if let Some((ran, enough)) = heat.starved() {
        return Err(Reason::new(Rule::Starved)
            .saw(Measure::CpuTime, ran, enough, "")
            .note("under half of its usual CPU time: the walk is no round"));
    }
    let quota = view.ledger.left(view.config).armed;
    let (share, knob) = if dear(view) { (LEAST, "arm.cpu_permil_of_core") } else { (share(view, heat), "arm.share_permil") };
    let room = tax_room(view, heat);
    let Asked { ranges, pages, ran_out } = ask(&view.models.procs.eligible_ranges(proc), heat.due(), share.min(room), quota);
    if ranges.is_empty() {
        return match ran_out {
            None => Ok(None),
            Some(Limit::Quota) => Err(spent(view, quota)),
            Some(Limit::Pages) => Err(taxed(view, heat)),
        };
    }
    let bytes: Bytes = ranges.iter().map(|range| range.pages().bytes()).sum();
    let charge = Charge { armed: bytes, ..Charge::default() };
    let reason = Reason::new(Rule::ArmYoung)
        .saw(Measure::YoungPages, pages, share, knob)
        .saw(Measure::ArmedInWindow, bytes, quota, "arm.quota_mib_per_s")
        .flips_at(0);
    let action = Action::Arm { proc, ranges };
    let by = PolicyId::Arm;
    Ok(Some(Proposal { action, by, class: Class::Observation, gain: pages.0, charge, lifetime: LIFETIME, reason }))
}

fn spent(view: &View<'_>, left: Bytes) -> Reason {
    let used = view.ledger.used().armed;
    Reason::new(Rule::BudgetSpent)
        .saw(Measure::ArmedInWindow, used, used.saturating_add(left), "arm.quota_mib_per_s")
        .flips_at(view.config.arm.quota_mib_per_s + 1)
}

/// Accessed pages that one walk may ask. Where accesses are counted each walk must ask all.
fn share(view: &View<'_>, heat: &ProcHeat) -> Pages {
    if heat.counting() {
        return Pages(u64::MAX);
    }
    let permil = view.config.arm.share_permil * if heat.boosted() { BOOST } else { 1 };
    Pages(heat.young().0 * permil.min(1000) / 1000).max(LEAST)
}

/// Touches of cleared pages that the window allows.
fn tax(view: &View<'_>) -> Pages {
    Pages(core(view.config.arm.tax_permil_of_core).0 / TOUCH_NS)
}

fn touched(view: &View<'_>, heat: &ProcHeat) -> Pages {
    heat.touched_since(window(view))
}

/// Pages that can be asked before the touches that follow reach the tax.
fn tax_room(view: &View<'_>, heat: &ProcHeat) -> Pages {
    let left = tax(view).0.saturating_sub(touched(view, heat).0);
    Pages(left * 1000 / heat.retouched().unwrap_or(RETOUCHED).0.max(1))
}

fn taxed(view: &View<'_>, heat: &ProcHeat) -> Reason {
    let seen = touched(view, heat);
    Reason::new(Rule::BudgetSpent)
        .saw(Measure::Retouched, seen, tax(view), "arm.tax_permil_of_core")
        .flips_at(view.config.arm.tax_permil_of_core + 1)
}

/// What ended the choice of blocks.
enum Limit {
    Quota,
    Pages,
}

struct Asked {
    ranges: Vec<AddrRange>,
    pages: Pages,
    ran_out: Option<Limit>,
}

/// The blocks that are due, in their order, while `most` accessed pages and `quota` last.
fn ask(eligible: &[AddrRange], due: Vec<DueBlock>, most: Pages, quota: Bytes) -> Asked {
    let (mut ranges, mut pages, mut left, mut ran_out) = (Vec::new(), 0, quota.0, None);
    for block in due {
        let Some((runs, asked)) = block.parts().map(|part| runs(&block, &part, eligible)).find(|(runs, _)| !runs.is_empty()) else {
            continue;
        };
        // The last block may reach beyond the share: the first must, where it is small.
        if pages >= most.0 {
            ran_out = Some(Limit::Pages);
            break;
        }
        let bytes: u64 = runs.iter().map(|run| run.end - run.start).sum();
        if bytes > left {
            ran_out = Some(Limit::Quota);
            break;
        }
        left -= bytes;
        pages += asked;
        ranges.extend(runs);
    }
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touching = last.end == next.start;
        last.end = if touching { next.end } else { last.end };
        touching
    });
    Asked { ranges, pages: Pages(pages), ran_out }
}

/// Runs of the accessed pages `young` in the eligible parts of a block, gaps bridged, and how many pages in them can answer; of
/// a huge leaf all or nothing, lest it is split. The hands see to folios between a page and a block.
fn runs(block: &DueBlock, young: &Bits, eligible: &[AddrRange]) -> (Vec<AddrRange>, u64) {
    let (start, end) = (block.block.start(), block.block.start().saturating_add(BLOCK_BYTES));
    let from = eligible.partition_point(|range| range.end <= start);
    let inside = eligible[from..].iter().take_while(|range| range.start < end);
    let parts = inside.map(|range| AddrRange { start: range.start.max(start), end: range.end.min(end) });
    let whole = |part: &AddrRange| part.end - part.start == BLOCK_BYTES;
    let runs: Vec<AddrRange> = match block.leaf {
        Leaf::Base => parts.flat_map(|part| bridged(young, start, part)).collect(),
        Leaf::Pmd => parts.filter(whole).collect(),
        Leaf::Pud => Vec::new(),
    };
    let can_answer = young.and_not(&block.stuck);
    let address = |page: usize| start + page as u64 * PAGE_BYTES;
    let asked = can_answer.iter().filter(|&page| runs.iter().any(|run| run.contains(address(page)))).count();
    (runs, asked as u64)
}

fn bridged(young: &Bits, start: u64, part: AddrRange) -> Vec<AddrRange> {
    let mut runs: Vec<AddrRange> = Vec::new();
    for page in young.iter() {
        let at = start + page as u64 * PAGE_BYTES;
        if !part.contains(at) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if at <= run.end + BRIDGE => run.end = at + PAGE_BYTES,
            Some(_) | None => runs.push(AddrRange { start: at, end: at + PAGE_BYTES }),
        }
    }
    runs
}
