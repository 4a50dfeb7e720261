//! What every policy that takes memory from processes asks first, and how it words the step.

use super::{Advice, Class, Proposal, Spacing, View};
use crate::model::{Cold, CpuShare, ProcHeat};
use crate::plan::{Account, Placed, Selection};
use crate::vocab::{
    Action, AddrRange, BLOCK_BYTES, BLOCK_PAGES, Bytes, Charge, Hold, Idle, Measure, PAGE_BYTES, Pages, Permil, PolicyId,
    PressureKind, ProcKey, ProcSample, Quantity, Reason, Rule, Span, Subject, Time,
};

/// What changed nothing (advice, deactivation) is not repeated sooner.
pub const ADVICE_SETTLES: Span = Span::from_secs(600);
/// Part of the full step with which a released brake begins; it doubles every hold time.
const FIRST_RELEASE: Permil = Permil(250);
const FULL: Permil = Permil(1000);
const LIFETIME: Span = Span::from_secs(30);

/// A target that got less CPU than this share of a time did not touch in it what it uses ...
const STARVED_PERMIL: u64 = 10;
/// ... provided that it wanted to: for at least this share of the time a thread was ready to run, and waited.
const WAITED_PERMIL: u64 = 500;

/// Why a policy takes nothing at all this turn.
pub enum Refusal {
    Idle(Reason),
    Hold(Reason),
}

impl Refusal {
    pub fn into_advice(self, by: PolicyId) -> Advice {
        let mut advice = Advice::default();
        match self {
            Self::Idle(reason) => advice.idles.push(Idle { policy: by, reason }),
            Self::Hold(reason) => advice.holds.push(Hold { subject: Subject::Host, by, reason }),
        }
        advice
    }
}

/// The share of a full step that the host's pressure allows, or why nothing can be taken anywhere.
pub fn host(view: &View<'_>) -> Result<Permil, Refusal> {
    swap(view).map_err(Refusal::Idle)?;
    let brake = &view.config.brake;
    let memory = memory_calm(view).map_err(Refusal::Hold)?;
    let io = pressure(view, PressureKind::Io, Measure::IoPressure, brake.io_some_centipercent, "brake.io_some_centipercent")
        .map_err(Refusal::Hold)?;
    Ok(memory.min(io))
}

/// The share of a full step that the host's memory pressure allows.
pub fn memory_calm(view: &View<'_>) -> Result<Permil, Reason> {
    let bound = view.config.brake.memory_some_centipercent;
    pressure(view, PressureKind::Memory, Measure::MemoryPressure, bound, "brake.memory_some_centipercent")
}

fn swap(view: &View<'_>) -> Result<(), Reason> {
    let (swap, budget) = (&view.models.swap, &view.config.budget);
    if swap.total() == Bytes::ZERO {
        return Err(Reason::new(Rule::NoSwap).note("turn on a swap area: zram is the best place for cold pages"));
    }
    let (free, reserve) = (swap.free_permil(), Permil(budget.swap_free_permil));
    if free <= reserve {
        return Err(Reason::new(Rule::SwapReserve)
            .saw(Measure::SwapFree, free, reserve, "budget.swap_free_permil")
            .flips_at(free.0.saturating_sub(1)));
    }
    let Some(cost) = swap.cost() else {
        return Err(Reason::new(Rule::SwapReserve).note("no swap area has room left: a zram area may be at its memory limit"));
    };
    let bound = Permil(budget.swap_cost_permil);
    match cost.memory.filter(|&memory| bound < FULL && memory >= bound) {
        Some(memory) => Err(Reason::new(Rule::SwapSavesNothing)
            .saw(Measure::SwapCost, memory, bound, "budget.swap_cost_permil")
            .flips_at(memory.0.saturating_add(1).min(FULL.0))),
        None => Ok(()),
    }
}

fn pressure(view: &View<'_>, kind: PressureKind, measure: Measure, bound: u64, knob: &'static str) -> Result<Permil, Reason> {
    let pressure = &view.models.pressure;
    let seen = pressure.some_avg10(kind).map_or(0, u64::from);
    let refuse = || {
        let seen = Quantity::centipercent(seen);
        Reason::new(Rule::PressureBrake).saw(measure, seen, Quantity::centipercent(bound), knob).flips_at(seen.value)
    };
    if seen > bound {
        return Err(refuse());
    }
    released(view, pressure.over_at(kind, "")).map_err(|since| calming(view, refuse(), since))
}

