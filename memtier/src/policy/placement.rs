//! Which nodes suit a process: the arithmetic of numa, on numbers alone.
//!
//! A choice is priced in CPU time lost per second: waiting for memory that is far (the share of the process's CPU time that
//! goes into memory, times how much farther its pages are than they could be), and CPU time that it wants and its nodes do
//! not have. What a move costs is paid once, and set against what is saved over `numa.amortise_s`.

use crate::vocab::{Bytes, NodeId, PAGE_BYTES, Pages, Span};
use std::cmp::Reverse;

/// Part of the CPU time of a process that is spent waiting for memory that is near. Measured shares of servers and of
/// analytics lie between 0.2 and 0.6; too low moves too little.
const WAITS_PERMIL: u64 = 250;
/// What moving a page of 4 KiB costs in CPU time: the copy, two walks of its mappings, and a flush of the TLB.
pub const COPY: Span = Span(1_500);
/// A page in use weighs as much as so many that are not: those may be used tomorrow.
pub const HOT_WEIGHT: u64 = 16;
/// Nodes to which so much more has to be copied are as good as others.
const HARDLY_PERMIL: u64 = 250;

/// One node as far as placing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: NodeId,
    /// Thousandths of a CPU that its CPUs are together; 0 for a node of memory only.
    pub cpus: u64,
    /// Of these, what nobody has a claim to.
    pub idle: u64,
    /// Memory that may still be put there.
    pub room: Bytes,
    /// By how much farther than its own memory the memory of each node is for its CPUs, in thousandths.
    pub gaps: Vec<u64>,
}

/// What a process has where, and what it wants; vectors go by the places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub pages: Vec<u64>,
    /// Pages weighted by use.
    pub weight: Vec<u64>,
    /// The same of what cannot be moved.
    pub fixed: Vec<u64>,
    /// CPU time by node, in any unit.
    pub runs: Vec<u64>,
    /// Thousandths of a CPU.
    pub wants: u64,
    /// Nodes that it may have memory on.
    pub may: Vec<bool>,
}

impl Claim {
    /// Both together, as one: what either may not have memory on, neither may.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            pages: both(&self.pages, &other.pages),
            weight: both(&self.weight, &other.weight),
            fixed: both(&self.fixed, &other.fixed),
            runs: both(&self.runs, &other.runs),
            wants: self.wants.saturating_add(other.wants),
            may: self.may.iter().zip(&other.may).map(|(a, b)| *a && *b).collect(),
        }
    }

    /// Waiting for memory per second as it lies.
    #[must_use]
    pub fn far(&self, places: &[Place]) -> Span {
        far(places, self.wants, &self.runs, &both(&self.weight, &self.fixed))
    }
}

fn both(a: &[u64], b: &[u64]) -> Vec<u64> {
    a.iter().zip(b).map(|(a, b)| a.saturating_add(*b)).collect()
}

/// Nodes for a process and what they are worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Places, nearest first.
    pub cpus: Vec<usize>,
    pub memory: Vec<usize>,
    pub price: Price,
    /// Pages to be brought there.
    pub moves: Pages,
}

/// CPU time lost per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Waiting for memory.
    pub far: Span,
    /// Waiting for a CPU.
    pub short: Span,
}

impl Price {
    #[must_use]
    pub const fn sum(self) -> Span {
        self.far.saturating_add(self.short)
    }
}

/// Time of a CPU in a second that a number of thousandths of it stands for.
const fn time(thousandths: u64) -> Span {
    Span(thousandths.saturating_mul(1_000_000))
}

fn total(values: &[u64]) -> u64 {
    values.iter().fold(0, |sum, value| sum.saturating_add(*value))
}

