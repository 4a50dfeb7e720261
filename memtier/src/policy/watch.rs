//! Which processes are walked, and when. docs/policies/watch.md is the essay.

use super::board::COMING;
use super::{Advice, Class, Policy, Proposal, View};
use crate::config::Config;
use crate::model::{Models, ProcHeat};
use crate::plan::{Ledger, Selection, anything_selected};
use crate::vocab::{
    Action, Bytes, Charge, Measure, Need, PolicyId, ProcKey, ProcSample, Quantity, Reason, Rule, Source, Span, Time,
};
use std::cmp::Reverse;

/// A period is divided into this many turns, and the processes are spread over them.
const SLOTS: u64 = 16;
const LEAST_TURN: Span = Span::from_millis(50);
/// Walks are never further apart than so many periods, whatever they take.
const MOST_PERIODS: u64 = 64;
/// A walk that placing asks for comes no sooner after a step of it, lest it was read before that, nor after the last walk, and takes
/// no more than one part in so many of a core: those of all that come up together.
const BETWEEN_HURRIED: Span = Span::from_millis(200);
const HURRIED_WALKS: u64 = 16;
/// So long after it last grew nothing is left to wait for.
const GROWN: Span = Span::from_secs(2);
/// A walk that waited longer than this (or a period) would only delay the next one.
const LEAST_LIFETIME: Span = Span::from_secs(10);

#[derive(Debug)]
pub struct Watch;

impl Policy for Watch {
    fn id(&self) -> PolicyId {
        PolicyId::Watch
    }
    fn period(&self, config: &Config) -> Option<Span> {
        Some(Grid::of(config).turn)
    }
    fn acts(&self) -> bool {
        false
    }
    fn needs(&self) -> &'static [Need] {
        &[]
    }
    fn sources(&self) -> &'static [Source] {
        &[Source::Walker]
    }

    fn advise(&self, view: &View<'_>) -> Advice {
        let (grid, spacing) = (Grid::of(view.config), Spacing::of(view));
        let mut advice = Advice::default();
        for &proc in view.looks {
            advice.proposals.push(scan(view, proc, u64::MAX, Reason::new(Rule::ScanAsked)));
        }
        let census = Census::take(view);
        let come_up =
            |&&sample: &&&ProcSample| placeable(view, sample.proc) && comes_up(view.models, view.ledger, sample.proc, view.now);
        let among = census.watched.iter().filter(come_up).count() as u64;
        for sample in &census.watched {
            let proc = sample.proc;
            let periods = spacing.periods(view, proc);
            if view.looks.contains(&proc) {
                continue;
            }
            let due = grid.due(view, proc, periods).then(|| grid.reason(view, proc, periods));
            let reason = due.or_else(|| grid.hurried(view, proc, among));
            advice.proposals.extend(reason.map(|reason| scan(view, proc, sample.rss.pages().0, reason)));
        }
        if grid.slot(view.now) == 0 {
            for (proc, reason) in census.refused {
                advice.holds.push(View::hold(self.id(), proc, reason));
            }
        }
        advice
    }
}

/// The turns of a period. A process has the same turn in every period, so its walks are exactly one period apart.
struct Grid {
    turn: Span,
    slots: u64,
}

impl Grid {
    fn of(config: &Config) -> Self {
        let period = Span::from_millis(config.scan.period_ms);
        let turn = Span((period.0 / SLOTS).max(LEAST_TURN.0));
        Self { turn, slots: (period.0 / turn.0).max(1) }
    }

    const fn slot(&self, now: Time) -> u64 {
        now.0 / self.turn.0 % self.slots
    }

