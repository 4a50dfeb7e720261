//! A second opinion on each step, written from the rules and not from the arbiter: it shares no code with it. What it
//! vetoes becomes a hold, and is a defect of the first opinion to be reported.

use super::{Flight, Part, Placed, Selection, anything_selected, audit_caches};
use crate::policy::View;
use crate::vocab::{
    Action, AddrRange, BLOCK_BYTES, BlockId, Bytes, CpuId, Group, Guard, Leaf, NodeId, PAGE_BYTES, Pages, PolicyId, PressureKind,
    ProcKey, ProcSample, Rule, Span, Step, StepId, Vma, VmaFlags, VmaKind, Whom,
};
use std::collections::{BTreeMap, BTreeSet};

/// No step waits longer than the longest scan period.
const LONGEST: Span = Span::from_secs(3600);

/// What is wrong with `step`, given the steps already let through this turn.
pub fn audit(
    view: &View<'_>,
    paused: bool,
    in_flight: &BTreeMap<StepId, Flight>,
    passed: &[Step],
    step: &Step,
) -> Result<(), String> {
    let proc = step.action.proc();
    ensure(passed.iter().all(|p| p.action.proc() != proc), "a second step for the process in one turn")?;
    let wait = step.expires.since(view.now);
    ensure(wait > Span::ZERO && wait <= LONGEST, "it expires at once or never")?;
    if let Some(server) = step.action.server() {
        ensure(!paused, "memtier is paused")?;
        return audit_caches::audit(view, in_flight, passed, step, server);
    }
    ensure(step.guards.contains(&Guard::Alive(proc)), "the guard against a reused pid is missing")?;
    let of_a_page = |p: &Step| p.action.server().is_some() && p.action.proc() == proc;
    let takes_memory = matches!(step.action, Action::PageOut { .. } | Action::Deactivate { .. });
    ensure(!takes_memory || !in_flight.values().any(|f| of_a_page(&f.step)), "a slab page of the process is on its way")?;
    match &step.action {
        Action::Scan { .. } => scan(view, in_flight, proc),
        Action::Arm { ranges, .. } => {
            ensure(!paused, "memtier is paused")?;
            touches(view, step, ranges)?;
            arm(view, passed, step)
        }
        Action::PageOut { ranges, .. } => {
            ensure(!paused, "memtier is paused")?;
            touches(view, step, ranges)?;
            takes(view, passed, step, ranges)?;
            page_out(view, passed, step)
        }
        Action::Deactivate { ranges, .. } => {
            ensure(!paused, "memtier is paused")?;
            touches(view, step, ranges)?;
            takes(view, passed, step, ranges)
        }
        Action::Bind { proc: _, cpus, whom } => {
            ensure(!paused, "memtier is paused")?;
            placeable(view, step)?;
            bind(view, step, cpus)?;
            bound_as_one(view, proc, whom.cgroup())?;
            threads(view, step, whom.tids())?;
            calls(view, passed, step)
        }
        Action::MovePages { to, ranges, .. } => {
            ensure(!paused, "memtier is paused")?;
            placeable(view, step)?;
            touches(view, step, ranges)?;
            unbound(view, proc, ranges)?;
            ensure(step.charge.moved == bytes(&step.action), "it is charged for another amount")?;
            crosses_once(view, step, *to, ranges)?;
            tiers(view, passed, step, *to)?;
            moves(view, in_flight, passed, step, *to)
        }
        Action::Migrate { from, to, .. } => {
            ensure(!paused, "memtier is paused")?;
            placeable(view, step)?;
            calm(view, step)?;
            ensure(!from.is_empty() && !from.contains(to), "it moves nothing, or in a circle")?;
            ensure(step.charge.moved > Bytes::ZERO, "it is charged for another amount")?;
            moves(view, in_flight, passed, step, *to)
        }
        Action::MoveSlabPage { .. } | Action::SetMover { .. } | Action::SetWatch { .. } | Action::SetFree { .. } => {
            Err("it names no server".to_owned())
        }
    }
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn scan(view: &View<'_>, in_flight: &BTreeMap<StepId, Flight>, proc: ProcKey) -> Result<(), String> {
    let walking = in_flight.values().any(|f| f.step.action == Action::Scan { proc });
    ensure(!walking, "a walk of the process is under way")?;
    if view.looks.contains(&proc) {
        return Ok(());
    }
    let sample = view.models.procs.sample(proc).ok_or("nothing is known about the process")?;
    match view.targets.look(sample, view.config, view.facts) {
        Selection::Selected { .. } => Ok(()),
        Selection::NotSelected => ensure(!anything_selected(view.config) && !view.config.daemon.act, "it is not selected"),
        Selection::Excluded(_) => Err("it is excluded".to_owned()),
        Selection::Protected(why) => Err(format!("it is protected: {why}")),
    }
}

/// What holds for every step that touches memory.
fn touches(view: &View<'_>, step: &Step, ranges: &[AddrRange]) -> Result<(), String> {
    let proc = step.action.proc();
    let info = view.models.procs.get(proc).ok_or("the process is not known")?;
    let sample = info.sample.as_deref().ok_or("nothing is known about the process")?;
    match view.targets.look(sample, view.config, view.facts) {
        Selection::Selected { .. } => {}
        other @ (Selection::Excluded(_) | Selection::NotSelected | Selection::Protected(_)) => return Err(other.to_string()),
    }
    ensure(!ranges.is_empty(), "it names no memory")?;
    let heat = view.models.heat.get(proc).ok_or("the process was never walked")?;
    let mut end = 0;
    for range in ranges {
        ensure(range.start >= end && range.start < range.end, "its ranges are empty, overlap or are out of order")?;
        end = range.end;
        ensure(range.start.is_multiple_of(PAGE_BYTES) && range.end.is_multiple_of(PAGE_BYTES), "a range is not page aligned")?;
        ensure(touchable(&info.vmas, range), "a range leaves private anonymous memory, or is locked")?;
        for edge in [range.start, range.end] {
            if !edge.is_multiple_of(BLOCK_BYTES) {
                let leaf = heat.leaf(BlockId(edge / BLOCK_BYTES));
                ensure(!matches!(leaf, Some(Leaf::Pmd | Leaf::Pud)), "it would split a huge page")?;
            }
        }
    }
    calm(view, step)
}

fn calm(view: &View<'_>, step: &Step) -> Result<(), String> {
    let psi = view.models.pressure.some_avg10(PressureKind::Memory).unwrap_or(0);
    ensure(u64::from(psi) <= view.config.brake.memory_some_centipercent, "memory pressure is over its bound")?;
    let calm =
        |g: &Guard| matches!(g, Guard::Calm { most_avg10 } if u64::from(*most_avg10) <= view.config.brake.memory_some_centipercent);
    ensure(step.guards.iter().any(calm), "the guard against pressure is missing")
}

/// Every byte lies in mappings that a hand may touch. `vmas` ascend.
fn touchable(vmas: &[Vma], range: &AddrRange) -> bool {
    let mut at = range.start;
    let first = vmas.partition_point(|vma| vma.end <= range.start);
    for vma in vmas[first..].iter().take_while(|vma| vma.start < range.end) {
        let barred = vma.flags.has(VmaFlags::LOCKED) || vma.flags.has(VmaFlags::IO) || vma.flags.has(VmaFlags::UFFD);
        if vma.kind == VmaKind::Anon && !barred && vma.start <= at && at < vma.end {
            at = vma.end;
        }
    }
    at >= range.end
}

/// Nobody said on which nodes this memory is to lie.
fn unbound(view: &View<'_>, proc: ProcKey, ranges: &[AddrRange]) -> Result<(), String> {
    let info = view.models.procs.get(proc).ok_or("the process is not known")?;
    let said = info.sample.as_deref().is_some_and(|sample| !sample.mempolicy.is_empty());
    ensure(!said, "it has a memory policy")?;
    let bound = |vma: &&Vma| vma.flags.has(VmaFlags::POLICY);
    let mut meets = info.vmas.iter().filter(bound).flat_map(|vma| ranges.iter().map(move |range| (vma, range)));
    ensure(!meets.any(|(vma, range)| vma.start < range.end && range.start < vma.end), "its owner bound a range to nodes (mbind)")
}

fn arm(view: &View<'_>, passed: &[Step], step: &Step) -> Result<(), String> {
    ensure(view.config.daemon.arm || view.config.daemon.act, "arming is not allowed")?;
    let asked = bytes(&step.action);
    ensure(step.charge.armed == asked, "it is charged for another amount")?;
    let window = 10 * (view.config.arm.quota_mib_per_s << 20);
    let spent = view.ledger.used().armed.0 + passed.iter().map(|p| p.charge.armed.0).sum::<u64>();
    ensure(spent + asked.0 <= window, "arm.quota_mib_per_s is exceeded")?;
    calls(view, passed, step)?;
    ensure(view.models.under_reclaim(step.action.proc(), view.now).is_none(), "its memory is under reclaim")
}

/// What holds for every step that takes memory or marks it to be taken.
fn takes(view: &View<'_>, passed: &[Step], step: &Step, ranges: &[AddrRange]) -> Result<(), String> {
    let (config, proc, asked) = (view.config, step.action.proc(), bytes(&step.action));
    ensure(step.charge.moved == asked, "it is charged for another amount")?;
    let spent = view.ledger.used().moved.0 + passed.iter().map(|p| p.charge.moved.0).sum::<u64>();
    ensure(spent + asked.0 <= 10 * (config.budget.moved_mib_per_s << 20), "budget.moved_mib_per_s is exceeded")?;
    calls(view, passed, step)?;
    if let Selection::Selected { rule, floor, moved_per_s, .. } = view.targets.selection(proc) {
        let rss = view.models.procs.sample(proc).map_or(0, |s| s.rss.0);
        ensure(rss.saturating_sub(asked.0) >= floor.0.min(rss), "the process would fall under its floor")?;
        if let (Some(rule), Some(per_s)) = (rule, moved_per_s) {
            let same = |p: &&Step| matches!(view.targets.selection(p.action.proc()), Selection::Selected { rule: r, .. } if r == Some(rule));
            let spent = view.ledger.moved_by_rule(rule).0 + passed.iter().filter(same).map(|p| p.charge.moved.0).sum::<u64>();
            ensure(spent + asked.0 <= 10 * per_s.0, "target.moved_mib_per_s is exceeded")?;
        }
    }
    if step.reason.rule == Rule::AutocoldIdle {
        let heat = view.models.heat.get(proc).ok_or("the process was never walked")?;
        let seen = heat.scan_at().ok_or("the process was never walked")?;
        let idle = heat.cold(seen, Span::from_secs(config.autocold.min_idle_s), Pages::MAX, ranges).pages;
        ensure(idle.bytes() == asked, "some of it is not idle for autocold.min_idle_s")?;
    }
    Ok(())
}

/// What holds for every step that places a process.
fn placeable(view: &View<'_>, step: &Step) -> Result<(), String> {
    let (proc, config) = (step.action.proc(), view.config);
    let sample = view.models.procs.sample(proc).ok_or("nothing is known about the process")?;
    match view.targets.look(sample, config, view.facts) {
        Selection::Selected { placed, tiered, .. } => {
            let may = if step.by == PolicyId::Tier { tiered } else { placed };
            ensure(may, "its target rule keeps it where it is")?;
        }
        other @ (Selection::Excluded(_) | Selection::NotSelected | Selection::Protected(_)) => return Err(other.to_string()),
    }
    let enabled = match step.by {
        PolicyId::Numa => config.numa.enabled,
        PolicyId::Tier => config.tier.enabled && matches!(step.action, Action::MovePages { .. }),
        PolicyId::Watch
        | PolicyId::Arm
        | PolicyId::Slide
        | PolicyId::Autocold
        | PolicyId::SlabMarginal
        | PolicyId::SlabExtstore
        | PolicyId::SlabAutomove => false,
    };
    ensure(enabled, "its policy places nobody")
}

/// Nobody else's binding is touched, and none of ours before it has settled.
fn bind(view: &View<'_>, step: &Step, cpus: &[CpuId]) -> Result<(), String> {
    let proc = step.action.proc();
    ensure(!cpus.is_empty() && cpus.windows(2).all(|pair| pair[0] < pair[1]), "its CPUs are none, or out of order")?;
    let online: BTreeSet<u32> = view.facts.nodes.iter().flat_map(|node| &node.cpus).map(|cpu| cpu.0).collect();
    ensure(cpus.iter().all(|cpu| online.contains(&cpu.0)), "a CPU is not there")?;
    let info = view.models.procs.get(proc).ok_or("the process is not known")?;
    let allowed = info.sample.as_deref().map_or_else(BTreeSet::new, |sample| sample.cpus_allowed.iter().collect());
    let ours = view.ledger.placed(proc).and_then(|placed| Some((placed, placed.bound_at?)));
    let inherited =
        |placed: &Placed| placed.parts.iter().any(|part| part.tids.is_empty() && part.cpus.iter().eq(allowed.iter().copied()));
    let members =
        || step_group(step).into_iter().flat_map(|group| &group.members).chain([&proc]).filter_map(|one| view.ledger.placed(*one));
    let Some((placed, at)) = ours else {
        let with_us = |placed: &Placed| placed.bound_at.is_some() && placed.cpus.iter().eq(allowed.iter().copied());
        let born = members().any(with_us) || view.ledger.placed(proc).is_some_and(inherited);
        return ensure(born || allowed.is_empty() || online.is_subset(&allowed), "somebody else bound it");
    };
    let own =
        inherited(placed) || placed.cpus.iter().eq(allowed.iter().copied()) || info.sampled_at.is_some_and(|sampled| sampled <= at);
    ensure(own || allowed.is_empty() || online.is_subset(&allowed), "somebody else bound it")?;
    let moved = members().filter_map(|placed| placed.moved_at).max();
    let last = moved.map_or(at, |moved| moved.max(at));
    let threads = matches!(&step.action, Action::Bind { whom: Whom::Threads(_), .. });
    let settled = view.now.since(last) >= Span::from_secs(view.config.numa.settle_s);
    // Fewer of those it has, as long as nothing of it was moved and it did not outgrow others: it may have been bound while it
    // came up.
    let fewer =
        moved.is_none() && !placed.grown && cpus.len() < placed.cpus.len() && cpus.iter().all(|cpu| placed.cpus.contains(cpu.0));
    // More besides those it has take nothing from it.
    let more = cpus.len() > placed.cpus.len() && placed.cpus.iter().all(|cpu| cpus.contains(&CpuId(cpu)));
    ensure(threads || settled || fewer || more, "it was placed within numa.settle_s")
}

const fn step_group(step: &Step) -> Option<&Group> {
    if let Action::Bind { whom, .. } = &step.action { whom.cgroup() } else { None }
}

/// Threads on their own: never the main one, of which the kernel tells where new ones run; and none twice within the settle time.
fn threads(view: &View<'_>, step: &Step, tids: &[u32]) -> Result<(), String> {
    let proc = step.action.proc();
    ensure(tids.windows(2).all(|pair| pair[0] < pair[1]), "its threads are out of order")?;
    ensure(!tids.contains(&proc.pid), "the main thread is among them")?;
    let settle = Span::from_secs(view.config.numa.settle_s);
    let lately = |part: &&Part| view.now.since(part.at) < settle;
    let parts = view.ledger.placed(proc).map_or(&[][..], |placed| &placed.parts);
    let mut bound = parts.iter().filter(lately).flat_map(|part| &part.tids);
    ensure(
        if tids.is_empty() { bound.next().is_none() } else { !bound.any(|tid| tids.contains(tid)) },
        "threads of it were bound within numa.settle_s",
    )
}

/// A cgroup is bound where the rule says so and nowhere else, and with nobody in it whom the same rule does not select.
fn bound_as_one(view: &View<'_>, proc: ProcKey, cgroup: Option<&Group>) -> Result<(), String> {
    let rule_of = |sample: &ProcSample| match view.targets.look(sample, view.config, view.facts) {
        Selection::Selected { rule, cpuset: true, .. } => Some(rule),
        Selection::Selected { .. } | Selection::Excluded(_) | Selection::NotSelected | Selection::Protected(_) => None,
    };
    let sample = view.models.procs.sample(proc).ok_or("nothing is known about the process")?;
    let rule = rule_of(sample);
    let Some(group) = cgroup else { return ensure(rule.is_none(), "its target rule wants its cgroup bound") };
    ensure(rule.is_some(), "its target rule wants its threads bound")?;
    ensure(group.id == sample.cgroup_id && group.path == sample.cgroup, "it is in another cgroup")?;
    let below = format!("{}/", group.path);
    let inside = |one: &&ProcSample| one.cgroup == group.path || one.cgroup.starts_with(&below);
    let mut others = view.models.procs.samples().filter(inside);
    ensure(others.all(|one| rule_of(one) == rule && group.members.contains(&one.proc)), "somebody in its cgroup is not meant")
}

/// What went to a node by our doing stays there until it has settled, whoever would move it on.
fn crosses_once(view: &View<'_>, step: &Step, to: NodeId, ranges: &[AddrRange]) -> Result<(), String> {
    let Some(crossed) = view.ledger.crossed(step.action.proc()) else { return Ok(()) };
    let (settle, knob) = match step.by {
        PolicyId::Tier => (view.config.tier.settle_s, "tier.settle_s"),
        PolicyId::Watch
        | PolicyId::Arm
        | PolicyId::Slide
        | PolicyId::Autocold
        | PolicyId::Numa
        | PolicyId::SlabMarginal
        | PolicyId::SlabExtstore
        | PolicyId::SlabAutomove => (view.config.numa.settle_s, "numa.settle_s"),
    };
    let lately = |at| view.now.since(at) < Span::from_secs(settle);
    let mut blocks = ranges.iter().flat_map(|range| range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES));
    let again = blocks.any(|block| crossed.away_from(BlockId(block), to).is_some_and(lately));
    ensure(!again, &format!("pages would cross twice within {knob}"))
}

