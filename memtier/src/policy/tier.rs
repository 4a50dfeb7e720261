//! tier: memory that is in use lies on fast nodes, and what is not makes room for it on slow ones. docs/policies/tier.md is the
//! essay.

use super::board::{gap, reserve};
use super::flow::{Ends, Flow};
use super::numa::parts;
use super::taking::{self, Refusal};
use super::{Advice, Class, Policy, Proposal, View};
use crate::config::Config;
use crate::model::{BUSY_PART, Lying, NodeNow, ProcHeat};
use crate::plan::{WINDOW, anything_selected};
use crate::vocab::{
    Action, AddrRange, BLOCK_BYTES, BlockId, Bytes, Charge, Hold, IdSet, Measure, Need, NodeFacts, NodeId, PAGE_BYTES, Pages,
    Permil, PolicyId, ProcKey, ProcSample, Reason, Rule, Source, Span, Subject, Time,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// While steps are under way and nodes were not sampled since, nobody knows what is free.
const AGAIN: Span = Span::from_secs(1);
const LIFETIME: Span = Span::from_secs(10);

#[derive(Debug)]
pub struct Tier;

impl Policy for Tier {
    fn id(&self) -> PolicyId {
        PolicyId::Tier
    }
    fn wanted(&self, config: &Config) -> bool {
        anything_selected(config)
    }
    /// It also answers the ends of walks, a second later.
    fn period(&self, config: &Config) -> Option<Span> {
        Some(Span::from_millis(config.tier.period_ms))
    }
    fn acts(&self) -> bool {
        true
    }
    fn needs(&self) -> &'static [Need] {
        &[Need::SlowNodes]
    }
    fn sources(&self) -> &'static [Source] {
        &[Source::Walker, Source::Host, Source::Psi]
    }

    fn advise(&self, view: &View<'_>) -> Advice {
        let id = self.id();
        if !on(view) {
            let note = "tier.enabled is false or tier.quota_mib_per_s is 0";
            return Refusal::Idle(Reason::new(Rule::TurnedOff).note(note)).into_advice(id);
        }
        let release = match taking::memory_calm(view) {
            Ok(release) => release,
            Err(reason) => return Refusal::Hold(reason).into_advice(id),
        };
        let again = Some(view.now.after(AGAIN));
        match Nodes::of(view) {
            Ok(nodes) => Round::of(view, nodes, release).advice(view),
            Err(reason) => Advice { holds: vec![Hold { subject: Subject::Host, by: id, reason }], again, ..Advice::default() },
        }
    }
}

const fn on(view: &View<'_>) -> bool {
    view.config.tier.enabled && view.config.tier.quota_mib_per_s > 0
}

/// Whether what a process has on slow nodes is for tier, and not for numa.
pub(super) fn looks_after(view: &View<'_>, proc: ProcKey) -> bool {
    on(view) && view.targets.selection(proc).tiered()
}

/// The slow node at one end of a move, whose link it goes over; none of a move between fast ones.
#[must_use]
pub fn slow_end(view: &View<'_>, action: &Action) -> Option<NodeId> {
    let Action::MovePages { proc, to, ranges } = action else { return None };
    let lies = || view.models.nodes.lies(*proc, BlockId::of(ranges.first()?.start));
    std::iter::once(*to).chain(lies().into_iter().flatten()).find(|node| view.facts.is_slow(*node))
}

/// The nodes as they are before the round.
struct Nodes<'a> {
    fast: Vec<&'a NodeFacts>,
    slow: Vec<&'a NodeFacts>,
    /// (fast, slow), nearest first.
    links: Vec<(NodeId, NodeId)>,
}

