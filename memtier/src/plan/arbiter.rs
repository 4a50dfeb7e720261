//! Turns proposals into steps, in this order: drop what stands on old facts; rank by class, gain, id; one step per
//! process and turn; cut to the budgets and reserves; emit with guards and expiry. Pure: the Governor charges the ledger.

use super::Flight;
use super::calls::{BIND_CALLS, calls};
use super::ledger::{WINDOW, limits};
use super::targets::Selection;
use crate::model::{NodeNow, ProcHeat, Sight};
use crate::policy::{Proposal, Spacing, View, slow_end};
use crate::vocab::{
    Action, BLOCK_BYTES, Bytes, Charge, Guard, Hold, Measure, NodeId, Pages, Permil, PolicyId, ProcKey, Quantity, Reason, Rule,
    ServerId, Span, Step, StepId,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Advice stands on a walk no older than this many scan periods.
pub const STALE_SCANS: u64 = 3;
/// A look at a server is never older than this when it is acted on, or than so many periods.
const LEAST_LOOK: Span = Span::from_secs(2);

pub struct Verdict {
    pub plan: Vec<Step>,
    pub holds: Vec<Hold>,
}

/// One limit on the size of a step.
struct Cap {
    most: Bytes,
    reason: Reason,
}

/// What is left for the rest of this turn.
struct Room {
    left: Charge,
    swap: Bytes,
    /// Moved this turn per target rule and per cgroup path.
    rules: BTreeMap<usize, Bytes>,
    cgroups: BTreeMap<String, Bytes>,
    /// On its way to a node, this turn's included.
    nodes: BTreeMap<NodeId, Bytes>,
    /// Moved by numa this turn, and by tier over the link of each slow node.
    numa: Bytes,
    links: BTreeMap<NodeId, Bytes>,
}

pub fn arbitrate(view: &View<'_>, in_flight: &BTreeMap<StepId, Flight>, number: u64, mut proposals: Vec<Proposal>) -> Verdict {
    let mut verdict = Verdict { plan: Vec::new(), holds: Vec::new() };
    let mut taken = BTreeSet::new();
    let mut room = Room::new(view, in_flight);
    proposals.sort_by_key(|p| (p.class, Reverse(p.gain), p.by, p.action.proc()));
    for proposal in proposals {
        let (by, proc, subject) = (proposal.by, proposal.action.proc(), proposal.action.subject());
        let step = stale(view, &proposal)
            .map_or(Ok(()), Err)
            .and_then(|()| busy(in_flight, &proposal).map_or(Ok(()), Err))
            .and_then(|()| unsettled(view, &proposal).map_or(Ok(()), Err))
            .and_then(|()| if taken.contains(&proc) { Err(Reason::new(Rule::SubjectTaken)) } else { room.fit(view, proposal) });
        match step {
            Ok(fitted) => {
                taken.insert(proc);
                room.spend(view, &fitted);
                let id = StepId { decision: number, index: verdict.plan.len() as u32 };
                verdict.plan.push(emit(view, id, fitted));
            }
            Err(reason) => verdict.holds.push(Hold { subject, by, reason }),
        }
    }
    verdict
}

fn emit(view: &View<'_>, id: StepId, proposal: Proposal) -> Step {
    let Proposal { action, by, class: _, gain: _, charge, lifetime, reason } = proposal;
    let mut guards = match action.server() {
        Some(server) => vec![Guard::SameLife { server, life: view.models.caches.get(server).and_then(|c| c.server.life) }],
        None => vec![Guard::Alive(action.proc())],
    };
    let calm = Guard::Calm { most_avg10: u32::try_from(view.config.brake.memory_some_centipercent).unwrap_or(u32::MAX) };
    match action {
        Action::Scan { .. }
        | Action::MoveSlabPage { .. }
        | Action::SetMover { .. }
        | Action::SetWatch { .. }
        | Action::SetFree { .. } => {}
        Action::Arm { .. } | Action::Deactivate { .. } => guards.push(calm),
        Action::PageOut { .. } => guards.extend([calm, Guard::SwapFree { least: Permil(view.config.budget.swap_free_permil) }]),
        Action::Bind { .. } => {}
        Action::MovePages { to, .. } | Action::Migrate { to, .. } => {
            guards.extend([calm, Guard::NodeFree { node: to, least: node_reserve(view, to) }]);
        }
    }
    Step { id, action, guards, expires: view.now.after(lifetime), charge, by, reason }
}

/// Steps that use memory need a recent walk to stand on; a walk needs nothing.
fn stale(view: &View<'_>, proposal: &Proposal) -> Option<Reason> {
    let proc = match proposal.action {
        Action::Scan { .. } => return None,
        Action::MoveSlabPage { server, .. }
        | Action::SetMover { server, .. }
        | Action::SetWatch { server, .. }
        | Action::SetFree { server, .. } => return stale_look(view, server),
        Action::Arm { proc, .. }
        | Action::PageOut { proc, .. }
        | Action::Deactivate { proc, .. }
        | Action::Bind { proc, .. }
        | Action::MovePages { proc, .. }
        | Action::Migrate { proc, .. } => proc,
    };
    let walked = view.models.heat.get(proc).and_then(ProcHeat::scan_at);
    let Some(walked) = walked.filter(|_| view.models.procs.sample(proc).is_some()) else {
        return Some(Reason::new(Rule::Stale).note("the process is gone or not walked"));
    };
    let age = view.now.since(walked);
    let bound = |between: Span| Span(between.0.saturating_mul(STALE_SCANS));
    if age <= bound(Span::from_millis(view.config.scan.period_ms)) {
        return None;
    }
    let (between, knob) = Spacing::of(view).between(view, proc);
    let bound = bound(between);
    (age > bound).then(|| {
        let reason = Reason::new(Rule::Stale).saw(Measure::SinceLastScan, age, bound, knob);
        if knob == "scan.period_ms" { reason.flips_at(age.as_millis().div_ceil(STALE_SCANS)) } else { reason }
    })
}

/// Steps about a server need a recent look at it.
fn stale_look(view: &View<'_>, server: ServerId) -> Option<Reason> {
    let cache = view.models.caches.get(server).filter(|cache| matches!(cache.sight, Sight::Seeing { .. }));
    let Some(looked) = cache.and_then(|cache| cache.looked) else {
        return Some(Reason::new(Rule::Stale).note("the server is not seen"));
    };
    let bound = Span::from_millis(view.config.caches.period_ms.saturating_mul(STALE_SCANS)).max(LEAST_LOOK);
    let age = view.now.since(looked);
    (age > bound).then(|| Reason::new(Rule::Stale).saw(Measure::SourceAge, age, bound, "caches.period_ms"))
}

/// Memory that slab pages just came from or went to looks idle, and is not.
fn unsettled(view: &View<'_>, proposal: &Proposal) -> Option<Reason> {
    let proc = match proposal.action {
        Action::PageOut { proc, .. } | Action::Deactivate { proc, .. } => proc,
        Action::Scan { .. }
        | Action::Arm { .. }
        | Action::Bind { .. }
        | Action::MovePages { .. }
        | Action::Migrate { .. }
        | Action::MoveSlabPage { .. }
        | Action::SetMover { .. }
        | Action::SetWatch { .. }
        | Action::SetFree { .. } => return None,
    };
    let (since, settle) = (view.now.since(view.ledger.slab_moved(proc)?), Span::from_secs(view.config.caches.settle_s));
    (since < settle).then(|| {
        Reason::new(Rule::Settling)
            .saw(Measure::SinceLastMove, since, settle, "caches.settle_s")
            .flips_at(since.as_secs())
            .note("a slab page of it moved")
    })
}

/// One walk, one arming, one taking and one placing of a process at a time; and one step about a server, which moves or sets nothing
/// while any of its memory is taken.
fn busy(in_flight: &BTreeMap<StepId, Flight>, proposal: &Proposal) -> Option<Reason> {
    const fn hand(action: &Action) -> u8 {
        match action {
            Action::Scan { .. } => 0,
            Action::Arm { .. } => 1,
            Action::PageOut { .. } | Action::Deactivate { .. } => 2,
            Action::Bind { .. } | Action::MovePages { .. } | Action::Migrate { .. } => 3,
            Action::MoveSlabPage { .. } | Action::SetMover { .. } | Action::SetFree { .. } => 4,
            Action::SetWatch { .. } => 5,
        }
    }
    let apart = |one: u8, other: u8| one == other || matches!((one.min(other), one.max(other)), (2, 4) | (4, 5));
    let same = |step: &&Step| step.action.proc() == proposal.action.proc() && apart(hand(&step.action), hand(&proposal.action));
    in_flight
        .values()
        .map(|flight| &flight.step)
        .find(same)
        .map(|step| Reason::new(Rule::InFlight).note(format!("step {} is under way", step.id)))
}

impl Room {
    fn new(view: &View<'_>, in_flight: &BTreeMap<StepId, Flight>) -> Self {
        let swap = &view.models.swap;
        let reserve = swap.total().scale(view.config.budget.swap_free_permil, 1000);
        // The last sample knows neither what is under way nor what went since.
        let flying = in_flight.values().filter(|f| is_page_out(&f.step.action)).map(|f| f.step.charge.moved);
        let unseen = view.ledger.unsampled().saturating_add(flying.sum());
        Self {
            left: view.ledger.left(view.config),
            swap: swap.free().saturating_sub(reserve).saturating_sub(unseen),
            rules: BTreeMap::new(),
            cgroups: BTreeMap::new(),
            nodes: coming(in_flight.values().map(|flight| &flight.step)),
            numa: Bytes::ZERO,
            links: BTreeMap::new(),
        }
    }

    /// Cuts the proposal to what is left; the limit that leaves nothing is the refusal.
    fn fit(&self, view: &View<'_>, mut proposal: Proposal) -> Result<Proposal, Reason> {
        let caps = match proposal.action {
            Action::Scan { .. } | Action::SetMover { .. } | Action::SetWatch { .. } | Action::SetFree { .. } => {
                return Ok(proposal);
            }
            Action::MoveSlabPage { server, .. } => return slab_pages(view, server).map_or(Ok(proposal), Err),
            Action::Arm { .. } => vec![self.armed(view)],
            Action::Bind { .. } => Vec::new(),
            Action::MovePages { proc, to, .. } | Action::Migrate { proc, to, .. } => {
                let mut caps = vec![self.moved(view), self.node(view, to)];
                caps.extend(self.rule(view, proc));
                caps.extend((proposal.by == PolicyId::Numa).then(|| self.numa(view)));
                caps.extend(self.link(view, &proposal));
                caps
            }
            Action::Deactivate { proc, .. } => {
                let mut caps = vec![self.moved(view)];
                caps.extend(self.rule(view, proc));
                caps
            }
            Action::PageOut { proc, .. } => {
                let mut caps = vec![self.moved(view), self.swap(view)];
                caps.extend(self.rule(view, proc));
                caps.extend(self.worn(view, &proposal.charge));
                caps.extend(self.cgroup(view, proc));
                caps
            }
        };
        let asked = proposal.action.pages();
        if let Action::Migrate { .. } = proposal.action {
            // It cannot be cut.
            return match caps.into_iter().find(|cap| cap.most < proposal.charge.moved) {
                Some(Cap { reason, .. }) => Err(reason),
                None => self.calls(view, &mut proposal).map(|()| proposal),
            };
        }
        if let Some(Cap { most, reason }) = caps.into_iter().min_by_key(|cap| cap.most).filter(|cap| cap.most.pages() < asked) {
            cut(&mut proposal.action, most.pages());
            proposal.reason.evidence.extend(reason.evidence.clone());
            if proposal.action.pages() == Pages::ZERO {
                return Err(reason);
            }
        }
        self.calls(view, &mut proposal)?;
        let left = proposal.action.pages();
        let scaled = |bytes: Bytes| bytes.scale(left.0, asked.0);
        let Charge { moved, swap_written, armed, syscalls } = proposal.charge;
        proposal.charge = Charge { moved: scaled(moved), swap_written: scaled(swap_written), armed: scaled(armed), syscalls };
        Ok(proposal)
    }

    fn moved(&self, view: &View<'_>) -> Cap {
        rate(self.left.moved, limits(view.config).moved, Measure::MovedInWindow, "budget.moved_mib_per_s")
    }

    fn numa(&self, view: &View<'_>) -> Cap {
        let limit = Bytes::from_mib(view.config.numa.quota_mib_per_s.saturating_mul(WINDOW.as_secs()));
        let used = view.ledger.moved_by_numa().saturating_add(self.numa);
        rate(limit.saturating_sub(used), limit, Measure::NodeMovedInWindow, "numa.quota_mib_per_s")
    }

    fn link(&self, view: &View<'_>, proposal: &Proposal) -> Option<Cap> {
        let link = slow_end(view, &proposal.action).filter(|_| proposal.by == PolicyId::Tier)?;
        let limit = Bytes::from_mib(view.config.tier.quota_mib_per_s.saturating_mul(WINDOW.as_secs()));
        let used = view.ledger.moved_over(link).saturating_add(self.links.get(&link).copied().unwrap_or_default());
        Some(rate(limit.saturating_sub(used), limit, Measure::NodeMovedInWindow, "tier.quota_mib_per_s"))
    }

    /// What a node may still take: what its last sample says is free, without what is on its way there, and the reserve.
    fn node(&self, view: &View<'_>, to: NodeId) -> Cap {
        let free = view.models.nodes.get(to).map_or(Bytes::ZERO, NodeNow::free);
        let free = free.saturating_sub(self.nodes.get(&to).copied().unwrap_or_default());
        let reserve = node_reserve(view, to);
        let reason =
            Reason::new(Rule::NodeReserve).saw(Measure::NodeFree, free, reserve, "numa.node_free_permil").note(to.to_string());
        Cap { most: free.saturating_sub(reserve), reason }
    }

    fn armed(&self, view: &View<'_>) -> Cap {
        rate(self.left.armed, limits(view.config).armed, Measure::ArmedInWindow, "arm.quota_mib_per_s")
    }

    /// Charges the calls that the step will make; one that is left too few is halved until it fits.
    fn calls(&self, view: &View<'_>, proposal: &mut Proposal) -> Result<(), Reason> {
        let mut refusal = None;
        loop {
            let calls = calls(&proposal.action, view.config).saturating_add(bind_calls(view, &proposal.action));
            if calls <= self.left.syscalls {
                proposal.charge.syscalls = calls;
                proposal.reason.evidence.extend(refusal.into_iter().flat_map(|reason: Reason| reason.evidence));
                return Ok(());
            }
            let limit = limits(view.config).syscalls;
            let wanted = (limit - self.left.syscalls.min(limit)).saturating_add(calls);
            let refused = Reason::new(Rule::BudgetSpent)
                .saw(Measure::SyscallsInWindow, Quantity::count(wanted), Quantity::count(limit), "budget.syscalls_per_s")
                .flips_at(wanted.div_ceil(WINDOW.as_secs()));
            let half = Pages(proposal.action.pages().0 / 2);
            cut(&mut proposal.action, half);
            if proposal.action.pages() == Pages::ZERO {
                return Err(refused);
            }
            refusal = Some(refused);
        }
    }

    fn swap(&self, view: &View<'_>) -> Cap {
        let free = view.models.swap.free_permil();
        let reason = Reason::new(Rule::SwapReserve)
            .saw(Measure::SwapFree, free, Permil(view.config.budget.swap_free_permil), "budget.swap_free_permil")
            .flips_at(free.0.saturating_sub(1));
        Cap { most: self.swap, reason }
    }

    fn rule(&self, view: &View<'_>, proc: ProcKey) -> Option<Cap> {
        let Selection::Selected { rule: Some(rule), moved_per_s: Some(rate_per_s), .. } = view.targets.selection(proc) else {
            return None;
        };
        let limit = Bytes(rate_per_s.0.saturating_mul(WINDOW.as_secs()));
        let used = view.ledger.moved_by_rule(rule).saturating_add(self.rules.get(&rule).copied().unwrap_or_default());
        Some(rate(limit.saturating_sub(used), limit, Measure::MovedInWindow, "target.moved_mib_per_s"))
    }

    /// Swap on flash or disk wears out; a share of zero wears nothing.
    fn worn(&self, view: &View<'_>, charge: &Charge) -> Option<Cap> {
        let limit = limits(view.config).swap_written;
        (charge.swap_written > Bytes::ZERO).then(|| Cap {
            most: self.left.swap_written.scale(charge.moved.0, charge.swap_written.0),
            reason: Reason::new(Rule::BudgetSpent)
                .saw(
                    Measure::SwapWrittenToday,
                    limit.saturating_sub(self.left.swap_written),
                    limit,
                    "budget.swap_writes_gib_per_day",
                )
                .flips_at(view.config.budget.swap_writes_gib_per_day + 1),
        })
    }

    fn cgroup(&self, view: &View<'_>, proc: ProcKey) -> Option<Cap> {
        let path = &view.models.procs.sample(proc)?.cgroup;
        let room = view.models.swap.cgroup_room(path);
        let spent = self.cgroups.get(path).copied().unwrap_or_default();
        let reason = Reason::new(Rule::CgroupSwapLimit)
            .saw(Measure::CgroupSwap, room, Bytes::ZERO, "")
            .note(format!("swap limit on the path of {path}"));
        (room < Bytes::MAX).then(|| Cap { most: room.saturating_sub(spent), reason })
    }

    fn spend(&mut self, view: &View<'_>, proposal: &Proposal) {
        let Charge { moved, swap_written, armed, syscalls } = proposal.charge;
        self.left.moved = self.left.moved.saturating_sub(moved);
        self.left.swap_written = self.left.swap_written.saturating_sub(swap_written);
        self.left.armed = self.left.armed.saturating_sub(armed);
        self.left.syscalls = self.left.syscalls.saturating_sub(syscalls);
        if let Action::MovePages { to, .. } | Action::Migrate { to, .. } = proposal.action {
            let spent = self.nodes.entry(to).or_default();
            *spent = spent.saturating_add(moved);
            self.numa = self.numa.saturating_add(if proposal.by == PolicyId::Numa { moved } else { Bytes::ZERO });
            if let Some(link) = slow_end(view, &proposal.action).filter(|_| proposal.by == PolicyId::Tier) {
                let spent = self.links.entry(link).or_default();
                *spent = spent.saturating_add(moved);
            }
        }
        if moved == Bytes::ZERO {
            return;
        }
        let proc = proposal.action.proc();
        if let Selection::Selected { rule: Some(rule), .. } = view.targets.selection(proc) {
            let spent = self.rules.entry(rule).or_default();
            *spent = spent.saturating_add(moved);
        }
        if is_page_out(&proposal.action) {
            self.swap = self.swap.saturating_sub(moved);
            let path = view.models.procs.sample(proc).map(|sample| sample.cgroup.clone()).unwrap_or_default();
            let spent = self.cgroups.entry(path).or_default();
            *spent = spent.saturating_add(moved);
        }
    }
}

/// A page too many for the window. A server has one step a turn.
fn slab_pages(view: &View<'_>, server: ServerId) -> Option<Reason> {
    let (asked, limit) = (view.ledger.pages_asked(server), view.config.caches.pages_per_s.saturating_mul(WINDOW.as_secs()));
    (asked >= limit).then(|| {
        Reason::new(Rule::BudgetSpent)
            .saw(Measure::SlabMovedInWindow, Quantity::count(asked + 1), Quantity::count(limit), "caches.pages_per_s")
            .flips_at((asked + 1).div_ceil(WINDOW.as_secs()))
    })
}

/// What stays free on a node.
fn node_reserve(view: &View<'_>, node: NodeId) -> Bytes {
    let total = view.models.nodes.get(node).map_or(Bytes::ZERO, |now| now.total);
    total.scale(view.config.numa.node_free_permil, 1000)
}

/// Bytes on their way to each node.
fn coming<'a>(steps: impl Iterator<Item = &'a Step>) -> BTreeMap<NodeId, Bytes> {
    let mut coming = BTreeMap::<NodeId, Bytes>::new();
    for step in steps {
        if let Action::MovePages { to, .. } | Action::Migrate { to, .. } = step.action {
            let sum = coming.entry(to).or_default();
            *sum = sum.saturating_add(step.charge.moved);
        }
    }
    coming
}

