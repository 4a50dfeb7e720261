//! What was used up, and what each process was put through: the one account that every policy draws on.
//!
//! Rates hold over every span of `WINDOW`, wherever it begins: the sum of the charges in it never exceeds rate x window.
//! A charge counts in full from the decision until its outcome comes; then what really happened stands in its place.
//! Writes to flash or disk are limited per day of the kernel's clock. CPU time of arming is known from outcomes only.
//!
//! Deliberately absent: limits (they are configuration) and undo of settings (the daemon's footprint).

use super::crossings::Crossings;
use super::served::Served;
use crate::config::Config;
use crate::model::series::Series;
use crate::vocab::{
    Action, AddrRange, Bytes, Charge, End, Guard, IdSet, NodeId, Outcome, Pages, PolicyId, ProcKey, ServerId, ServerLife, Span,
    Step, StepId, Time,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Rates are averages over this: as long as the longest usual time between two turns, so that a policy that works
/// every five or ten seconds can use the seconds between.
pub const WINDOW: Span = Span::from_secs(10);
/// Bound of the ledger's memory. Full, nothing more can be charged until entries grow older than the window.
pub const MAX_ENTRIES: usize = 16_384;
const DAY: Span = Span::from_secs(86_400);
/// First pause after a page-out that moved less than half of what it asked for; doubles each time, 64 times at most.
pub const BACKOFF: Span = Span::from_secs(30);
const MAX_DOUBLINGS: u32 = 6;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    step: StepId,
    at: Time,
    /// The target rule whose own budget this draws on.
    rule: Option<usize>,
    /// It moves memory between nodes for numa.
    #[serde(default)]
    numa: bool,
    /// The slow node between which and a fast one it moves memory for tier.
    #[serde(default)]
    link: Option<NodeId>,
    charge: Charge,
}

/// What came of the last step that takes memory from a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub by: PolicyId,
    /// When the hand was done; nothing that was seen before knows of it.
    pub at: Time,
    pub asked: Pages,
    /// Gone from memory. Zero for advice and for deactivation, which leave everything where it is.
    pub moved: Pages,
    /// The memory looks as before: the same pages would be chosen again at once.
    pub unchanged: bool,
    /// Complete walks of the process until then.
    pub walks: u32,
}

/// Threads kept of a part: eight times as many as are told apart at a time (model/threads).
const PART_MOST: usize = 1024;

/// Threads of a process that were given CPUs of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub cpus: IdSet,
    /// Ascending. None: whoever was made by one of them, by fork or exec, may have the same CPUs.
    pub tids: Vec<u32>,
    /// When the last of them was bound.
    pub at: Time,
}

/// What placing did to a process: the CPUs it was given, and what came of the last steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// CPUs that it was bound to, or its parent was when it was born; empty where it never was.
    pub cpus: IdSet,
    /// When that was done.
    pub bound_at: Option<Time>,
    /// It outgrew what it was bound to before, and got more besides.
    #[serde(default)]
    pub grown: bool,
    /// Threads that run elsewhere, since then.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// How often these were brought together again.
    #[serde(default)]
    pub joined: u32,
    /// The node that pages were last moved to, and when.
    pub to: Option<NodeId>,
    pub moved_at: Option<Time>,
    /// End of the last step of placing, whatever came of it.
    pub at: Time,
    /// That step was advice only: the same would be said again at once.
    pub unchanged: bool,
    /// Steps in a row that did less than half of what they should.
    pub fruitless: u32,
    /// Pages moved so far.
    pub moved: Pages,
}

impl Placed {
    /// While this lies ahead, trying again is known to be futile.
    #[must_use]
    pub fn futile_until(&self) -> Option<Time> {
        Some(self.at.after(backoff(self.fruitless)?))
    }

    /// When any of its threads were last bound, or pages of it moved.
    #[must_use]
    pub fn last(&self) -> Option<Time> {
        self.parts.iter().map(|part| Some(part.at)).fold(self.bound_at.max(self.moved_at), Option::max)
    }

    fn part(&mut self, at: Time, cpus: IdSet, tids: &[u32]) {
        for part in &mut self.parts {
            part.tids.retain(|tid| !tids.contains(tid));
        }
        self.parts.retain(|part| !part.tids.is_empty() || part.cpus == cpus);
        match self.parts.iter_mut().find(|part| part.cpus == cpus) {
            Some(part) => {
                part.tids.extend(tids);
                part.tids.sort_unstable();
                // Most of so many ended long ago; the first ones are the oldest.
                part.tids.drain(..part.tids.len().saturating_sub(PART_MOST));
                part.at = at;
            }
            None => self.parts.push(Part { cpus, tids: tids.to_vec(), at }),
        }
    }