impl<'a> Nodes<'a> {
    fn of(view: &View<'a>) -> Result<Self, Reason> {
        let sampled = view.facts.nodes.iter().filter(|node| view.models.nodes.get(node.id).is_some());
        let (slow, fast): (Vec<_>, Vec<_>) = sampled.partition(|node| view.facts.is_slow(node.id));
        if slow.is_empty() || fast.is_empty() {
            return Err(Reason::new(Rule::WarmUp).note("the nodes were not sampled yet"));
        }
        let oldest = view.models.nodes.now().map(|(_, node)| node.sampled()).min().unwrap_or_default();
        if !view.ledger.tier_rests(oldest) {
            return Err(Reason::new(Rule::Settling).note("the nodes were not sampled since its last steps were over"));
        }
        let mut links: Vec<_> = fast.iter().flat_map(|f| slow.iter().map(move |s| (gap(f, s), f.id, s.id))).collect();
        links.sort_unstable();
        Ok(Self { links: links.into_iter().map(|(_, fast, slow)| (fast, slow)).collect(), fast, slow })
    }

    /// The fast node for what a process has on a slow one: one that it runs on before others, then one with room, then the
    /// nearest.
    fn home(&self, view: &View<'_>, slow: &NodeFacts, cpus: &IdSet, mems: &IdSet) -> Option<NodeId> {
        let may = |node: &&&NodeFacts| mems.is_empty() || mems.contains(u32::from(node.id.0));
        let runs = |node: &NodeFacts| node.cpus.iter().any(|cpu| cpus.is_empty() || cpus.contains(cpu.0));
        let rank = |node: &&&NodeFacts| (!runs(node), room(view, node.id) < Bytes(BLOCK_BYTES), gap(node, slow), node.id);
        self.fast.iter().filter(may).min_by_key(rank).map(|node| node.id)
    }
}

/// Free memory of a node that may be used.
fn room(view: &View<'_>, node: NodeId) -> Bytes {
    view.models.nodes.get(node).map_or(Bytes::ZERO, NodeNow::free).saturating_sub(reserve(view, node))
}

/// What the link of a slow node may still carry in this window.
fn quota(view: &View<'_>, slow: NodeId) -> Bytes {
    let limit = Bytes::from_mib(view.config.tier.quota_mib_per_s.saturating_mul(WINDOW.as_secs()));
    limit.saturating_sub(view.ledger.moved_over(slow))
}

/// A block that may go, and what speaks for it.
#[derive(Clone, Debug)]
struct Piece {
    proc: ProcKey,
    one: Lying,
    parts: Vec<AddrRange>,
    pages: Pages,
    /// Of a hot one its hot pages and the sum of their chances, of a cold one how long it has been idle.
    hot: (u32, u32),
    idle: Span,
}

/// What is known of one process.
#[derive(Debug, Default)]
struct Found {
    /// Where its hot memory should go, and from where.
    waiting: BTreeMap<(NodeId, NodeId), Vec<Piece>>,
    /// Pages that are hot, on slow nodes, and went there too lately, or would not go.
    settling: Option<Time>,
    stayed: Pages,
    /// Or their owner said that they lie there.
    bound: Pages,
}

/// One turn of moves: first what is cold makes room, then what is hot takes it.
struct Round {
    release: Permil,
    found: BTreeMap<ProcKey, Found>,
    holds: Vec<(ProcKey, Reason)>,
    links: Vec<(NodeId, NodeId)>,
}

impl Round {
    fn of(view: &View<'_>, nodes: Nodes<'_>, release: Permil) -> Self {
        let (mut found, mut holds) = (BTreeMap::new(), Vec::new());
        for (proc, _) in view.tiered() {
            let Some(heat) = view.models.heat.get(proc).filter(|heat| heat.resident() > Pages::ZERO) else { continue };
            match taking::rested(view, view.ledger.tiered(proc)).and_then(|()| find(view, &nodes, proc, heat)) {
                Ok(one) => drop(found.insert(proc, one)),
                Err(reason) => holds.push((proc, reason)),
            }
        }
        Self { release, found, holds, links: nodes.links }
    }