const fn is_page_out(action: &Action) -> bool {
    matches!(action, Action::PageOut { .. })
}

/// A bind looks at every thread, sets it, and looks again; of a cgroup all are looked at twice, and one file is written. It cannot
/// be halved: one for which the budget of a window is too small takes a whole one.
fn bind_calls(view: &View<'_>, action: &Action) -> u64 {
    match action {
        Action::Bind { proc, cpus: _, whom } => {
            let members = whom.cgroup().map_or(std::slice::from_ref(proc), |group| &group.members);
            let threads = members.iter().filter_map(|proc| view.models.procs.sample(*proc)).map(|s| u64::from(s.threads));
            let each = if whom.cgroup().is_some() { BIND_CALLS / 2 } else { BIND_CALLS };
            (threads.sum::<u64>() * each).min(limits(view.config).syscalls)
        }
        Action::Scan { .. }
        | Action::Arm { .. }
        | Action::PageOut { .. }
        | Action::Deactivate { .. }
        | Action::MovePages { .. }
        | Action::Migrate { .. }
        | Action::MoveSlabPage { .. }
        | Action::SetMover { .. }
        | Action::SetWatch { .. }
        | Action::SetFree { .. } => 0,
    }
}

/// A budget per second, with what was used of it in the window.
fn rate(left: Bytes, limit: Bytes, measure: Measure, knob: &'static str) -> Cap {
    let used = limit.saturating_sub(left);
    let per_s = (limit.0 / WINDOW.as_secs()) >> 20;
    Cap { most: left, reason: Reason::new(Rule::BudgetSpent).saw(measure, used, limit, knob).flips_at(per_s + 1) }
}

