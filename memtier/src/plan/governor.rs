//! The one state machine: events in, decisions out. `absorb` never decides and `decide` never looks elsewhere, so that
//! the same stream gives the same decisions however it is batched.

use super::arbiter::{Verdict, arbitrate};
use super::audit::audit;
use super::{Decision, Flight, Journal, Ledger, Report, Selection, Targets};
use crate::config::{self, CacheRule, Config, KNOBS};
use crate::model::{Models, ProcHeat, Sight};
use crate::policy::{self, Advice, Policy, Spacing, View};
use crate::vocab::{
    Action, BlockId, Bytes, CacheSample, CacheTold, End, Event, Guard, Hold, HostFacts, Idle, KernelEvent, Measure, Need, Outcome,
    Pages, PolicyId, ProcKey, ProcSample, Reason, Request, Rule, Sample, Source, Span, Stamped, Step, StepId, Subject, Time,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// An outcome that did not come this long after the step expired never will.
const GRACE: Span = Span::from_secs(60);
/// A source that is sampled at intervals and was silent for longer than this does not see any more.
const STALE: Span = Span::from_secs(60);
/// A step that lost its turn to another one for the same process is proposed again after this.
const RETRY: Span = Span::from_secs(1);
/// Placing is worth most while a process is young, and waits for no other hand.
const SOON: Span = Span::from_millis(10);

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Governor {
    now: Time,
    /// Number of the last event.
    after: u64,
    decided: u64,
    facts: HostFacts,
    config: Config,
    /// Whether facts and configuration have been told.
    told: (bool, bool),
    models: Models,
    ledger: Ledger,
    targets: Targets,
    journal: Journal,
    in_flight: BTreeMap<StepId, Flight>,
    looks: BTreeSet<ProcKey>,
    /// Who paused it.
    paused: Option<String>,
    /// When each policy has its next turn, and when it had its last.
    next: BTreeMap<PolicyId, Time>,
    #[serde(default)]
    turned: BTreeMap<PolicyId, Time>,
    /// Refusals that arose between two turns.
    pending: Vec<Hold>,
    /// What the models had dropped at their caps when that was last said.
    evicted: u64,
}

impl Governor {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn absorb(&mut self, stamped: &Stamped) {
        let at = stamped.at;
        self.now = self.now.max(at);
        self.after = stamped.seq;
        if let Event::Config(text) = &stamped.event {
            self.configure(text);
        }
        self.models.fold(stamped, &self.config);
        match &stamped.event {
            Event::Facts(facts) => {
                self.facts = (**facts).clone();
                self.told.0 = true;
                self.ledger.seed(at, facts.swap_written_today);
                self.judge_all();
                self.reschedule(at);
            }
            Event::Config(_) => {
                if !(self.config.daemon.act && self.config.caches.enabled) {
                    self.ledger.servers_put_back();
                }
                self.judge_all();
                self.reschedule(at);
            }
            Event::Kernel(KernelEvent::Fork { parent, child }) => {
                self.targets.forked(*parent, *child);
                self.ledger.forked(*parent, *child);
            }
            Event::Kernel(KernelEvent::Exec { proc }) => {
                // Another program in another address space: what was done to the old one says nothing.
                self.targets.executed(*proc);
                self.ledger.executed(*proc);
            }
            Event::Kernel(KernelEvent::Exit { proc }) => self.forget(*proc),
            Event::Kernel(KernelEvent::Fault { proc, tid, addr, kind: _, period: _ }) => {
                if self.placeable(*proc) {
                    self.models.threads.touched(at, *proc, *tid, BlockId::of(*addr));
                }
            }
            Event::Kernel(KernelEvent::TaskMoved { .. } | KernelEvent::PagesMoved { .. } | KernelEvent::Region { .. }) => {}
            Event::Sample(Sample::Proc(sample)) => {
                self.targets.judge(sample, &self.config, &self.facts);
                self.count(sample.proc);
                self.hurry(at, sample);
            }
            Event::Sample(Sample::Pages(chunk)) => {
                if chunk.last {
                    self.ledger.walked(at, chunk.proc);
                    self.pull(PolicyId::Arm, at);
                    self.pull(PolicyId::Slide, at);
                    // Arming comes first, and a process has one step a turn.
                    self.pull(PolicyId::Autocold, at.after(RETRY));
                    self.pull_numa(at);
                    if self.placeable(chunk.proc) && policy::comes_up(&self.models, &self.ledger, chunk.proc, at) {
                        self.pull(PolicyId::Watch, policy::hurried_at(&self.ledger, chunk.proc, 1));
                    }
                    if self.config.tier.enabled && self.facts.has(Need::SlowNodes).is_ok() {
                        self.pull(PolicyId::Tier, at.after(RETRY));
                    }
                }
            }
            Event::Sample(Sample::Host(_)) => self.ledger.sampled(at),
            Event::Sample(Sample::Cache(sample)) => self.heard(at, sample),
            Event::Sample(
                Sample::Maps(_)
                | Sample::Pressure(_)
                | Sample::Sched(_)
                | Sample::Reclaim(_)
                | Sample::Cgroup(_)
                | Sample::Nodes(_),
            )
            | Event::Lost { .. }
            | Event::Blind { .. }
            | Event::Sight { .. } => {}
            Event::Request(request) => self.asked(at, request),
            Event::Outcome(outcome) => self.settle(outcome),
        }
    }

    /// When the next turn is due; never before facts and configuration are known.
    #[must_use]
    pub fn due(&self) -> Time {
        if self.ready() { self.next.values().copied().min().unwrap_or(Time::MAX) } else { Time::MAX }
    }

    pub fn decide(&mut self, now: Time) -> Decision {
        self.now = self.now.max(now);
        self.decided += 1;
        let mut decision = Decision { number: self.decided, at: now, after: self.after, ..Decision::default() };
        if !self.ready() {
            return decision;
        }
        let turn: Vec<&dyn Policy> =
            policy::all().into_iter().filter(|p| self.next.get(&p.id()).is_some_and(|&next| next <= now)).collect();
        let ran: Vec<PolicyId> = turn.iter().map(|policy| policy.id()).collect();
        self.ledger.roll(now);
        decision.report.holds.append(&mut self.pending);
        self.give_up(now, &mut decision.report);
        if ran.contains(&PolicyId::Watch) {
            self.tidy(&mut decision.report);
        }
        let (plan, again) = self.plan(now, &turn, &mut decision.report);
        decision.plan = plan;
        if ran.contains(&PolicyId::Autocold) {
            self.note_refaults(now);
        }
        decision.plan.iter_mut().for_each(|step| settable(&mut step.reason));
        decision.report.holds.iter_mut().for_each(|hold| settable(&mut hold.reason));
        decision.report.idles.iter_mut().for_each(|idle| settable(&mut idle.reason));
        for step in &decision.plan {
            self.emit(now, step);
        }
        for policy in turn {
            let next = policy.period(&self.config).map_or(Time::MAX, |period| grid(now, period));
            self.next.insert(policy.id(), next);
            self.turned.insert(policy.id(), now);
        }
        for hold in decision.report.holds.iter().filter(|hold| hold.reason.rule == Rule::SubjectTaken) {
            self.pull(hold.by, now.after(if hold.by == PolicyId::Numa { SOON } else { RETRY }));
        }
        for (policy, at) in again {
            self.pull(policy, at.max(Time(now.0 + 1)));
        }
        let patience = policy::all().iter().filter_map(|p| p.period(&self.config)).max().unwrap_or_default();
        let view = self.view(now);
        let patience = patience.max(Spacing::of(&view).longest(&view));
        self.journal.note(&decision, &ran, Span(patience.0.saturating_mul(2)));
        decision
    }

    #[must_use]
    pub const fn models(&self) -> &Models {
        &self.models
    }
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }
    #[must_use]
    pub const fn facts(&self) -> &HostFacts {
        &self.facts
    }
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }
    #[must_use]
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }
    #[must_use]
    pub const fn paused(&self) -> bool {
        self.paused.is_some()
    }
    /// Time of the last event or turn.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }
    #[must_use]
    pub fn selection(&self, proc: ProcKey) -> Selection {
        self.targets.selection(proc)
    }
    /// Those of the first `rules` target rules that decide for no process.
    #[must_use]
    pub fn vain_rules(&self, rules: usize) -> Vec<String> {
        self.targets.vain(&self.models.procs.samples().collect::<Vec<_>>(), &self.config, rules)
    }
    /// Steps whose outcome has not come yet.
    pub fn in_flight(&self) -> impl Iterator<Item = &Step> {
        self.in_flight.values().map(|flight| &flight.step)
    }

    const fn ready(&self) -> bool {
        self.told.0 && self.told.1
    }

    fn configure(&mut self, text: &str) {
        match config::parse(text) {
            Ok(config) => {
                self.config = config;
                self.told.1 = true;
            }
            Err(error) => {
                let reason = Reason::new(Rule::BadConfig).note(error.to_string());
                self.pending.push(Hold { subject: Subject::Host, by: PolicyId::Watch, reason });
            }
        }
    }

    /// Every policy that has a period gets a turn on its grid; what only answers events keeps waiting for one.
    fn reschedule(&mut self, at: Time) {
        for policy in policy::all() {
            if let Some(period) = policy.period(&self.config) {
                self.next.insert(policy.id(), grid(at, period));
            }
        }
    }

    fn pull(&mut self, policy: PolicyId, at: Time) {
        let next = self.next.entry(policy).or_insert(Time::MAX);
        *next = at.min(*next);
    }

    /// Walks and outcomes are what placing goes by; where there is no choice it has only its own turns, to say so.
    fn pull_numa(&mut self, at: Time) {
        if self.config.numa.enabled && self.facts.can_place() {
            self.pull(PolicyId::Numa, at);
        }
    }

    fn placeable(&self, proc: ProcKey) -> bool {
        self.config.numa.enabled && self.facts.can_place() && self.targets.selection(proc).placed()
    }

    /// What has grown large enough to be walked is placed while it grows.
    fn hurry(&mut self, at: Time, sample: &ProcSample) {
        let large = sample.rss >= Bytes::from_mib(self.config.scan.min_resident_mib);
        if self.placeable(sample.proc) && large && self.ledger.account(sample.proc).scanned.is_none() {
            self.pull(PolicyId::Watch, at);
        }
    }

    fn judge_all(&mut self) {
        let samples: Vec<&ProcSample> = self.models.procs.samples().collect();
        self.targets.reconfigured(&samples, &self.config, &self.facts);
        let procs: Vec<ProcKey> = self.targets.iter().map(|(proc, _)| proc).collect();
        for proc in procs {
            self.count(proc);
        }
    }

    /// slide wants counts, everybody else estimates.
    fn count(&mut self, proc: ProcKey) {
        let scans = match self.targets.selection(proc).policy() {
            Some(PolicyId::Slide) => u32::try_from(self.config.slide.scans).unwrap_or(u32::MAX),
            Some(
                PolicyId::Watch
                | PolicyId::Arm
                | PolicyId::Autocold
                | PolicyId::Numa
                | PolicyId::Tier
                | PolicyId::SlabMarginal
                | PolicyId::SlabExtstore
                | PolicyId::SlabAutomove,
            )
            | None => 0,
        };
        self.models.heat.expect_counts(proc, scans);
    }

    /// Each look at a server is answered, and whether it can be looked at.
    fn heard(&mut self, at: Time, sample: &CacheSample) {
        let rule = self.config.cache.get(usize::from(sample.server.0));
        let policy = rule.map_or(PolicyId::SlabMarginal, CacheRule::policy);
        match &sample.told {
            CacheTold::Met(met) => {
                self.ledger.met(sample.server, met.life);
                self.pull(policy, at);
            }
            CacheTold::Look(_) | CacheTold::Blind { .. } => self.pull(policy, at),
            CacheTold::Evictions(_) | CacheTold::Fetches(_) | CacheTold::Watch { .. } | CacheTold::Lacks { .. } => {}
        }
    }

    fn forget(&mut self, proc: ProcKey) {
        if self.placeable(proc) && self.ledger.account(proc).scanned.is_some() {
            self.ledger.shift(self.now);
        }
        self.targets.exited(proc);
        self.ledger.forget(proc);
        self.journal.forget(proc);
        self.looks.remove(&proc);
    }

    fn asked(&mut self, at: Time, request: &Request) {
        match request {
            Request::Pause { by } => self.paused = Some(by.clone()),
            Request::Resume { by: _ } => self.paused = None,
            Request::Look { proc, by: _ } => {
                self.looks.insert(*proc);
                self.pull(PolicyId::Watch, at);
            }
        }
    }

    /// Outcomes of steps that are not ours (a recording replayed under another configuration) say nothing here.
    fn settle(&mut self, outcome: &Outcome) {
        let Some(Flight { decided, step }) = self.in_flight.remove(&outcome.step) else { return };
        let proc = step.action.proc();
        // News of an arming that a walk has overtaken would turn what that walk saw into touches of idle memory.
        let overtaken = self.ledger.account(proc).scanned.is_some_and(|scan| scan > outcome.began);
        if let (Action::Arm { ranges, .. }, End::Done | End::Partial(_), false) = (&step.action, &outcome.end, overtaken) {
            self.models.heat.armed(outcome.began, proc, ranges, &outcome.missed);
        }
        let walks = self.models.heat.get(proc).map_or(0, ProcHeat::scans);
        self.ledger.settle(decided, &step, outcome, walks);
        if matches!(step.action, Action::Bind { .. }) && outcome.done.pages > Pages::ZERO {
            self.ledger.shift(outcome.ended);
            self.born_meanwhile(proc, outcome.began);
        }
        self.models.moved(&step.action, outcome);
        // Whoever was bound has its pages moved next, slice after slice. What did not work has time.
        if step.by == PolicyId::Numa && outcome.done.pages > Pages::ZERO {
            self.pull_numa(self.now);
            self.pull(PolicyId::Watch, policy::hurried_at(&self.ledger, proc, 1));
        }
        // The next page, at once.
        if step.by == PolicyId::SlabMarginal && outcome.done.pages > Pages::ZERO {
            self.pull(PolicyId::SlabMarginal, self.now);
        }
        self.journal.settle(proc, outcome);
    }

    /// Who was forked while its parent was bound has the mask from birth, as those have that come later.
    fn born_meanwhile(&mut self, bound: ProcKey, began: Time) {
        let mut parents = vec![bound];
        while let Some(parent) = parents.pop() {
            let procs = &self.models.procs;
            let young = |child: &ProcKey| procs.get(*child).is_some_and(|info| info.since >= began);
            let children: Vec<ProcKey> = procs.children(parent).filter(young).collect();
            children.iter().for_each(|child| self.ledger.forked(parent, *child));
            parents.extend(children);
        }
    }

    /// Steps that nobody will ever answer for must not hold their process forever. Their charges stay.
    fn give_up(&mut self, now: Time, report: &mut Report) {
        let lost = self.in_flight.extract_if(.., |_, flight| now > flight.step.expires.after(GRACE));
        for (id, Flight { step, .. }) in lost {
            self.ledger.lost(now, &step);
            if matches!(step.action, Action::Bind { .. }) {
                self.ledger.shift(now);
            }
            let reason = Reason::new(Rule::InFlight).note(format!("step {id} never came back; given up"));
            report.holds.push(Hold { subject: step.action.subject(), by: step.by, reason });
        }
    }

    /// Drops what lost exit events left behind, and says what the models dropped.
    fn tidy(&mut self, report: &mut Report) {
        let procs = &self.models.procs;
        let alive = |proc| procs.get(proc).is_some();
        self.targets.retain(alive);
        self.ledger.retain(alive);
        let settle = Span::from_secs(self.config.numa.settle_s.max(self.config.tier.settle_s));
        self.ledger.forget_crossings(Time(self.now.0.saturating_sub(settle.0)));
        self.journal.retain(alive);
        let fill = self.models.fill();
        let evicted = fill.iter().map(|f| f.evicted).sum();
        if evicted > self.evicted {
            self.evicted = evicted;
            let full: Vec<String> =
                fill.iter().filter(|f| f.evicted > 0).map(|f| format!("{} dropped {} so far", f.model, f.evicted)).collect();
            let reason = Reason::new(Rule::ModelCap)
                .saw(Measure::ModelBytes, self.models.bytes(), Bytes::from_mib(self.config.heat.fixed_mib), "heat.fixed_mib")
                .note(full.join(", "));
            report.holds.push(Hold { subject: Subject::Host, by: PolicyId::Watch, reason });
        }
    }

    fn note_refaults(&mut self, now: Time) {
        let took: Vec<ProcKey> = self.ledger.accounts().filter(|(_, a)| a.total.0 > 0).map(|(proc, _)| proc).collect();
        for proc in took {
            if self.models.heat.get(proc).is_some_and(|heat| policy::refaulting(heat, &self.config, now).0) {
                self.ledger.account_mut(proc).refaulted = Some(now);
            }
        }
    }

    /// Advice, arbitration, audit: the steps, and which policies want another turn.
    fn plan(&self, now: Time, turn: &[&dyn Policy], report: &mut Report) -> (Vec<Step>, Vec<(PolicyId, Time)>) {
        let view = self.view(now);
        let (mut proposals, mut turns) = (Vec::new(), Vec::new());
        for policy in turn.iter().filter(|policy| policy.wanted(&self.config)) {
            match self.gate(now, *policy) {
                Some(reason) => report.idles.push(Idle { policy: policy.id(), reason }),
                None => {
                    let view = View { answered: self.answered(now, *policy), ..view };
                    let Advice { proposals: wanted, holds, idles, again } = policy.advise(&view);
                    proposals.extend(wanted);
                    turns.extend(again.map(|at| (policy.id(), at)));
                    report.holds.extend(holds);
                    report.idles.extend(idles);
                }
            }
        }
        let Verdict { plan, holds } = arbitrate(&view, &self.in_flight, self.decided, proposals);
        report.holds.extend(holds);
        let mut passed: Vec<Step> = Vec::with_capacity(plan.len());
        for step in plan {
            match audit(&view, self.paused(), &self.in_flight, &passed, &step) {
                Ok(()) => passed.push(step),
                Err(why) => {
                    let reason = Reason::new(Rule::AuditVeto).note(format!("{}: {why}", step.action.verb()));
                    report.holds.push(Hold { subject: step.action.subject(), by: step.by, reason });
                }
            }
        }
        for step in &mut passed {
            match step.action {
                // Looking, which changes nothing.
                Action::Scan { .. } | Action::Arm { .. } | Action::SetWatch { .. } => {}
                Action::PageOut { .. }
                | Action::Deactivate { .. }
                | Action::Bind { .. }
                | Action::MovePages { .. }
                | Action::Migrate { .. }
                | Action::MoveSlabPage { .. }
                | Action::SetMover { .. }
                | Action::SetFree { .. } => {
                    if !self.config.daemon.act {
                        step.guards.push(Guard::DryRun);
                    }
                }
            }
        }
        (passed, turns)
    }

    pub(crate) const fn view(&self, now: Time) -> View<'_> {
        let Self { facts, config, models, ledger, targets, looks, .. } = self;
        View { now, facts, config, models, ledger, targets, looks, answered: Time::ZERO }
    }

    /// The last turn of a policy that has one again before its period is over.
    fn answered(&self, now: Time, policy: &dyn Policy) -> Time {
        let last = self.turned.get(&policy.id()).copied().unwrap_or_default();
        policy.period(&self.config).filter(|&period| grid(last, period) > now).map_or(Time::ZERO, |_| last)
    }

    /// Why a policy gets no say this turn.
    fn gate(&self, now: Time, policy: &dyn Policy) -> Option<Reason> {
        if let Some(by) = self.paused.as_ref().filter(|_| policy.acts()) {
            return Some(Reason::new(Rule::Paused).note(format!("by {by}")));
        }
        if let Err(lack) = self.facts.has_one(policy.needs()) {
            return Some(Reason::new(Rule::HostLacks).note(lack));
        }
        // Whoever acts must be told who ended and who became another: else it meets strangers, protected ones among them.
        let lives = policy.meets_processes().then_some(&Source::Procs);
        lives.into_iter().chain(policy.sources()).find_map(|&source| self.unseen(now, source))
    }

    fn unseen(&self, now: Time, source: Source) -> Option<Reason> {
        // A host that has no pressure information is braked by refaults and reclaim alone.
        if source == Source::Psi && self.facts.has(Need::Psi).is_err() {
            return None;
        }
        let freshness = &self.models.freshness;
        let blind = |why: &str| Some(Reason::new(Rule::SourceBlind).note(format!("{source}: {why}")));
        match (freshness.sight(source), freshness.last(source)) {
            (Sight::Blind { why, .. }, _) => return blind(why),
            (Sight::Never, None) => return blind("not heard of yet"),
            (Sight::Never, Some(_)) | (Sight::Seeing { .. }, _) => {}
        }
        let sampled = match source {
            Source::Host | Source::Psi => true,
            // These speak when asked, or when something happens.
            Source::Walker
            | Source::Procs
            | Source::Sched
            | Source::Reclaim
            | Source::Faults
            | Source::Migrate
            | Source::Cgroup
            | Source::Damon
            | Source::Caches => false,
        };
        let silent = freshness.silent(source, now);
        (sampled && silent > STALE)
            .then(|| Reason::new(Rule::SourceBlind).saw(Measure::SourceAge, silent, STALE, "").note(format!("{source} is stale")))
    }

    fn emit(&mut self, now: Time, step: &Step) {
        let rule = match self.targets.selection(step.action.proc()) {
            Selection::Selected { rule, .. } => rule,
            Selection::Excluded(_) | Selection::NotSelected | Selection::Protected(_) => None,
        };
        let link = if step.by == PolicyId::Tier { policy::slow_end(&self.view(now), &step.action) } else { None };
        self.ledger.charge(now, step, rule, link);
        match step.action {
            Action::Scan { proc } => drop(self.looks.remove(&proc)),
            Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. }
            | Action::MovePages { .. }
            | Action::Migrate { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => {}
        }
        self.in_flight.insert(step.id, Flight { decided: now, step: step.clone() });
    }
}