/// After its cause is gone a brake holds for a while, then lets go by and by: the share of a full step, or for how long
/// the cause has been gone.
pub fn released(view: &View<'_>, over_at: Option<Time>) -> Result<Permil, Span> {
    let hold = Span::from_secs(view.config.brake.hold_s);
    let Some(since) = over_at.map(|over| view.now.since(over)) else { return Ok(FULL) };
    if hold == Span::ZERO {
        return Ok(FULL);
    }
    let Some(doublings) = (since.0 / hold.0).checked_sub(1) else { return Err(since) };
    Ok(Permil(FIRST_RELEASE.0 << doublings.min(2)))
}

/// Adds how long a brake goes on holding.
pub fn calming(view: &View<'_>, mut reason: Reason, since: Span) -> Reason {
    // The bound is kept by now: what holds is the time.
    if let Some(evidence) = reason.evidence.last_mut() {
        evidence.flips_at = None;
    }
    let hold = Span::from_secs(view.config.brake.hold_s);
    reason.saw(Measure::SinceOver, since, hold, "brake.hold_s").flips_at(since.as_secs())
}

/// Whether a process only looks idle in the time between, because it wanted CPU time and did not get it. How busy the host
/// is says nothing: who hardly runs and does not wait, sleeps. What is not told yet is read from as long a time before.
pub fn starved(view: &View<'_>, proc: ProcKey, since: Time, until: Time) -> Result<(), Reason> {
    let sched = &view.models.sched;
    let Some(told) = sched.told_at(proc).filter(|&told| told > since) else { return Ok(()) };
    let (span, until) = (until.since(since), until.min(told));
    let CpuShare { got, waited } = sched.share(proc, Time(until.0.saturating_sub(span.0)), until);
    let (least, wanted) = (span.scale(STARVED_PERMIL, 1000), span.scale(WAITED_PERMIL, 1000));
    if got >= least || waited < wanted {
        return Ok(());
    }
    Err(Reason::new(Rule::Starved).saw(Measure::CpuTime, got, least, "").saw(Measure::CpuWait, waited, wanted, ""))
}

/// Whether what came of the last step that placed a process forbids another one now.
pub fn rested(view: &View<'_>, placed: Option<&Placed>) -> Result<(), Reason> {
    let Some(placed) = placed else { return Ok(()) };
    let since = view.now.since(placed.at);
    if let Some(until) = placed.futile_until().filter(|&until| view.now < until) {
        return Err(Reason::new(Rule::Settling)
            .saw(Measure::SinceLastMove, since, until.since(placed.at), "")
            .note(format!("{} steps in a row did less than half of what they should", placed.fruitless)));
    }
    if placed.unchanged && since < ADVICE_SETTLES {
        let reason = Reason::new(Rule::Settling).saw(Measure::SinceLastMove, since, ADVICE_SETTLES, "");
        return Err(reason.note("the same again would say nothing new"));
    }
    Ok(())
}

/// Whether the last taking from this process forbids another one now.
pub fn settled(view: &View<'_>, proc: ProcKey) -> Result<(), Reason> {
    let account: Account = view.ledger.account(proc);
    let Some(taken) = account.taken else { return Ok(()) };
    let since = view.now.since(taken.at);
    if let Some(until) = account.futile_until().filter(|&until| view.now < until) {
        return Err(Reason::new(Rule::Settling)
            .saw(Measure::MovedPages, taken.moved, Pages(taken.asked.0 / 2), "")
            .saw(Measure::SinceLastMove, since, until.since(taken.at), "")
            .note(format!("{} page-outs in a row moved less than half of what they asked for", account.fruitless)));
    }
    if taken.unchanged {
        let reason = Reason::new(Rule::Settling).saw(Measure::SinceLastMove, since, ADVICE_SETTLES, "");
        return if since < ADVICE_SETTLES { Err(reason.note("the same again would say nothing new")) } else { Ok(()) };
    }
    let walked = view.models.heat.get(proc).and_then(ProcHeat::scan_at);
    // A walk that began before the hand was done does not show what is gone.
    let seen = account.scanned.is_some_and(|began| began > taken.at && walked.is_some_and(|ended| ended > began));
    if seen {
        return Ok(());
    }
    let (between, knob) = Spacing::of(view).between(view, proc);
    Err(Reason::new(Rule::Settling)
        .saw(Measure::SinceLastMove, since, between, knob)
        .note("no walk has seen yet what the last page-out left"))
}

/// Room above the floor of a selected process; the refusal if there is none.
pub fn above_floor(view: &View<'_>, proc: ProcKey, selection: Selection, resident: Pages) -> Result<Pages, Reason> {
    let (seen, floor) = seen_and_floor(view, proc, selection, resident);
    let room = seen.saturating_sub(floor).pages();
    if room > Pages::ZERO { Ok(room) } else { Err(at_floor(seen, floor, Bytes(PAGE_BYTES))) }
}

