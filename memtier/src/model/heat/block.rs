//! What is known of the 512 pages of one block, in under four bytes a page.
//!
//! A page is *young* (its accessed bit read 1, or DAMON saw it accessed) or *old* (it read 0). The block has a *base*: the
//! moment from which its zeros count. Arming sets it. In a block that we do not ask, or not any more, so does anyone else who
//! clears a bit, for then idle time is told apart from before only by starting anew; in one that we keep asking, a page stays
//! young until it is asked.
//! The byte `age` has two readings:
//!
//! - young: rounds from the base to the walk that saw the first access; 0 once they are counted;
//! - old: idle ticks *before* the base. The idle age now is `age + (tick(now) - base tick)`: it grows by itself, and
//!   moving the base adds what has passed, so that it telescopes exactly without ever sweeping over the pages.
//!
//! The estimator (S5 of the arming study) counts hits and exposure in quarter rounds, halves both beyond 24 rounds, and
//! learns only where a cycle from base to first access was whole. When a block is armed it notes how many pages it expects
//! to be accessed again; the next round is its *answer*, and that sets the time of the next question (rhythm.rs). A block
//! that has settled is asked a quarter at a time: a sample that tells whether it cools, at a quarter of the cost.

use super::rhythm::{Answer, Rhythm, rest, scatter};
use super::tempo::Tempo;
use crate::vocab::{BLOCK_PAGES, Bits, BlockId, BlockSample, Leaf, Permil};
use serde::{Deserialize, Serialize};
use std::ops::{AddAssign, Sub};

/// Quarter rounds per round or hit.
const QUARTERS: u8 = 4;
/// A cycle tells no more than this many rounds.
const CYCLE: u32 = 16;
/// Exposure in quarter rounds beyond which the past is halved.
const EXPOSED: u8 = 96;

/// A block that gains this many pages, and a quarter of its accessed ones, is asked at once.
const HEATED: u32 = 8;

/// Bytes that one block costs: its place in the index, its past, and what the allocator adds.
pub(super) const BLOCK_COST: usize = super::proc::INDEX_COST + size_of::<Past>() + 16;
/// Four bytes a page is the law.
const SPARE: usize = 4 * BLOCK_PAGES - BLOCK_COST;
const _: () = assert!(SPARE >= 16);

/// What a walk compares lies in the index itself, block after block, and is read at the speed of memory; the rest is looked up
/// where something changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    pub young: Bits,
    pub present: Bits,
    pub swapped: Bits,
    base_tick: u32,
    base_round: u32,
    /// Round of the last arming by us; 0 before the first.
    pub armed_round: u32,
    /// Round from which on it may be asked again.
    pub due: u32,
    /// Survivors expected of the last arming and their variance, in thousandths of a page.
    expected: u32,
    variance: u32,
    /// Armed, and no round went by since.
    pub open: bool,
    /// It is asked every `2^k` rounds.
    k: u8,
    /// Once it has settled: the quarter to ask next.
    pub turn: u8,
    pub leaf: Leaf,
    pub past: Box<Past>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    /// Young, but never asked, or the base moved under it without us.
    pub unproven: Bits,
    /// Young when last armed.
    pub asked: Bits,
    /// Young, and the last arming could not clear their bit (mapped more than once, locked, refused).
    pub stuck: Bits,
    #[serde(with = "page_bytes")]
    age: [u8; BLOCK_PAGES],
    /// Hits in quarter rounds; in count mode the weighted count of this round of scans.
    #[serde(with = "page_bytes")]
    pub hits: [u8; BLOCK_PAGES],
    #[serde(with = "page_bytes")]
    exposure: [u8; BLOCK_PAGES],
}

/// The moment of a fold: tick of the clock and round of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub tick: u32,
    pub round: u32,
    /// Longest period: 2^this rounds.
    pub longest: u8,
}

/// What somebody else's look at some pages is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Each of them was accessed.
    Certain,
    /// Most of them were, nobody knows which.
    Likely,
}

/// What is learned for the process while its blocks are folded.
#[derive(Debug)]
pub(super) struct Lessons<'a> {
    pub tempo: &'a mut Tempo,
    pub rhythm: &'a mut Rhythm,
}