/// Between a fast node and a slow one, and no more over its link than it may carry.
fn tiers(view: &View<'_>, passed: &[Step], step: &Step, to: NodeId) -> Result<(), String> {
    if step.by != PolicyId::Tier {
        return Ok(());
    }
    let slow = |node: &NodeId| view.facts.slow_nodes().any(|slow| slow == *node);
    let other_end = |step: &Step| {
        let first = step.action.ranges().first()?;
        let on = view.models.nodes.lies(step.action.proc(), BlockId(first.start / BLOCK_BYTES))?;
        on.into_iter().find(slow)
    };
    let link = |step: &Step| target(&step.action).filter(slow).or_else(|| other_end(step));
    let Some(over) = link(step) else { return Err("it leaves no slow node, and goes to none".to_owned()) };
    ensure(step.reason.rule == if slow(&to) { Rule::TierDemote } else { Rule::TierPromote }, "it goes the wrong way")?;
    let same = passed.iter().chain([step]).filter(|p| p.by == PolicyId::Tier && link(p) == Some(over));
    let spent = view.ledger.moved_over(over).0 + same.map(|p| p.charge.moved.0).sum::<u64>();
    ensure(spent <= 10 * (view.config.tier.quota_mib_per_s << 20), "tier.quota_mib_per_s is exceeded")
}

