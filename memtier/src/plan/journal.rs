//! What was decided lately and what came of it: the memory behind `explain` and the decision log (docs/decision-log.md).
//!
//! Every turn repeats its refusals in its report. Here a refusal is noted when it begins, and stands until its policy
//! had the chance to repeat it and did not.

use super::Decision;
use crate::vocab::{
    Action, Guard, Hold, Idle, Outcome, Pages, PolicyId, ProcKey, Reason, ServerId, Span, Step, StepId, Subject, Time,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Turns kept, of those that did more than walk or said something new. One takes about half a KiB.
pub const MAX_TURNS: usize = 2048;

/// A step without its address ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    pub id: StepId,
    pub at: Time,
    pub verb: String,
    pub proc: ProcKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    pub pages: Pages,
    pub ranges: usize,
    pub by: PolicyId,
    pub expires: Time,
    /// Only said, not to be done.
    pub advice: bool,
    pub reason: Reason,
    pub outcome: Option<Outcome>,
}

/// What a turn did and what it refused for the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub number: u64,
    pub at: Time,
    pub steps: Vec<Noted>,
    pub holds: Vec<Hold>,
    pub idles: Vec<Idle>,
}

/// A refusal and since when it is being repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing<T> {
    pub since: Time,
    pub last: Time,
    pub what: T,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Journal {
    turns: VecDeque<Turn>,
    /// The last walk of each process; walks would push everything else out of `turns`.
    walks: BTreeMap<ProcKey, Noted>,
    holds: BTreeMap<(Subject, PolicyId), Standing<Hold>>,
    idles: BTreeMap<PolicyId, Standing<Idle>>,
}

impl Journal {
    /// Oldest first.
    pub fn turns(&self) -> impl DoubleEndedIterator<Item = &Turn> {
        self.turns.iter()
    }

    /// Since when nothing was dropped; none where nothing was dropped at all.
    #[must_use]
    pub fn reach(&self) -> Option<Time> {
        self.turns.front().filter(|_| self.turns.len() == MAX_TURNS).map(|turn| turn.at)
    }

    /// The turn of this number, if it did or said anything that is kept.
    #[must_use]
    pub fn turn(&self, number: u64) -> Option<&Turn> {
        self.turns.binary_search_by_key(&number, |turn| turn.number).ok().map(|i| &self.turns[i])
    }

    #[must_use]
    pub fn last_walk(&self, proc: ProcKey) -> Option<&Noted> {
        self.walks.get(&proc)
    }

    /// Refusals that stand, by subject and policy.
    pub fn holds(&self) -> impl Iterator<Item = &Standing<Hold>> {
        self.holds.values()
    }

    pub fn idles(&self) -> impl Iterator<Item = &Standing<Idle>> {
        self.idles.values()
    }

    /// `ran`: the policies that had this turn; `patience`: how long a refusal stands without being repeated.
    pub(super) fn note(&mut self, decision: &Decision, ran: &[PolicyId], patience: Span) {
        let Decision { number, at, after: _, plan, report } = decision;
        let at = *at;
        let mut turn = Turn { number: *number, at, steps: Vec::new(), holds: Vec::new(), idles: Vec::new() };
        for step in plan {
            self.holds.remove(&(step.action.subject(), step.by));
            let noted = noted(at, step);
            match step.action {
                Action::Scan { proc } => drop(self.walks.insert(proc, noted)),
                Action::Arm { .. }
                | Action::PageOut { .. }
                | Action::Deactivate { .. }
                | Action::Bind { .. }
                | Action::MovePages { .. }
                | Action::Migrate { .. }
                | Action::MoveSlabPage { .. }
                | Action::SetMover { .. }
                | Action::SetWatch { .. }
                | Action::SetFree { .. } => turn.steps.push(noted),
            }
        }
        for hold in &report.holds {
            let known = self.holds.get(&(hold.subject, hold.by)).filter(|h| h.what.reason.rule == hold.reason.rule);
            let since = known.map_or(at, |h| h.since);
            if known.is_none() {
                turn.holds.push(hold.clone());
            }
            self.holds.insert((hold.subject, hold.by), Standing { since, last: at, what: hold.clone() });
        }
        self.holds.retain(|_, hold| at.since(hold.last) <= patience);
        self.idles.retain(|policy, _| !ran.contains(policy) || report.idles.iter().any(|idle| idle.policy == *policy));
        for idle in &report.idles {
            let known = self.idles.get(&idle.policy).filter(|i| i.what.reason.rule == idle.reason.rule);
            let since = known.map_or(at, |i| i.since);
            if known.is_none() {
                turn.idles.push(idle.clone());
            }
            self.idles.insert(idle.policy, Standing { since, last: at, what: idle.clone() });
        }
        let Turn { steps, holds, idles, .. } = &turn;
        if !(steps.is_empty() && holds.is_empty() && idles.is_empty()) {
            if self.turns.len() == MAX_TURNS {
                self.turns.pop_front();
            }
            self.turns.push_back(turn);
        }
    }

