//! numa: brings threads and memory of a process together on the nodes that suit it. docs/policies/numa.md is the essay.

use super::apart;
use super::board::{Board, Bound, Candidate, LATELY, reserve};
use super::placement::{self, Choice, Claim, Place, cost, over};
use super::taking::{self, Refusal};
use super::{Advice, Class, Policy, Proposal, View};
use crate::config::Config;
use crate::model::{Lying, NodeNow, ProcInfo};
use crate::plan::{Crossings, Placed, WINDOW, anything_selected};
use crate::vocab::{
    Action, AddrRange, BLOCK_BYTES, Bytes, Charge, Leaf, Measure, Need, NodeId, PAGE_BYTES, Pages, Permil, PolicyId, ProcKey,
    Quantity, Reason, Rule, Source, Span, Time, Whom,
};
use std::cmp::Reverse;

/// Who would gain less of its CPU time than this is at home.
const LEAST_PERMIL: u64 = 10;
/// A process that was bound moves on only for more than this share of its CPU time.
const MOVE_ON_PERMIL: u64 = 100;
const LIFETIME: Span = Span::from_secs(10);

#[derive(Debug)]
pub struct Numa;

impl Policy for Numa {
    fn id(&self) -> PolicyId {
        PolicyId::Numa
    }
    fn wanted(&self, config: &Config) -> bool {
        anything_selected(config)
    }
    /// It also answers the ends of walks and of its own steps.
    fn period(&self, config: &Config) -> Option<Span> {
        Some(Span::from_millis(config.numa.period_ms))
    }
    fn acts(&self) -> bool {
        true
    }
    fn needs(&self) -> &'static [Need] {
        &[Need::ManyNodes]
    }
    fn sources(&self) -> &'static [Source] {
        &[Source::Walker, Source::Host, Source::Psi]
    }

    fn advise(&self, view: &View<'_>) -> Advice {
        let id = self.id();
        if !view.config.numa.enabled || view.config.numa.quota_mib_per_s == 0 {
            let note = "numa.enabled is false or numa.quota_mib_per_s is 0";
            return Refusal::Idle(Reason::new(Rule::TurnedOff).note(note)).into_advice(id);
        }
        let mut board = match Board::of(view) {
            Ok(board) => board,
            Err(refusal) => return refusal.into_advice(id),
        };
        let release = match taking::memory_calm(view) {
            Ok(release) => release,
            Err(reason) => return Refusal::Hold(reason).into_advice(id),
        };
        let mut advice = Advice::default();
        for (proc, candidate) in board.candidates(view) {
            let known_at = candidate.as_ref().ok().and_then(|candidate| candidate.young);
            advice.again = [advice.again, known_at].into_iter().flatten().min();
            let said = match candidate {
                Ok(candidate) => consider(view, &mut board, &candidate, release),
                Err(reason) => Err(reason),
            };
            match said {
                Ok(proposal) => advice.proposals.push(proposal),
                Err(reason) => advice.holds.push(View::hold(id, proc, reason)),
            }
        }
        advice
    }
}