/// What holds for every step that brings memory to a node.
fn moves(view: &View<'_>, in_flight: &BTreeMap<StepId, Flight>, passed: &[Step], step: &Step, to: NodeId) -> Result<(), String> {
    let (config, proc) = (view.config, step.action.proc());
    let node = view.models.nodes.get(to).ok_or("the node is not there")?;
    let mems = view.models.procs.sample(proc).map(|sample| &sample.mems_allowed);
    ensure(mems.is_none_or(|mems| mems.is_empty() || mems.contains(u32::from(to.0))), "its cpuset forbids the node")?;
    let spent = view.ledger.used().moved.0 + passed.iter().chain([step]).map(|p| p.charge.moved.0).sum::<u64>();
    ensure(spent <= 10 * (config.budget.moved_mib_per_s << 20), "budget.moved_mib_per_s is exceeded")?;
    let by_numa = passed.iter().chain([step]).filter(|p| p.by == PolicyId::Numa).map(|p| p.charge.moved.0).sum::<u64>();
    let quota = 10 * (config.numa.quota_mib_per_s << 20);
    ensure(step.by != PolicyId::Numa || view.ledger.moved_by_numa().0 + by_numa <= quota, "numa.quota_mib_per_s is exceeded")?;
    let under_way = in_flight.values().map(|flight| &flight.step).chain(passed).chain([step]);
    let coming: u64 = under_way.filter(|p| target(&p.action) == Some(to)).map(|p| p.charge.moved.0).sum();
    let left = u128::from(node.free().0.saturating_sub(coming)) * 1000;
    let reserve = u128::from(node.total.0) * u128::from(config.numa.node_free_permil);
    ensure(left >= reserve, "the reserve of the node would be used")?;
    let least = reserve / 1000;
    let guard = |g: &Guard| matches!(g, Guard::NodeFree { node, least: kept } if *node == to && u128::from(kept.0) >= least);
    ensure(step.guards.iter().any(guard), "the guard of the node's reserve is missing")?;
    calls(view, passed, step)
}