    pub(super) fn settle(&mut self, proc: ProcKey, outcome: &Outcome) {
        let turn = self.turns.binary_search_by_key(&outcome.step.decision, |turn| turn.number);
        let steps = turn.ok().map(|i| self.turns[i].steps.iter_mut()).into_iter().flatten();
        if let Some(noted) = steps.chain(self.walks.get_mut(&proc)).find(|noted| noted.id == outcome.step) {
            // Where bits could not be cleared is the heat model's, and may be long.
            noted.outcome = Some(Outcome { missed: Vec::new(), end: outcome.end.clone(), ..*outcome });
        }
    }

    pub(super) fn forget(&mut self, proc: ProcKey) {
        self.walks.remove(&proc);
        self.holds.retain(|(subject, _), _| *subject != Subject::Proc(proc));
    }

    /// Drops what a lost exit event left behind.
    pub(super) fn retain(&mut self, alive: impl Fn(ProcKey) -> bool) {
        self.walks.retain(|&proc, _| alive(proc));
    }
}

fn noted(at: Time, step: &Step) -> Noted {
    let Step { id, action, guards, expires, charge: _, by, reason } = step;
    Noted {
        id: *id,
        at,
        verb: action.verb().to_owned(),
        proc: action.proc(),
        server: action.server(),
        pages: action.pages(),
        ranges: action.ranges().len(),
        by: *by,
        expires: *expires,
        advice: guards.contains(&Guard::DryRun),
        reason: reason.clone(),
        outcome: None,
    }
}

