//! The board on which numa places processes: what each node has left, and who claims what.

use super::View;
use super::cgroups::Cgroups;
use super::numa::parts;
use super::placement::{Claim, HOT_WEIGHT, Place};
use super::taking::{self, Refusal};
use super::tier;
use crate::model::{Held, NodeNow, ProcHeat, ProcInfo};
use crate::plan::Placed;
use crate::vocab::{
    Bytes, CpuId, Group, IdSet, Measure, NodeFacts, NodeId, Pages, ProcKey, ProcSample, Quantity, Reason, Rule, Span, Time,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What a process runs, and what CPUs idle, is measured over this time, or over its life where that is shorter.
pub(super) const LATELY: Span = Span::from_secs(10);
/// So long after its birth what it ran while it came up may still be among that.
pub(super) const COMING: Span = Span(2 * LATELY.0);
/// What CPUs idle is measured for so long at least.
const LEAST_IDLED: Span = Span::from_secs(2);
/// What it runs is believed after it was heard of for this long since it last grew.
const HEARD: Span = Span::from_secs(1);
/// Distances where the kernel tells none: to a node itself and to another.
const NEAR: u64 = 10;
const FAR: u64 = 20;
/// What a second thread of a core is worth, in thousandths of the first; numad's -t.
const SIBLING_PERMIL: u64 = 200;

/// The nodes, with what is left of each for those who are not placed yet.
pub(super) struct Board {
    pub places: Vec<Place>,
    shared: IdSet,
    /// Of each place.
    cpus: Vec<Vec<CpuId>>,
    /// Between these times the CPUs idled as the places say.
    idled: (Time, Time),
}

/// A process, and what is known of it.
pub(super) struct Candidate<'a> {
    pub proc: ProcKey,
    pub sample: &'a ProcSample,
    /// Of its memory, what can be moved.
    pub held: BTreeMap<NodeId, Held>,
    /// It has memory that cannot.
    pub fixed: bool,
    pub placed: Option<&'a Placed>,
    /// Slow nodes, where tier looks after its memory.
    pub lent: Vec<NodeId>,
    pub claim: Claim,
    /// Thousandths of a CPU that it got, by place, while the CPUs were seen to idle.
    got: Vec<u64>,
    /// What it wants, and what others leave to it, was seen only while it came up: until then at most.
    pub young: Option<Time>,
    pub bound: Bound,
    /// The cgroup that is bound for it, if its rule wants that.
    pub group: Option<Group>,
    /// What all of that cgroup claim, where it is not alone in it.
    whole: Option<Whole>,
}

/// Of several processes in a cgroup that is bound as one.
enum Whole {
    /// It stands for all of them: their claims together.
    Leads(Claim),
    /// That one stands for it.
    Follows(ProcKey),
}

impl Candidate<'_> {
    /// What it is bound by: its own claim, or that of its cgroup.
    pub fn claims(&self) -> &Claim {
        match &self.whole {
            Some(Whole::Leads(claim)) => claim,
            Some(Whole::Follows(_)) | None => &self.claim,
        }
    }

    /// Who decides where it is bound, if that is another.
    pub const fn follows(&self) -> Option<ProcKey> {
        match self.whole {
            Some(Whole::Follows(leader)) => Some(leader),
            Some(Whole::Leads(_)) | None => None,
        }
    }
}

/// Who said where its threads may run: places, ascending.
pub(super) enum Bound {
    Nobody,
    Us(Vec<usize>),
    Others(Vec<usize>),
}

