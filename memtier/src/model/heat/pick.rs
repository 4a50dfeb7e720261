//! Takes the coldest pages: two passes over the pages and a counting sort over 256 values, whatever their number.

use super::block::{Block, bits_where, each_value};
use crate::vocab::{AddrRange, BLOCK_BYTES, BLOCK_PAGES, Bits, BlockId, Leaf, PAGE_BYTES, PAGE_SHIFT, Pages};

/// Which pages, and which of them first: those of the highest key.
pub(super) struct Choice<C: Fn(&Block) -> Bits, K: Fn(&Block) -> [u8; BLOCK_PAGES]> {
    pub candidates: C,
    pub keys: K,
}

/// What was taken.
#[derive(Debug, Default)]
pub(super) struct Picked {
    pub ranges: Vec<AddrRange>,
    pub pages: u64,
    /// Candidates that did not fit into `most`.
    pub more: bool,
}

/// Takes at most `most` pages inside `within` (ascending), lowest address first among pages of one key. A huge leaf goes
/// whole or not at all. `seen` is told what is taken of each block.
pub(super) fn pick<C: Fn(&Block) -> Bits, K: Fn(&Block) -> [u8; BLOCK_PAGES]>(
    index: &[(BlockId, Block)],
    within: &[AddrRange],
    most: Pages,
    choice: &Choice<C, K>,
    mut seen: impl FnMut(&Block, &Bits),
) -> Picked {
    let mut histogram = [0u64; 256];
    each(index, within, choice, |_, _, candidates, keys| {
        each_value(candidates, keys, |key, pages| histogram[usize::from(key)] += u64::from(pages));
    });
    let total: u64 = histogram.iter().sum();
    let mut cut = 255;
    let mut above = 0;
    while cut > 0 && above + histogram[cut] < most.0 {
        above += histogram[cut];
        cut -= 1;
    }
    let mut at_cut = most.0.saturating_sub(above);
    let mut picked = Picked::default();
    each(index, within, choice, |id, block, candidates, keys| {
        let at = bits_where(keys, |key| usize::from(key) == cut).and(candidates);
        let at = if huge(block) && u64::from(at.count()) > at_cut { Bits::NONE } else { lowest(&at, at_cut) };
        at_cut -= u64::from(at.count());
        let take = bits_where(keys, |key| usize::from(key) > cut).and(candidates).or(&at);
        if !take.is_empty() {
            seen(block, &take);
            picked.pages += u64::from(take.count());
            runs(id, &take, &mut picked.ranges);
        }
    });
    picked.more = total > picked.pages;
    picked
}

const fn huge(block: &Block) -> bool {
    match block.leaf {
        Leaf::Base => false,
        Leaf::Pmd | Leaf::Pud => true,
    }
}

/// The `most` lowest of the set bits.
fn lowest(bits: &Bits, most: u64) -> Bits {
    if u64::from(bits.count()) <= most {
        return *bits;
    }
    let mut out = Bits::NONE;
    bits.iter().take(most as usize).for_each(|page| out.set(page));
    out
}

/// Calls `f` with each block that has candidates inside `within`. The keys of a huge leaf are all its lowest.
fn each<C: Fn(&Block) -> Bits, K: Fn(&Block) -> [u8; BLOCK_PAGES]>(
    index: &[(BlockId, Block)],
    within: &[AddrRange],
    choice: &Choice<C, K>,
    mut f: impl FnMut(BlockId, &Block, &Bits, &[u8; BLOCK_PAGES]),
) {
    let mut next = 0;
    for (id, block) in index {
        while within.get(next).is_some_and(|r| r.end <= id.start()) {
            next += 1;
        }
        let take = (choice.candidates)(block).and(&covered(*id, &within[next..]));
        if take.is_empty() {
            continue;
        }
        let mut keys = (choice.keys)(block);
        if huge(block) {
            // Nobody can take part of it, and a slice of 1 GiB is such a part.
            if take != Bits::ALL || block.leaf == Leaf::Pud {
                continue;
            }
            keys = [keys.iter().copied().min().unwrap_or(0); BLOCK_PAGES];
        }
        f(*id, block, &take, &keys);
    }
}

/// Pages of a block that lie inside `ranges`, of which the first ends behind the start of the block.
pub(super) fn covered(id: BlockId, ranges: &[AddrRange]) -> Bits {
    let (start, end) = (id.start(), id.start().saturating_add(BLOCK_BYTES));
    let mut bits = Bits::NONE;
    for range in ranges.iter().take_while(|r| r.start < end) {
        let from = (range.start.max(start) - start).div_ceil(PAGE_BYTES);
        let to = range.end.min(end).saturating_sub(start) >> PAGE_SHIFT;
        for (word, bits) in bits.0.iter_mut().enumerate() {
            let base = word as u64 * 64;
            let (low, high) = (from.clamp(base, base + 64) - base, to.clamp(base, base + 64) - base);
            if low < high {
                *bits |= u64::MAX >> (64 - (high - low)) << low;
            }
        }
    }
    bits
}

/// Appends the set pages as ranges, joined with the last one where they meet.
fn runs(id: BlockId, take: &Bits, ranges: &mut Vec<AddrRange>) {
    let mut push = |from: usize, to: usize| {
        let (start, end) = (id.start() + from as u64 * PAGE_BYTES, id.start() + to as u64 * PAGE_BYTES);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            Some(_) | None => ranges.push(AddrRange { start, end }),
        }
    };
    if *take == Bits::ALL {
        return push(0, BLOCK_PAGES);
    }
    take.iter().for_each(|page| push(page, page + 1));
}