/// What a fold changed in the sums of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gain {
    pub present: i64,
    pub swapped: i64,
    pub young: i64,
    pub unproven: i64,
    /// Some block has nothing left.
    pub emptied: bool,
}

impl AddAssign for Gain {
    fn add_assign(&mut self, Self { present, swapped, young, unproven, emptied }: Self) {
        self.present += present;
        self.swapped += swapped;
        self.young += young;
        self.unproven += unproven;
        self.emptied |= emptied;
    }
}

impl Sub for Gain {
    type Output = Self;
    /// From `had` to this; emptied is what it is now.
    fn sub(self, had: Self) -> Self {
        Self {
            present: self.present - had.present,
            swapped: self.swapped - had.swapped,
            young: self.young - had.young,
            unproven: self.unproven - had.unproven,
            emptied: self.emptied,
        }
    }
}

/// How a walk counts accesses, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    No,
    /// First scan of a round: counts start over.
    First,
    More,
}

impl Block {
    pub fn new(sample: &BlockSample, moment: Moment, counting: Counting) -> Self {
        let (young, present, swapped) = sane(sample);
        let past = Past {
            unproven: young,
            asked: Bits::NONE,
            stuck: Bits::NONE,
            age: [0; BLOCK_PAGES],
            hits: [0; BLOCK_PAGES],
            exposure: [0; BLOCK_PAGES],
        };
        let mut block = Self {
            young,
            present,
            swapped,
            base_tick: moment.tick,
            base_round: moment.round,
            armed_round: 0,
            due: 0,
            expected: 0,
            variance: 0,
            open: false,
            k: 0,
            turn: 0,
            leaf: sample.leaf,
            past: Box::new(past),
        };
        block.count(&young, &sample.dirty, counting);
        block
    }

    /// Takes in what a walk read. Nothing is touched where nothing changed.
    pub fn fold(
        &mut self,
        id: BlockId,
        sample: &BlockSample,
        moment: Moment,
        counting: Counting,
        lessons: &mut Lessons<'_>,
    ) -> Gain {
        let (accessed, present, swapped) = sane(sample);
        // Who maps a page or brings it back touches it, though an arming may have cleared the bit since.
        self.count(&accessed.or(&present.and_not(&self.present)), &sample.dirty, counting);
        let told = counting == Counting::No && sample.leaf == self.leaf && self.asked_lately(moment);
        let accessed = if told { accessed.or(&self.young.and(&present)) } else { accessed };
        let same = accessed == self.young && present == self.present && swapped == self.swapped && sample.leaf == self.leaf;
        let answers = self.open && lessons.rhythm.counted;
        if same && !answers {
            return Gain::default();
        }
        let had = self.gain();
        if !same {
            self.change(sample.leaf, accessed, present, swapped, moment, lessons);
        }
        if answers {
            self.answer(id, moment, lessons.rhythm);
        }
        self.gain() - had
    }

    /// We ask this block and will again. Then a bit that others clear (DAMON does, many a second) takes nothing back: the page
    /// was accessed since it was asked, and to believe the zero would move the base under the answers of its neighbours.
    const fn asked_lately(&self, moment: Moment) -> bool {
        self.armed_round > 0 && moment.round.saturating_sub(self.armed_round) <= 2 << moment.longest
    }

    /// The round after an arming: did the pages answer as expected, and when are they asked again?
    fn answer(&mut self, id: BlockId, moment: Moment, rhythm: &mut Rhythm) {
        self.open = false;
        let survived = self.past.asked.and(&self.young);
        rhythm.answered(self.past.asked.count(), survived.count());
        let known = self.past.asked.and(&bits_where(&self.past.exposure, |exposure| exposure > 0));
        let count = |bits: &Bits| u64::from(if self.leaf == Leaf::Base { bits.count() } else { bits.count() / BLOCK_PAGES as u32 });
        let (expected, variance) = (u64::from(self.expected), u64::from(self.variance));
        let answer = Answer { pages: count(&known), survived: count(&known.and(&survived)), expected, variance };
        let surprise = answer.pages > 0 && rhythm.judge(&answer);
        self.k = if surprise { self.k.saturating_sub(2) } else { (self.k + 1).min(moment.longest) };
        self.due = moment.round + rest(self.k, id, moment.round);
    }