/// Waiting for memory per second of one who runs like `runs` and uses memory like `weight`.
#[must_use]
pub fn far(places: &[Place], wants: u64, runs: &[u64], weight: &[u64]) -> Span {
    let (mut sum, all) = (0u128, u128::from(total(runs)) * u128::from(total(weight)));
    for (place, &run) in places.iter().zip(runs).filter(|(_, run)| **run > 0) {
        for (&gap, &weight) in place.gaps.iter().zip(weight) {
            sum += u128::from(run) * u128::from(weight) * u128::from(gap);
        }
    }
    // In millionths: a few pages of many count too.
    let gap = sum.saturating_mul(1000).checked_div(all).and_then(|gap| u64::try_from(gap).ok()).unwrap_or(0);
    time(wants).scale(WAITS_PERMIL, 1000).scale(gap, 1_000_000)
}

/// As it is, free to run anywhere.
#[must_use]
pub fn as_it_is(places: &[Place], claim: &Claim) -> Price {
    Price { far: claim.far(places), short: Span::ZERO }
}

/// The price of these nodes once everything is there, and the pages to be brought; none if they have no room.
#[must_use]
pub fn price(places: &[Place], claim: &Claim, cpus: &[usize], memory: &[usize]) -> Option<(Price, Pages)> {
    let inside = |node: usize| memory.contains(&node);
    let sum_of = |values: &[u64], there: bool| -> u64 {
        values.iter().enumerate().filter(|(node, _)| inside(*node) == there).map(|(_, value)| *value).sum()
    };
    let (moves, weight) = (sum_of(&claim.pages, false), sum_of(&claim.weight, false));
    let room: u64 = memory.iter().map(|&node| places[node].room.0).sum();
    if moves.saturating_mul(PAGE_BYTES) > room {
        return None;
    }
    // What comes is spread by the room there is.
    let come = |node: usize| Bytes(weight).scale(places[node].room.0, room).0;
    let lies: Vec<u64> =
        (0..places.len()).map(|node| if inside(node) { claim.weight[node].saturating_add(come(node)) } else { 0 }).collect();
    let idle: u64 = cpus.iter().map(|&node| places[node].idle).sum();
    // Where nobody has CPU time left its threads run where there are most CPUs.
    let runs: Vec<u64> = (0..places.len())
        .map(|node| match (cpus.contains(&node), idle) {
            (false, _) => 0,
            (true, 0) => places[node].cpus,
            (true, _) => places[node].idle,
        })
        .collect();
    let price =
        Price { far: far(places, claim.wants, &runs, &both(&lies, &claim.fixed)), short: time(claim.wants.saturating_sub(idle)) };
    Some((price, Pages(moves)))
}

/// The nodes by distance from one, nearest first, lower numbers first among those equally near.
fn near(places: &[Place], from: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..places.len()).filter(|&node| node != from).collect();
    order.sort_by_key(|&node| (places[from].gaps[node], node));
    order
}

/// Adds the nearest nodes to one until memory and CPUs do, and calls `look` with each set whose memory does.
fn grow(places: &[Place], claim: &Claim, from: usize, mut look: impl FnMut(&[usize], &[usize], Price, Pages)) {
    let (mut cpus, mut memory) = (vec![from], Vec::new());
    memory.extend(claim.may[from].then_some(from));
    let mut order = near(places, from).into_iter();
    loop {
        let priced = price(places, claim, &cpus, &memory);
        if let Some((price, moves)) = priced {
            look(&cpus, &memory, price, moves);
            if price.short == Span::ZERO {
                return;
            }
        }
        let fits = priced.is_some();
        // Memory without CPUs helps only who needs memory.
        let Some(next) = order.find(|&node| places[node].cpus > 0 || !fits && claim.may[node]) else { return };
        cpus.extend((places[next].cpus > 0).then_some(next));
        memory.extend(claim.may[next].then_some(next));
    }
}