fn consider(view: &View<'_>, board: &mut Board, candidate: &Candidate<'_>, release: Permil) -> Result<Proposal, Reason> {
    match &candidate.bound {
        Bound::Nobody => {
            if let Some(leader) = candidate.follows() {
                return Err(
                    Reason::new(Rule::CgroupBind).note(format!("{leader} stands for all in its cgroup, which is bound as one"))
                );
            }
            let places = board.places.clone();
            if let Some(said) = apart::keep(view, board, candidate, None, &places, release) {
                board.leave(&candidate.claim);
                return said;
            }
            let choice = free(view, board, candidate);
            match &choice {
                Ok((choice, _)) => board.take(candidate.claims(), &choice.cpus, &choice.memory, choice.moves),
                Err(_) => board.leave(candidate.claims()),
            }
            let (choice, reason) = match choice {
                Err(reason) if reason.rule == Rule::NoNode => {
                    let apart = apart::part(view, board, candidate, None, &places);
                    return apart.ok_or_else(|| apart::explain(view, board, candidate, &places, reason));
                }
                choice => choice?,
            };
            taking::rested(view, candidate.placed)?;
            Ok(bind(view, board, candidate, &choice, reason))
        }
        Bound::Us(home) => {
            let places = board.places.clone();
            let several = home.len() > 1;
            let kept = if several { apart::keep(view, board, candidate, Some(home), &places, release) } else { None };
            let onward = if kept.is_none() { move_on(view, board, candidate, home) } else { None };
            let cpus = onward.as_ref().map_or(home, |(choice, _)| &choice.cpus).clone();
            let memory = placement::memory_of(&board.places, candidate.claims(), &cpus);
            let (_, moves) = placement::price(&board.places, candidate.claims(), &cpus, &memory).unwrap_or_default();
            // Who stands for it took for it, too.
            if candidate.follows().is_none() {
                board.take(candidate.claims(), &cpus, &memory, moves);
            }
            let rest = |board: &Board| bring(view, board, candidate, &cpus, &memory, release);
            match kept {
                // What is nobody's of them, or of several.
                Some(Err(home)) if home.rule == Rule::AtHome => {
                    return rest(board).map_err(|reason| if reason.rule == Rule::AtHome { home } else { reason });
                }
                Some(said) => return said,
                None => {}
            }
            taking::rested(view, candidate.placed)?;
            match onward {
                Some((choice, reason)) => Ok(bind(view, board, candidate, &choice, reason)),
                None if candidate.young.is_some() && cpus.len() > 1 => {
                    let note = "it came up just now, and may need fewer nodes: its memory waits until it is ten seconds old and grows no more";
                    Err(Reason::new(Rule::WarmUp).note(note))
                }
                None => {
                    let apart = if several { apart::part(view, board, candidate, Some(home), &places) } else { None };
                    apart.map_or_else(|| rest(board), Ok)
                }
            }
        }
        Bound::Others(home) => {
            let memory = placement::memory_of(&board.places, &candidate.claim, home);
            board.take(&candidate.claim, home, &memory, Pages::ZERO);
            let theirs = || {
                let (cpus, too) = (&candidate.sample.cpus_allowed, of_its_owner(view, candidate));
                Reason::new(Rule::BoundByOthers).note(format!("it may run on CPUs {cpus}{too}"))
            };
            if home.is_empty() || board.everywhere(home) {
                return Err(theirs());
            }
            if view.facts.has(Need::NumaBalancing).is_ok() {
                let note = "kernel.numa_balancing moves what its threads touch; they were bound by others";
                return Err(Reason::new(Rule::KernelBalances).note(note));
            }
            taking::rested(view, candidate.placed)?;
            bring(view, board, candidate, home, &memory, release)
                .map_err(|reason| if reason.rule == Rule::AtHome { theirs() } else { reason })
        }
    }
}

/// Nodes for a process that may run anywhere, and why; else why it stays as it is.
fn free(view: &View<'_>, board: &Board, candidate: &Candidate<'_>) -> Result<(Choice, Reason), Reason> {
    let claim = candidate.claims();
    let now = placement::as_it_is(&board.places, claim);
    if let Some(at) = candidate.placed.and_then(|placed| placed.bound_at) {
        // Somebody took it off our CPUs.
        settled(view, at)?;
    }
    let Some(choice) = placement::choose(&board.places, claim, amortise(view), &[]) else {
        return Err(roomless(board, claim));
    };
    let saved = now.sum().saturating_sub(choice.price.sum());
    if board.everywhere(&choice.cpus) {
        return Err(roomless(board, claim));
    }
    let least = Span::from_millis(claim.wants).scale(LEAST_PERMIL, 1000);
    if saved <= least && choice.moves == Pages::ZERO {
        let reason = Reason::new(Rule::AtHome).saw(Measure::Benefit, saved, least, "");
        return Err(reason.note(format!("on {}, per second", named(&board.ids(&choice.cpus)))));
    }
    let reason = priced(view, Rule::NumaBind, saved, choice.moves);
    if saved <= least || over(saved, amortise(view)) <= cost(choice.moves) {
        return Err(Reason { rule: Rule::NotWorth, ..reason }.saw(Measure::CpuTime, Span::from_millis(claim.wants), least, ""));
    }
    Ok((choice.clone(), whereto(board, claim, &choice, reason)))
}

