//! Threads of one process on nodes of their own: which groups there are, where each goes, and what of the memory is whose.
//! Part of numa; docs/policies/numa.md has it under "Threads apart".

use super::View;
use super::board::{Board, Candidate};
use super::numa::{amortise, bring_to, named, priced, proposal, settled};
use super::placement::{self, HOT_WEIGHT, Place, cost, over};
use super::{Proposal, taking};
use crate::model::{Groups, Lying};
use crate::plan::{Part, Placed};
use crate::vocab::{Action, BLOCK_BYTES, Bytes, Charge, Measure, NodeId, Pages, Permil, Quantity, Reason, Rule, Span, Whom};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Two threads share memory if so much of the blocks of the one that touched fewer was touched by the other too. An eighth is one
/// block of the fewest that say anything.
const SHARED_PERMIL: u64 = 125;
/// Those that are apart stay apart until it is so much.
const STILL_APART_PERMIL: u64 = 250;
/// CPU time that a group may lack on its node, of what it wants.
const SHORT_PERMIL: u64 = 100;
/// As in numa: who would gain less of its CPU time stays as it is.
const LEAST_PERMIL: u64 = 10;
/// The settle time doubles so often at most, once for each time that threads were brought together again.
const DOUBLINGS_MOST: u32 = 6;
/// Threads named in a reason.
const NAMED: usize = 4;

/// What of a group lies on a place.
#[derive(Clone, Copy, Debug, Default)]
struct Lies {
    pages: u64,
    weight: u64,
}

impl Lies {
    const fn and(self, other: Self) -> Self {
        Self { pages: self.pages + other.pages, weight: self.weight + other.weight }
    }
}

/// The groups that get a place.
struct Side {
    place: usize,
    /// Ascending.
    tids: Vec<u32>,
    groups: usize,
    /// Blocks that they are known by.
    blocks: u32,
    /// Thousandths of a CPU.
    wants: u64,
    /// By place.
    lies: Vec<Lies>,
}

impl Side {
    /// Waiting for memory per second, of who runs like `runs`.
    fn far(&self, places: &[Place], runs: &[u64]) -> Span {
        placement::far(places, self.wants, runs, &self.lies.iter().map(|lies| lies.weight).collect::<Vec<_>>())
    }
    /// As long as it runs on its place.
    fn far_there(&self, places: &[Place]) -> Span {
        self.far(places, &(0..places.len()).map(|place| u64::from(place == self.place)).collect::<Vec<_>>())
    }
    fn away(&self) -> Pages {
        Pages(self.lies.iter().enumerate().filter(|(place, _)| *place != self.place).map(|(_, lies)| lies.pages).sum())
    }
}

/// Why threads are where they are.
enum Told {
    /// Too few threads are known.
    Little,
    /// They share memory.
    Together(usize),
    /// There are groups, and no nodes for them.
    NoPlace(usize),
    Apart(Apart),
}

struct Apart {
    groups: Groups,
    /// Of each group.
    places: Vec<usize>,
    sides: Vec<Side>,
}