    fn advice(mut self, view: &View<'_>) -> Advice {
        let mut advice = Advice::default();
        let demoted = self.demotions(view);
        for (proc, (to, pieces)) in &demoted {
            advice.proposals.push(demotion(view, *proc, *to, pieces));
        }
        for (proc, found) in &self.found {
            if demoted.contains_key(proc) {
                continue;
            }
            match self.promotion(view, *proc, found) {
                Ok(proposal) => advice.proposals.push(proposal),
                Err(reason) => self.holds.push((*proc, reason)),
            }
        }
        let holds = std::mem::take(&mut self.holds).into_iter();
        advice.holds.extend(holds.map(|(proc, reason)| View::hold(PolicyId::Tier, proc, reason)));
        advice.again = (!advice.proposals.is_empty()).then(|| view.now.after(AGAIN));
        advice
    }

    /// One step moves no more of a process than its link may carry in a second.
    fn slice(&self, view: &View<'_>) -> Bytes {
        let second = Bytes::from_mib(view.config.tier.quota_mib_per_s).scale(self.release.0, 1000);
        second.min(view.ledger.left(view.config).moved).max(Bytes(BLOCK_BYTES))
    }

    /// The coldest blocks of all, as much of them as room is needed for; each process sends to one node.
    fn demotions(&self, view: &View<'_>) -> BTreeMap<ProcKey, (NodeId, Vec<Piece>)> {
        let mut steps = BTreeMap::<ProcKey, (NodeId, Vec<Piece>)>::new();
        let mut made = BTreeMap::<NodeId, Bytes>::new();
        let mut taken = BTreeSet::<(ProcKey, BlockId)>::new();
        let mut idle = BTreeMap::<NodeId, Vec<Piece>>::new();
        for &(fast, slow) in &self.links {
            let hot = self.found.values().filter_map(|found| found.waiting.get(&(fast, slow))).flatten();
            let hot: Bytes = hot.map(|piece| piece.pages.bytes()).sum();
            let mut ends = Ends {
                free: room(view, fast).saturating_add(made.get(&fast).copied().unwrap_or_default()),
                cold: Bytes(u64::MAX),
                slow_free: room(view, slow),
                quota: quota(view, slow),
                reserve: lacking(view, fast),
            };
            // Mostly there is room however much is cold, and no need to look for it among all blocks.
            if ends.flow(hot).demote == Bytes::ZERO {
                continue;
            }
            let nearest = self.links.iter().find(|(from, _)| *from == fast).map_or(slow, |(_, slow)| *slow);
            let all = || self.found.keys().flat_map(|proc| idle_on(view, *proc, fast, nearest)).collect();
            let all = idle.entry(fast).or_insert_with(all);
            let free = |piece: &Piece| may(view, piece.proc, slow) && settling(view, piece.proc, &piece.one, slow).is_none();
            let mut cold: Vec<&Piece> = all.iter().collect();
            cold.retain(|piece| !taken.contains(&(piece.proc, piece.one.block)) && free(piece));
            cold.sort_by_key(|piece| (Reverse(piece.idle), piece.proc, piece.one.block));
            ends.cold = cold.iter().map(|piece| piece.pages.bytes()).sum();
            let Flow { promote: _, demote } = ends.flow(hot);
            let mut left = demote;
            for piece in cold {
                if left == Bytes::ZERO {
                    break;
                }
                let (to, pieces) = steps.entry(piece.proc).or_insert_with(|| (slow, Vec::new()));
                let sum: Bytes = pieces.iter().map(length).sum();
                if *to == slow && (pieces.is_empty() || sum.saturating_add(length(piece)) <= self.slice(view)) {
                    taken.insert((piece.proc, piece.one.block));
                    left = left.saturating_sub(piece.pages.bytes());
                    let made = made.entry(fast).or_default();
                    *made = made.saturating_add(piece.pages.bytes());
                    pieces.push(piece.clone());
                }
            }
        }
        steps
    }