const fn target(action: &Action) -> Option<NodeId> {
    match action {
        Action::MovePages { to, .. } | Action::Migrate { to, .. } => Some(*to),
        Action::Scan { .. }
        | Action::Arm { .. }
        | Action::PageOut { .. }
        | Action::Deactivate { .. }
        | Action::Bind { .. }
        | Action::MoveSlabPage { .. }
        | Action::SetMover { .. }
        | Action::SetWatch { .. }
        | Action::SetFree { .. } => None,
    }
}

fn page_out(view: &View<'_>, passed: &[Step], step: &Step) -> Result<(), String> {
    let (budget, swap) = (&view.config.budget, &view.models.swap);
    let guard = |g: &Guard| matches!(g, Guard::SwapFree { least } if least.0 >= budget.swap_free_permil);
    ensure(step.guards.iter().any(guard), "the guard of the swap reserve is missing")?;
    let now: u64 =
        passed.iter().chain([step]).filter(|p| matches!(p.action, Action::PageOut { .. })).map(|p| p.charge.moved.0).sum();
    let left = u128::from(swap.free().0.saturating_sub(now));
    ensure(left * 1000 >= u128::from(swap.total().0) * u128::from(budget.swap_free_permil), "the swap reserve would be used")?;
    let worn = view.ledger.used().swap_written.0 + passed.iter().chain([step]).map(|p| p.charge.swap_written.0).sum::<u64>();
    let fits = step.charge.swap_written == Bytes::ZERO || worn <= budget.swap_writes_gib_per_day << 30;
    ensure(fits, "budget.swap_writes_gib_per_day is exceeded")
}