/// Why nothing goes although there is cold memory: a huge leaf goes whole, and more than the room above the floor.
pub fn too_near_the_floor(view: &View<'_>, proc: ProcKey, selection: Selection, resident: Pages) -> Reason {
    let (seen, floor) = seen_and_floor(view, proc, selection, resident);
    at_floor(seen, floor, Bytes(BLOCK_BYTES)).note("what is cold is huge pages, which go whole")
}

fn seen_and_floor(view: &View<'_>, proc: ProcKey, selection: Selection, resident: Pages) -> (Bytes, Bytes) {
    let floor = match selection {
        Selection::Selected { floor, .. } => floor,
        Selection::Excluded(_) | Selection::NotSelected | Selection::Protected(_) => Bytes::MAX,
    };
    // /proc counts more than the walk sees, and the walk may be newer.
    let rss = view.models.procs.sample(proc).map_or(Bytes::ZERO, |sample| sample.rss);
    (resident.bytes().min(rss), floor)
}

/// Nothing of `unit` fits above the floor.
fn at_floor(seen: Bytes, floor: Bytes, unit: Bytes) -> Reason {
    let flip = seen.saturating_sub(unit).0 >> 20;
    Reason::new(Rule::Floor).saw(Measure::Resident, seen, floor, "target.floor_mib").flips_at(flip)
}

/// One step's share of the resident memory; a whole block at least, so that a huge leaf always fits.
pub fn step(resident: Pages, share: Permil, release: Permil) -> Pages {
    resident.scale(share.0, 1000).scale(release.0, 1000).max(Pages(BLOCK_PAGES as u64))
}

/// Whoever gave a process a memory policy said where its memory belongs.
pub fn no_policy(sample: &ProcSample) -> Result<(), Reason> {
    if sample.mempolicy.is_empty() {
        return Ok(());
    }
    Err(Reason::new(Rule::BoundByOthers).note(format!("its memory policy is {}", sample.mempolicy)))
}

/// Memory of the process that a hand may touch.
pub fn eligible(view: &View<'_>, proc: ProcKey) -> Vec<AddrRange> {
    view.models.procs.eligible_ranges(proc)
}

pub fn proposal(view: &View<'_>, by: PolicyId, proc: ProcKey, cold: Cold, mild: bool, reason: Reason) -> Proposal {
    let Cold { ranges, pages, youngest: _, oldest: _, more: _ } = cold;
    let bytes = pages.bytes();
    let wears = view.models.swap.cost().map_or(Permil(0), |cost| cost.wears);
    let charge =
        Charge { moved: bytes, swap_written: if mild { Bytes::ZERO } else { bytes.scale(wears.0, 1000) }, ..Charge::default() };
    let action = if mild { Action::Deactivate { proc, ranges } } else { Action::PageOut { proc, ranges } };
    Proposal { action, by, class: Class::Tiering, gain: pages.0, charge, lifetime: LIFETIME, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::{ANNA, Host, config, secs};
    use crate::vocab::{Event, Pressure, ProcSample, Sample};

    /// The CPU time that anna got and waited for in the last 30 s, in milliseconds; CPUs are contended throughout.
    fn check(got_ms: u64, waited_ms: u64, starved_expected: bool) {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        let pressure = Pressure {
            kind: PressureKind::Cpu,
            cgroup: String::new(),
            some_avg10: 9900,
            some_avg60: 9900,
            full_avg10: 0,
            some_total_us: 0,
            full_total_us: 0,
            triggered: false,
        };
        host.tell(Event::Sample(Sample::Pressure(pressure)));
        for (second, got, waited) in [(1000, 0, 0), (1030, got_ms, waited_ms)] {
            host.now = secs(second);
            let (cpu_ticks, waited) = (500 + got / 10, Span::from_millis(7000 + waited));
            let sample = ProcSample { proc: ANNA, comm: "anna".into(), cpu_ticks, waited, ..ProcSample::default() };
            host.tell(Event::Sample(Sample::Proc(Box::new(sample))));
        }
        let said = starved(&host.governor.view(host.now), ANNA, secs(1000), secs(1030));
        assert_eq!(said.is_err(), starved_expected, "got {got_ms} ms, waited {waited_ms} ms: {said:?}");
        // Nobody told anything of the time after.
        assert!(starved(&host.governor.view(secs(1060)), ANNA, secs(1030), secs(1060)).is_ok());
    }

    #[test]
    fn starved_is_who_wanted_to_run_and_not_who_slept_on_a_busy_host() {
        check(100, 29_000, true);
        check(0, 15_000, true);
        // It slept: it hardly ran, and hardly waited.
        check(100, 2_000, false);
        check(0, 0, false);
        // It got enough to touch what it uses, however long it waited.
        check(300, 29_000, false);
        check(15_000, 40_000, false);
    }
}