    /// The hottest blocks of a process for which there is room already.
    fn promotion(&self, view: &View<'_>, proc: ProcKey, found: &Found) -> Result<Proposal, Reason> {
        let heat_of = |pieces: &Vec<Piece>| pieces.iter().map(|piece| u64::from(piece.hot.1)).sum::<u64>();
        let mut refusal = None;
        let mut ways: Vec<_> = found.waiting.iter().collect();
        ways.sort_by_key(|(way, pieces)| (Reverse(heat_of(pieces)), **way));
        for ((fast, slow), pieces) in ways {
            let (room, quota) = (room(view, *fast), quota(view, *slow));
            if room < Bytes(BLOCK_BYTES) {
                refusal.get_or_insert_with(|| full(view, *fast));
            } else if quota < Bytes(BLOCK_BYTES) {
                refusal.get_or_insert_with(|| spent(view, *slow));
            } else {
                let mut hottest: Vec<&Piece> = pieces.iter().collect();
                hottest.sort_by_key(|piece| (Reverse(piece.hot.1), piece.one.block));
                let most = self.slice(view).min(room).min(quota);
                return Ok(promotion(view, proc, (*slow, *fast), &hottest, most));
            }
        }
        Err(refusal.unwrap_or_else(|| at_rest(view, found)))
    }
}

/// Nothing of it waits: all that is hot is where it belongs, or has to stay for now.
fn at_rest(view: &View<'_>, found: &Found) -> Reason {
    if let Some(at) = found.settling {
        let (since, settle) = (view.now.since(at), Span::from_secs(view.config.tier.settle_s));
        return Reason::new(Rule::Settling).saw(Measure::SinceLastMove, since, settle, "tier.settle_s").flips_at(since.as_secs());
    }
    if found.stayed > Pages::ZERO {
        let reason = Reason::new(Rule::Unmovable).saw(Measure::HotElsewhere, found.stayed, Pages::ZERO, "");
        return reason.note("they stayed when asked, or are no private anonymous memory");
    }
    if found.bound > Pages::ZERO {
        let reason = Reason::new(Rule::BoundByOthers).saw(Measure::HotElsewhere, found.bound, Pages::ZERO, "");
        return reason.note("its owner bound this memory (mbind)");
    }
    let reason = Reason::new(Rule::AtHome).saw(Measure::HotElsewhere, Pages::ZERO, Pages::ZERO, "tier.hot_permil");
    reason.note("nothing on slow nodes is known to be hot")
}

fn full(view: &View<'_>, node: NodeId) -> Reason {
    let free = view.models.nodes.get(node).map_or(Bytes::ZERO, NodeNow::free);
    Reason::new(Rule::NodeReserve).saw(Measure::NodeFree, free, reserve(view, node), "numa.node_free_permil").note(node.to_string())
}

fn spent(view: &View<'_>, slow: NodeId) -> Reason {
    let knob = view.config.tier.quota_mib_per_s;
    let limit = Bytes::from_mib(knob.saturating_mul(WINDOW.as_secs()));
    Reason::new(Rule::BudgetSpent)
        .saw(Measure::NodeMovedInWindow, view.ledger.moved_over(slow), limit, "tier.quota_mib_per_s")
        .flips_at(knob + 1)
        .note(format!("the link of {slow}"))
}

/// What a fast node keeps free above what nobody may use. Pages of files that nobody used lately are as good as free for
/// memory to come.
fn lacking(view: &View<'_>, fast: NodeId) -> Bytes {
    let Some(now) = view.models.nodes.get(fast) else { return Bytes::ZERO };
    now.total.scale(view.config.tier.reserve_permil, 1000).saturating_sub(now.inactive_file)
}