/// Groups of a process that gets several nodes, each with one of them. `places` as they are for who has no claim yet.
fn told(view: &View<'_>, board: &Board, places: &[Place], candidate: &Candidate<'_>, home: &[usize]) -> Told {
    let apart = !parts(candidate).is_empty();
    let shared = if apart { STILL_APART_PERMIL } else { SHARED_PERMIL };
    let groups = view.models.threads.groups(candidate.proc, view.now, shared);
    if groups.all.len() < 2 {
        let known = view.models.threads.known(candidate.proc, view.now);
        // A group that sleeps is in none of them, and shares no more than it did.
        let met = !apart || groups.all.first().is_some_and(|one| held(candidate, &one.tids) > 1);
        return if known > 1 && met { Told::Together(known) } else { Told::Little };
    }
    let ran: Span = view.models.sched.by_node(candidate.proc, view.now).into_iter().map(|(_, ran)| ran).sum();
    let lies = lies(view, places, candidate, &groups);
    let mut left: Vec<(u64, Bytes)> = places.iter().map(|place| (place.idle, place.room)).collect();
    let (mut of, mut sides) = (Vec::new(), BTreeMap::<usize, Side>::new());
    for (group, lies) in groups.all.iter().zip(lies) {
        let wants = Bytes(candidate.claim.wants).scale(group.ran.0, ran.0.max(1)).0.min(candidate.claim.wants);
        let all = lies.iter().fold(Lies::default(), |sum, one| sum.and(*one));
        let comes: Vec<Bytes> = lies.iter().map(|there| Pages(all.pages - there.pages).bytes()).collect();
        let least = wants.saturating_sub(Bytes(wants).scale(SHORT_PERMIL, 1000).0);
        let bound = |place: usize| bound_to(board, candidate, &group.tids, place);
        let (held, stays) = (home.iter().any(|&place| bound(place) > 0), stays(view, candidate, &group.tids));
        // Who is on a node stays there, even without CPU time until it has settled; it goes to another one only together.
        let fits = |&&place: &&usize| {
            let here = bound(place) > 0;
            let roomy = if held { here } else { left[place].1 >= comes[place] };
            places[place].cpus > 0 && candidate.claim.may[place] && (left[place].0 >= least || here && stays) && roomy
        };
        // Where it is, where most of its memory is, where most CPUs idle.
        let best = |&&place: &&usize| (bound(place), 2 * lies[place].weight > all.weight, left[place].0, Reverse(place));
        let Some(&place) = home.iter().filter(fits).max_by_key(best) else { return Told::NoPlace(groups.all.len()) };
        left[place] = (left[place].0.saturating_sub(wants), left[place].1.saturating_sub(comes[place]));
        of.push(place);
        let none = vec![Lies::default(); places.len()];
        let side = sides.entry(place).or_insert(Side { place, tids: Vec::new(), groups: 0, blocks: 0, wants: 0, lies: none });
        side.tids.extend(&group.tids);
        (side.groups, side.blocks, side.wants) = (side.groups + 1, side.blocks + group.blocks, side.wants + wants);
        side.lies.iter_mut().zip(lies).for_each(|(sum, one)| *sum = sum.and(one));
    }
    if sides.len() < 2 {
        return Told::NoPlace(groups.all.len());
    }
    let mut sides: Vec<Side> = sides.into_values().collect();
    sides.iter_mut().for_each(|side| side.tids.sort_unstable());
    Told::Apart(Apart { groups, places: of, sides })
}

fn parts<'a>(candidate: &Candidate<'a>) -> &'a [Part] {
    let all = candidate.placed.map_or(&[][..], |placed| &placed.parts);
    // Those without threads are what it was born with.
    if all.iter().any(|part| !part.tids.is_empty()) { all } else { &[] }
}

/// How many of these threads run there by our doing.
fn bound_to(board: &Board, candidate: &Candidate<'_>, tids: &[u32], place: usize) -> usize {
    let there = |part: &&Part| board.of_cpus(&part.cpus) == [place];
    parts(candidate).iter().filter(there).flat_map(|part| &part.tids).filter(|tid| tids.binary_search(tid).is_ok()).count()
}

/// One of these threads was bound lately.
fn stays(view: &View<'_>, candidate: &Candidate<'_>, tids: &[u32]) -> bool {
    let fresh = |part: &&Part| settled(view, part.at).is_err();
    parts(candidate).iter().filter(fresh).flat_map(|part| &part.tids).any(|tid| tids.binary_search(tid).is_ok())
}

/// On how many nodes of their own these threads are.
fn held(candidate: &Candidate<'_>, tids: &[u32]) -> usize {
    parts(candidate).iter().filter(|part| part.tids.iter().any(|tid| tids.binary_search(tid).is_ok())).count()
}