    /// Whoever descends from one of its threads: which of them it was, nobody tells.
    fn inherited(self) -> Self {
        let Self { cpus, bound_at, mut parts, .. } = self;
        parts.iter_mut().for_each(|part| part.tids.clear());
        Self { cpus, bound_at, parts, ..Self::default() }
    }
}

/// What memtier did to one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// End of the first complete walk.
    pub first_walk: Option<Time>,
    /// Decision of the last walk and of the last arming.
    pub scanned: Option<Time>,
    pub armed: Option<Time>,
    /// CPU time of the last complete walk, without the fold.
    #[serde(default)]
    pub walk: Span,
    pub taken: Option<Taken>,
    /// Page-outs in a row that moved less than half of what they asked for.
    pub fruitless: u32,
    /// Last time the measured refaults were over the SLO.
    pub refaulted: Option<Time>,
    /// All that ever went to swap by us.
    pub total: Pages,
}

impl Account {
    /// While this lies ahead, paging out more is known to be futile.
    #[must_use]
    pub fn futile_until(&self) -> Option<Time> {
        Some(self.taken?.at.after(backoff(self.fruitless)?))
    }
}

fn backoff(fruitless: u32) -> Option<Span> {
    let doublings = fruitless.checked_sub(1)?.min(MAX_DOUBLINGS);
    Some(Span(BACKOFF.0 << doublings))
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    /// Sum over the entries; `swap_written` is the day's instead.
    used: Charge,
    day: u64,
    /// When swap was last sampled, and what went there since.
    sampled: Time,
    unsampled: Bytes,
    /// CPU time of arming, in ns, once the outcome has come.
    arming: Series,
    accounts: BTreeMap<ProcKey, Account>,
    #[serde(default)]
    placed: BTreeMap<ProcKey, Placed>,
    /// What tier did to each process; bound it never is.
    #[serde(default)]
    tiered: BTreeMap<ProcKey, Placed>,
    /// When CPU time last went from one node to another by our doing, or by the end of a process that might be placed.
    #[serde(default)]
    shifted: Time,
    #[serde(default)]
    crossed: BTreeMap<ProcKey, Crossings>,
    /// What was done to each memcached server.
    #[serde(default)]
    served: BTreeMap<ServerId, Served>,
    /// Steps of tier under way, and the end of the last one that may have moved anything.
    #[serde(default)]
    tiering: (BTreeSet<StepId>, Time),
}

/// Budgets of one window; of one day for writes to swap on flash or disk.
#[must_use]
pub fn limits(config: &Config) -> Charge {
    let seconds = WINDOW.as_secs();
    Charge {
        moved: Bytes::from_mib(config.budget.moved_mib_per_s.saturating_mul(seconds)),
        swap_written: Bytes::from_mib(config.budget.swap_writes_gib_per_day.saturating_mul(1024)),
        armed: Bytes::from_mib(config.arm.quota_mib_per_s.saturating_mul(seconds)),
        syscalls: config.budget.syscalls_per_s.saturating_mul(seconds),
    }
}

impl Ledger {
    /// Charges of the window that ends at the last turn; `swap_written` of the day.
    #[must_use]
    pub const fn used(&self) -> Charge {
        self.used
    }

    #[must_use]
    pub fn left(&self, config: &Config) -> Charge {
        if self.entries.len() >= MAX_ENTRIES {
            return Charge::default();
        }
        let limits = limits(config);
        Charge {
            moved: limits.moved.saturating_sub(self.used.moved),
            swap_written: limits.swap_written.saturating_sub(self.used.swap_written),
            armed: limits.armed.saturating_sub(self.used.armed),
            syscalls: limits.syscalls.saturating_sub(self.used.syscalls),
        }
    }

    /// Moved in the window under one target rule.
    #[must_use]
    pub fn moved_by_rule(&self, rule: usize) -> Bytes {
        self.entries.iter().filter(|e| e.rule == Some(rule)).map(|e| e.charge.moved).sum()
    }

    /// Moved between nodes in the window for numa.
    #[must_use]
    pub fn moved_by_numa(&self) -> Bytes {
        self.entries.iter().filter(|e| e.numa).map(|e| e.charge.moved).sum()
    }

    /// Moved over the link of a slow node in the window for tier.
    #[must_use]
    pub fn moved_over(&self, link: NodeId) -> Bytes {
        self.entries.iter().filter(|e| e.link == Some(link)).map(|e| e.charge.moved).sum()
    }

