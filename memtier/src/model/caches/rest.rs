//! What a server's counters were when its streams were closed, and how far they are from that now.
//!
//! What a page earns or costs depends on who is asked for. While requests and evictions are spread over the classes as they were
//! when nothing was worth a move, nothing is worth one now; so no record need be read to know that.

use super::class::Class;
use crate::vocab::{ClassId, Permil, Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    pub since: Time,
    was: BTreeMap<ClassId, Seen>,
}

/// One class: what it is, and what it had in the window before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    pages: u64,
    out_of_memory: u64,
    hits: u64,
    sets: u64,
    evicted: u64,
}

/// What is different from when the streams were closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stir {
    /// The part of requests or evictions, the larger of both, that went over to other classes, by more than chance.
    pub shift: Permil,
    /// A class that has other pages, or had no memory at all.
    pub class: Option<ClassId>,
}

type Classes = BTreeMap<ClassId, Class>;

fn seen(class: &Class, now: Time, window: Span) -> Seen {
    let (hits, sets, evicted) = class.counts(now, window);
    Seen { pages: class.now.pages, out_of_memory: class.now.out_of_memory, hits, sets, evicted }
}

impl Rest {
    pub(super) fn begin(now: Time, classes: &Classes, window: Span) -> Self {
        Self { since: now, was: classes.iter().map(|(id, class)| (*id, seen(class, now, window))).collect() }
    }

    pub(super) fn stir(&self, now: Time, classes: &Classes, window: Span) -> Stir {
        let is: BTreeMap<ClassId, Seen> = classes.iter().map(|(id, class)| (*id, seen(class, now, window))).collect();
        let of = |all: &BTreeMap<ClassId, Seen>, id: &ClassId| all.get(id).copied().unwrap_or_default();
        let ids = || self.was.keys().chain(is.keys().filter(|id| !self.was.contains_key(*id)));
        let pairs = |part: fn(&Seen) -> u64| -> Vec<(u64, u64)> {
            ids().map(|id| (part(&of(&self.was, id)), part(&of(&is, id)))).collect()
        };
        // A set stands for a miss: hits that become misses are a shift, too.
        let requests = [pairs(|class| class.hits), pairs(|class| class.sets)].concat();
        let shift = shift(&requests).max(shift(&pairs(|class| class.evicted)));
        let other = |id: &&ClassId| {
            let (was, is) = (of(&self.was, id), of(&is, id));
            was.pages != is.pages || is.out_of_memory > was.out_of_memory
        };
        Stir { shift, class: ids().find(other).copied() }
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.was.len() * (size_of::<(ClassId, Seen)>() + 16)) as u64
    }
}

/// Which part of the events went over to other cells, beyond what chance does to counts of this size: pairs of before and after.
fn shift(pairs: &[(u64, u64)]) -> Permil {
    let sum = |of: fn(&(u64, u64)) -> u64| pairs.iter().map(of).fold(0, u64::saturating_add);
    let (before, after) = (sum(|pair| pair.0), sum(|pair| pair.1));
    if before == 0 || after == 0 {
        // What nobody asks for any more earns nobody anything.
        return Permil(if after > 0 { 1000 } else { 0 });
    }
    let permil = |count: u64, of: u64| (u128::from(count) * 1000 / u128::from(of)) as u64;
    let apart: u64 = pairs.iter().map(|&(was, is)| permil(was, before).abs_diff(permil(is, after))).sum();
    let cells = pairs.iter().filter(|pair| **pair != (0, 0)).count() as u64;
    let chance = (1_000_000 * cells / before.min(after)).isqrt();
    Permil((apart / 2).saturating_sub(chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_over() {
        let of = |pairs: &[(u64, u64)]| shift(pairs).0;
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[(1_000_000, 2_000_000), (3_000_000, 6_000_000)]), 0, "more of the same");
        // A quarter of them, less what chance does to a million.
        assert_eq!(of(&[(500_000, 250_000), (500_000, 750_000)]), 249);
        // Of a hundred it may be chance.
        assert_eq!(of(&[(50, 40), (50, 60)]), 0);
        assert_eq!((of(&[(0, 1)]), of(&[(5, 0)])), (1000, 0));
    }
}