/// Whether a process may have memory on a node.
fn may(view: &View<'_>, proc: ProcKey, node: NodeId) -> bool {
    let mems = view.models.procs.sample(proc).map(|sample| &sample.mems_allowed);
    mems.is_some_and(|mems| mems.is_empty() || mems.contains(u32::from(node.0)))
}

fn length(piece: &Piece) -> Bytes {
    piece.parts.iter().map(|part| part.pages().bytes()).sum()
}

/// When a block went elsewhere than to `to`, if that was so lately that it has to stay.
fn settling(view: &View<'_>, proc: ProcKey, one: &Lying, to: NodeId) -> Option<Time> {
    let at = view.ledger.crossed(proc)?.away_from(one.block, to)?;
    (view.now.since(at) < Span::from_secs(view.config.tier.settle_s)).then_some(at)
}

/// CPUs that a process may run on: those that numa gave it since anybody looked.
fn cpus<'a>(view: &View<'a>, proc: ProcKey, sample: &'a ProcSample) -> &'a IdSet {
    let sampled = view.models.procs.get(proc).and_then(|info| info.sampled_at);
    let placed = view.ledger.placed(proc).filter(|placed| placed.bound_at.is_some_and(|at| sampled.is_none_or(|then| then <= at)));
    placed.map_or(&sample.cpus_allowed, |placed| &placed.cpus)
}

/// The blocks of a process that have been idle for long enough to leave a fast node. Those that would not go to `nearest`, the slow
/// node which is asked first, are not tried with others.
fn idle_on(view: &View<'_>, proc: ProcKey, fast: NodeId, nearest: NodeId) -> Vec<Piece> {
    let long = Span::from_secs(view.config.tier.cold_s);
    let Some(heat) = view.models.heat.get(proc) else { return Vec::new() };
    // Who got no CPU time touched nothing that it uses.
    let seen = heat.scan_at().unwrap_or(view.now);
    if taking::starved(view, proc, Time(seen.0.saturating_sub(long.0)), seen).is_err() {
        return Vec::new();
    }
    let movable = view.models.procs.movable_ranges(proc);
    let piece = |one: Lying| {
        let idle = heat.idle_in(one.block).filter(|idle| *idle >= long)?;
        let (parts, pages) = (parts(&one, &movable), Pages(u64::from(one.movable_from(fast, nearest))));
        (pages > Pages::ZERO && !parts.is_empty()).then_some(Piece { proc, one, parts, pages, hot: (0, 0), idle })
    };
    view.models.nodes.lying(proc, heat).filter(|one| one.on(fast) > 0).filter_map(piece).collect()
}

/// The hot blocks of a process on slow nodes. What nobody knows is not hot, and who has a memory policy is left as it is.
fn find(view: &View<'_>, nodes: &Nodes<'_>, proc: ProcKey, heat: &ProcHeat) -> Result<Found, Reason> {
    let knobs = &view.config.tier;
    let sample = view.models.procs.sample(proc).ok_or_else(|| Reason::new(Rule::WarmUp).note("nothing is known of it"))?;
    taking::no_policy(sample)?;
    if heat.confidence() == Permil(0) {
        let reason = Reason::new(Rule::WarmUp).saw(Measure::Confidence, heat.confidence(), Permil(1), "");
        return Err(reason.note("nobody asked yet what of it is in use"));
    }
    let (movable, bound) = (view.models.procs.movable_ranges(proc), view.models.procs.bound_ranges(proc));
    let hot_permil = Permil(knobs.hot_permil);
    let home = |slow: &NodeFacts| nodes.home(view, slow, cpus(view, proc, sample), &sample.mems_allowed);
    let busy = |slow: &&&NodeFacts| view.models.nodes.held(proc).iter().any(|(node, held)| *node == slow.id && held.busy);
    let homes: Vec<(NodeId, NodeId)> = nodes.slow.iter().filter(busy).filter_map(|slow| Some((slow.id, home(slow)?))).collect();
    let mut found = Found::default();
    if homes.is_empty() {
        return Ok(found);
    }
    for one in view.models.nodes.lying(proc, heat).filter(|one| one.busy(heat.counting())) {
        for &(slow, to) in homes.iter().filter(|(slow, _)| one.on(*slow) > 0) {
            let hot = heat.hot_in(one.block, hot_permil);
            if hot.0 * BUSY_PART < one.present || hot.0 == 0 {
                continue;
            }
            let (moved, pages) = (parts(&one, &movable), Pages(u64::from(one.movable_from(slow, to))));
            if let Some(at) = settling(view, proc, &one, to) {
                found.settling = found.settling.max(Some(at));
            } else if pages == Pages::ZERO || moved.is_empty() {
                let why = if parts(&one, &bound).is_empty() { &mut found.stayed } else { &mut found.bound };
                *why = why.saturating_add(Pages(u64::from(one.on(slow))));
            } else {
                let piece = Piece { proc, one, parts: moved, pages, hot, idle: Span::ZERO };
                found.waiting.entry((to, slow)).or_default().push(piece);
            }
        }
    }
    Ok(found)
}