    /// Paged out since swap was last sampled, however long ago: that sample does not know of it.
    #[must_use]
    pub const fn unsampled(&self) -> Bytes {
        self.unsampled
    }

    /// CPU time that arming took since `from`.
    #[must_use]
    pub fn arming_since(&self, from: Time) -> Span {
        Span(self.arming.since(from))
    }

    #[must_use]
    pub fn account(&self, proc: ProcKey) -> Account {
        self.accounts.get(&proc).copied().unwrap_or_default()
    }

    /// What placing did to a process; none where nothing was tried.
    #[must_use]
    pub fn placed(&self, proc: ProcKey) -> Option<&Placed> {
        self.placed.get(&proc)
    }

    /// Before this the CPUs of nodes idled and were busy otherwise than they are now.
    #[must_use]
    pub const fn shifted(&self) -> Time {
        self.shifted
    }

    pub fn shift(&mut self, at: Time) {
        self.shifted = self.shifted.max(at);
    }

    /// What tier did to a process; none where nothing was tried.
    #[must_use]
    pub fn tiered(&self, proc: ProcKey) -> Option<&Placed> {
        self.tiered.get(&proc)
    }

    /// What of a process crossed between nodes within the longest settle time; none where nothing did.
    #[must_use]
    pub fn crossed(&self, proc: ProcKey) -> Option<&Crossings> {
        self.crossed.get(&proc)
    }

    /// Whether all that tier did so far is over, and was before then.
    #[must_use]
    pub fn tier_rests(&self, then: Time) -> bool {
        self.tiering.0.is_empty() && self.tiering.1 < then
    }

    /// What was done to a memcached server; none for one that was never met.
    #[must_use]
    pub fn served(&self, server: ServerId) -> Option<&Served> {
        self.served.get(&server)
    }

    /// Slab pages of a server asked for in the window.
    #[must_use]
    pub fn pages_asked(&self, server: ServerId) -> u64 {
        self.served.get(&server).map_or(0, Served::asked)
    }

    /// When a slab page of that process moved last.
    #[must_use]
    pub fn slab_moved(&self, proc: ProcKey) -> Option<Time> {
        self.served.values().filter(|served| served.proc == proc).filter_map(|served| served.moved_at).max()
    }

    /// A server was met, maybe another one or in another life.
    pub(super) fn met(&mut self, server: ServerId, life: Option<ServerLife>) {
        self.served.entry(server).or_default().met(life);
    }

    /// Nobody acts any more: what was set on servers goes back.
    pub(super) fn servers_put_back(&mut self) {
        self.served.values_mut().for_each(Served::put_back);
    }

    pub fn accounts(&self) -> impl Iterator<Item = (ProcKey, &Account)> {
        self.accounts.iter().map(|(&proc, account)| (proc, account))
    }

    pub(super) fn account_mut(&mut self, proc: ProcKey) -> &mut Account {
        self.accounts.entry(proc).or_default()
    }

    /// The host's swap was sampled.
    pub(super) const fn sampled(&mut self, at: Time) {
        (self.sampled, self.unsampled) = (at, Bytes::ZERO);
    }

    /// A walk of the process is complete.
    pub(super) fn walked(&mut self, at: Time, proc: ProcKey) {
        self.account_mut(proc).first_walk.get_or_insert(at);
    }

    /// An earlier run of the daemon has written this much today.
    pub(super) fn seed(&mut self, at: Time, written: Bytes) {
        self.roll(at);
        self.used.swap_written = self.used.swap_written.max(written);
    }

    /// Forgets what is older than the window, and yesterday.
    pub(super) fn roll(&mut self, now: Time) {
        while let Some(old) = self.entries.pop_front_if(|e| now.since(e.at) >= WINDOW) {
            self.used.moved = self.used.moved.saturating_sub(old.charge.moved);
            self.used.armed = self.used.armed.saturating_sub(old.charge.armed);
            self.used.syscalls = self.used.syscalls.saturating_sub(old.charge.syscalls);
        }
        self.served.values_mut().for_each(|served| served.roll(now));
        let day = now.0 / DAY.0;
        if day > self.day {
            (self.day, self.used.swap_written) = (day, Bytes::ZERO);
        }
    }

    /// Forgets crossings that are older than that.
    pub(super) fn forget_crossings(&mut self, before: Time) {
        self.crossed.retain(|_, crossings| !crossings.forget(before));
    }