/// Other nodes for a process that we bound, if they are much better and it has settled. At once: fewer of the same, while it is
/// new and no page of it was moved; and more besides them, if it lacks CPU time there.
fn move_on(view: &View<'_>, board: &Board, candidate: &Candidate<'_>, home: &[usize]) -> Option<(Choice, Reason)> {
    if candidate.follows().is_some() {
        return None;
    }
    let (placed, claim) = (candidate.placed?, candidate.claims());
    // All of a cgroup that is bound as one settle together.
    let members = candidate.group.as_ref().map_or(std::slice::from_ref(&candidate.proc), |group| &group.members);
    let members = || members.iter().filter_map(|proc| view.ledger.placed(*proc));
    let last = members().filter_map(Placed::last).chain(placed.last()).max()?;
    let settled = settled(view, last).is_ok();
    let memory = placement::memory_of(&board.places, claim, home);
    // Where its memory has no room, it lies as it lies.
    let far = || placement::as_it_is(&board.places, claim);
    let (stays, _) = placement::price(&board.places, claim, home, &memory).unwrap_or_else(|| (far(), Pages::ZERO));
    let much = Span::from_millis(claim.wants).scale(MOVE_ON_PERMIL, 1000);
    // What it had elsewhere until lately says nothing of what it lacks here.
    let known = placed.bound_at.is_some_and(|at| view.now.since(at) >= LATELY);
    let lacks = !settled && known && stays.short > much;
    let fixed = |placed: &Placed| placed.grown || placed.moved_at.is_some();
    if !settled && !lacks && members().any(fixed) {
        return None;
    }
    let choice = placement::choose(&board.places, claim, amortise(view), if lacks { home } else { &[] })?;
    let mut cpus = choice.cpus.clone();
    cpus.sort_unstable();
    // Later it may only rest for a while.
    let came_up = |info: &ProcInfo| view.now.since(info.born()) < Span::from_secs(view.config.numa.settle_s);
    let fresh = view.models.procs.get(candidate.proc).is_some_and(came_up);
    let fewer = fresh && cpus.len() < home.len() && cpus.iter().all(|place| home.contains(place));
    if cpus == home || !(settled || fewer || lacks) {
        return None;
    }
    let saved = stays.sum().saturating_sub(choice.price.sum());
    let least = if settled || lacks { much } else { Span::from_millis(claim.wants).scale(LEAST_PERMIL, 1000) };
    let pays = saved > least && over(saved, amortise(view)) > cost(choice.moves);
    let reason = priced(view, Rule::NumaBind, saved, choice.moves);
    let since = view.now.since(last);
    let reason = if lacks {
        reason.saw(Measure::CpuWait, stays.short, much, "")
    } else {
        let settle = Span::from_secs(view.config.numa.settle_s);
        reason.saw(Measure::SinceLastMove, since, settle, "numa.settle_s").flips_at(since.as_secs().saturating_add(1))
    };
    pays.then(|| (choice.clone(), whereto(board, claim, &choice, reason)))
}

pub(super) fn settled(view: &View<'_>, last: Time) -> Result<(), Reason> {
    let (since, settle) = (view.now.since(last), Span::from_secs(view.config.numa.settle_s));
    if since >= settle {
        return Ok(());
    }
    Err(Reason::new(Rule::Settling).saw(Measure::SinceLastMove, since, settle, "numa.settle_s").flips_at(since.as_secs()))
}

pub(super) const fn amortise(view: &View<'_>) -> Span {
    Span::from_secs(view.config.numa.amortise_s)
}

/// What is gained and what it costs.
pub(super) fn priced(view: &View<'_>, rule: Rule, saved: Span, moves: Pages) -> Reason {
    let (gain, cost) = (over(saved, amortise(view)), cost(moves));
    let reason = Reason::new(rule).saw(Measure::Benefit, gain, cost, "numa.amortise_s");
    // So long it takes until the move has paid for itself.
    let breaks_even = cost.0.checked_div(saved.0.max(1)).unwrap_or(u64::MAX);
    if gain > cost { reason.flips_at(breaks_even) } else { reason.flips_at(breaks_even.saturating_add(1)) }
}