/// The best nodes for a process: those with the least price, the cost of moving spread over `amortise`; of as few others as
/// cost hardly more those with most room left, for who is young grows, but room for twice what it has is enough. `least` are
/// among them. None where nothing has room.
#[must_use]
pub fn choose(places: &[Place], claim: &Claim, amortise: Span, least: &[usize]) -> Option<Choice> {
    let mut all: Vec<(Span, Choice)> = Vec::new();
    for from in (0..places.len()).filter(|&node| places[node].cpus > 0) {
        grow(places, claim, from, |cpus, memory, price, moves| {
            if !least.iter().all(|node| cpus.contains(node)) {
                return;
            }
            let total = over(price.sum(), amortise).saturating_add(cost(moves));
            all.push((total, Choice { cpus: cpus.to_vec(), memory: memory.to_vec(), price, moves }));
        });
    }
    let (least, best) = all.iter().min_by_key(|(total, choice)| (*total, choice.cpus.len()))?;
    let bound = least.saturating_add(cost(best.moves).scale(HARDLY_PERMIL, 1000));
    let alike = all.iter().filter(|(total, choice)| *total <= bound && choice.cpus.len() == best.cpus.len());
    let enough = Pages(total(&claim.pages)).bytes();
    let left = |choice: &Choice| {
        let room: Bytes = choice.memory.iter().map(|&node| places[node].room).sum();
        room.saturating_sub(choice.moves.bytes()).min(enough)
    };
    // Of equals the last one counts.
    alike.rev().max_by_key(|(total, choice)| (left(choice), Reverse(*total))).map(|(_, choice)| choice.clone())
}

/// The memory nodes that go with given CPU nodes: these, and the nearest of others while they have no room.
#[must_use]
pub fn memory_of(places: &[Place], claim: &Claim, cpus: &[usize]) -> Vec<usize> {
    let mut memory: Vec<usize> = cpus.iter().copied().filter(|&node| claim.may[node]).collect();
    let Some(&from) = cpus.first() else { return memory };
    for next in near(places, from) {
        if price(places, claim, cpus, &memory).is_some() {
            break;
        }
        if claim.may[next] && !memory.contains(&next) {
            memory.push(next);
        }
    }
    memory
}

/// What is lost in `span` at so much a second.
#[must_use]
pub const fn over(per_s: Span, span: Span) -> Span {
    per_s.scale(span.0, 1_000_000_000)
}