    /// `link` as in [`Ledger::moved_over`].
    pub(super) fn charge(&mut self, now: Time, step: &Step, rule: Option<usize>, link: Option<NodeId>) {
        if step.by == PolicyId::Tier {
            self.tiering.0.insert(step.id);
        }
        match step.action {
            Action::Scan { proc } => self.account_mut(proc).scanned = Some(now),
            Action::Arm { proc, .. } => self.account_mut(proc).armed = Some(now),
            Action::PageOut { proc, .. }
            | Action::Deactivate { proc, .. }
            | Action::Bind { proc, .. }
            | Action::MovePages { proc, .. }
            | Action::Migrate { proc, .. } => {
                self.account_mut(proc);
            }
            Action::MoveSlabPage { server, proc, .. }
            | Action::SetMover { server, proc, .. }
            | Action::SetWatch { server, proc, .. }
            | Action::SetFree { server, proc, .. } => {
                let page_of = if let Action::MoveSlabPage { from, .. } = step.action { Some(from) } else { None };
                self.served.entry(server).or_default().begun(now, proc, page_of);
            }
        }
        if step.charge == Charge::default() {
            return;
        }
        let Charge { moved, swap_written, armed, syscalls } = step.charge;
        self.used.moved = self.used.moved.saturating_add(moved);
        self.used.swap_written = self.used.swap_written.saturating_add(swap_written);
        self.used.armed = self.used.armed.saturating_add(armed);
        self.used.syscalls = self.used.syscalls.saturating_add(syscalls);
        let numa = step.by == PolicyId::Numa;
        self.entries.push_back(Entry { step: step.id, at: now, rule, numa, link, charge: step.charge });
    }

    /// Puts what happened in the place of what was charged, and notes what came of it.
    pub(super) fn settle(&mut self, decided: Time, step: &Step, outcome: &Outcome, walks: u32) {
        let real = really(step, outcome);
        if decided.0 / DAY.0 == self.day {
            let refund = step.charge.swap_written.saturating_sub(real.swap_written);
            self.used.swap_written = self.used.swap_written.saturating_sub(refund);
        }
        if let Ok(i) = self.entries.binary_search_by_key(&step.id, |e| e.step) {
            let charged = std::mem::replace(&mut self.entries[i].charge, real);
            self.used.moved = self.used.moved.saturating_sub(charged.moved).saturating_add(real.moved);
            self.used.armed = self.used.armed.saturating_sub(charged.armed).saturating_add(real.armed);
            self.used.syscalls = self.used.syscalls.saturating_sub(charged.syscalls).saturating_add(real.syscalls);
        }
        self.note(step, outcome, walks);
        let went = match outcome.end {
            End::Done | End::Partial(_) => true,
            End::Skipped(_) | End::Expired | End::Failed(_) => outcome.done.pages > Pages::ZERO,
        };
        self.cross(step, outcome.ended, went, &outcome.missed);
    }

    /// The outcome of a step never came: nobody knows what it moved, or when it ended.
    pub(super) fn lost(&mut self, now: Time, step: &Step) {
        self.cross(step, now, true, &[]);
    }

    /// A step is over; whether it may have moved anything, and what it did not come to.
    fn cross(&mut self, step: &Step, at: Time, went: bool, missed: &[AddrRange]) {
        self.tiering.0.remove(&step.id);
        let (to, ranges) = match &step.action {
            Action::MovePages { to, ranges, .. } => (*to, &ranges[..]),
            Action::Migrate { to, .. } => (*to, &[AddrRange::EVERYTHING][..]),
            Action::Scan { .. }
            | Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => return,
        };
        if went {
            self.crossed.entry(step.action.proc()).or_default().note(at, to, ranges, missed);
        }
        if went && step.by == PolicyId::Tier {
            self.tiering.1 = self.tiering.1.max(at);
        }
    }