fn whereto(board: &Board, claim: &Claim, choice: &Choice, reason: Reason) -> Reason {
    let idle: u64 = choice.cpus.iter().map(|&place| board.places[place].idle).sum();
    let room: Bytes = choice.memory.iter().map(|&place| board.places[place].room).sum();
    reason
        .saw(Measure::Wanted, Quantity::count(claim.wants), Quantity::count(idle), "")
        .saw(Measure::Elsewhere, choice.moves.bytes(), room, "numa.node_free_permil")
        .note(format!("to {}", named(&board.ids(&choice.memory))))
}

/// Fewer nodes than all do not have what it needs.
fn roomless(board: &Board, claim: &Claim) -> Reason {
    let most = |of: fn(&Place) -> u64| board.places.iter().map(of).max().unwrap_or(0);
    let pages: u64 = claim.pages.iter().sum();
    Reason::new(Rule::NoNode)
        .saw(Measure::Wanted, Quantity::count(claim.wants), Quantity::count(most(|place| place.idle)), "")
        .saw(Measure::Resident, Pages(pages).bytes(), Bytes(most(|place| place.room.0)), "numa.node_free_permil")
        .note("wanted are thousandths of a CPU; the bounds are the most that any node has left")
}

pub(super) fn named(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn bind(view: &View<'_>, board: &Board, candidate: &Candidate<'_>, choice: &Choice, mut reason: Reason) -> Proposal {
    if view.facts.has(Need::NumaBalancing).is_ok() {
        reason.note.push_str("; kernel.numa_balancing is on, and moves pages the same way once its threads are there");
    }
    let whom = match &candidate.group {
        Some(group) => {
            reason.note.push_str("; all of its cgroup ");
            reason.note.push_str(&group.path);
            Whom::Cgroup(group.clone())
        }
        None => Whom::All,
    };
    let action = Action::Bind { proc: candidate.proc, cpus: board.cpus_of(&choice.cpus), whom };
    proposal(action, candidate.claims().wants, Charge::default(), reason)
}

pub(super) fn proposal(action: Action, gain: u64, charge: Charge, reason: Reason) -> Proposal {
    Proposal { action, by: PolicyId::Numa, class: Class::Placement, gain, charge, lifetime: LIFETIME, reason }
}

/// Memory of a process to the nodes that it runs on: a slice, hottest first.
fn bring(
    view: &View<'_>,
    board: &Board,
    candidate: &Candidate<'_>,
    cpus: &[usize],
    memory: &[usize],
    release: Permil,
) -> Result<Proposal, Reason> {
    // What lies on slow nodes is for tier, and stays out of the sums.
    let home = [board.ids(memory), candidate.lent.clone()].concat();
    let outside = || candidate.held.iter().filter(|(node, _)| !home.contains(node)).map(|(_, held)| held);
    let (pages, stayed): (u64, u64) = (outside().map(|held| held.pages.0).sum(), outside().map(|held| held.stayed.0).sum());
    let away = Pages(pages.saturating_sub(stayed));
    let too = of_its_owner(view, candidate);
    if away == Pages::ZERO {
        return Err(if stayed == 0 && candidate.fixed {
            let reason = Reason::new(Rule::AtHome).saw(Measure::Elsewhere, Pages::ZERO, Pages::ZERO, "");
            reason.note(format!("{}, but for files, shared memory, hugetlb pages or locked ones: these stay{too}", named(&home)))
        } else if stayed == 0 {
            Reason::new(Rule::AtHome).saw(Measure::Elsewhere, Pages::ZERO, Pages::ZERO, "").note(named(&home))
        } else {
            let reason = Reason::new(Rule::Unmovable).saw(Measure::Elsewhere, Pages(stayed), Pages::ZERO, "");
            reason.note(format!("they stayed when asked{too}"))
        });
    }
    came_back(view, candidate, &home)?;
    let claim = &candidate.claim;
    let now = claim.far(&board.places);
    let then = placement::price(&board.places, claim, cpus, memory).map_or(Span::ZERO, |(price, _)| price.far);
    let saved = now.saturating_sub(then).scale(away.0, pages);
    let reason = priced(view, Rule::NumaMove, saved, away);
    if over(saved, amortise(view)) <= cost(away) {
        return Err(Reason { rule: Rule::NotWorth, ..reason }.saw(Measure::Elsewhere, away, Pages::ZERO, ""));
    }
    let hot: Pages = outside().map(|held| held.hot).sum();
    let reason = reason.saw(Measure::HotElsewhere, hot, away, "");
    let mut refusal = None;
    for to in targets(view, board, memory) {
        match bring_to(view, candidate, &home, to, release, |_| true) {
            Ok(Some((ranges, charge, room))) => {
                let reason =
                    reason.saw(Measure::NodeFree, room, Bytes(BLOCK_BYTES), "numa.node_free_permil").note(format!("to {to}"));
                return Ok(proposal(Action::MovePages { proc: candidate.proc, to, ranges }, claim.wants, charge, reason));
            }
            Ok(None) => {}
            Err(reason) => {
                refusal.get_or_insert(reason);
            }
        }
    }
    if let Some(crossed) = view.ledger.crossed(candidate.proc).and_then(Crossings::last).filter(|_| refusal.is_none()) {
        settled(view, crossed)?;
    }
    Err(refusal.unwrap_or_else(|| {
        let reason = Reason::new(Rule::Unmovable).saw(Measure::Elsewhere, away, Pages::ZERO, "");
        let shares = "what lies elsewhere shares its 2 MiB with what is no private anonymous memory, locked, or at home";
        reason.note(format!("{shares}{too}"))
    }))
}

/// What a refusal to move memory adds where some of it is not to be moved by its owner's word.
fn of_its_owner(view: &View<'_>, candidate: &Candidate<'_>) -> &'static str {
    let none = view.models.procs.bound_ranges(candidate.proc).is_empty();
    if none { "" } else { "; what its owner bound (mbind) stays" }
}