    /// The hot set of the process moves: asked within two rounds.
    pub fn hurry(&mut self, id: BlockId, round: u32) {
        self.due = self.due.min(round + (id.0 as u32 & 1));
        self.k = self.k.min(1);
    }

    /// Asked as rarely as can be: one quarter after the other is sample enough.
    pub fn settled(&self, longest: u8) -> bool {
        self.k >= longest.max(1) && self.leaf == Leaf::Base
    }

    /// What this block adds to the sums of its process.
    pub fn gain(&self) -> Gain {
        let all = [&self.present, &self.swapped, &self.young, &self.past.unproven];
        let [present, swapped, young, unproven] = all.map(|bits| i64::from(bits.count()));
        Gain { present, swapped, young, unproven, emptied: present + swapped == 0 }
    }

    /// Nothing is mapped here any more.
    pub fn vanish(&mut self) -> Gain {
        let had = self.gain();
        (self.present, self.swapped, self.young, self.past.unproven) = (Bits::NONE, Bits::NONE, Bits::NONE, Bits::NONE);
        self.gain() - had
    }

    fn change(&mut self, leaf: Leaf, accessed: Bits, present: Bits, swapped: Bits, moment: Moment, lessons: &mut Lessons<'_>) {
        let Lessons { tempo, rhythm } = lessons;
        let before = self.present.or(&self.swapped);
        let after = present.or(&swapped);
        let was_old = before.and_not(&self.young);
        let back = self.swapped.and(&present);
        let newly = accessed.and_not(&self.young);
        // The kernel makes a collapsed huge page young itself and swaps in for it: no access, no refault.
        let collapsed = self.leaf == Leaf::Base && leaf != Leaf::Base;
        if !collapsed {
            let elapsed = moment.tick.saturating_sub(self.base_tick);
            each_value(&newly.and(&was_old).or(&back), &self.past.age, |age, pages| tempo.touched(u32::from(age) + elapsed, pages));
            tempo.refaulted(back.count());
            let known = newly.and(&before);
            rhythm.retouched(known.and(&was_old).and_not(&back).count());
            // Growth is no news about what is hot; a question that is answered is no heating.
            let heated = if self.open { known.and_not(&self.past.asked) } else { known };
            rhythm.heated(heated.count());
            if !self.open && heated.count() >= HEATED && heated.count() * 4 > accessed.count() {
                self.k = 0;
                self.due = self.due.min(moment.round + 1);
            }
        }
        // A new page of a block that was never armed may be older than our first look at its neighbours' zeros.
        let unasked = if collapsed {
            newly
        } else if self.armed_round == 0 {
            newly.and_not(&before)
        } else {
            Bits::NONE
        };
        self.past.unproven = self.past.unproven.and(&accessed).or(&unasked);
        self.date(&newly, moment.round);
        for page in before.and_not(&after).iter() {
            (self.past.age[page], self.past.hits[page], self.past.exposure[page]) = (0, 0, 0);
        }
        // Idle from now on: a bit fell without us, or the page is new (or back) and reads 0 already.
        let fallen = after.and_not(&accessed).and_not(&was_old.and_not(&back));
        if !fallen.is_empty() {
            self.past.unproven = self.past.unproven.or(&self.young.and(&accessed));
            self.rebase(&after.and_not(&accessed).and_not(&fallen), &fallen, moment);
        }
        self.past.asked = self.past.asked.and(&after);
        self.past.stuck = self.past.stuck.and(&accessed);
        (self.leaf, self.young, self.present, self.swapped) = (leaf, accessed, present, swapped);
    }

    /// Of pages that are young from now on: rounds from the base to now.
    fn date(&mut self, newly: &Bits, round: u32) {
        let reading = round.saturating_sub(self.base_round).clamp(1, 255) as u8;
        if !newly.is_empty() {
            for (age, newly) in self.past.age.iter_mut().zip(&bytes(newly)) {
                *age = (*age & !newly) | (reading & newly);
            }
        }
    }