    fn note(&mut self, step: &Step, outcome: &Outcome, walks: u32) {
        if let Some(server) = step.action.server() {
            return self.served.entry(server).or_default().settled(&step.action, outcome);
        }
        let account = self.accounts.entry(step.action.proc()).or_default();
        match &step.action {
            Action::MoveSlabPage { .. } | Action::SetMover { .. } | Action::SetWatch { .. } | Action::SetFree { .. } => {}
            Action::Scan { .. } => match outcome.end {
                End::Done | End::Partial(_) => account.walk = Span(outcome.done.cpu_ns),
                // Broken off, it would have taken longer.
                End::Skipped(_) | End::Expired | End::Failed(_) => account.walk = account.walk.max(Span(outcome.done.cpu_ns)),
            },
            Action::Arm { .. } => self.arming.add(outcome.ended, outcome.ended.since(outcome.began), outcome.done.cpu_ns),
            Action::PageOut { .. } => {
                // An outcome may come late, when a sample has seen its work already.
                if outcome.ended >= self.sampled {
                    self.unsampled = self.unsampled.saturating_add(outcome.done.pages.bytes());
                }
                let advice = outcome.end == End::Skipped(Guard::DryRun);
                account.total = account.total.saturating_add(outcome.done.pages);
                account.taken = Some(Taken {
                    by: step.by,
                    at: outcome.ended,
                    asked: step.action.pages(),
                    moved: outcome.done.pages,
                    unchanged: advice,
                    walks,
                });
                account.fruitless = match outcome.end {
                    End::Done | End::Partial(_) | End::Failed(_) if outcome.done.pages.0 < step.action.pages().0 / 2 => {
                        account.fruitless.saturating_add(1)
                    }
                    End::Done | End::Partial(_) | End::Failed(_) => 0,
                    End::Skipped(_) | End::Expired => account.fruitless,
                };
            }
            Action::Bind { .. } | Action::MovePages { .. } | Action::Migrate { .. } => self.place(step, outcome),
            Action::Deactivate { .. } => {
                let unchanged = match outcome.end {
                    End::Done | End::Partial(_) | End::Skipped(Guard::DryRun) => true,
                    End::Skipped(_) | End::Expired | End::Failed(_) => false,
                };
                let asked = step.action.pages();
                account.taken = Some(Taken { by: step.by, at: outcome.ended, asked, moved: Pages::ZERO, unchanged, walks });
            }
        }
    }

    fn place(&mut self, step: &Step, outcome: &Outcome) {
        let all = if step.by == PolicyId::Tier { &mut self.tiered } else { &mut self.placed };
        let placed = all.entry(step.action.proc()).or_default();
        let (done, at) = (outcome.done, outcome.ended);
        (placed.at, placed.unchanged) = (at, outcome.end == End::Skipped(Guard::DryRun));
        match outcome.end {
            End::Done | End::Partial(_) | End::Failed(_) => {
                // Threads that somebody else bound are left alone, and binding the others was not in vain.
                let least = if matches!(step.action, Action::Bind { .. }) { 1 } else { done.asked.0.div_ceil(2) };
                // Threads that ended before they were bound are not missed.
                let missed = done.asked > Pages::ZERO && done.pages.0 < least;
                let fruitless = missed || matches!(outcome.end, End::Failed(_));
                placed.fruitless = if fruitless { placed.fruitless.saturating_add(1) } else { 0 };
            }
            End::Skipped(_) | End::Expired => {}
        }
        if done.pages == Pages::ZERO {
            return;
        }
        match &step.action {
            Action::Bind { proc, cpus, whom } => {
                let cpus: IdSet = cpus.iter().map(|cpu| cpu.0).collect();
                let members = whom.cgroup().into_iter().flat_map(|group| group.members.iter().copied());
                for proc in members.chain([*proc]) {
                    let placed = all.entry(proc).or_default();
                    placed.at = at;
                    if whom.tids().is_empty() {
                        placed.joined += u32::from(placed.parts.iter().any(|part| !part.tids.is_empty()));
                        placed.grown =
                            !placed.cpus.is_empty() && placed.cpus != cpus && placed.cpus.iter().all(|cpu| cpus.contains(cpu));
                        (placed.cpus, placed.bound_at, placed.parts) = (cpus.clone(), Some(at), Vec::new());
                    } else {
                        placed.part(at, cpus.clone(), whom.tids());
                    }
                }
            }
            Action::MovePages { to, .. } | Action::Migrate { to, .. } => {
                (placed.to, placed.moved_at) = (Some(*to), Some(at));
                placed.moved = placed.moved.saturating_add(done.pages);
            }
            Action::Scan { .. }
            | Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => {}
        }
    }

    /// A child runs where its parent was bound to.
    pub(super) fn forked(&mut self, parent: ProcKey, child: ProcKey) {
        let bound = self.placed.get(&parent).filter(|placed| placed.bound_at.is_some() || !placed.parts.is_empty());
        if let Some(placed) = bound.cloned() {
            self.placed.insert(child, placed.inherited());
        }
    }

    /// It is another program now. Its threads stay bound.
    pub(super) fn executed(&mut self, proc: ProcKey) {
        self.accounts.remove(&proc);
        self.tiered.remove(&proc);
        self.crossed.remove(&proc);
        if let Some(placed) = self.placed.get_mut(&proc) {
            *placed = std::mem::take(placed).inherited();
        }
    }

    pub(super) fn forget(&mut self, proc: ProcKey) {
        self.accounts.remove(&proc);
        self.placed.remove(&proc);
        self.tiered.remove(&proc);
        self.crossed.remove(&proc);
    }