    /// Whether the last turn of this process, one in so many periods, has not been used.
    fn due(&self, view: &View<'_>, proc: ProcKey, periods: u64) -> bool {
        let (now, slots) = (view.now.0 / self.turn.0, self.slots * periods);
        let mine = (u64::from(proc.pid).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % slots;
        let Some(turn) = now.checked_sub((now + slots - mine) % slots) else { return false };
        let known = view.models.procs.get(proc).map(|info| info.since);
        view.ledger.account(proc).scanned.or(known).is_none_or(|last| turn * self.turn.0 > last.0)
    }

    /// Placing cannot wait for a turn: a process that was never walked grows where it happens to run, and what a move left
    /// behind, or came meanwhile, shows in a walk only. One walk more after the last of its steps; some for one that comes up.
    fn hurried(&self, view: &View<'_>, proc: ProcKey, among: u64) -> Option<Reason> {
        if !placeable(view, proc) {
            return None;
        }
        let Some(last) = view.ledger.account(proc).scanned else {
            return Some(Reason::new(Rule::ScanDue).note("the first walk"));
        };
        // What was read too soon after a step says nothing of it.
        let placed = placed_at(view.ledger, proc).filter(|placed| placed.after(BETWEEN_HURRIED) > last);
        let walked = || view.models.heat.get(proc).and_then(ProcHeat::scan_at) >= Some(last);
        // A walk that failed is not repeated.
        let wanted = placed.is_some() || comes_up(view.models, view.ledger, proc, view.now) && walked();
        let due = hurried_at(view.ledger, proc, among);
        let (measure, since) = placed.map_or((Measure::SinceLastScan, last), |placed| (Measure::SinceLastMove, placed));
        let reason = || Reason::new(Rule::ScanDue).saw(measure, view.now.since(since), due.since(since), "");
        (wanted && view.now >= due).then(reason)
    }

    fn reason(&self, view: &View<'_>, proc: ProcKey, periods: u64) -> Reason {
        let reason = Reason::new(Rule::ScanDue);
        let Some(last) = view.ledger.account(proc).scanned else { return reason.note("the first walk") };
        // In whole turns: a decision comes some milliseconds after its turn began.
        let since = Span((view.now.0 / self.turn.0).saturating_sub(last.0 / self.turn.0) * self.turn.0);
        reason.saw(Measure::SinceLastScan, since, Span(self.turn.0 * self.slots * periods), knob_of(periods))
    }
}

fn placeable(view: &View<'_>, proc: ProcKey) -> bool {
    view.config.numa.enabled && view.facts.can_place() && view.targets.selection(proc).placed()
}

fn placed_at(ledger: &Ledger, proc: ProcKey) -> Option<Time> {
    let placed = ledger.placed(proc)?;
    placed.moved_at.max(placed.bound_at)
}

/// Whether a process that comes up was seen to grow lately, or not looked at since: its memory waits until it has grown. Those
/// that we found running come up for us only once they are bound.
#[must_use]
pub fn comes_up(models: &Models, ledger: &Ledger, proc: ProcKey, now: Time) -> bool {
    let Some(info) = models.procs.get(proc).filter(|info| now.since(info.born()) < COMING) else { return false };
    let seen = info.parent.is_some() || info.exec_at.is_some();
    let waits = ledger.placed(proc).map_or(seen, |placed| (seen || placed.bound_at.is_some()) && placed.moved_at.is_none());
    let grows = |heat: &ProcHeat| heat.grew_at().is_some_and(|grew| now.since(grew) < GROWN || heat.scan_at() == Some(grew));
    waits && models.heat.get(proc).is_some_and(grows)
}

/// When a process that is being placed may be walked again, if `among` of them come up.
#[must_use]
pub fn hurried_at(ledger: &Ledger, proc: ProcKey, among: u64) -> Time {
    let account = ledger.account(proc);
    let between = Span(account.walk.0.saturating_mul(HURRIED_WALKS)).max(BETWEEN_HURRIED);
    let walked = account.scanned.unwrap_or_default().after(Span(between.0.saturating_mul(among.max(1))));
    placed_at(ledger, proc).map_or(walked, |placed| walked.max(placed.after(BETWEEN_HURRIED)))
}

/// Which walks must be further apart than a period, so that all of them together take no more of a core than they may:
/// every process has an equal part, and what the cheap ones leave of theirs is for the others.
#[derive(Clone, Copy, Debug)]
pub struct Spacing {
    period: Span,
    /// CPU time that the walks of one process may take in a period.
    part: Span,
}

impl Spacing {
    #[must_use]
    pub fn of(view: &View<'_>) -> Self {
        let knobs = &view.config.scan;
        let period = Span::from_millis(knobs.period_ms);
        // Of those that are still walked.
        let lately = |at: Time| view.now.since(at).0 <= period.0.saturating_mul(MOST_PERIODS);
        let accounts = view.ledger.accounts().filter(|(_, account)| account.scanned.is_some_and(lately));
        let mut walks: Vec<Span> = accounts.map(|(_, account)| account.walk).collect();
        walks.sort_unstable();
        let mut left = period.0 / 1000 * knobs.walk_permil_of_core;
        let mut part = u64::MAX;
        for (served, walk) in walks.iter().enumerate() {
            let equal = left / (walks.len() - served) as u64;
            if walk.0 > equal {
                part = equal.max(1);
                break;
            }
            left -= walk.0;
        }
        Self { period, part: Span(part) }
    }