    /// Somebody else saw `pages` accessed, and maybe cleared the bit that would have told us: of these, what we have held for
    /// idle for `ticks` is young. A page that we asked a moment ago is not: its own bit will tell, and a sighting may be older
    /// than the question. Likely pages prove nothing; like those that were never asked they are unknown until we ask them,
    /// which is in the next round.
    pub fn seen(&mut self, pages: &Bits, sign: Sign, ticks: u32, moment: Moment, lessons: &mut Lessons<'_>) -> Gain {
        // A huge leaf has one bit.
        let pages = if self.leaf == Leaf::Base || pages.is_empty() { *pages } else { Bits::ALL };
        let back = self.idle_for(ticks, moment.tick).and(&pages);
        if self.open || back.is_empty() {
            return Gain::default();
        }
        let had = self.gain();
        match sign {
            Sign::Certain => {
                let elapsed = moment.tick.saturating_sub(self.base_tick);
                each_value(&back, &self.past.age, |age, pages| lessons.tempo.touched(u32::from(age) + elapsed, pages));
                lessons.rhythm.retouched(back.count());
            }
            Sign::Likely => {
                self.past.unproven = self.past.unproven.or(&back);
                (self.k, self.due) = (0, self.due.min(moment.round + 1));
            }
        }
        self.date(&back, moment.round);
        self.young = self.young.or(&back);
        self.gain() - had
    }

    /// Moves the base to `moment`: `old` pages keep their idle age, `fresh` ones are idle from now.
    fn rebase(&mut self, old: &Bits, fresh: &Bits, moment: Moment) {
        let elapsed = moment.tick.saturating_sub(self.base_tick).min(255) as u8;
        let (old, fresh) = (bytes(old), bytes(fresh));
        for ((age, old), fresh) in self.past.age.iter_mut().zip(&old).zip(&fresh) {
            *age = age.saturating_add(elapsed & old) & !fresh;
        }
        self.base_tick = self.base_tick.max(moment.tick);
        self.base_round = moment.round;
    }

    /// The accessed bits of `pages` were cleared by us, those of `stuck` could not be.
    pub fn arm(&mut self, id: BlockId, pages: &Bits, stuck: &Bits, moment: Moment, counting: bool) -> Gain {
        let had = self.gain();
        self.pass_turn(id, &self.young.and(&pages.or(stuck)));
        let old = self.present.or(&self.swapped).and_not(&self.young);
        if !counting {
            self.settle(&self.young.and_not(&self.past.unproven), &old, moment.round);
        }
        let asked = self.young.and(pages);
        let left = self.young.and_not(pages);
        self.rebase(&old, &asked, moment);
        // Of pages that were left out the cycle is counted; that they were accessed since they were last asked stays true.
        let counted = bytes(&left);
        self.past.age.iter_mut().zip(&counted).for_each(|(age, counted)| *age &= !counted);
        self.past.unproven = left.and(&self.past.unproven.or(stuck));
        self.past.stuck = left.and(&stuck.or(&self.past.stuck.and_not(pages)));
        (self.past.asked, self.young) = (asked, left);
        self.armed_round = moment.round.max(1);
        (self.expected, self.variance) = if counting { (0, 0) } else { self.expect() };
        self.open = !counting;
        self.gain() - had
    }

    /// After one quarter was tried, whatever came of it, the next has its turn. After all were, any: a process is not to be
    /// judged by the same quarter of all its blocks.
    fn pass_turn(&mut self, id: BlockId, tried: &Bits) {
        let mask =
            (0..4).filter(|quarter| !tried.and(&Bits::quarter(*quarter)).is_empty()).fold(0u8, |mask, quarter| mask | 1 << quarter);
        self.turn = match mask {
            0 => self.turn,
            one if one.is_power_of_two() => (one.trailing_zeros() as u8 + 1) % 4,
            _ => (scatter(id, 0) % 4) as u8,
        };
    }

    /// Sum over the asked pages of the chance that each is accessed in one round, and of its variance, in thousandths.
    fn expect(&self) -> (u32, u32) {
        let chance = |page: usize| {
            let (hits, exposure) = (u32::from(self.past.hits[page]), u32::from(self.past.exposure[page]));
            ((10 * hits + 1) * 1000 / (10 * exposure + 4)).clamp(20, 980)
        };
        let pages = if self.leaf == Leaf::Base { BLOCK_PAGES } else { 1 };
        let known = self.past.asked.iter().take(pages).filter(|&page| self.past.exposure[page] > 0);
        known.map(chance).fold((0, 0), |(sum, variance), p| (sum + p, variance + p * (1000 - p) / 1000))
    }