/// Keeps the first pages. A range is only cut where a block ends, so that no huge leaf is split.
fn cut(action: &mut Action, most: Pages) {
    let ranges = match action {
        Action::Scan { .. }
        | Action::Bind { .. }
        | Action::Migrate { .. }
        | Action::MoveSlabPage { .. }
        | Action::SetMover { .. }
        | Action::SetWatch { .. }
        | Action::SetFree { .. } => return,
        Action::Arm { ranges, .. }
        | Action::PageOut { ranges, .. }
        | Action::Deactivate { ranges, .. }
        | Action::MovePages { ranges, .. } => ranges,
    };
    let mut left = most.bytes().0;
    ranges.retain_mut(|range| {
        let length = range.end - range.start;
        if length > left {
            range.end = range.start.saturating_add(left) / BLOCK_BYTES * BLOCK_BYTES;
        }
        let kept = range.end.saturating_sub(range.start);
        left = if kept < length { 0 } else { left - length };
        kept > 0
    });
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{ANNA, BERT, Host, SWAP, config, part, secs};
    use super::*;
    use crate::config::Config;
    use crate::policy::Class;
    use crate::vocab::AddrRange;

    fn page_out(proc: ProcKey, ranges: Vec<AddrRange>) -> Proposal {
        let action = Action::PageOut { proc, ranges };
        let pages = action.pages();
        Proposal {
            charge: Charge { moved: pages.bytes(), syscalls: 1, ..Charge::default() },
            action,
            by: PolicyId::Slide,
            class: Class::Tiering,
            gain: pages.0,
            lifetime: Span::from_secs(30),
            reason: Reason::new(Rule::SlideCold),
        }
    }

    fn scan(proc: ProcKey) -> Proposal {
        let action = Action::Scan { proc };
        Proposal { action, by: PolicyId::Watch, class: Class::Observation, charge: Charge::default(), ..page_out(proc, vec![]) }
    }

    fn said(verdict: &Verdict) -> Vec<String> {
        let step = |s: &Step| format!("{} {} {}", s.action.verb(), s.action.proc().pid, s.action.pages().0);
        let hold = |h: &Hold| format!("{} {}", h.reason.rule, h.subject);
        verdict.plan.iter().map(step).chain(verdict.holds.iter().map(hold)).collect()
    }

    fn check(config: &Config, change: impl FnOnce(&mut Host), proposals: Vec<Proposal>, expect: &[&str]) {
        let mut host = Host::new(config);
        change(&mut host);
        let verdict = arbitrate(&host.governor.view(host.now), &BTreeMap::new(), 7, proposals);
        assert_eq!(said(&verdict), expect);
    }

    fn anna_all() -> Config {
        config("[[target]]\ncomm = '*'")
    }

    #[test]
    fn class_then_gain_then_id_and_one_step_per_process() {
        let (small, large) = (page_out(ANNA, vec![part(1, 0, 10)]), page_out(BERT, vec![part(1, 0, 20)]));
        let proposals = vec![small.clone(), scan(ANNA), large, small];
        check(&anna_all(), |_| {}, proposals, &["scan 10 0", "page-out 11 20", "subject-taken pid 10", "subject-taken pid 10"]);
    }

    #[test]
    fn budgets_cut_at_block_ends() {
        let config = config("[budget]\nmoved_mib_per_s = 1\n[[target]]\ncomm = '*'");
        // 10 MiB a window: all five blocks of the first, nothing for the second.
        let all = vec![part(1, 0, 5 * 512)];
        let both = vec![page_out(ANNA, all.clone()), page_out(BERT, all)];
        check(&config, |_| {}, both, &["page-out 10 2560", "budget-spent pid 11"]);
        let most = vec![page_out(ANNA, vec![part(1, 0, 2000)]), page_out(BERT, vec![part(1, 100, 2000)])];
        // 560 pages are left: they reach into block 2, which is not cut.
        check(&config, |_| {}, most, &["page-out 10 2000", "page-out 11 412"]);
    }

    #[test]
    fn a_rule_has_its_own_share() {
        let config = config("[[target]]\ncomm = 'anna'\nmoved_mib_per_s = 0\n[[target]]\ncomm = 'bert'");
        let both = vec![page_out(ANNA, vec![part(1, 0, 9)]), page_out(BERT, vec![part(1, 0, 8)])];
        check(&config, |_| {}, both, &["page-out 11 8", "budget-spent pid 10"]);
    }

    #[test]
    fn steps_are_halved_until_their_calls_fit() {
        let with = |per_s| config(&format!("[budget]\nsyscalls_per_s = {per_s}\n[[target]]\ncomm = '*'"));
        // 8 to take hold, 2 guards, 2 reads, and one call with its pause.
        let small = page_out(ANNA, vec![part(1, 0, 9)]);
        check(&with(1), |_| {}, vec![small.clone()], &["budget-spent pid 10"]);
        check(&with(2), |_| {}, vec![small.clone()], &["page-out 10 9"]);
        check(&with(2), |_| {}, vec![small, page_out(BERT, vec![part(1, 0, 9)])], &["page-out 10 9", "budget-spent pid 11"]);
        // 10 MiB take 62 calls, 4 MiB 30.
        let large = page_out(ANNA, vec![part(1, 0, 5 * 512)]);
        check(&with(7), |_| {}, vec![large.clone()], &["page-out 10 2560"]);
        check(&with(4), |_| {}, vec![large.clone()], &["page-out 10 1024"]);
        check(&with(1), |_| {}, vec![large], &["budget-spent pid 10"]);
    }

    #[test]
    fn the_swap_reserve_is_shared_by_all_steps_of_a_turn() {
        // 20 % of 100 MiB is kept; 22 MiB are free: one block may go.
        let both = || vec![page_out(ANNA, vec![part(1, 0, 600)]), page_out(BERT, vec![part(1, 0, 512)])];
        check(&anna_all(), |h| h.sample(Bytes::from_mib(22), 0), both(), &["page-out 10 512", "swap-reserve pid 11"]);
        check(&anna_all(), |h| h.sample(SWAP, 0), both(), &["page-out 10 600", "page-out 11 512"]);
    }

    #[test]
    fn what_is_under_way_counts_against_the_reserve() {
        let mut host = Host::new(&anna_all());
        host.sample(Bytes::from_mib(22), 0);
        let flying = arbitrate(&host.governor.view(host.now), &BTreeMap::new(), 1, vec![page_out(ANNA, vec![part(1, 0, 512)])]);
        let step = flying.plan[0].clone();
        let flights = BTreeMap::from([(step.id, Flight { decided: host.now, step })]);
        let next = arbitrate(
            &host.governor.view(host.now),
            &flights,
            2,
            vec![page_out(BERT, vec![part(1, 0, 1)]), page_out(ANNA, vec![])],
        );
        assert_eq!(said(&next), ["swap-reserve pid 11", "in-flight pid 10"]);
        // A walk is another hand.
        let next = arbitrate(&host.governor.view(host.now), &flights, 2, vec![scan(ANNA)]);
        assert_eq!(said(&next), ["scan 10 0"]);
    }

    #[test]
    fn writes_that_wear_have_a_day() {
        let config = config("[budget]\nswap_writes_gib_per_day = 0\n[[target]]\ncomm = '*'");
        let mut wearing = page_out(ANNA, vec![part(1, 0, 100)]);
        check(&config, |_| {}, vec![wearing.clone()], &["page-out 10 100"]);
        wearing.charge.swap_written = wearing.charge.moved;
        check(&config, |_| {}, vec![wearing], &["budget-spent pid 10"]);
    }

    #[test]
    fn old_facts_are_stale() {
        let late = |h: &mut Host| h.now = secs(1031);
        let proposals = vec![page_out(ANNA, vec![part(1, 0, 9)]), scan(BERT)];
        check(&anna_all(), late, proposals, &["scan 11 0", "stale pid 10"]);
        let gone = page_out(ProcKey { pid: 12, start: 1 }, vec![part(1, 0, 9)]);
        check(&anna_all(), |_| {}, vec![gone], &["stale pid 12"]);
    }

    #[test]
    fn steps_leave_with_guards_and_an_end() {
        let host = Host::new(&anna_all());
        let verdict = arbitrate(&host.governor.view(host.now), &BTreeMap::new(), 7, vec![page_out(ANNA, vec![part(1, 0, 9)])]);
        let step = &verdict.plan[0];
        assert_eq!((step.id, step.expires), (StepId { decision: 7, index: 0 }, secs(1030)));
        let guards = [Guard::Alive(ANNA), Guard::Calm { most_avg10: 500 }, Guard::SwapFree { least: Permil(200) }];
        assert_eq!(step.guards, guards);
    }
}