    /// Periods from one walk to the next, a power of two: the turns of twice as many are every other of the same turns.
    fn periods(&self, view: &View<'_>, proc: ProcKey) -> u64 {
        let walk = view.ledger.account(proc).walk;
        walk.0.div_ceil(self.part.0).min(MOST_PERIODS).next_power_of_two()
    }

    /// Time from one walk to the next, and the knob that sets it.
    #[must_use]
    pub fn between(&self, view: &View<'_>, proc: ProcKey) -> (Span, &'static str) {
        let periods = self.periods(view, proc);
        (Span(self.period.0.saturating_mul(periods)), knob_of(periods))
    }

    /// The longest time between two walks of any process.
    #[must_use]
    pub fn longest(&self, view: &View<'_>) -> Span {
        view.ledger.accounts().map(|(proc, _)| self.between(view, proc).0).max().unwrap_or(self.period)
    }
}

const fn knob_of(periods: u64) -> &'static str {
    if periods == 1 { "scan.period_ms" } else { "scan.walk_permil_of_core" }
}

/// Who is watched, largest first, and who is not, and why.
struct Census<'a> {
    watched: Vec<&'a ProcSample>,
    refused: Vec<(ProcKey, Reason)>,
}

impl<'a> Census<'a> {
    fn take(view: &View<'a>) -> Self {
        let knobs = &view.config.scan;
        let least = Bytes::from_mib(knobs.min_resident_mib);
        // With no selection and no right to act, the largest processes are looked at: that harms nobody.
        let anybody = !anything_selected(view.config) && !view.config.daemon.act;
        let (mut watched, mut refused) = (Vec::new(), Vec::new());
        for sample in view.models.procs.samples() {
            let large = sample.rss >= least;
            match view.targets.selection(sample.proc) {
                Selection::Selected { .. } if large => watched.push(sample),
                Selection::NotSelected if anybody && large => watched.push(sample),
                Selection::Selected { .. } => refused.push((sample, small(sample.rss, least))),
                Selection::NotSelected if large && !anybody => refused.push((sample, Reason::new(Rule::NotSelected))),
                Selection::Excluded(rule) if large => {
                    refused.push((sample, Reason::new(Rule::Excluded).note(format!("target rule {}", rule + 1))));
                }
                Selection::Protected(why) if large => refused.push((sample, Reason::new(Rule::Protected).note(why.why()))),
                Selection::NotSelected | Selection::Excluded(_) | Selection::Protected(_) => {}
            }
        }
        let most = usize::try_from(knobs.max_procs).unwrap_or(usize::MAX);
        watched.sort_by_key(|sample| (Reverse(sample.rss), sample.proc));
        for (rank, sample) in watched.iter().enumerate().skip(most) {
            let rank = rank as u64 + 1;
            let reason = Reason::new(Rule::TooSmall)
                .saw(Measure::Rank, Quantity::count(rank), Quantity::count(knobs.max_procs), "scan.max_procs")
                .flips_at(rank);
            refused.push((sample, reason));
        }
        watched.truncate(most);
        refused.sort_by_key(|(sample, _)| (Reverse(sample.rss), sample.proc));
        refused.truncate(most);
        Self { watched, refused: refused.into_iter().map(|(sample, reason)| (sample.proc, reason)).collect() }
    }
}

fn small(rss: Bytes, least: Bytes) -> Reason {
    Reason::new(Rule::TooSmall).saw(Measure::Resident, rss, least, "scan.min_resident_mib").flips_at(rss.0 >> 20)
}

fn scan(view: &View<'_>, proc: ProcKey, gain: u64, reason: Reason) -> Proposal {
    let lifetime = Span::from_millis(view.config.scan.period_ms).max(LEAST_LIFETIME);
    let (action, by) = (Action::Scan { proc }, PolicyId::Watch);
    Proposal { action, by, class: Class::Observation, gain, charge: Charge::default(), lifetime, reason }
}