    /// Closes the cycle of every page: a hit and the rounds it took, or the rounds that went by without one.
    fn settle(&mut self, hit: &Bits, missed: &Bits, round: u32) {
        let whole = round.saturating_sub(self.base_round).min(CYCLE) as u8 * QUARTERS;
        let (hit, missed) = (bytes(hit), bytes(missed));
        // No branches: the compiler does sixteen pages at a time.
        for page in 0..BLOCK_PAGES {
            let took = self.past.age[page].min(CYCLE as u8) * QUARTERS;
            let hit = if took == 0 { 0 } else { hit[page] };
            let exposed = (took & hit) | (whole & missed[page]);
            let (hits, exposure) = (self.past.hits[page], self.past.exposure[page]);
            let over = exposure.saturating_add(exposed) > EXPOSED;
            let (hits, exposure) = (if over { hits >> 1 } else { hits }, if over { exposure >> 1 } else { exposure });
            self.past.exposure[page] = exposure.saturating_add(exposed);
            self.past.hits[page] = hits.saturating_add(QUARTERS & hit);
        }
    }

    /// etmem's weights: a read counts 1, a write 3.
    fn count(&mut self, accessed: &Bits, dirty: &Bits, counting: Counting) {
        match counting {
            Counting::No => return,
            Counting::First => self.past.hits = [0; BLOCK_PAGES],
            Counting::More => {}
        }
        if !accessed.is_empty() {
            let (read, wrote) = (bytes(accessed), bytes(&accessed.and(dirty)));
            for ((hits, read), wrote) in self.past.hits.iter_mut().zip(&read).zip(&wrote) {
                *hits = hits.saturating_add((1 & read) | (2 & wrote));
            }
        }
    }

    /// The bytes change their meaning with the mode.
    pub fn forget_estimates(&mut self) {
        (self.past.hits, self.past.exposure) = ([0; BLOCK_PAGES], [0; BLOCK_PAGES]);
    }

    /// Ages and base in ticks of another length.
    pub fn retick(&mut self, from: u64, to: u64) {
        let old = bytes(&self.present.or(&self.swapped).and_not(&self.young));
        for (age, old) in self.past.age.iter_mut().zip(&old) {
            if *old != 0 {
                *age = super::retick(u64::from(*age), from, to).min(255) as u8;
            }
        }
        self.base_tick = super::retick(u64::from(self.base_tick), from, to).min(u64::from(u32::MAX)) as u32;
    }

    /// Idle age of an old page in ticks.
    pub fn idle(&self, page: usize, tick: u32) -> u32 {
        u32::from(self.past.age[page]) + tick.saturating_sub(self.base_tick)
    }

    /// Present pages that read 0.
    pub fn old(&self) -> Bits {
        self.present.and_not(&self.young)
    }

    /// Idle ages of old pages, one byte each, 255 for all beyond.
    pub fn idle_bytes(&self, tick: u32) -> [u8; BLOCK_PAGES] {
        let elapsed = tick.saturating_sub(self.base_tick).min(255) as u8;
        self.past.age.map(|age| age.saturating_add(elapsed))
    }

    /// Present old pages that are idle for at least `ticks`.
    pub fn idle_for(&self, ticks: u32, tick: u32) -> Bits {
        let old = self.old();
        match ticks.saturating_sub(tick.saturating_sub(self.base_tick)) {
            0 => old,
            need @ 1..=255 if !old.is_empty() => bits_where(&self.past.age, |age| age >= need as u8).and(&old),
            1.. => Bits::NONE,
        }
    }

    /// Chance of an access per round, the running cycle included; none before the first exposure.
    pub fn rate(&self, page: usize, round: u32) -> Option<Permil> {
        let (hits, exposed) = (u64::from(self.past.hits[page]), u64::from(self.past.exposure[page]));
        let running = |rounds: u32| u64::from(rounds) * u64::from(QUARTERS);
        let (hits, exposed) = if self.past.unproven.get(page) || self.young.get(page) && self.past.age[page] == 0 {
            (hits, exposed)
        } else if self.young.get(page) {
            (hits + u64::from(QUARTERS), exposed + running(u32::from(self.past.age[page])))
        } else if self.present.get(page) || self.swapped.get(page) {
            (hits, exposed + running(round.saturating_sub(self.base_round)))
        } else {
            return None;
        };
        // A tenth of a quarter of a hit in four tenths of a quarter round before anything was seen: the study's prior.
        (exposed > 0).then(|| Permil(((10 * hits + 1) * 1000 / (10 * exposed + 4)).min(1000)))
    }