/// Names no value that the knob would not take.
fn settable(reason: &mut Reason) {
    for evidence in &mut reason.evidence {
        let (Some(name), Some(value)) = (evidence.knob.as_deref().and_then(|k| k.split_once('.')), evidence.flips_at) else {
            continue;
        };
        if KNOBS.iter().any(|k| (k.table, k.key) == name && !(k.range.0..=k.range.1).contains(&value)) {
            evidence.flips_at = None;
        }
    }
}

/// The next multiple of `period` after `now`: turns do not drift with the time that decisions take.
fn grid(now: Time, period: Span) -> Time {
    let period = period.0.max(1);
    Time((now.0 / period).saturating_add(1).saturating_mul(period))
}

#[cfg(test)]
impl Governor {
    /// A bind of these threads is over.
    pub(super) fn bound(&mut self, proc: ProcKey, cpus: &[u32], tids: &[u32], at: Time) {
        let cpus = cpus.iter().map(|cpu| crate::vocab::CpuId(*cpu)).collect();
        let step = Step {
            id: StepId::default(),
            action: Action::Bind { proc, cpus, whom: crate::vocab::Whom::of(tids) },
            guards: Vec::new(),
            expires: Time::MAX,
            charge: crate::vocab::Charge::default(),
            by: PolicyId::Numa,
            reason: Reason::new(Rule::NumaPart),
        };
        let done = crate::vocab::Amount { pages: Pages(2), asked: Pages(2), ..crate::vocab::Amount::default() };
        let outcome = Outcome { step: step.id, began: at, ended: at, done, end: End::Done, missed: Vec::new() };
        self.ledger.settle(at, &step, &outcome, 0);
        self.born_meanwhile(proc, at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{ANNA, BERT, Host, config, secs};
    use super::*;
    use crate::vocab::{Amount, Bits};

    /// Turns until `until`, with calm samples each second.
    fn turns(host: &mut Host, until: Time) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while host.now < until {
            host.now = host.now.after(Span::from_secs(1));
            host.sample(Bytes::from_mib(100), 0);
            if host.governor.due() <= host.now {
                decisions.push(host.governor.decide(host.now));
                assert!(host.governor.due() > host.now);
            }
        }
        decisions
    }

    fn steps(decisions: &[Decision]) -> Vec<(u64, &'static str, u32)> {
        let step = |d: &Decision, s: &Step| (d.at.0 / 1_000_000_000, s.action.verb(), s.action.proc().pid);
        decisions.iter().flat_map(|d| d.plan.iter().map(|s| step(d, s))).collect()
    }

    fn rules(decision: &Decision) -> Vec<Rule> {
        let Report { holds, idles } = &decision.report;
        holds.iter().map(|h| h.reason.rule).chain(idles.iter().map(|i| i.reason.rule)).collect()
    }

    fn answer(host: &mut Host, step: StepId, end: End) {
        let (began, done) = (host.now, Amount { pages: crate::vocab::Pages(3072), ..Amount::default() });
        host.tell(Event::Outcome(Outcome { step, began, ended: began, done, end, missed: Vec::new() }));
    }

    #[test]
    fn nothing_is_due_before_facts_and_configuration() {
        let mut governor = Governor::new();
        assert_eq!(governor.due(), Time::MAX);
        assert_eq!(governor.decide(secs(5)), Decision { number: 1, at: secs(5), ..Decision::default() });
        let facts = Event::Facts(Box::default());
        governor.absorb(&Stamped { seq: 1, at: secs(6), event: facts });
        assert_eq!(governor.due(), Time::MAX);
        governor.absorb(&Stamped { seq: 2, at: secs(7), event: Event::Config(config::canonical(&Config::default())) });
        assert!(governor.due() <= secs(8));
        assert_eq!(governor.decide(secs(8)).number, 2);
    }

    #[test]
    fn the_end_of_a_walk_is_answered_by_arming_and_a_process_has_one_turn_a_period() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        let first = host.governor.decide(host.now);
        assert_eq!(steps(std::slice::from_ref(&first)), [(1000, "arm", 10)]);
        assert_eq!(first.plan[0].action.pages(), crate::vocab::Pages(5 * 512), "the locked block is left out");
        answer(&mut host, first.plan[0].id, End::Done);
        assert_eq!(host.governor.ledger().used().armed, crate::vocab::Pages(3072).bytes());
        let all = turns(&mut host, secs(1040));
        let scans: Vec<u64> = steps(&all).iter().filter(|s| s.1 == "scan").map(|s| s.0).collect();
        // Nobody answers the first walk, so no second one is let out until it is given up.
        assert_eq!(scans.len(), 1);
        assert!(all.iter().any(|d| rules(d).contains(&Rule::InFlight)));
        let all = turns(&mut host, secs(1140));
        assert!(all.iter().any(|d| d.report.holds.iter().any(|h| h.reason.note.contains("never came back"))));
        assert!(steps(&all).iter().any(|s| s.1 == "scan"));
    }