impl Noted {
    /// A server's step that has no process is about that server.
    pub(super) fn is_about(&self, subject: Subject) -> bool {
        match subject {
            Subject::Host | Subject::Cgroup(_) => false,
            Subject::Proc(proc) => self.server.is_none() && self.proc == proc,
            Subject::Cache(server) => self.server == Some(server),
        }
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, at: _, verb, proc, server, pages, ranges, by, expires, advice, reason, outcome: _ } = self;
        let word = if *advice { "advice" } else { "step" };
        match server {
            Some(server) => write!(f, "{word} {id} {verb} {server}")?,
            None => write!(f, "{word} {id} {verb} {proc}")?,
        }
        if *ranges > 0 {
            write!(f, " {pages} in {ranges} ranges")?;
        }
        write!(f, " by {by} until {expires}; {reason}")
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number: _, at, steps, holds, idles } = self;
        steps.iter().try_for_each(|step| writeln!(f, "{at} {step}"))?;
        holds.iter().try_for_each(|hold| writeln!(f, "{at} {hold}"))?;
        idles.iter().try_for_each(|idle| writeln!(f, "{at} {idle}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Report;
    use crate::vocab::{AddrRange, Amount, Charge, End, Rule};

    const PROC: ProcKey = ProcKey { pid: 7, start: 1 };

    fn hold(rule: Rule) -> Hold {
        Hold { subject: Subject::Proc(PROC), by: PolicyId::Autocold, reason: Reason::new(rule) }
    }

    fn turn(journal: &mut Journal, number: u64, plan: Vec<Step>, holds: Vec<Hold>, idles: Vec<Idle>) -> String {
        let decision = Decision { number, at: Time(number * 1_000_000_000), after: 0, plan, report: Report { holds, idles } };
        journal.note(&decision, &[PolicyId::Autocold], Span::from_secs(3));
        journal.turn(number).map(ToString::to_string).unwrap_or_default()
    }

    fn page_out(decision: u64) -> Step {
        Step {
            id: StepId { decision, index: 0 },
            action: Action::PageOut { proc: PROC, ranges: vec![AddrRange { start: 0, end: 8192 }] },
            guards: vec![],
            expires: Time(9_000_000_000),
            charge: Charge::default(),
            by: PolicyId::Autocold,
            reason: Reason::new(Rule::AutocoldIdle),
        }
    }

    #[test]
    fn only_what_is_new_is_said() {
        let mut journal = Journal::default();
        let idle = Idle { policy: PolicyId::Autocold, reason: Reason::new(Rule::NoSwap) };
        assert_eq!(turn(&mut journal, 1, vec![], vec![hold(Rule::WarmUp)], vec![]), "1.000s hold pid 7 by autocold; warm-up\n");
        assert_eq!(turn(&mut journal, 2, vec![], vec![hold(Rule::WarmUp)], vec![idle.clone()]), "2.000s idle autocold; no-swap\n");
        assert_eq!(turn(&mut journal, 3, vec![], vec![hold(Rule::Floor)], vec![idle]), "3.000s hold pid 7 by autocold; floor\n");
        assert_eq!(journal.idles().count(), 1);
        let said = turn(&mut journal, 4, vec![page_out(4)], vec![], vec![]);
        assert_eq!(said, "4.000s step 4.0 page-out pid 7 2 pages in 1 ranges by autocold until 9.000s; autocold-idle\n");
        assert_eq!((journal.holds().count(), journal.idles().count()), (0, 0));
        assert_eq!(turn(&mut journal, 5, vec![], vec![hold(Rule::Floor)], vec![]), "5.000s hold pid 7 by autocold; floor\n");
        turn(&mut journal, 8, vec![], vec![], vec![]);
        assert_eq!(journal.holds().count(), 1);
        turn(&mut journal, 9, vec![], vec![], vec![]);
        assert_eq!(journal.holds().count(), 0);
    }

    #[test]
    fn outcomes_find_their_step_and_walks_do_not_push_turns_out() {
        let mut journal = Journal::default();
        turn(&mut journal, 1, vec![page_out(1)], vec![], vec![]);
        for number in 2..MAX_TURNS as u64 + 9 {
            let scan = Step { action: Action::Scan { proc: PROC }, ..page_out(number) };
            turn(&mut journal, number, vec![scan], vec![], vec![]);
        }
        let done = |decision| Outcome {
            missed: Vec::new(),
            step: StepId { decision, index: 0 },
            began: Time::ZERO,
            ended: Time(5_000_000),
            done: Amount { pages: Pages(1), asked: Pages(2), syscalls: 3, cpu_ns: 0 },
            end: End::Done,
        };
        assert_eq!(done(1).to_string(), "outcome 1.0 done; 1 of 2 pages, 3 calls, 5 ms");
        for decision in [1, 2, MAX_TURNS as u64 + 8] {
            journal.settle(PROC, &done(decision));
        }
        assert_eq!(journal.turns().count(), 1);
        assert_eq!(journal.turn(1).and_then(|t| t.steps[0].outcome.clone()), Some(done(1)));
        assert_eq!(journal.last_walk(PROC).and_then(|w| w.outcome.clone()), Some(done(MAX_TURNS as u64 + 8)));
    }

    #[test]
    fn the_journal_is_bounded() {
        let mut journal = Journal::default();
        assert_eq!(journal.reach(), None);
        for number in 1..=MAX_TURNS as u64 + 5 {
            turn(&mut journal, number, vec![page_out(number)], vec![], vec![]);
        }
        assert_eq!((journal.turns().count(), journal.turns().next().map(|t| t.number)), (MAX_TURNS, Some(6)));
        assert_eq!(journal.reach(), Some(Time(6_000_000_000)));
    }
}