/// Where the memory of each group lies, but for what is tier's.
fn lies(view: &View<'_>, places: &[Place], candidate: &Candidate<'_>, groups: &Groups) -> Vec<Vec<Lies>> {
    let mut all = vec![vec![Lies::default(); places.len()]; groups.all.len()];
    let Some(heat) = view.models.heat.get(candidate.proc) else { return all };
    for one in view.models.nodes.lying(candidate.proc, heat) {
        let Some(group) = groups.owner(one.block) else { continue };
        for node in one.nodes().filter(|node| !candidate.lent.contains(node)) {
            let Some(place) = places.iter().position(|place| place.id == node) else { continue };
            let pages = u64::from(one.on(node));
            let hot = u64::from(one.hot) * pages / u64::from(one.present.max(1));
            all[group][place].pages += pages;
            all[group][place].weight += pages + hot * (HOT_WEIGHT - 1);
        }
    }
    all
}

/// Says of a process that stays on several nodes what is known of its threads.
pub(super) fn explain(view: &View<'_>, board: &Board, candidate: &Candidate<'_>, places: &[Place], mut reason: Reason) -> Reason {
    let more = match told(view, board, places, candidate, &board.all()) {
        Told::Little => return reason,
        Told::Together(known) => format!("; the {known} of its threads that are known share memory"),
        Told::NoPlace(groups) => format!("; its threads are {groups} groups, and no nodes have room for one each"),
        Told::Apart(_) => {
            "; groups of its threads share no memory: apart they gain too little, or came up or were placed lately".into()
        }
    };
    reason.note.push_str(&more);
    reason
}

/// A first group on a node of its own, for a process that has to have all of `home`: none if they belong together, or would
/// gain less than it costs.
pub(super) fn part(
    view: &View<'_>,
    board: &Board,
    candidate: &Candidate<'_>,
    home: Option<&[usize]>,
    places: &[Place],
) -> Option<Proposal> {
    // A cgroup is bound as one.
    if candidate.young.is_some() || candidate.group.is_some() || taking::rested(view, candidate.placed).is_err() {
        return None;
    }
    let settle = |placed: &Placed| Span(Span::from_secs(view.config.numa.settle_s).0 << placed.joined.min(DOUBLINGS_MOST));
    let settles = |placed: &Placed| placed.last().is_some_and(|last| view.now.since(last) < settle(placed));
    if candidate.placed.is_some_and(settles) {
        return None;
    }
    let all = board.all();
    let Told::Apart(apart) = told(view, board, places, candidate, home.unwrap_or(&all)) else { return None };
    let claim = &candidate.claim;
    let moves: Pages = apart.sides.iter().map(Side::away).sum();
    let saved: Span = apart.sides.iter().map(|side| side.far(&board.places, &claim.runs)).sum();
    let least = Span::from_millis(claim.wants).scale(LEAST_PERMIL, 1000);
    let pays = saved > least && over(saved, amortise(view)) > cost(moves);
    let reason = priced(view, Rule::NumaPart, saved, moves);
    if pays { apart.bind(view, board, candidate, reason) } else { None }
}

/// What is next for a process whose threads are on nodes of their own; none if nothing is, and why.
pub(super) fn keep(
    view: &View<'_>,
    board: &Board,
    candidate: &Candidate<'_>,
    home: Option<&[usize]>,
    places: &[Place],
    release: Permil,
) -> Option<Result<Proposal, Reason>> {
    if parts(candidate).is_empty() || candidate.group.is_some() {
        return None;
    }
    let all = board.all();
    let within = home.unwrap_or(&all);
    let why = match told(view, board, places, candidate, within) {
        // As long as nothing is known they stay.
        Told::Little => return Some(Err(Reason::new(Rule::AtHome).note("its threads are on nodes of their own"))),
        Told::Apart(apart) => return Some(apart.next(view, board, candidate, release)),
        Told::Together(_) => "its threads share memory by now",
        Told::NoPlace(_) => "its groups of threads have no nodes for one each any more",
    };
    let last = candidate.placed.and_then(Placed::last).unwrap_or_default();
    Some(taking::rested(view, candidate.placed).and_then(|()| settled(view, last)).map(|()| {
        let action = Action::Bind { proc: candidate.proc, cpus: board.cpus_of(within), whom: Whom::All };
        let reason = Reason::new(Rule::NumaBind)
            .saw(Measure::SinceLastMove, view.now.since(last), Span::from_secs(view.config.numa.settle_s), "numa.settle_s")
            .flips_at(view.now.since(last).as_secs().saturating_add(1))
            .note(format!("to {} together: {why}", named(&board.ids(within))));
        proposal(action, candidate.claim.wants, Charge::default(), reason)
    }))
}