fn calls(view: &View<'_>, passed: &[Step], step: &Step) -> Result<(), String> {
    let spent = view.ledger.used().syscalls + passed.iter().chain([step]).map(|p| p.charge.syscalls).sum::<u64>();
    ensure(spent <= 10 * view.config.budget.syscalls_per_s, "budget.syscalls_per_s is exceeded")
}

fn bytes(action: &Action) -> Bytes {
    Bytes(action.ranges().iter().map(|range| range.end - range.start).sum())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{ANNA, BERT, Host, config, part, secs};
    use super::*;
    use crate::config::Config;
    use crate::vocab::{Charge, Permil, PolicyId, Reason, Time};

    fn sound(action: Action) -> Step {
        let proc = action.proc();
        let moved = bytes(&action);
        let charge = match action {
            Action::Scan { .. } => Charge::default(),
            Action::Arm { .. } => Charge { armed: moved, syscalls: 1, ..Charge::default() },
            Action::PageOut { .. } | Action::Deactivate { .. } | Action::MovePages { .. } => {
                Charge { moved, syscalls: 1, ..Charge::default() }
            }
            Action::Bind { .. } | Action::Migrate { .. } => Charge { syscalls: 1, ..Charge::default() },
            Action::MoveSlabPage { .. } | Action::SetMover { .. } | Action::SetWatch { .. } | Action::SetFree { .. } => {
                Charge::default()
            }
        };
        Step {
            id: StepId { decision: 1, index: 0 },
            action,
            guards: vec![Guard::Alive(proc), Guard::Calm { most_avg10: 500 }, Guard::SwapFree { least: Permil(200) }],
            expires: secs(1030),
            charge,
            by: PolicyId::Slide,
            reason: Reason::new(Rule::SlideCold),
        }
    }

    fn out(ranges: Vec<AddrRange>) -> Step {
        sound(Action::PageOut { proc: ANNA, ranges })
    }

    fn everybody() -> Config {
        config("[[target]]\ncomm = '*'\nfloor_mib = 4")
    }

    /// The veto, or "ok".
    fn check(config: &Config, change: impl FnOnce(&mut Host), step: &Step, expect: &str) {
        let mut host = Host::new(config);
        change(&mut host);
        let said = audit(&host.governor.view(host.now), host.governor.paused(), &BTreeMap::new(), &[], step);
        assert_eq!(said.err().as_deref().unwrap_or("ok"), expect);
    }

    fn planted(break_it: impl FnOnce(&mut Step), expect: &str) {
        let mut step = out(vec![part(1, 0, 100)]);
        break_it(&mut step);
        check(&everybody(), |_| {}, &step, expect);
    }

    #[test]
    fn sound_steps_pass() {
        planted(|_| {}, "ok");
        check(&everybody(), |_| {}, &out(vec![part(1, 0, 100), part(5, 0, 512)]), "ok");
        check(&everybody(), |_| {}, &sound(Action::Scan { proc: ANNA }), "ok");
        check(&everybody(), |_| {}, &sound(Action::Arm { proc: ANNA, ranges: vec![part(1, 0, 512)] }), "ok");
        check(&everybody(), |_| {}, &sound(Action::Deactivate { proc: ANNA, ranges: vec![part(1, 0, 512)] }), "ok");
    }

    #[test]
    fn planted_mistakes_are_found() {
        planted(|s| s.guards.retain(|g| !matches!(g, Guard::Alive(_))), "the guard against a reused pid is missing");
        planted(|s| s.guards.retain(|g| !matches!(g, Guard::SwapFree { .. })), "the guard of the swap reserve is missing");
        planted(|s| s.guards.retain(|g| !matches!(g, Guard::Calm { .. })), "the guard against pressure is missing");
        planted(|s| s.guards[1] = Guard::Calm { most_avg10: 501 }, "the guard against pressure is missing");
        planted(|s| s.expires = secs(1000), "it expires at once or never");
        planted(|s| s.expires = Time::MAX, "it expires at once or never");
        planted(|s| s.charge.moved = Bytes(1), "it is charged for another amount");
        planted(|s| s.charge.syscalls = 20_001, "budget.syscalls_per_s is exceeded");
        planted(|s| s.charge.swap_written = Bytes(51 << 30), "budget.swap_writes_gib_per_day is exceeded");
        planted(|s| s.reason.rule = Rule::AutocoldIdle, "some of it is not idle for autocold.min_idle_s");
    }

    #[test]
    fn memory_that_no_hand_may_touch_is_found() {
        let ranges = |ranges, expect| check(&everybody(), |_| {}, &out(ranges), expect);
        ranges(vec![], "it names no memory");
        ranges(vec![part(1, 9, 9)], "its ranges are empty, overlap or are out of order");
        ranges(vec![part(2, 0, 1), part(1, 0, 1)], "its ranges are empty, overlap or are out of order");
        ranges(vec![part(1, 0, 9), part(1, 8, 10)], "its ranges are empty, overlap or are out of order");
        ranges(vec![AddrRange { start: 0x20_0001, end: 0x20_1000 }], "a range is not page aligned");
        ranges(vec![part(5, 0, 1024)], "a range leaves private anonymous memory, or is locked");
        ranges(vec![part(0, 0, 600)], "a range leaves private anonymous memory, or is locked");
        ranges(vec![part(5, 0, 511)], "it would split a huge page");
        ranges(vec![part(4, 500, 600)], "it would split a huge page");
        ranges(vec![part(1, 0, 4 * 512 + 1)], "it would split a huge page");
        // 12 MiB resident, 4 MiB floor.
        ranges(vec![part(1, 0, 4 * 512)], "ok");
        ranges(vec![part(1, 0, 5 * 512)], "the process would fall under its floor");
    }

    #[test]
    fn processes_that_were_not_meant_are_found() {
        let step = out(vec![part(1, 0, 1)]);
        let of = |text: &str| config(text);
        check(&of("[[target]]\ncomm = 'bert'"), |_| {}, &step, "no target rule selects it");
        check(&of("[[target]]\ncomm = 'anna'\nexclude = true"), |_| {}, &step, "excluded by target rule 1");
        let mut host = Host::new(&everybody());
        let again = audit(&host.governor.view(host.now), false, &BTreeMap::new(), std::slice::from_ref(&step), &step);
        assert_eq!(again, Err("a second step for the process in one turn".to_owned()));
        let gone = sound(Action::Scan { proc: crate::vocab::ProcKey { pid: 12, start: 1 } });
        check(&everybody(), |_| {}, &gone, "nothing is known about the process");
        host.tell(crate::vocab::Event::Kernel(crate::vocab::KernelEvent::Exit { proc: BERT }));
        let dead = sound(Action::PageOut { proc: BERT, ranges: vec![part(1, 0, 1)] });
        let said = audit(&host.governor.view(host.now), false, &BTreeMap::new(), &[], &dead);
        assert_eq!(said, Err("the process is not known".to_owned()));
    }

    #[test]
    fn limits_of_the_host_are_found() {
        let step = out(vec![part(1, 0, 512)]);
        check(&everybody(), |h| h.sample(Bytes::from_mib(21), 0), &step, "the swap reserve would be used");
        check(&everybody(), |h| h.sample(Bytes::from_mib(100), 501), &step, "memory pressure is over its bound");
        check(
            &config("[budget]\nmoved_mib_per_s = 0\n[[target]]\ncomm = '*'"),
            |_| {},
            &step,
            "budget.moved_mib_per_s is exceeded",
        );
        let shared = config("[[target]]\ncomm = '*'\nmoved_mib_per_s = 0");
        check(&shared, |_| {}, &step, "target.moved_mib_per_s is exceeded");
        let arm = sound(Action::Arm { proc: ANNA, ranges: vec![part(1, 0, 512)] });
        check(&config("[arm]\nquota_mib_per_s = 0\n[[target]]\ncomm = '*'"), |_| {}, &arm, "arm.quota_mib_per_s is exceeded");
        let mut advice = everybody();
        advice.daemon.act = false;
        check(&advice, |_| {}, &arm, "arming is not allowed");
        let paused = |h: &mut Host| h.tell(crate::vocab::Event::Request(crate::vocab::Request::Pause { by: "t".into() }));
        check(&everybody(), paused, &step, "memtier is paused");
    }

    const FAR: NodeId = NodeId(1);

    fn placing(action: Action) -> Step {
        let moved = if matches!(action, Action::Migrate { .. }) { Bytes::from_mib(12) } else { bytes(&action) };
        let charge = Charge { moved, syscalls: 1, ..Charge::default() };
        let guards =
            vec![Guard::Alive(ANNA), Guard::Calm { most_avg10: 500 }, Guard::NodeFree { node: FAR, least: Bytes::from_mib(20) }];
        Step { guards, charge, by: PolicyId::Numa, expires: secs(1030), reason: Reason::new(Rule::NumaMove), ..sound(action) }
    }

    fn bind(cpus: &[u32]) -> Step {
        placing(Action::Bind { proc: ANNA, cpus: cpus.iter().map(|cpu| CpuId(*cpu)).collect(), whom: Whom::All })
    }

    fn move_there() -> Step {
        placing(Action::MovePages { proc: ANNA, to: FAR, ranges: vec![part(1, 0, 512)] })
    }

    /// On a host of two nodes, with so much free on the second.
    fn placed(text: &str, free: u64, change: impl FnOnce(&mut Host), step: &Step, expect: &str) {
        let two = |host: &mut Host| {
            host.two_nodes([500, free]);
            change(host);
        };
        check(&config(text), two, step, expect);
    }

    const ALL: &str = "[[target]]\ncomm = '*'";

    #[test]
    fn steps_that_place_are_sound_or_vetoed() {
        let same = |_: &mut Host| {};
        placed(ALL, 500, same, &bind(&[2, 3]), "ok");
        placed(ALL, 500, same, &move_there(), "ok");
        placed(ALL, 500, same, &placing(Action::Migrate { proc: ANNA, from: vec![NodeId(0)], to: FAR }), "ok");
        placed(ALL, 500, same, &bind(&[]), "its CPUs are none, or out of order");
        placed(ALL, 500, same, &bind(&[3, 2]), "its CPUs are none, or out of order");
        placed(ALL, 500, same, &bind(&[3, 4]), "a CPU is not there");
        placed("[[target]]\ncomm = '*'\nnuma = false", 500, same, &bind(&[2]), "its target rule keeps it where it is");
        placed("[numa]\nenabled = false\n[[target]]\ncomm = '*'", 500, same, &bind(&[2]), "its policy places nobody");
        let paused = |h: &mut Host| h.tell(crate::vocab::Event::Request(crate::vocab::Request::Pause { by: "t".into() }));
        placed(ALL, 500, paused, &bind(&[2]), "memtier is paused");
        placed(ALL, 21, same, &move_there(), "the reserve of the node would be used");
        placed(ALL, 22, same, &move_there(), "ok");
        placed(ALL, 500, |h| h.sample(Bytes::from_mib(100), 501), &move_there(), "memory pressure is over its bound");
        placed("[numa]\nquota_mib_per_s = 0\n[[target]]\ncomm = '*'", 500, same, &move_there(), "numa.quota_mib_per_s is exceeded");
        let circle = placing(Action::Migrate { proc: ANNA, from: vec![NodeId(0), FAR], to: FAR });
        placed(ALL, 500, same, &circle, "it moves nothing, or in a circle");
    }

    #[test]
    fn cgroups_are_bound_where_the_rule_says_so() {
        const CPUSET: &str = "[[target]]\ncomm = '*'\ncpuset = true";
        let group = |path: &str, members: &[crate::vocab::ProcKey]| {
            let group = Group { id: crate::vocab::CgroupId(0), path: path.into(), members: members.to_vec() };
            placing(Action::Bind { proc: ANNA, cpus: vec![CpuId(2)], whom: Whom::Cgroup(group) })
        };
        let same = |_: &mut Host| {};
        placed(CPUSET, 500, same, &group("/g", &[ANNA, BERT]), "ok");
        placed(CPUSET, 500, same, &bind(&[2]), "its target rule wants its cgroup bound");
        placed(ALL, 500, same, &group("/g", &[ANNA, BERT]), "its target rule wants its threads bound");
        placed(CPUSET, 500, same, &group("/", &[ANNA, BERT]), "it is in another cgroup");
        placed(CPUSET, 500, same, &group("/g", &[ANNA]), "somebody in its cgroup is not meant");
        let mine = "[[target]]\ncomm = 'anna'\ncpuset = true\n[[target]]\ncomm = '*'\ncpuset = true";
        placed(mine, 500, same, &group("/g", &[ANNA, BERT]), "somebody in its cgroup is not meant");
    }

    #[test]
    fn threads_are_bound_once_within_the_settle_time_and_the_main_one_never() {
        let some = |cpus: &[u32], tids: &[u32]| {
            let cpus = cpus.iter().map(|cpu| CpuId(*cpu)).collect();
            placing(Action::Bind { proc: ANNA, cpus, whom: Whom::of(tids) })
        };
        let same = |_: &mut Host| {};
        placed(ALL, 500, same, &some(&[2, 3], &[21, 23]), "ok");
        placed(ALL, 500, same, &some(&[2, 3], &[23, 21]), "its threads are out of order");
        placed(ALL, 500, same, &some(&[2, 3], &[ANNA.pid]), "the main thread is among them");
        let bound = |host: &mut Host| host.governor.bound(ANNA, &[2, 3], &[21, 23], host.now);
        placed(ALL, 500, bound, &some(&[0, 1], &[22]), "ok");
        placed(ALL, 500, bound, &some(&[0, 1], &[22, 23]), "threads of it were bound within numa.settle_s");
        placed(ALL, 500, bound, &bind(&[0, 1]), "threads of it were bound within numa.settle_s");
        let whole = |host: &mut Host| host.governor.bound(ANNA, &[2, 3], &[], host.now);
        placed(ALL, 500, whole, &bind(&[2]), "ok");
        placed(ALL, 500, whole, &bind(&[1, 2]), "it was placed within numa.settle_s");
        placed(ALL, 500, whole, &bind(&[1, 2, 3]), "ok");
        let long_ago = |host: &mut Host| host.governor.bound(ANNA, &[2, 3], &[21, 23], secs(1));
        placed(ALL, 500, long_ago, &some(&[0, 1], &[22, 23]), "ok");
        placed(ALL, 500, long_ago, &bind(&[0, 1]), "ok");
    }

    #[test]
    fn planted_mistakes_of_placing_are_found() {
        let planted = |break_it: fn(&mut Step), expect: &str| {
            let mut step = move_there();
            break_it(&mut step);
            placed(ALL, 500, |_| {}, &step, expect);
        };
        planted(|s| s.guards.retain(|g| !matches!(g, Guard::NodeFree { .. })), "the guard of the node's reserve is missing");
        planted(|s| s.guards[2] = Guard::NodeFree { node: FAR, least: Bytes(1) }, "the guard of the node's reserve is missing");
        planted(|s| s.charge.moved = Bytes(1), "it is charged for another amount");
        planted(|s| s.by = PolicyId::Autocold, "its policy places nobody");
        planted(
            |s| s.action = Action::MovePages { proc: ANNA, to: NodeId(9), ranges: vec![part(1, 0, 512)] },
            "the node is not there",
        );
    }

    #[test]
    fn what_others_said_of_cpus_and_nodes_holds() {
        let sample = |cpus: &[u32], mems: &[u32]| {
            let (cpus_allowed, mems_allowed) = (cpus.iter().copied().collect(), mems.iter().copied().collect());
            let comm = "anna".to_owned();
            let rss = Bytes::from_mib(12);
            let sample = crate::vocab::ProcSample {
                proc: ANNA,
                comm,
                rss,
                cpus_allowed,
                mems_allowed,
                ..crate::vocab::ProcSample::default()
            };
            crate::vocab::Event::Sample(crate::vocab::Sample::Proc(Box::new(sample)))
        };
        placed(ALL, 500, |h| h.tell(sample(&[0, 1, 2, 3], &[0, 1])), &bind(&[2, 3]), "ok");
        placed(ALL, 500, |h| h.tell(sample(&[0, 1, 2], &[0, 1])), &bind(&[2]), "somebody else bound it");
        placed(ALL, 500, |h| h.tell(sample(&[0, 1, 2], &[0, 1])), &move_there(), "ok");
        placed(ALL, 500, |h| h.tell(sample(&[], &[0])), &move_there(), "its cpuset forbids the node");
        // Its owner bound the last page of what would move. To swap it may go.
        let bound = |host: &mut Host| {
            let vma = |range: AddrRange, flags| Vma { start: range.start, end: range.end, kind: VmaKind::Anon, flags };
            let theirs = VmaFlags::WRITE.with(VmaFlags::POLICY);
            let vmas = vec![vma(part(1, 0, 511), VmaFlags::WRITE), vma(part(1, 511, 512), theirs)];
            host.tell(crate::vocab::Event::Sample(crate::vocab::Sample::Maps(crate::vocab::MapsSample { proc: ANNA, vmas })));
        };
        let some = |first, end| placing(Action::MovePages { proc: ANNA, to: FAR, ranges: vec![part(1, first, end)] });
        placed(ALL, 500, bound, &some(0, 511), "ok");
        placed(ALL, 500, bound, &some(0, 512), "its owner bound a range to nodes (mbind)");
        check(&everybody(), bound, &out(vec![part(1, 0, 512)]), "ok");
        let policy = |host: &mut Host| {
            let known = host.governor.view(host.now).models.procs.sample(ANNA).cloned().expect("told");
            let sample = crate::vocab::ProcSample { mempolicy: "interleave:0-1".into(), ..known };
            host.tell(crate::vocab::Event::Sample(crate::vocab::Sample::Proc(Box::new(sample))));
        };
        placed(ALL, 500, policy, &move_there(), "it has a memory policy");
    }
}