/// A slice of what lies outside of `home` and is wanted on `to`, what it is charged, and the room there; none if nothing is.
pub(super) fn bring_to(
    view: &View<'_>,
    candidate: &Candidate<'_>,
    home: &[NodeId],
    to: NodeId,
    release: Permil,
    wanted: impl Fn(&Lying) -> bool,
) -> Result<Option<(Vec<AddrRange>, Charge, Bytes)>, Reason> {
    let (quota, room) = (quota(view)?, room(view, to)?);
    let most = Bytes::from_mib(view.config.numa.slice_mib).scale(release.0, 1000).min(quota).min(room);
    let most = most.min(view.ledger.left(view.config).moved).max(Bytes(BLOCK_BYTES));
    let ranges = hottest(view, candidate.proc, home, to, most, wanted);
    let moved = ranges.iter().map(|range| range.pages().bytes()).sum();
    Ok((!ranges.is_empty()).then_some((ranges, Charge { moved, ..Charge::default() }, room)))
}

/// Nothing that we moved goes on before it has settled.
fn came_back(view: &View<'_>, candidate: &Candidate<'_>, home: &[NodeId]) -> Result<(), Reason> {
    match candidate.placed {
        Some(Placed { to: Some(to), moved_at: Some(at), .. }) if !home.contains(to) => settled(view, *at),
        Some(_) | None => Ok(()),
    }
}

/// What the window still allows.
fn quota(view: &View<'_>) -> Result<Bytes, Reason> {
    let limit = Bytes::from_mib(view.config.numa.quota_mib_per_s.saturating_mul(WINDOW.as_secs()));
    let used = view.ledger.moved_by_numa();
    let left = limit.saturating_sub(used);
    if left >= Bytes(BLOCK_BYTES) {
        return Ok(left);
    }
    Err(Reason::new(Rule::BudgetSpent)
        .saw(Measure::NodeMovedInWindow, used, limit, "numa.quota_mib_per_s")
        .flips_at(view.config.numa.quota_mib_per_s + 1))
}