    /// The same by the last cycle alone: asked, and found accessed so many rounds later. What woke up is told by this at once.
    pub fn rate_lately(&self, page: usize) -> Option<Permil> {
        let age = u64::from(self.past.age[page]);
        (age > 0 && self.young.get(page) && !self.past.unproven.get(page)).then(|| Permil(1000 / age))
    }
}

/// Bitmaps as the fold relies on them: only present pages are accessed, none is present and swapped, and a huge leaf,
/// which has one bit, reads the same throughout.
fn sane(sample: &BlockSample) -> (Bits, Bits, Bits) {
    let BlockSample { block: _, leaf, accessed, present, dirty: _, swapped, node: _, mixed: _ } = sample;
    match leaf {
        Leaf::Pmd | Leaf::Pud if !present.is_empty() => {
            (if accessed.is_empty() { Bits::NONE } else { Bits::ALL }, Bits::ALL, Bits::NONE)
        }
        Leaf::Base | Leaf::Pmd | Leaf::Pud => (accessed.and(present), *present, swapped.and_not(present)),
    }
}

/// 0xff for every set bit, 0 for the others: lets the compiler do sixteen pages at a time.
pub(super) fn bytes(bits: &Bits) -> [u8; BLOCK_PAGES] {
    let mut out = [0; BLOCK_PAGES];
    for (eight, byte) in out.chunks_exact_mut(8).zip(bits.0.iter().flat_map(|w| w.to_le_bytes())) {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        // One bit of the byte in each lane, then lane != 0 as its lowest bit, then spread over the lane.
        let lanes = (u64::from(byte) * ONES) & 0x8040_2010_0804_0201;
        let set = (((lanes & LOW) + LOW) | lanes) >> 7 & ONES;
        eight.copy_from_slice(&(set * 0xff).to_le_bytes());
    }
    out
}

/// The way back: a bit for every byte that `holds`.
pub(super) fn bits_where(bytes: &[u8; BLOCK_PAGES], holds: impl Fn(u8) -> bool) -> Bits {
    // Moves the lowest bit of lane i to bit 56 + i; no two of the 64 products meet.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let set = bytes.map(|byte| u8::from(holds(byte)));
    let eights = set.as_chunks::<8>().0;
    let byte = |place: usize| u64::from_le_bytes(eights[place]).wrapping_mul(GATHER) >> 56;
    Bits(std::array::from_fn(|word| (0..8).fold(0, |acc, i| acc | byte(word * 8 + i) << (8 * i))))
}

/// Calls `f` with the value of each set page and how many in a row have it.
pub(super) fn each_value(pages: &Bits, values: &[u8; BLOCK_PAGES], mut f: impl FnMut(u8, u32)) {
    let mut run = (0, 0);
    let mut add = |value: u8, pages: u32| {
        if value != run.0 {
            f(run.0, run.1);
            run = (value, 0);
        }
        run.1 += pages;
    };
    for (word, values) in pages.0.iter().zip(values.as_chunks::<64>().0) {
        if *word == u64::MAX && *values == [values[0]; 64] {
            add(values[0], 64);
            continue;
        }
        let mut rest = *word;
        while rest != 0 {
            add(values[rest.trailing_zeros() as usize], 1);
            rest &= rest - 1;
        }
    }
    f(run.0, run.1);
}

/// Serde knows no arrays beyond 32.
mod page_bytes {
    use super::BLOCK_PAGES;
    use serde::{Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8; BLOCK_PAGES], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; BLOCK_PAGES], D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = [u8; BLOCK_PAGES];
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("one byte per page of a block")
            }
            fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<Self::Value, E> {
                v.try_into().map_err(|_| E::invalid_length(v.len(), &self))
            }
        }
        d.deserialize_bytes(Visitor)
    }
}