impl Board {
    pub fn of(view: &View<'_>) -> Result<Self, Refusal> {
        if !view.facts.can_place() {
            let note = "fewer than two nodes have CPUs: threads have no choice, and what lies on nodes without CPUs is for tier";
            return Err(Refusal::Idle(Reason::new(Rule::HostLacks).note(note)));
        }
        let facts: Vec<&NodeFacts> = view.facts.nodes.iter().filter(|node| view.models.nodes.get(node.id).is_some()).collect();
        if facts.is_empty() {
            return Err(Refusal::Hold(Reason::new(Rule::WarmUp).note("the nodes were not sampled yet")));
        }
        let known = || facts.iter().filter_map(|node| view.models.nodes.get(node.id)).filter(|now| now.idled_from().is_some());
        let until = known().map(NodeNow::sampled).min();
        let Some((from, until)) = known().filter_map(NodeNow::idled_from).max().zip(until) else {
            return Err(Refusal::Hold(Reason::new(Rule::WarmUp).note("the nodes were sampled once only")));
        };
        // What was before the last bind, or the end of who ran there, is no more.
        let shifted = view.ledger.shifted().min(Time(until.0.saturating_sub(LEAST_IDLED.0)));
        let from = from.max(Time(view.now.0.saturating_sub(LATELY.0))).max(shifted);
        if from >= until {
            return Err(Refusal::Hold(Reason::new(Rule::Stale).note("the nodes were not sampled lately")));
        }
        let place = |&node: &&NodeFacts| {
            let now = view.models.nodes.get(node.id);
            let cpus = node.shared_cpus().count() as u64 * 1000;
            Place {
                id: node.id,
                cpus,
                idle: now.filter(|now| now.idled_from().is_some()).map_or(0, |now| now.idled_since(from)).min(cpus),
                room: now
                    .map_or(Bytes::ZERO, |now| now.free().saturating_add(now.inactive_file).saturating_sub(reserve(view, node.id))),
                gaps: facts.iter().map(|to| gap(node, to)).collect(),
            }
        };
        let places = facts.iter().map(place).collect();
        let cpus: Vec<Vec<CpuId>> = facts.iter().map(|node| node.shared_cpus().collect()).collect();
        let shared = cpus.iter().flatten().map(|cpu| cpu.0).collect();
        Ok(Self { places, shared, cpus, idled: (from, until) })
    }

