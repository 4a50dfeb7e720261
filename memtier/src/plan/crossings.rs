//! Which blocks of a process went to another node by our doing, where to and when: whoever moves them next asks here first,
//! so that no page crosses twice within the settle time, whichever policy moved it.
//!
//! Written from outcomes alone. What walks tell since, what is swapped out and comes back or falls at the cap of a model changes
//! nothing here; a step that never came back counts as one that moved all it should.

use crate::vocab::{AddrRange, BLOCK_BYTES, BlockId, NodeId, Time};
use serde::{Deserialize, Serialize};

/// Of one process at most, 40 bytes each. Beyond, all of them become one that holds everything back: too much rather than too
/// little.
const MOST: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Crossing {
    first: u64,
    end: u64,
    /// None: to several.
    to: Option<NodeId>,
    at: Time,
}

impl Crossing {
    /// The part of it that lies in blocks `from..to`.
    fn part(self, from: u64, to: u64) -> Option<Self> {
        let (first, end) = (self.first.max(from), self.end.min(to));
        (first < end).then_some(Self { first, end, ..self })
    }
}

/// Ascending, apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crossings(Vec<Crossing>);

impl Crossings {
    /// Pages of `ranges` without `missed` went to a node, or may have. Both ascend.
    pub fn note(&mut self, at: Time, to: NodeId, ranges: &[AddrRange], missed: &[AddrRange]) {
        let mut fresh: Vec<Crossing> = Vec::new();
        for range in ranges.iter().flat_map(|range| without(*range, missed)) {
            let (first, end) = (range.start / BLOCK_BYTES, range.end.div_ceil(BLOCK_BYTES));
            match fresh.last_mut() {
                Some(last) if first <= last.end => last.end = last.end.max(end),
                Some(_) | None => fresh.push(Crossing { first, end, to: Some(to), at }),
            }
        }
        for new in &fresh {
            self.0 = self.0.iter().flat_map(|old| [old.part(0, new.first), old.part(new.end, u64::MAX)]).flatten().collect();
        }
        self.0.append(&mut fresh);
        self.0.sort_unstable_by_key(|crossing| crossing.first);
        if let (true, Some(first), Some(last)) = (self.0.len() > MOST, self.0.first(), self.0.last()) {
            let latest = self.0.iter().map(|crossing| crossing.at).max().unwrap_or(at);
            self.0 = vec![Crossing { first: first.first, end: last.end, to: None, at: latest }];
        }
    }

    /// When a block last went to another node than `to`.
    #[must_use]
    pub fn away_from(&self, block: BlockId, to: NodeId) -> Option<Time> {
        let at = self.0.partition_point(|crossing| crossing.end <= block.0);
        self.0.get(at).filter(|crossing| crossing.first <= block.0 && crossing.to != Some(to)).map(|crossing| crossing.at)
    }

    /// When any of it last did.
    #[must_use]
    pub fn last(&self) -> Option<Time> {
        self.0.iter().map(|crossing| crossing.at).max()
    }

    /// Drops what is older; whether nothing is left.
    pub fn forget(&mut self, before: Time) -> bool {
        self.0.retain(|crossing| crossing.at >= before);
        self.0.is_empty()
    }
}

/// The parts of a range that lie in none of `holes`, which ascend.
fn without(range: AddrRange, holes: &[AddrRange]) -> Vec<AddrRange> {
    let (mut parts, mut start) = (Vec::new(), range.start);
    for hole in holes.iter().filter(|hole| hole.end > range.start && hole.start < range.end) {
        parts.push(AddrRange { start, end: hole.start.min(range.end) });
        start = start.max(hole.end);
    }
    parts.push(AddrRange { start, end: range.end });
    parts.retain(|part| part.start < part.end);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(70);

    fn blocks(first: u64, end: u64) -> AddrRange {
        AddrRange { start: first * BLOCK_BYTES, end: end * BLOCK_BYTES }
    }
    fn noted(all: &[(u64, NodeId, &[AddrRange], &[AddrRange])]) -> Crossings {
        let mut crossings = Crossings::default();
        all.iter().for_each(|(at, to, ranges, missed)| crossings.note(Time(*at), *to, ranges, missed));
        crossings
    }
    /// When blocks 0 to 9 last went elsewhere than to `to`.
    fn check(crossings: &Crossings, to: NodeId, expect: [u64; 10]) {
        let at = |block| crossings.away_from(BlockId(block), to).map_or(0, |at| at.0);
        assert_eq!((0..10).map(at).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn the_last_crossing_of_each_block_counts() {
        let crossings = noted(&[(1, B, &[blocks(1, 4), blocks(6, 8)], &[]), (5, A, &[blocks(3, 7)], &[])]);
        check(&crossings, A, [0, 1, 1, 0, 0, 0, 0, 1, 0, 0]);
        check(&crossings, B, [0, 0, 0, 5, 5, 5, 5, 0, 0, 0]);
        assert_eq!(crossings.last(), Some(Time(5)));
    }

    #[test]
    fn what_was_not_come_to_did_not_cross_and_a_part_of_a_block_did() {
        let half = AddrRange { start: 4096, end: BLOCK_BYTES * 5 };
        check(&noted(&[(1, B, &[half], &[blocks(2, 4)])]), A, [1, 1, 0, 0, 1, 0, 0, 0, 0, 0]);
        let cut = AddrRange { start: 2 * BLOCK_BYTES + 4096, end: BLOCK_BYTES * 5 };
        check(&noted(&[(1, B, &[blocks(0, 5)], &[cut])]), A, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
        check(&noted(&[(1, B, &[blocks(0, 5)], &[blocks(0, 9)])]), A, [0; 10]);
    }

    #[test]
    fn old_crossings_are_forgotten_and_too_many_become_one() {
        let mut crossings = noted(&[(1, B, &[blocks(1, 2)], &[]), (5, B, &[blocks(3, 4)], &[])]);
        assert!(!crossings.forget(Time(5)));
        check(&crossings, A, [0, 0, 0, 5, 0, 0, 0, 0, 0, 0]);
        assert!(crossings.forget(Time(6)));
        let every_second: Vec<AddrRange> = (0..=MOST as u64).map(|n| blocks(2 * n, 2 * n + 1)).collect();
        let many = noted(&[(1, B, &every_second, &[])]);
        check(&many, A, [1; 10]);
        check(&many, B, [1; 10]);
    }
}