/// CPU time that moving costs.
#[must_use]
pub const fn cost(pages: Pages) -> Span {
    Span(pages.0.saturating_mul(COPY.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes with four CPUs each and one without, 4 GiB each, all of it free.
    fn places() -> Vec<Place> {
        let place = |id, cpus: u64, gaps: [u64; 3]| Place {
            id: NodeId(id),
            cpus: cpus * 1000,
            idle: cpus * 1000,
            room: Bytes(4 << 30),
            gaps: gaps.to_vec(),
        };
        vec![place(0, 4, [0, 1000, 700]), place(1, 4, [1000, 0, 1700]), place(2, 0, [0, 0, 0])]
    }

    fn claim(mib: [u64; 3], runs: [u64; 3], wants: u64) -> Claim {
        let pages = mib.map(|mib| mib * 256);
        let weight = pages.map(|pages| pages * HOT_WEIGHT);
        Claim { pages: pages.to_vec(), weight: weight.to_vec(), fixed: vec![0; 3], runs: runs.to_vec(), wants, may: vec![true; 3] }
    }

    const AMORTISE: Span = Span::from_secs(60);

    fn check(places: &[Place], claim: &Claim, expect: Option<(&[usize], &[usize])>) -> Choice {
        let choice = choose(places, claim, AMORTISE, &[]);
        assert_eq!(choice.as_ref().map(|c| (&c.cpus[..], &c.memory[..])), expect, "{choice:?}");
        choice.unwrap_or(Choice { cpus: vec![], memory: vec![], price: Price::default(), moves: Pages::ZERO })
    }

    #[test]
    fn a_process_goes_where_most_of_it_is() {
        let spread = claim([100, 300, 0], [1, 1, 0], 2000);
        // A quarter of two CPUs waits for memory; half of it is twice as far.
        assert_eq!(as_it_is(&places(), &spread).sum(), Span::from_millis(250));
        let choice = check(&places(), &spread, Some((&[1], &[1])));
        assert_eq!((choice.price.sum(), choice.moves), (Span::ZERO, Pages(25_600)));
        assert_eq!(cost(choice.moves), Span(38_400_000));
    }

    #[test]
    fn memory_that_stays_draws_threads_and_takes_no_room() {
        // 4 GiB of shared memory on node 1, which is full; 100 MiB of its own on node 0.
        let (mut full, mut shared) = (places(), claim([100, 0, 0], [1, 1, 0], 2000));
        full[1].room = Bytes(200 << 20);
        check(&full, &shared, Some((&[0], &[0])));
        shared.fixed = vec![0, 4096 * 256, 0];
        let choice = check(&full, &shared, Some((&[1], &[1])));
        assert_eq!((choice.moves, choice.price.sum()), (Pages(25_600), Span::ZERO));
    }

    #[test]
    fn cpus_that_are_taken_count_more_than_pages_that_are_near() {
        let mut busy = places();
        busy[1].idle = 1000;
        check(&busy, &claim([100, 300, 0], [1, 1, 0], 2000), Some((&[0], &[0])));
        busy[0].idle = 1500;
        // Neither has two CPUs left; together they have.
        let choice = check(&busy, &claim([100, 300, 0], [1, 1, 0], 2000), Some((&[0, 1], &[0, 1])));
        assert_eq!(choice.price.short, Span::ZERO);
    }

    #[test]
    fn who_is_larger_than_a_node_gets_several_by_distance() {
        let mut small = places();
        small.iter_mut().for_each(|place| place.room = Bytes(200 << 20));
        // 500 MiB on three nodes; 200 fit on each beside what is there.
        check(&small, &claim([100, 100, 100], [1, 1, 0], 1000), Some((&[0], &[0])));
        check(&small, &claim([200, 200, 100], [1, 1, 0], 1000), Some((&[0], &[0, 2])));
        let mut full = small.clone();
        full[2].room = Bytes::ZERO;
        check(&full, &claim([150, 150, 100], [1, 1, 0], 1000), Some((&[0], &[0, 2])));
        full.iter_mut().for_each(|place| place.room = Bytes::ZERO);
        // Nothing need move where all of it may stay.
        check(&full, &claim([150, 150, 100], [1, 1, 0], 1000), Some((&[0, 1], &[0, 2, 1])));
    }

    #[test]
    fn of_nodes_that_cost_hardly_more_the_one_with_more_room_counts_until_there_is_enough() {
        // A twentieth more has to be copied to node 1.
        let even = claim([105, 100, 0], [1, 1, 0], 1000);
        for (room, home) in [([150, 4096], 1), ([205, 4096], 1), ([305, 4096], 0), ([4096, 150], 0)] {
            let mut two = places();
            two.truncate(2);
            two.iter_mut().zip(room).for_each(|(place, mib)| place.room = Bytes(mib << 20));
            check(&two, &even, Some((&[home], &[home])));
        }
    }

    #[test]
    fn memory_that_is_forbidden_is_not_counted() {
        let mut barred = claim([100, 300, 0], [1, 1, 0], 2000);
        barred.may = vec![true, false, true];
        check(&places(), &barred, Some((&[0], &[0])));
        barred.may = vec![false; 3];
        check(&places(), &barred, None);
        assert_eq!(memory_of(&places(), &claim([0, 300, 0], [1, 0, 0], 1), &[0]), [0]);
        let mut small = places();
        small[0].room = Bytes(100 << 20);
        assert_eq!(memory_of(&small, &claim([0, 300, 0], [1, 0, 0], 1), &[0]), [0, 2]);
    }
}