    /// Drops what a lost exit event left behind.
    pub(super) fn retain(&mut self, alive: impl Fn(ProcKey) -> bool) {
        self.accounts.retain(|&proc, _| alive(proc));
        self.placed.retain(|&proc, _| alive(proc));
        self.tiered.retain(|&proc, _| alive(proc));
        self.crossed.retain(|&proc, _| alive(proc));
    }
}

/// What a step used up by its outcome.
fn really(step: &Step, outcome: &Outcome) -> Charge {
    let done = outcome.done.pages.bytes();
    match step.action {
        Action::Scan { .. }
        | Action::MoveSlabPage { .. }
        | Action::SetMover { .. }
        | Action::SetWatch { .. }
        | Action::SetFree { .. } => Charge::default(),
        Action::Bind { .. } => Charge { syscalls: outcome.done.syscalls, ..Charge::default() },
        Action::Arm { .. } => Charge { armed: done, syscalls: outcome.done.syscalls, ..Charge::default() },
        Action::PageOut { .. } => Charge {
            moved: done,
            swap_written: done.min(step.charge.swap_written),
            armed: Bytes::ZERO,
            syscalls: outcome.done.syscalls,
        },
        // Of a deactivation nothing moves; what was put at the end of the LRU counts as handled.
        Action::Deactivate { .. } | Action::MovePages { .. } | Action::Migrate { .. } => {
            Charge { moved: done, syscalls: outcome.done.syscalls, ..Charge::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{Amount, BlockId, CgroupId, CpuId, Fault, Group, Reason, Rule, Whom};

    const PROC: ProcKey = ProcKey { pid: 7, start: 1 };

    fn page_out(decision: u64, pages: u64, worn: bool) -> Step {
        let moved = Pages(pages).bytes();
        Step {
            id: StepId { decision, index: 0 },
            action: Action::PageOut { proc: PROC, ranges: vec![AddrRange { start: 0, end: moved.0 }] },
            guards: vec![],
            expires: Time::MAX,
            charge: Charge { moved, swap_written: if worn { moved } else { Bytes::ZERO }, armed: Bytes::ZERO, syscalls: 2 },
            by: PolicyId::Autocold,
            reason: Reason::new(Rule::AutocoldIdle),
        }
    }

    fn outcome(step: &Step, at: u64, pages: u64, end: End) -> Outcome {
        let done = Amount { pages: Pages(pages), asked: step.action.pages(), syscalls: 1, cpu_ns: 0 };
        Outcome { step: step.id, began: secs(at), ended: secs(at), done, end, missed: Vec::new() }
    }

    fn secs(s: u64) -> Time {
        Time(Span::from_secs(s).0)
    }

    #[test]
    fn a_charge_counts_for_exactly_one_window() {
        let mut ledger = Ledger::default();
        let config = Config::default();
        let all = limits(&config).moved;
        assert_eq!(all, Bytes::from_mib(2560));
        ledger.charge(secs(5), &page_out(1, all.pages().0, false), None, None);
        assert_eq!(ledger.left(&config).moved, Bytes::ZERO);
        ledger.roll(Time(secs(15).0 - 1));
        assert_eq!(ledger.left(&config).moved, Bytes::ZERO);
        ledger.roll(secs(15));
        assert_eq!(ledger.left(&config).moved, all);
    }

    #[test]
    fn an_outcome_replaces_the_charge() {
        let mut ledger = Ledger::default();
        let step = page_out(1, 1000, true);
        ledger.charge(secs(1), &step, Some(3), None);
        assert_eq!((ledger.used().swap_written, ledger.moved_by_rule(3)), (Pages(1000).bytes(), Pages(1000).bytes()));
        ledger.settle(secs(1), &step, &outcome(&step, 2, 600, End::Partial("busy".into())), 0);
        let expect = Charge { moved: Pages(600).bytes(), swap_written: Pages(600).bytes(), armed: Bytes::ZERO, syscalls: 1 };
        assert_eq!(ledger.used(), expect);
        assert_eq!(ledger.moved_by_rule(3), Pages(600).bytes());
        assert_eq!(ledger.moved_by_rule(2), Bytes::ZERO);
        ledger.roll(secs(11));
        assert_eq!(ledger.used(), Charge { swap_written: Pages(600).bytes(), ..Charge::default() });
    }

    #[test]
    fn all_in_a_cgroup_that_was_bound_are_bound() {
        let (mut ledger, other) = (Ledger::default(), ProcKey { pid: 8, start: 2 });
        let group = Group { id: CgroupId(5), path: "/g".into(), members: vec![PROC, other] };
        let action = Action::Bind { proc: PROC, cpus: vec![CpuId(2)], whom: Whom::Cgroup(group) };
        let step = Step { action, by: PolicyId::Numa, charge: Charge::default(), ..page_out(1, 1, false) };
        let refused = Fault { call: "bind".into(), on: "7".into(), errno: 0, message: "no".into() };
        ledger.settle(secs(1), &step, &outcome(&step, 2, 0, End::Failed(refused)), 0);
        assert_eq!((ledger.placed(PROC).map(|p| (p.bound_at, p.fruitless)), ledger.placed(other)), (Some((None, 1)), None));
        ledger.settle(secs(1), &step, &outcome(&step, 3, 9, End::Done), 0);
        for proc in [PROC, other] {
            let placed = ledger.placed(proc).expect("noted");
            assert_eq!((placed.bound_at, placed.cpus.to_string()), (Some(secs(3)), "2".into()));
        }
    }

    #[test]
    fn what_no_sample_has_seen_is_remembered_for_as_long() {
        let mut ledger = Ledger::default();
        ledger.sampled(secs(2));
        for (decision, ended, unsampled) in [(1, 1, 0), (2, 2, 600), (3, 30, 1200)] {
            let step = page_out(decision, 600, false);
            ledger.charge(secs(1), &step, None, None);
            ledger.settle(secs(1), &step, &outcome(&step, ended, 600, End::Done), 0);
            assert_eq!(ledger.unsampled(), Pages(unsampled).bytes(), "ended at {ended} s");
        }
        ledger.roll(secs(500));
        assert_eq!(ledger.unsampled(), Pages(1200).bytes());
        ledger.sampled(secs(501));
        assert_eq!(ledger.unsampled(), Bytes::ZERO);
    }

    #[test]
    fn the_day_ends_and_is_seeded() {
        let mut ledger = Ledger::default();
        ledger.seed(secs(10), Bytes(500));
        let step = page_out(1, 1, true);
        ledger.charge(secs(20), &step, None, None);
        ledger.seed(secs(30), Bytes(500));
        assert_eq!(ledger.used().swap_written, Bytes(4596));
        ledger.roll(secs(86_399));
        assert_eq!(ledger.used().swap_written, Bytes(4596));
        ledger.roll(secs(86_400));
        assert_eq!(ledger.used().swap_written, Bytes::ZERO);
        // What comes back of yesterday's step gives today nothing.
        let today = page_out(2, 10, true);
        ledger.charge(secs(86_401), &today, None, None);
        ledger.settle(secs(20), &step, &outcome(&step, 86_402, 0, End::Expired), 0);
        assert_eq!(ledger.used().swap_written, Pages(10).bytes());
    }

    #[test]
    fn fruitless_page_outs_back_off_twice_as_long_each_time() {
        let mut ledger = Ledger::default();
        let fault = Fault { call: "c".into(), on: "o".into(), errno: 1, message: "m".into() };
        let table = [
            (600, End::Done, None),
            (400, End::Done, Some(30)),
            (0, End::Failed(fault), Some(60)),
            (0, End::Skipped(Guard::Calm { most_avg10: 1 }), Some(60)),
            (499, End::Partial("busy".into()), Some(120)),
            (500, End::Partial("busy".into()), None),
        ];
        for (i, (moved, end, pause)) in table.into_iter().enumerate() {
            let step = page_out(i as u64, 1000, false);
            ledger.charge(secs(1), &step, None, None);
            ledger.settle(secs(1), &step, &outcome(&step, 100, moved, end), 0);
            assert_eq!(ledger.account(PROC).futile_until(), pause.map(|s| secs(100 + s)), "case {i}");
        }
        ledger.account_mut(PROC).fruitless = u32::MAX;
        assert_eq!(ledger.account(PROC).futile_until(), Some(secs(100 + 30 * 64)));
        assert_eq!(ledger.account(PROC).total, Pages(600 + 400 + 499 + 500));
    }

    #[test]
    fn moves_are_remembered_by_block_also_where_no_outcome_came() {
        let (mut ledger, slow) = (Ledger::default(), NodeId(2));
        let moving = |decision, by| {
            let ranges = vec![AddrRange { start: 0, end: 4 << 20 }];
            Step { action: Action::MovePages { proc: PROC, to: slow, ranges }, by, ..page_out(decision, 1024, false) }
        };
        let crossed = |ledger: &Ledger| ledger.crossed(PROC).and_then(|crossed| crossed.away_from(BlockId(1), NodeId(0)));
        let step = moving(1, PolicyId::Tier);
        ledger.charge(secs(1), &step, None, Some(slow));
        assert_eq!((ledger.tier_rests(secs(9)), ledger.moved_over(slow)), (false, Bytes::from_mib(4)));
        ledger.settle(secs(1), &step, &outcome(&step, 3, 512, End::Partial("busy".into())), 0);
        assert_eq!((ledger.tier_rests(secs(3)), ledger.tier_rests(secs(4))), (false, true));
        assert_eq!((ledger.moved_over(slow), crossed(&ledger)), (Bytes::from_mib(2), Some(secs(3))));
        // What numa goes by knows nothing of it.
        assert_eq!((ledger.placed(PROC), ledger.tiered(PROC).map(|placed| placed.moved)), (None, Some(Pages(512))));
        let step = moving(2, PolicyId::Numa);
        ledger.charge(secs(5), &step, None, None);
        ledger.lost(secs(75), &step);
        assert_eq!((crossed(&ledger), ledger.moved_over(slow)), (Some(secs(75)), Bytes::from_mib(2)));
        let step = moving(3, PolicyId::Tier);
        ledger.charge(secs(80), &step, None, Some(slow));
        ledger.settle(secs(80), &step, &outcome(&step, 81, 0, End::Skipped(Guard::DryRun)), 0);
        assert_eq!((crossed(&ledger), ledger.tier_rests(secs(4))), (Some(secs(75)), true));
        ledger.forget_crossings(secs(76));
        assert_eq!(crossed(&ledger), None);
    }

    #[test]
    fn threads_on_their_own_are_known_until_all_are_bound() {
        let mut ledger = Ledger::default();
        let mut bind = |decision: u64, cpus: &[u32], tids: &[u32], proc: ProcKey| {
            let cpus = cpus.iter().map(|cpu| crate::vocab::CpuId(*cpu)).collect();
            let action = Action::Bind { proc, cpus, whom: Whom::of(tids) };
            let step = Step { action, by: PolicyId::Numa, charge: Charge::default(), ..page_out(decision, 1, false) };
            ledger.charge(secs(decision), &step, None, None);
            ledger.settle(secs(decision), &step, &outcome(&step, decision, 2, End::Done), 0);
            ledger.forked(PROC, ProcKey { pid: 8, start: decision });
            let child = ledger.placed(ProcKey { pid: 8, start: decision }).cloned().unwrap_or_default();
            (ledger.placed(proc).cloned().unwrap_or_default(), child)
        };
        let parts = |placed: &Placed| -> Vec<(String, Vec<u32>, Time)> {
            placed.parts.iter().map(|part| (part.cpus.to_string(), part.tids.clone(), part.at)).collect()
        };
        let part = |cpus: &str, tids: &[u32], at| (cpus.to_owned(), tids.to_vec(), secs(at));
        bind(1, &[0, 1], &[21, 23], PROC);
        let (placed, child) = bind(2, &[2, 3], &[22], PROC);
        assert_eq!(parts(&placed), [part("0-1", &[21, 23], 1), part("2-3", &[22], 2)]);
        assert_eq!((placed.bound_at, placed.last(), placed.joined), (None, Some(secs(2)), 0));
        assert_eq!(parts(&child), [part("0-1", &[], 1), part("2-3", &[], 2)], "which thread forked is not known");
        let (placed, _) = bind(3, &[2, 3], &[20, 21, 23], PROC);
        assert_eq!(parts(&placed), [part("2-3", &[20, 21, 22, 23], 3)]);
        let (placed, child) = bind(4, &[0, 1, 2, 3], &[], PROC);
        assert_eq!((parts(&placed), placed.bound_at, placed.joined, placed.grown), (vec![], Some(secs(4)), 1, false));
        assert_eq!((parts(&child), child.bound_at, child.joined), (vec![], Some(secs(4)), 0));
        let (placed, _) = bind(5, &[0], &[], PROC);
        assert_eq!((placed.joined, placed.grown), (1, false), "they were together");
        for (at, cpus, grown) in [(6, vec![0, 1], true), (7, vec![0, 1], false), (8, vec![0, 2], false)] {
            assert_eq!(bind(at, &cpus, &[], PROC).0.grown, grown, "{cpus:?}");
        }
    }

    #[test]
    fn a_full_ledger_lends_nothing() {
        let mut ledger = Ledger::default();
        for i in 0..MAX_ENTRIES as u64 {
            ledger.charge(secs(1), &page_out(i, 1, false), None, None);
        }
        assert_eq!(ledger.left(&Config::default()), Charge::default());
        ledger.roll(secs(11));
        assert_ne!(ledger.left(&Config::default()), Charge::default());
    }
}