impl Apart {
    /// The first threads that are not where they should be.
    fn bind(&self, view: &View<'_>, board: &Board, candidate: &Candidate<'_>, reason: Reason) -> Option<Proposal> {
        let parts = parts(candidate);
        let elsewhere = |side: &Side| -> Vec<u32> {
            let moves = |tid: &u32| match parts.iter().find(|part| part.tids.contains(tid)) {
                None => true,
                Some(part) => board.of_cpus(&part.cpus) != [side.place] && settled(view, part.at).is_ok(),
            };
            side.tids.iter().copied().filter(moves).collect()
        };
        let (side, tids) = self.sides.iter().map(|side| (side, elsewhere(side))).find(|(_, tids)| !tids.is_empty())?;
        let place = &board.places[side.place];
        let reason = reason.saw(Measure::Wanted, Quantity::count(side.wants), Quantity::count(place.cpus), "").note(format!(
            "threads {} to {}; they share no memory: {}",
            some(&tids),
            place.id,
            self.named(board)
        ));
        let action = Action::Bind { proc: candidate.proc, cpus: board.cpus_of(&[side.place]), whom: Whom::Threads(tids) };
        Some(proposal(action, side.wants, Charge::default(), reason))
    }

    fn named(&self, board: &Board) -> String {
        let one = |side: &Side| {
            let Side { place, tids, groups, blocks, .. } = side;
            let groups = if *groups == 1 { "one group".to_owned() } else { format!("{groups} groups") };
            format!("{} threads in {groups}, known by {blocks} blocks, for {}", tids.len(), board.places[*place].id)
        };
        self.sides.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The rest of the groups, then what each has elsewhere.
    fn next(&self, view: &View<'_>, board: &Board, candidate: &Candidate<'_>, release: Permil) -> Result<Proposal, Reason> {
        taking::rested(view, candidate.placed)?;
        if let Some(bind) = self.bind(view, board, candidate, Reason::new(Rule::NumaPart)) {
            return Ok(bind);
        }
        let mut refusal = None;
        for side in &self.sides {
            let (away, saved) = (side.away(), side.far_there(&board.places));
            if away == Pages::ZERO || over(saved, amortise(view)) <= cost(away) {
                continue;
            }
            let to = board.places[side.place].id;
            let home: Vec<NodeId> = [vec![to], candidate.lent.clone()].concat();
            let theirs = |one: &Lying| self.groups.owner(one.block).is_some_and(|group| self.places[group] == side.place);
            match bring_to(view, candidate, &home, to, release, theirs) {
                Ok(Some((ranges, charge, room))) => {
                    let reason = priced(view, Rule::NumaMove, saved, away)
                        .saw(Measure::NodeFree, room, Bytes(BLOCK_BYTES), "numa.node_free_permil")
                        .note(format!("to {to}, where its threads {} run", some(&side.tids)));
                    return Ok(proposal(Action::MovePages { proc: candidate.proc, to, ranges }, side.wants, charge, reason));
                }
                Ok(None) => {}
                Err(reason) => {
                    refusal.get_or_insert(reason);
                }
            }
        }
        let each = self.sides.iter().map(|side| format!("{} on {}", some(&side.tids), board.places[side.place].id));
        let at_home = Reason::new(Rule::AtHome).note(format!("threads {}", each.collect::<Vec<_>>().join(", ")));
        Err(refusal.unwrap_or(at_home))
    }
}

/// The first of them.
fn some(tids: &[u32]) -> String {
    let named = tids.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if tids.len() > NAMED { format!("{named} and {} more", tids.len() - NAMED) } else { named }
}