    #[test]
    fn numbers_have_no_gaps_and_batches_do_not_matter() {
        let text = "[[target]]\ncomm = '*'";
        let (mut one, mut two) = (Host::new(&config(text)), Host::new(&config(text)));
        let first: Vec<Decision> = turns(&mut one, secs(1060));
        let numbers: Vec<u64> = first.iter().map(|d| d.number).collect();
        assert_eq!(numbers, (1..=first.len() as u64).collect::<Vec<_>>());
        // The second daemon was restarted from a checkpoint in between.
        let mut second = turns(&mut two, secs(1030));
        let checkpoint = minicbor_serde::to_vec(&two.governor).expect("a governor can be written");
        two.governor = minicbor_serde::from_slice(&checkpoint).expect("and read");
        second.extend(turns(&mut two, secs(1060)));
        assert_eq!(first, second);
    }

    #[test]
    fn a_look_is_answered_at_once_even_for_strangers() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        turns(&mut host, secs(1002));
        host.tell(Event::Request(Request::Look { proc: BERT, by: "t".into() }));
        assert_eq!(host.governor.due(), host.now);
        let decision = host.governor.decide(host.now);
        assert!(steps(std::slice::from_ref(&decision)).contains(&(1002, "scan", 11)));
        assert!(decision.plan.iter().any(|s| s.reason.rule == Rule::ScanAsked));
        assert!(host.governor.due() > host.now);
    }

    #[test]
    fn a_pause_stops_the_hands_and_not_the_eyes() {
        let mut host = Host::new(&config("[[target]]\ncomm = '*'"));
        host.tell(Event::Request(Request::Pause { by: "ops".into() }));
        let all = turns(&mut host, secs(1020));
        assert!(steps(&all).iter().all(|s| s.1 == "scan") && !steps(&all).is_empty());
        assert!(all.iter().any(|d| d.report.idles.iter().any(|i| i.reason.rule == Rule::Paused && i.reason.note == "by ops")));
        host.tell(Event::Request(Request::Resume { by: "ops".into() }));
        host.walk(ANNA, Bits::ALL);
        let decision = host.governor.decide(host.now);
        assert!(steps(std::slice::from_ref(&decision)).iter().any(|s| s.1 == "arm"));
    }

    #[test]
    fn a_configuration_that_does_not_hold_changes_nothing() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        let before = host.governor.config().clone();
        host.tell(Event::Config("[scan]\nperiod_ms = 'often'".into()));
        assert_eq!(*host.governor.config(), before);
        let decision = &turns(&mut host, secs(1002))[0];
        assert!(rules(decision).contains(&Rule::BadConfig), "{decision:?}");
    }

    #[test]
    fn blind_and_stale_sources_idle_their_dependants() {
        let mut host = Host::new(&config("[[target]]\ncomm = '*'"));
        host.tell(Event::Blind { source: Source::Walker, why: "unplugged".into() });
        let decision = &turns(&mut host, secs(1005)).pop().expect("there are turns");
        assert!(decision.plan.is_empty() && rules(decision).contains(&Rule::SourceBlind));
        host.tell(Event::Sight { source: Source::Walker });
        host.now = secs(1100);
        host.walk(ANNA, Bits::ALL);
        let decision = host.governor.decide(host.now);
        assert!(steps(std::slice::from_ref(&decision)).iter().all(|s| s.1 == "scan"), "the host was not sampled for 95 s");
        assert!(decision.report.idles.iter().any(|i| i.policy == PolicyId::Arm && i.reason.note == "host is stale"));
    }

    #[test]
    fn hands_rest_while_nobody_tells_of_processes_and_walks_go_on() {
        let mut host = Host::new(&config("[[target]]\ncomm = '*'"));
        host.tell(Event::Blind { source: Source::Procs, why: "too many open files".into() });
        let all = turns(&mut host, secs(1060));
        let verbs: Vec<&str> = steps(&all).iter().map(|s| s.1).collect();
        assert!(verbs.contains(&"scan") && verbs.iter().all(|verb| *verb == "scan"), "{verbs:?}");
        for policy in [PolicyId::Arm, PolicyId::Autocold] {
            let idle =
                |d: &Decision| d.report.idles.iter().any(|i| i.policy == policy && i.reason.note == "procs: too many open files");
            assert!(all.iter().any(idle), "{policy}");
        }
        host.tell(Event::Sight { source: Source::Procs });
        host.walk(ANNA, Bits::ALL);
        let decision = host.governor.decide(host.now);
        assert!(steps(std::slice::from_ref(&decision)).iter().any(|s| s.1 == "arm"));
    }

    #[test]
    fn an_exec_is_nobody_until_it_is_known() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        assert!(host.governor.selection(ANNA).policy().is_some());
        host.tell(Event::Kernel(KernelEvent::Exec { proc: ANNA }));
        assert_eq!(host.governor.selection(ANNA), Selection::NotSelected);
        assert!(host.governor.decide(host.now).plan.is_empty());
    }

    /// Born before the bind, while it was under way, and after it; parents end, and their children stay bound by us.
    #[test]
    fn who_is_born_bound_is_bound_by_us_whatever_becomes_of_its_parent() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        let born = |pid| ProcKey { pid, start: u64::from(pid) };
        let fork = |host: &mut Host, parent, pid, second| {
            host.now = secs(second);
            host.tell(Event::Kernel(KernelEvent::Fork { parent, child: born(pid) }));
        };
        fork(&mut host, ANNA, 100, 1001);
        fork(&mut host, ANNA, 101, 1002);
        fork(&mut host, born(101), 102, 1002);
        host.governor.bound(ANNA, &[2], &[], secs(1002));
        fork(&mut host, ANNA, 103, 1003);
        for proc in [born(101), ANNA] {
            host.tell(Event::Kernel(KernelEvent::Exit { proc }));
        }
        let ours =
            |pid| host.governor.ledger().placed(born(pid)).map(|placed| (placed.cpus.to_string(), placed.bound_at.is_some()));
        assert_eq!([100, 101].map(ours), [None, None]);
        assert_eq!([102, 103].map(ours), [Some(("2".to_owned(), true)), Some(("2".to_owned(), true))]);
    }

    #[test]
    fn outcomes_of_strangers_change_nothing() {
        let mut host = Host::new(&config("[[target]]\ncomm = '*'"));
        let before = format!("{:?}", host.governor.ledger());
        answer(&mut host, StepId { decision: 3, index: 3 }, End::Done);
        assert_eq!(format!("{:?}", host.governor.ledger()), before);
    }

    #[test]
    fn explain_says_what_was_done_and_what_was_not() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        let first = host.governor.decide(host.now);
        answer(&mut host, first.plan[0].id, End::Done);
        turns(&mut host, secs(1010));
        let said = super::super::explain(&host.governor, Subject::Proc(ANNA), None).to_string();
        for part in ["selected by target rule 1 for autocold", "arm pid 10 2560 pages", "outcome 1.0 done", "warm-up"] {
            assert!(said.contains(part), "{part} is missing in\n{said}");
        }
        let said = super::super::explain(&host.governor, Subject::Proc(BERT), None).to_string();
        assert!(said.contains("no target rule selects it"), "{said}");
        let then = super::super::explain(&host.governor, Subject::Proc(ANNA), Some(secs(1000)));
        assert!(then.procs[0].holds.is_empty() && then.procs[0].steps.len() == 1);
    }
}