    /// Every process that may be placed, and what speaks against looking at it: those that keep their nodes first, then those
    /// that want most. What all of them run on is free to be given out anew.
    pub fn candidates<'a>(&mut self, view: &View<'a>) -> Vec<(ProcKey, Result<Candidate<'a>, Reason>)> {
        let cgroups = Cgroups::of(view);
        let mut all: Vec<_> = view.placed().filter_map(|(proc, _)| Some((proc, self.candidate(view, &cgroups, proc)?))).collect();
        stand_together(&mut all);
        for candidate in all.iter().filter_map(|(_, candidate)| candidate.as_ref().ok()) {
            self.places.iter_mut().zip(&candidate.got).for_each(|(place, got)| place.idle += got);
        }
        let width = u64::from(view.facts.smt_width.max(1));
        for place in &mut self.places {
            place.idle = Bytes(place.idle.min(place.cpus)).scale(1000 + SIBLING_PERMIL * (width - 1), 1000 * width).0;
        }
        let free = |candidate: &Candidate<'_>| matches!(candidate.bound, Bound::Nobody);
        all.sort_by_key(|(proc, candidate)| match candidate {
            Ok(candidate) => (free(candidate), Reverse(candidate.claims().wants), *proc),
            Err(_) => (false, Reverse(0), *proc),
        });
        all
    }

    /// None for one that nothing is known of.
    fn candidate<'a>(&self, view: &View<'a>, cgroups: &Cgroups<'_>, proc: ProcKey) -> Option<Result<Candidate<'a>, Reason>> {
        let info = view.models.procs.get(proc)?;
        let sample = info.sample.as_deref()?;
        if let Err(reason) = taking::no_policy(sample) {
            return Some(Err(reason));
        }
        let held = view.models.nodes.held(proc);
        if held.is_empty() {
            // Who is too small to be walked is not placed, and whoever walks says so; nor is who has nothing in memory.
            let heat = view.models.heat.get(proc).filter(|heat| heat.resident() > Pages::ZERO)?;
            let walked = heat.scan_at()?;
            let seen = Quantity::from(view.now.since(walked));
            let reason = Reason::new(Rule::Stale).saw(Measure::SinceLastScan, seen, Span::ZERO, "");
            return Some(Err(reason.note("where its memory lies is not known")));
        }
        let group = match cgroups.of_proc(view, sample) {
            Ok(group) => group,
            Err(reason) => return Some(Err(reason)),
        };
        let placed = view.ledger.placed(proc);
        let with_us =
            |one: &ProcKey| view.ledger.placed(*one).is_some_and(|one| one.bound_at.is_some() && one.cpus == sample.cpus_allowed);
        let bound = match self.bound(info, sample, placed) {
            // It came into a cgroup that we bound, or nobody knew it then.
            Bound::Others(home) if group.as_ref().is_some_and(|group| group.members.iter().any(with_us)) => Bound::Us(home),
            bound => bound,
        };
        let wants = wants(view, info, sample);
        let grew = view.models.heat.get(proc).and_then(ProcHeat::grew_at);
        let grows = grown(view, info, proc).is_none_or(|grown| grew > Some(grown));
        let known_at = info.born().after(if grows { COMING } else { LATELY });
        let young = Some(known_at).filter(|&known_at| view.now < known_at);
        let by_node: BTreeMap<NodeId, Span> = view.models.sched.by_node(proc, view.now).into_iter().collect();
        let fixed = fixed(view, sample);
        let held: BTreeMap<NodeId, Held> = held.iter().map(|&(node, held)| (node, movable(held, fixed.get(&node)))).collect();
        let of =
            |f: &dyn Fn(usize, &Place) -> u64| self.places.iter().enumerate().map(|(at, place)| f(at, place)).collect::<Vec<u64>>();
        let may_run = |at: usize| match &bound {
            Bound::Nobody => true,
            Bound::Us(home) | Bound::Others(home) => home.contains(&at),
        };
        let ran = of(&|_, place| by_node.get(&place.id).map_or(0, |span| span.0));
        let mut runs = of(&|at, _| if may_run(at) { ran[at] } else { 0 });
        if runs.iter().sum::<u64>() == 0 {
            runs = of(&|at, place| if may_run(at) { place.cpus } else { 0 });
        }
        let (from, until) = self.idled;
        let counted = view.models.sched.heard(from).is_some();
        // Where nobody counts switches its samples tell, and these come with its walks.
        let got = got(view, proc, (if counted { from } else { from.min(lately(view, info)) }, until));
        // Most of that was before it was bound, where it was bound just now.
        let before = placed.and_then(|placed| placed.bound_at) > Some(self.idled.0) && ran.iter().any(|&ran| ran > 0);
        let ran = if before { &ran } else { &runs };
        let got = of(&|at, _| Bytes(got).scale(ran[at], ran.iter().sum()).0);
        let weight = |held: &Held| held.pages.0 + held.hot.0 * (HOT_WEIGHT - 1);
        let mems = &sample.mems_allowed;
        let lent: Vec<NodeId> = if tier::looks_after(view, proc) { view.facts.slow_nodes().collect() } else { Vec::new() };
        let ours = |place: &Place| held.get(&place.id).filter(|_| !lent.contains(&place.id));
        let allowed = |place: &Place| mems.is_empty() || mems.contains(u32::from(place.id.0));
        let claim = Claim {
            pages: of(&|_, place| ours(place).map_or(0, |held| held.pages.0)),
            weight: of(&|_, place| ours(place).map_or(0, weight)),
            fixed: of(&|_, place| fixed.get(&place.id).map_or(0, weight)),
            runs,
            wants,
            may: self.places.iter().map(|place| allowed(place) && !lent.contains(&place.id)).collect(),
        };
        let fixed = !fixed.is_empty();
        Some(Ok(Candidate { proc, sample, held, fixed, placed, lent, claim, got, young, bound, group, whole: None }))
    }

    fn bound(&self, info: &ProcInfo, sample: &ProcSample, placed: Option<&Placed>) -> Bound {
        let allowed = &sample.cpus_allowed;
        if let Some(Placed { cpus, bound_at: Some(at), .. }) = placed
            && (cpus == allowed || info.sampled_at.is_none_or(|sampled| sampled <= *at))
        {
            // Where its CPUs are gone with their node, the kernel lets it run anywhere.
            let home = self.of_cpus(cpus);
            return if home.is_empty() { Bound::Nobody } else { Bound::Us(home) };
        }
        // Born of a thread that we gave other CPUs than its process has.
        if placed.is_some_and(|placed| placed.parts.iter().any(|part| part.tids.is_empty() && part.cpus == *allowed)) {
            return Bound::Us(self.of_cpus(allowed));
        }
        if allowed.is_empty() || self.shared.iter().all(|cpu| allowed.contains(cpu)) {
            return Bound::Nobody;
        }
        Bound::Others(self.of_cpus(allowed))
    }

    /// The places that have any of these CPUs.
    pub fn of_cpus(&self, cpus: &IdSet) -> Vec<usize> {
        let any = |place: &usize| self.cpus[*place].iter().any(|cpu| cpus.contains(cpu.0));
        (0..self.places.len()).filter(any).collect()
    }

    /// The CPUs of these places, ascending.
    pub fn cpus_of(&self, places: &[usize]) -> Vec<CpuId> {
        let cpus: BTreeSet<CpuId> = places.iter().flat_map(|&place| self.cpus[place].iter().copied()).collect();
        cpus.into_iter().collect()
    }

    pub fn ids(&self, places: &[usize]) -> Vec<NodeId> {
        places.iter().map(|&place| self.places[place].id).collect()
    }

    /// Every node that has CPUs.
    pub fn all(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|&place| self.places[place].cpus > 0).collect()
    }

    pub fn everywhere(&self, cpus: &[usize]) -> bool {
        self.all().iter().all(|place| cpus.contains(place))
    }

    /// Whoever is decided about now has a claim on this.
    pub fn take(&mut self, claim: &Claim, cpus: &[usize], memory: &[usize], moves: Pages) {
        let mut wants = claim.wants;
        for &place in cpus {
            let idle = &mut self.places[place].idle;
            let taken = wants.min(*idle);
            (*idle, wants) = (*idle - taken, wants - taken);
        }
        let mut bytes = moves.bytes();
        for &place in memory {
            let room = &mut self.places[place].room;
            let taken = bytes.min(*room);
            (*room, bytes) = (room.saturating_sub(taken), bytes.saturating_sub(taken));
        }
    }

    /// It stays where it runs, and uses what it uses.
    pub fn leave(&mut self, claim: &Claim) {
        let runs: u64 = claim.runs.iter().sum();
        for (place, &ran) in self.places.iter_mut().zip(&claim.runs) {
            place.idle = place.idle.saturating_sub(Bytes(claim.wants).scale(ran, runs).0);
        }
    }
}