/// The parts of pieces in order, at most `most` of them but one piece at least, joined where they meet.
fn ranges<'a>(pieces: impl Iterator<Item = &'a Piece>, most: Bytes) -> Vec<AddrRange> {
    let (mut ranges, mut left) = (Vec::<AddrRange>::new(), most);
    for piece in pieces {
        if length(piece) > left && !ranges.is_empty() {
            break;
        }
        left = left.saturating_sub(length(piece));
        ranges.extend(&piece.parts);
        if left < Bytes(PAGE_BYTES) {
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

fn proposal(proc: ProcKey, to: NodeId, ranges: Vec<AddrRange>, reason: Reason) -> Proposal {
    let moved: Pages = ranges.iter().map(AddrRange::pages).sum();
    let charge = Charge { moved: moved.bytes(), ..Charge::default() };
    let action = Action::MovePages { proc, to, ranges };
    Proposal { action, by: PolicyId::Tier, class: Class::Tiering, gain: moved.0, charge, lifetime: LIFETIME, reason }
}

fn demotion(view: &View<'_>, proc: ProcKey, to: NodeId, pieces: &[Piece]) -> Proposal {
    let (youngest, oldest) = (pieces.iter().map(|p| p.idle).min(), pieces.iter().map(|p| p.idle).max());
    let cold = Span::from_secs(view.config.tier.cold_s);
    let pages: Pages = pieces.iter().map(|piece| piece.pages).sum();
    let reason = Reason::new(Rule::TierDemote)
        .saw(Measure::IdleAge, youngest.unwrap_or_default(), cold, "tier.cold_s")
        .flips_at(oldest.unwrap_or_default().as_secs().saturating_add(1))
        .saw(Measure::ColdPages, pages, Pages::ZERO, "")
        .note(format!("to {to}"));
    proposal(proc, to, ranges(pieces.iter(), Bytes::MAX), reason)
}

fn promotion(view: &View<'_>, proc: ProcKey, (from, to): (NodeId, NodeId), hottest: &[&Piece], most: Bytes) -> Proposal {
    let (pages, sum) =
        hottest.iter().fold((0, 0), |(pages, sum), piece| (pages + u64::from(piece.hot.0), sum + u64::from(piece.hot.1)));
    let reason = Reason::new(Rule::TierPromote)
        .saw(Measure::AccessRate, Permil(sum / pages.max(1)), Permil(view.config.tier.hot_permil), "tier.hot_permil")
        .saw(Measure::HotElsewhere, Pages(pages), Pages::ZERO, "")
        .saw(Measure::NodeFree, room(view, to), Bytes(BLOCK_BYTES), "numa.node_free_permil")
        .note(format!("{from} to {to}"));
    proposal(proc, to, ranges(hottest.iter().copied(), most), reason)
}