/// Nodes to fill, in this order: those with CPUs by their room, then the others by distance.
fn targets(view: &View<'_>, board: &Board, memory: &[usize]) -> Vec<NodeId> {
    let free = |node: NodeId| view.models.nodes.get(node).map_or(Bytes::ZERO, NodeNow::free);
    let mut order: Vec<(bool, Reverse<Bytes>, NodeId)> = Vec::new();
    for place in memory.iter().map(|&place| &board.places[place]) {
        let by_room = if place.cpus > 0 { free(place.id) } else { Bytes::ZERO };
        order.push((place.cpus == 0, Reverse(by_room), place.id));
    }
    // Stable: what has no CPUs stays in the order of distance.
    order.sort_by_key(|&(far, room, _)| (far, room));
    order.into_iter().map(|(_, _, node)| node).collect()
}

fn room(view: &View<'_>, to: NodeId) -> Result<Bytes, Reason> {
    let (free, reserve) = (view.models.nodes.get(to).map_or(Bytes::ZERO, NodeNow::free), reserve(view, to));
    let room = free.saturating_sub(reserve);
    if room >= Bytes(BLOCK_BYTES) {
        return Ok(room);
    }
    let total = view.models.nodes.get(to).map_or(Bytes::ZERO, |now| now.total);
    let share = Permil::of(free.saturating_sub(Bytes(BLOCK_BYTES)).0, total.0);
    Err(Reason::new(Rule::NodeReserve)
        .saw(Measure::NodeFree, free, reserve, "numa.node_free_permil")
        .flips_at(share.0)
        .note(to.to_string()))
}

/// The blocks that may move to `to`, those with most pages in use first, as ranges of at most `most`, but one block at least.
fn hottest(
    view: &View<'_>,
    proc: ProcKey,
    home: &[NodeId],
    to: NodeId,
    most: Bytes,
    wanted: impl Fn(&Lying) -> bool,
) -> Vec<AddrRange> {
    let Some(heat) = view.models.heat.get(proc) else { return Vec::new() };
    let movable = view.models.procs.movable_ranges(proc);
    let mut blocks: Vec<(Reverse<u32>, Reverse<u32>, Lying)> = Vec::new();
    for one in view.models.nodes.lying(proc, heat).filter(|one| wanted(one)) {
        let pages = one.movable(home, to);
        // What is at home already would move a second time.
        let elsewhere_at_home = home.iter().any(|node| *node != to && one.on(*node) > 0);
        let crossed = view.ledger.crossed(proc).and_then(|crossed| crossed.away_from(one.block, to));
        if pages > 0 && !elsewhere_at_home && crossed.is_none_or(|at| settled(view, at).is_ok()) {
            blocks.push((Reverse(one.hot), Reverse(pages), one));
        }
    }
    blocks.sort_unstable_by_key(|&(hot, pages, one)| (hot, pages, one.block));
    let (mut ranges, mut left) = (Vec::new(), most.0);
    for (_, _, one) in blocks {
        let parts = parts(&one, &movable);
        let bytes: u64 = parts.iter().map(|part| part.end - part.start).sum();
        if bytes > left && !ranges.is_empty() {
            break;
        }
        left = left.saturating_sub(bytes);
        ranges.extend(parts);
        if left < PAGE_BYTES {
            break;
        }
    }
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touching = last.end == next.start;
        last.end = if touching { next.end } else { last.end };
        touching
    });
    ranges
}

/// The parts of a block that lie in `ranges`; of a huge leaf all or nothing, lest it is split.
pub(super) fn parts(one: &Lying, ranges: &[AddrRange]) -> Vec<AddrRange> {
    let (start, end) = (one.block.start(), one.block.start().saturating_add(BLOCK_BYTES));
    let from = ranges.partition_point(|range| range.end <= start);
    let inside = ranges[from..].iter().take_while(|range| range.start < end);
    let parts = inside.map(|range| AddrRange { start: range.start.max(start), end: range.end.min(end) });
    match one.leaf {
        Leaf::Base => parts.collect(),
        Leaf::Pmd => parts.filter(|part| part.end - part.start == BLOCK_BYTES).collect(),
        Leaf::Pud => Vec::new(),
    }
}