/// Of those in one cgroup that is bound as one the first stands for all.
fn stand_together(all: &mut [(ProcKey, Result<Candidate<'_>, Reason>)]) {
    // A cgroup in another one that is bound goes with that.
    let mut outer = BTreeMap::<String, (ProcKey, Vec<Claim>)>::new();
    for candidate in all.iter().filter_map(|(_, candidate)| candidate.as_ref().ok()) {
        if let Some(group) = &candidate.group {
            outer.entry(group.path.clone()).or_insert((candidate.proc, Vec::new()));
        }
    }
    let paths: Vec<String> = outer.keys().cloned().collect();
    let outermost = |group: &Group| {
        let holds =
            |path: &&String| group.path.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        paths.iter().find(holds)
    };
    for candidate in all.iter().filter_map(|(_, candidate)| candidate.as_ref().ok()) {
        if let Some((_, claims)) = candidate.group.as_ref().and_then(outermost).and_then(|path| outer.get_mut(path)) {
            claims.push(candidate.claim.clone());
        }
    }
    for candidate in all.iter_mut().filter_map(|(_, candidate)| candidate.as_mut().ok()) {
        let path = candidate.group.as_ref().and_then(outermost);
        let Some((leader, claims)) = path.and_then(|path| outer.get(path)) else { continue };
        candidate.whole = match &claims[..] {
            [] | [_] => None,
            [first, rest @ ..] if *leader == candidate.proc => {
                Some(Whole::Leads(rest.iter().fold(first.clone(), |sum, claim| sum.and(claim))))
            }
            [..] => Some(Whole::Follows(*leader)),
        };
    }
}

/// Memory of others, too (files, shared memory), hugetlb pages, locked ones and what its owner bound to nodes stay where they are.
/// Who has hardly any is not looked at block by block.
fn fixed(view: &View<'_>, sample: &ProcSample) -> BTreeMap<NodeId, Held> {
    let (proc, mut fixed) = (sample.proc, BTreeMap::<NodeId, Held>::new());
    let Some(heat) = view.models.heat.get(proc) else { return fixed };
    let hardly = sample.rss_anon.scale(1, 16).saturating_add(Bytes::from_mib(8));
    let none = sample.locked == Bytes::ZERO && view.models.procs.bound_ranges(proc).is_empty();
    if none && heat.resident().bytes() <= sample.rss_anon.saturating_add(hardly) {
        return fixed;
    }
    let movable = view.models.procs.movable_ranges(proc);
    for one in view.models.nodes.lying(proc, heat).filter(|one| parts(one, &movable).is_empty()) {
        for node in one.nodes() {
            let (pages, sum) = (u64::from(one.on(node)), fixed.entry(node).or_default());
            sum.pages.0 += pages;
            sum.hot.0 += u64::from(one.hot) * pages / u64::from(one.present.max(1));
        }
    }
    fixed
}

fn movable(held: Held, fixed: Option<&Held>) -> Held {
    let Held { pages, hot, stayed, busy: _ } = fixed.copied().unwrap_or_default();
    Held {
        pages: held.pages.saturating_sub(pages),
        hot: held.hot.saturating_sub(hot),
        stayed: held.stayed.saturating_sub(stayed),
        busy: held.busy,
    }
}

/// How much farther the memory of `to` is for the CPUs of `from` than their own, in thousandths. The HMAT tells of a node
/// without CPUs what the nearest ones wait for it, which is no less than what others do.
#[must_use]
pub fn gap(from: &NodeFacts, to: &NodeFacts) -> u64 {
    if from.id == to.id {
        return 0;
    }
    let permil = |far: u64, near: u64| (far.saturating_mul(1000) / near.max(1)).saturating_sub(1000);
    let distance = from.distances.iter().find(|(node, _)| *node == to.id).map_or(FAR, |(_, distance)| u64::from(*distance));
    match (from.latency_ns, to.latency_ns) {
        (Some(near), Some(far)) if to.cpus.is_empty() => permil(far, near),
        (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) | (None, None) => permil(distance, NEAR),
    }
}

/// What stays free on a node.
pub(super) fn reserve(view: &View<'_>, node: NodeId) -> Bytes {
    let total = view.models.nodes.get(node).map_or(Bytes::ZERO, |now| now.total);
    total.scale(view.config.numa.node_free_permil, 1000)
}

fn lately(view: &View<'_>, info: &ProcInfo) -> Time {
    Time(view.now.0.saturating_sub(LATELY.0)).max(info.since)
}

/// Thousandths of a CPU that a process got between two times, as far as it is known.
fn got(view: &View<'_>, proc: ProcKey, (from, until): (Time, Time)) -> u64 {
    let sched = &view.models.sched;
    let rate = |time: Span, until: Time| time.scale(1000, until.since(from).0.max(1)).0;
    match sched.heard(from).filter(|&heard| heard > from) {
        Some(heard) => {
            let until = until.min(heard);
            rate(sched.ran_since(proc, from).saturating_sub(sched.ran_since(proc, until)), until)
        }
        // Nobody counts switches: what its samples tell.
        None => sched.told_at(proc).map_or(0, |told| rate(sched.share(proc, from, told.min(until)).got, told.min(until))),
    }
}

/// Since when a process that comes up grows no more, if what it runs was heard of for long enough since.
fn grown(view: &View<'_>, info: &ProcInfo, proc: ProcKey) -> Option<Time> {
    let grown = view.models.heat.get(proc).and_then(ProcHeat::grown_at).filter(|_| view.now.since(info.born()) < COMING);
    grown.filter(|&grown| view.models.sched.heard(grown).is_some_and(|heard| heard.since(grown) >= HEARD))
}

/// CPU time that a process wanted lately, got or waited for, in thousandths of a CPU. Threads that fill its memory when it comes up
/// say nothing of those that work on it later.
fn wants(view: &View<'_>, info: &ProcInfo, sample: &ProcSample) -> u64 {
    let (sched, proc) = (&view.models.sched, sample.proc);
    let from = lately(view, info).max(grown(view, info, proc).unwrap_or_default());
    let waited = sched.told_at(proc).filter(|&told| told > from).map_or(0, |told| {
        let waited = sched.share(proc, from, told).waited;
        waited.scale(1000, told.since(from).0).0
    });
    got(view, proc, (from, view.now)).saturating_add(waited).min(u64::from(sample.threads.max(1)) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::{ANNA, Host, config, secs};
    use crate::vocab::{CpuTime, Event, KernelEvent, NodeSample, NodesSample, Sample, SchedSample};

    #[test]
    fn isolated_cpus_are_nobodys() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        host.two_nodes([500, 500]);
        let mut facts = host.governor.facts().clone();
        facts.nodes[1].isolated = vec![CpuId(3)];
        host.tell(Event::Facts(Box::new(facts)));
        let known = host.governor.view(host.now).models.procs.sample(ANNA).cloned().expect("told");
        for (allowed, free) in [(vec![0, 1, 2], true), (vec![0, 1, 2, 3], true), (vec![0, 1], false)] {
            let sample = ProcSample { cpus_allowed: allowed.into_iter().collect(), ..known.clone() };
            host.tell(Event::Sample(Sample::Proc(Box::new(sample))));
            let view = host.governor.view(host.now);
            let Ok(mut board) = Board::of(&view) else { panic!("two nodes") };
            assert_eq!((board.cpus_of(&[1]), board.places[1].cpus), (vec![CpuId(2)], 1000));
            let candidates = board.candidates(&view);
            let [(ANNA, Ok(anna))] = &candidates[..] else { panic!("one that is selected") };
            assert_eq!(matches!(anna.bound, Bound::Nobody), free);
        }
    }

    #[test]
    fn what_a_process_used_is_free_for_it_though_the_threads_have_ended() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        host.two_nodes([500, 500]);
        let free = |host: &Host| {
            let view = host.governor.view(host.now);
            let Ok(mut board) = Board::of(&view) else { panic!("two nodes") };
            board.candidates(&view);
            board.places.iter().map(|place| place.idle).collect::<Vec<_>>()
        };
        let idled = free(&host);
        assert_eq!(idled, [2000, 2000]);
        // Ten seconds of four threads of it on all four CPUs; now it has one.
        let sample = |idle| Event::Sample(Sample::Nodes(NodesSample { nodes: vec![node(0, idle), node(1, idle)] }));
        let begun = host.now;
        for second in 1..=10 {
            host.now = begun.after(Span::from_secs(second));
            let time = |cpu| CpuTime { proc: ANNA, tid: 10 + cpu, cpu: CpuId(cpu), runtime_ns: 1_000_000_000, switches: 1 };
            let times = (0..4).map(time).collect();
            host.tell(Event::Sample(Sample::Sched(SchedSample { period_ns: 1_000_000_000, times })));
            host.tell(sample(Span::from_secs(14)));
        }
        assert_eq!(free(&host), [2000, 2000]);
        // Of somebody else nothing is, until it is seen that they end.
        let later = |host: &mut Host, secs, idle| {
            host.now = host.now.after(Span::from_secs(secs));
            let quiet = SchedSample { period_ns: Span::from_secs(secs).0, times: Vec::new() };
            host.tell(Event::Sample(Sample::Sched(quiet)));
            host.tell(sample(Span::from_secs(idle)));
        };
        later(&mut host, 10, 24);
        assert_eq!(free(&host), [1000, 1000]);
        host.governor.decide(host.now);
        host.tell(Event::Kernel(KernelEvent::Exit { proc: ANNA }));
        later(&mut host, 3, 30);
        assert_eq!(free(&host), [2000, 2000]);
    }

    fn node(id: u16, idle: Span) -> NodeSample {
        let total = Bytes::from_mib(1000);
        NodeSample { node: NodeId(id), total, free: total, inactive_file: Bytes::ZERO, idle, cpus: 2 }
    }

    #[test]
    fn threads_that_fill_memory_are_not_those_that_use_it() {
        let mut host = Host::new(&config("[[target]]\ncomm = 'anna'"));
        let sample = ProcSample { proc: ANNA, comm: "anna".into(), threads: 4, ..ProcSample::default() };
        host.tell(Event::Sample(Sample::Proc(Box::new(sample))));
        // Thousandths of a CPU until this second, since the one before.
        let ran = |host: &mut Host, second: u64, permil: u64| {
            let since = std::mem::replace(&mut host.now, secs(second));
            let period_ns = host.now.since(since).0;
            let time = CpuTime { proc: ANNA, tid: 10, cpu: CpuId(0), runtime_ns: period_ns / 1000 * permil, switches: 1 };
            host.tell(Event::Sample(Sample::Sched(SchedSample { period_ns, times: vec![time] })));
        };
        let wants = |host: &Host| {
            let view = host.governor.view(host.now);
            let info = view.models.procs.get(ANNA).expect("told");
            super::wants(&view, info, info.sample.as_deref().expect("told"))
        };
        ran(&mut host, 1004, 4000);
        host.grown(ANNA, 12);
        assert_eq!(wants(&host), 4000);
        ran(&mut host, 1005, 1000);
        // Nobody looked whether it grew on for a while.
        assert_eq!(wants(&host), 3400);
        host.grown(ANNA, 12);
        assert_eq!(wants(&host), 1000);
        // An old one is taken as it was lately, however it grows.
        ran(&mut host, 1018, 4000);
        ran(&mut host, 1023, 1000);
        host.grown(ANNA, 24);
        assert_eq!(wants(&host), 2500);
    }
}
