//! Heat of one process: its blocks in address order, its rounds, and the questions that policies ask.

use super::block::{BLOCK_COST, Block, Counting, Gain, Lessons, Moment, Sign, bits_where};
use super::pick::{Choice, Picked, covered, pick};
use super::rhythm::{Rhythm, scatter};
use super::tempo::{SLOTS, Slot, Tempo};
use super::{Cold, DueBlock, HeatCell, IDLE_EDGES, IdleHistogram};
use crate::model::sched::Sched;
use crate::model::series::MINUTE;
use crate::vocab::{
    AddrRange, BLOCK_BYTES, BLOCK_PAGES, Bits, BlockId, Bytes, Leaf, PAGE_BYTES, PAGE_SHIFT, PageChunk, Pages, Permil, ProcKey,
    Span, Time,
};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Entry of the index, and the eighth that its vector may hold in reserve.
pub(super) const INDEX_COST: usize = size_of::<(BlockId, Block)>() * 9 / 8;
/// Entries that it may hold beside.
const SLACK: usize = 16;
/// Who has no more than this part of its memory more than when it last grew did not grow.
const GROWTH: u64 = 32;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcHeat {
    /// Ascending; no block in it is empty.
    blocks: Vec<(BlockId, Block)>,
    /// Length of a tick: the resolution of idle ages.
    tick: Span,
    /// Walks completed.
    scans: u32,
    /// The walk under way.
    walk: Option<Walk>,
    scan_at: Option<Time>,
    present: u64,
    swapped: u64,
    young: u64,
    /// Of these: never asked, or not since others cleared bits around them.
    unproven: u64,
    /// Present pages that the last complete walk saw and the model has no room for.
    untracked: u64,
    /// Resident pages when it last grew, or the fewest since then.
    known: u64,
    grew_at: Option<Time>,
    /// The same, of the last growth that was over by the next walk.
    #[serde(default)]
    grown_at: Option<Time>,
    tempo: Tempo,
    rhythm: Rhythm,
    /// Longest period of a block in the last walk: 2^this rounds.
    longest: u8,
    counts: Option<Counts>,
}

/// What folding goes by beside the chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course<'a> {
    pub sched: &'a Sched,
    /// Longest period of a block: 2^this rounds.
    pub longest: u8,
    /// New blocks with fewer pages are left out.
    pub admit: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Walk {
    scan: u64,
    /// Blocks below this have been folded.
    upto: BlockId,
    untracked: u64,
}

/// Count mode: rounds of `scans` scans that do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    scans: u32,
    /// Complete scans of the round.
    done: u32,
    /// When the first of them began.
    since: Option<Time>,
}

impl ProcHeat {
    pub(super) fn new(tick: Span) -> Self {
        Self { tick, ..Self::default() }
    }

    /// Folds a part of a walk; returns how many new blocks were left out.
    pub(super) fn fold(&mut self, at: Time, chunk: &PageChunk, course: &Course<'_>) -> u64 {
        if self.walk.as_ref().is_none_or(|w| w.scan != chunk.scan) {
            self.begin(at, chunk, course.sched);
        }
        self.longest = course.longest;
        let moment = self.moment(at);
        let counting = match self.counts {
            None => Counting::No,
            Some(Counts { done: 0, .. }) => Counting::First,
            Some(_) => Counting::More,
        };
        let refused = self.merge(chunk, moment, counting, course.admit);
        if let Some(walk) = &mut self.walk {
            walk.upto = walk.upto.max(BlockId(chunk.range.end.div_ceil(BLOCK_BYTES)));
        }
        if chunk.last {
            self.end(at);
        }
        refused
    }

    fn begin(&mut self, at: Time, chunk: &PageChunk, sched: &Sched) {
        self.rhythm.begin(at, chunk.proc, sched);
        self.walk = Some(Walk { scan: chunk.scan, upto: BlockId(0), untracked: 0 });
        self.tempo.open(at);
        if let Some(counts) = self.counts.as_mut().filter(|c| c.done == 0 || c.done >= c.scans) {
            (counts.done, counts.since) = (0, Some(at));
        }
    }

    fn end(&mut self, at: Time) {
        self.scans += 1;
        self.scan_at = Some(at);
        self.tempo.close(at);
        // Pages that prove nothing, such as those that can't be asked, are no measure of what the process has in use.
        if self.rhythm.end(at, self.young - self.unproven) {
            let round = self.rhythm.round;
            self.blocks.iter_mut().for_each(|(id, block)| block.hurry(*id, round));
        }
        self.untracked = self.walk.take().map_or(0, |w| w.untracked);
        let resident = self.resident().0;
        if resident > self.known + self.known / GROWTH {
            (self.grew_at, self.known) = (Some(at), resident);
        } else {
            self.grown_at = self.grew_at;
        }
        self.known = self.known.min(resident);
        if let Some(counts) = &mut self.counts {
            counts.done += 1;
        }
    }

    /// Walks the chunk and our blocks of its range side by side.
    fn merge(&mut self, chunk: &PageChunk, moment: Moment, counting: Counting, admit: u32) -> u64 {
        // A block that the range covers only in part says nothing by its absence.
        let whole = BlockId(chunk.range.start.div_ceil(BLOCK_BYTES))..BlockId::of(chunk.range.end);
        let low = chunk.blocks.first().map_or(whole.start, |s| s.block.min(whole.start));
        let start = self.blocks.partition_point(|b| b.0 < low);
        let (mut at, mut refused, mut gain) = (start, 0, Gain::default());
        let mut fresh = Vec::new();
        let mut previous = None;
        for sample in &chunk.blocks {
            // Blocks ascend and end below 2^64; a record that says otherwise is not worth a panic.
            if previous.is_some_and(|p| p >= sample.block) || sample.block >= BlockId::of(u64::MAX) {
                continue;
            }
            previous = Some(sample.block);
            at = self.vanish(at, sample.block, &whole, &mut gain);
            if let Some((_, block)) = self.blocks.get_mut(at).filter(|b| b.0 == sample.block) {
                let mut lessons = Lessons { tempo: &mut self.tempo, rhythm: &mut self.rhythm };
                gain += block.fold(sample.block, sample, moment, counting, &mut lessons);
                at += 1;
                continue;
            }
            let block = Block::new(sample, moment, counting);
            let Gain { present, swapped: _, young: _, unproven: _, emptied } = block.gain();
            if present >= i64::from(admit) && !emptied {
                gain += block.gain();
                fresh.push((sample.block, block));
            } else if !emptied {
                refused += 1;
                if let Some(walk) = &mut self.walk {
                    walk.untracked += present as u64;
                }
            }
        }
        at = self.vanish(at, whole.end, &whole, &mut gain);
        self.gained(gain);
        self.reshape(start..at, gain.emptied, fresh);
        refused
    }

    const fn gained(&mut self, gain: Gain) {
        let Gain { present, swapped, young, unproven, emptied: _ } = gain;
        self.present = self.present.saturating_add_signed(present);
        self.swapped = self.swapped.saturating_add_signed(swapped);
        self.young = self.young.saturating_add_signed(young);
        self.unproven = self.unproven.saturating_add_signed(unproven);
    }

    /// Empties the blocks from place `at` up to block `to` that lie in the range of the chunk but not in its list;
    /// returns the place behind them.
    fn vanish(&mut self, mut at: usize, to: BlockId, whole: &Range<BlockId>, gain: &mut Gain) -> usize {
        while let Some((id, block)) = self.blocks.get_mut(at).filter(|b| b.0 < to) {
            if whole.contains(id) {
                *gain += block.vanish();
            }
            at += 1;
        }
        at
    }

    /// Takes empty blocks out of `window`, which is no longer than a chunk, and new ones in. What lies behind moves twice.
    fn reshape(&mut self, window: Range<usize>, emptied: bool, mut fresh: Vec<(BlockId, Block)>) {
        if emptied || !fresh.is_empty() {
            // Grows by a sixteenth at a time, so that what `bytes` says holds.
            self.room_for(fresh.len());
            let start = window.start;
            fresh.extend(self.blocks.drain(window).filter(|b| !b.1.gain().emptied));
            fresh.sort_unstable_by_key(|b| b.0);
            self.blocks.splice(start..start, fresh);
        }
        self.trim();
    }

    fn room_for(&mut self, more: usize) {
        let len = self.blocks.len();
        if self.blocks.capacity() < len + more {
            self.blocks.reserve_exact(more.max(len / 16));
        }
    }

    fn trim(&mut self) {
        let len = self.blocks.len();
        if self.blocks.capacity() > len + len / 8 + SLACK {
            self.blocks.shrink_to(len + len / 16);
        }
    }

    /// Forgets blocks with fewer present pages than `cut`; returns how many.
    pub(super) fn drop_sparse(&mut self, cut: u32) -> u64 {
        let len = self.blocks.len();
        let Self { blocks, present, swapped, young, unproven, untracked, walk, .. } = self;
        blocks.retain(|(id, block)| {
            let count = block.present.count();
            if count < cut {
                *present -= u64::from(count);
                *swapped -= u64::from(block.swapped.count());
                *young -= u64::from(block.young.count());
                *unproven -= u64::from(block.past.unproven.count());
                *untracked += u64::from(count);
                // What this walk has yet to reach it will count itself.
                if let Some(walk) = walk.as_mut().filter(|w| *id < w.upto) {
                    walk.untracked += u64::from(count);
                }
            }
            count >= cut
        });
        self.trim();
        (len - self.blocks.len()) as u64
    }

    /// Counts blocks by their present pages.
    pub(super) fn density(&self, into: &mut [u64]) {
        for (_, block) in &self.blocks {
            if let Some(count) = into.get_mut(block.present.count() as usize) {
                *count += 1;
            }
        }
    }

    /// Bits of `ranges` were cleared, but for those of `missed`; both ascend.
    pub(super) fn armed(&mut self, at: Time, ranges: &[AddrRange], missed: &[AddrRange]) {
        let moment = self.moment(at);
        let counting = self.counts.is_some();
        self.rhythm.asked();
        let (mut next, mut gain) = (BlockId(0), Gain::default());
        for (place, range) in ranges.iter().enumerate() {
            let from = self.blocks.partition_point(|b| b.0 < next.max(BlockId::of(range.start)));
            for (id, block) in self.blocks[from..].iter_mut().take_while(|b| b.0.start() < range.end) {
                // A block is armed once, by all ranges that touch it.
                let first = missed.partition_point(|r| r.end <= id.start());
                let stuck = covered(*id, &missed[first..]);
                let pages = covered(*id, &ranges[place..]).and_not(&stuck);
                if !pages.or(&stuck).is_empty() {
                    gain += block.arm(*id, &pages, &stuck, moment, counting);
                }
                next = BlockId(id.0 + 1);
            }
        }
        self.gained(gain);
    }

    pub(super) fn expect_counts(&mut self, scans: u32) {
        let wanted = (scans > 0).then_some(scans);
        if self.counts.map(|c| c.scans) != wanted {
            self.counts = wanted.map(|scans| Counts { scans, done: 0, since: None });
            self.blocks.iter_mut().for_each(|(_, block)| block.forget_estimates());
        }
    }

    /// A sampled major fault: a refault if the page was in swap when last seen.
    pub(super) fn major_fault(&mut self, addr: u64, period: u64) {
        let page = ((addr % BLOCK_BYTES) >> PAGE_SHIFT) as usize;
        if self.block(BlockId::of(addr)).is_some_and(|b| b.swapped.get(page)) {
            self.tempo.sampled(period);
        }
    }

    /// DAMON saw accesses in `range`, in so many of `samples` looks. It looks at one page at a time, so a region of one
    /// page tells of that page; of a larger one most pages are in use if most looks found the one they met accessed. Beyond
    /// a block that says too little about any page, and what DAMON did not see accessed says nothing: no page gets older.
    /// Counts count what walks read.
    pub(super) fn region(&mut self, at: Time, range: AddrRange, accesses: u32, samples: u32) {
        let bytes = range.end.saturating_sub(range.start);
        let sign = match bytes {
            PAGE_BYTES if accesses > 0 => Sign::Certain,
            1..=BLOCK_BYTES if accesses > samples / 2 => Sign::Likely,
            _ => return,
        };
        if self.counts.is_some() {
            return;
        }
        let ticks = self.ticks(IDLE_EDGES[0]);
        let moment = self.moment(at);
        let from = self.blocks.partition_point(|b| b.0 < BlockId::of(range.start));
        let mut gain = Gain::default();
        for (id, block) in self.blocks[from..].iter_mut().take_while(|b| b.0.start() < range.end) {
            let mut lessons = Lessons { tempo: &mut self.tempo, rhythm: &mut self.rhythm };
            gain += block.seen(&covered(*id, &[range]), sign, ticks, moment, &mut lessons);
        }
        self.gained(gain);
    }

    pub(super) fn retick(&mut self, tick: Span) {
        let (from, to) = (self.tick.0, tick.0);
        self.blocks.iter_mut().for_each(|(_, block)| block.retick(from, to));
        self.tempo.retick(from, to);
        self.tick = tick;
    }

    fn ticks_at(&self, at: Time) -> u32 {
        (at.0 / self.tick.0.max(1)).min(u64::from(u32::MAX)) as u32
    }
    fn moment(&self, at: Time) -> Moment {
        Moment { tick: self.ticks_at(at), round: self.rhythm.round, longest: self.longest }
    }
    /// Whole ticks that are no less than `span`.
    fn ticks(&self, span: Span) -> u32 {
        span.0.div_ceil(self.tick.0.max(1)).min(u64::from(u32::MAX)) as u32
    }
    fn span(&self, ticks: u32) -> Span {
        Span(self.tick.0.saturating_mul(u64::from(ticks)))
    }
    fn block(&self, id: BlockId) -> Option<&Block> {
        self.blocks.binary_search_by_key(&id, |b| b.0).ok().map(|place| &self.blocks[place].1)
    }

    /// Memory of this entry, reserves included: what it may hold, not what it happens to, so that it replays alike.
    pub(super) fn bytes(&self) -> u64 {
        let own = 2 * size_of::<(ProcKey, Self)>() + SLOTS * size_of::<Slot>() + SLACK * size_of::<(BlockId, Block)>();
        (own + self.blocks.len() * BLOCK_COST) as u64
    }
    pub(super) fn tracked(&self) -> u64 {
        self.present
    }
    pub(super) const fn walking(&self) -> bool {
        self.walk.is_some()
    }

    /// Complete walks so far.
    #[must_use]
    pub const fn scans(&self) -> u32 {
        self.scans
    }
    /// End of the last complete walk.
    #[must_use]
    pub const fn scan_at(&self) -> Option<Time> {
        self.scan_at
    }
    /// Rounds so far: walks in which the process had its usual CPU time.
    #[must_use]
    pub const fn round(&self) -> u32 {
        self.rhythm.round
    }
    /// The last walk was no round: CPU time since the round before it, and what would have been enough.
    #[must_use]
    pub const fn starved(&self) -> Option<(Span, Span)> {
        if self.rhythm.counted { None } else { Some((Span(self.rhythm.ran), Span(self.rhythm.enough))) }
    }
    /// Pages that read accessed.
    #[must_use]
    pub const fn young(&self) -> Pages {
        Pages(self.young)
    }
    /// More may be asked than usual: the process is new, or its hot set moves.
    #[must_use]
    pub const fn boosted(&self) -> bool {
        self.rhythm.boosted()
    }
    /// Times that the hot set was seen to move.
    #[must_use]
    pub const fn changes(&self) -> u32 {
        self.rhythm.changes
    }
    /// Pages touched since `from` after we had cleared their bit; each cost the process a walk of its page tables.
    #[must_use]
    pub fn touched_since(&self, from: Time) -> Pages {
        Pages(self.rhythm.touched_since(from))
    }
    /// Share of the asked pages that are touched again within a round; none before the first answer.
    #[must_use]
    pub fn retouched(&self) -> Option<Permil> {
        self.rhythm.retouched_permil.map(Permil)
    }
    /// Blocks tracked.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }
    #[must_use]
    pub const fn resident(&self) -> Pages {
        Pages(self.present + self.untracked)
    }
    /// End of the last walk that found more resident than there was when it grew before, by more than a thirty-second; the first
    /// one does. However slowly it grows, it shows.
    #[must_use]
    pub const fn grew_at(&self) -> Option<Time> {
        self.grew_at
    }
    /// The same of the last growth that was over by the next walk: until then it may have grown on for as long as nobody looked.
    #[must_use]
    pub const fn grown_at(&self) -> Option<Time> {
        self.grown_at
    }
    #[must_use]
    pub const fn swapped(&self) -> Pages {
        Pages(self.swapped)
    }

    #[must_use]
    pub fn idle_histogram(&self, now: Time) -> IdleHistogram {
        let tick = self.ticks_at(now);
        let edges = IDLE_EDGES.map(|edge| self.ticks(edge));
        let mut idle = [0u64; IDLE_EDGES.len()];
        for (_, block) in &self.blocks {
            for (sum, edge) in idle.iter_mut().zip(edges) {
                *sum += u64::from(block.idle_for(edge, tick).count());
            }
        }
        let bytes = |pages: u64| Pages(pages).bytes();
        IdleHistogram {
            idle: idle.map(bytes),
            young: bytes(self.young - self.unproven),
            unknown: bytes(self.untracked + self.unproven),
            resident: self.resident().bytes(),
            swapped: self.swapped().bytes(),
        }
    }

    /// Pages touched within the last two minutes, or eight ticks where that is longer. Pages that were never asked do not
    /// count: while confidence is low this is a lower bound.
    #[must_use]
    pub fn working_set(&self, now: Time) -> Pages {
        let tick = self.ticks_at(now);
        let edge = self.ticks(Span(MINUTE.0 * 2)).max(8);
        let in_use = self
            .blocks
            .iter()
            .map(|(_, block)| u64::from(block.present.count() - block.idle_for(edge, tick).count() - block.past.unproven.count()));
        Pages(in_use.sum())
    }

    /// Pages per minute that were touched after being idle for at least `idle`, swapped or not: the mean of about ten
    /// minutes.
    #[must_use]
    pub fn promotions_per_min(&self, now: Time, idle: Span) -> u64 {
        self.tempo.mean(now, self.ticks(idle))
    }
    /// The same in the worst of these minutes.
    #[must_use]
    pub fn worst_promotions_per_min(&self, now: Time, idle: Span) -> u64 {
        self.tempo.worst(now, self.ticks(idle))
    }
    /// Pages per minute that came back from swap: the mean of about ten minutes.
    #[must_use]
    pub fn refaults_per_min(&self, now: Time) -> u64 {
        self.tempo.refaults(now)
    }

    /// Share of the resident pages of which the bits prove something: asked at least once, and not cleared by others
    /// since.
    #[must_use]
    pub fn confidence(&self) -> Permil {
        Permil::of(self.present - self.unproven, self.resident().0)
    }

    /// What maps a block; none where nothing is tracked.
    #[must_use]
    pub fn leaf(&self, block: BlockId) -> Option<Leaf> {
        self.block(block).map(|b| b.leaf)
    }

    /// Blocks with accessed pages that may be asked now, longest overdue first. Counting needs all of them, whole.
    #[must_use]
    pub fn due(&self) -> Vec<DueBlock> {
        let (round, counting) = (self.rhythm.round, self.counts.is_some());
        let turn = |b: &Block| (!counting && b.settled(self.longest)).then_some(b.turn);
        let ripe = |b: &Block| !b.young.is_empty() && (counting || !b.open && b.due <= round);
        let due = self.blocks.iter().filter(|(_, b)| ripe(b));
        let mut due: Vec<(u32, u32, DueBlock)> = due
            .map(|(id, b)| {
                (
                    b.due,
                    scatter(*id, round),
                    DueBlock { block: *id, young: b.young, turn: turn(b), stuck: b.past.stuck, leaf: b.leaf },
                )
            })
            .collect();
        due.sort_unstable_by_key(|(since, order, b)| (*since, *order, b.block));
        due.into_iter().map(|(_, _, block)| block).collect()
    }

    /// Accesses are counted in rounds of scans, so that every walk must be followed by an arming.
    #[must_use]
    pub const fn counting(&self) -> bool {
        self.counts.is_some()
    }

    /// Estimated chance that a page is accessed between two walks; none where nothing was learned, and in count mode.
    #[must_use]
    pub fn rate_permil(&self, block: BlockId, page: usize) -> Option<Permil> {
        if self.counts.is_some() || page >= BLOCK_PAGES {
            return None;
        }
        self.block(block)?.rate(page, self.rhythm.round)
    }

    /// Pages in use as far as is known: accessed since they were last asked, or asked and not yet answered. Ascending.
    pub fn hot(&self) -> impl Iterator<Item = (BlockId, Bits)> {
        let hot = |b: &Block| if b.open { b.young.or(&b.past.asked) } else { b.young };
        self.blocks.iter().map(move |(id, b)| (*id, hot(b).and(&b.present))).filter(|(_, hot)| !hot.is_empty())
    }

    /// Present blocks, ascending: what maps each, how many pages there are, and how many of them are in use as far as is known.
    pub fn residents(&self) -> impl Iterator<Item = (BlockId, Leaf, u32, u32)> {
        let hot = |b: &Block| if b.open { b.young.or(&b.past.asked).and(&b.present) } else { b.young };
        let present = self.blocks.iter().filter(|(_, b)| !b.present.is_empty());
        present.map(move |(id, b)| (*id, b.leaf, b.present.count(), hot(b).count()))
    }

    /// Present pages of a block whose chance of an access between two walks is known and at least `least`, by all that was
    /// learned or by their last cycle alone, and the sum of these chances in thousandths. Where accesses are counted, accesses per scan stand for the chance.
    #[must_use]
    pub fn hot_in(&self, block: BlockId, least: Permil) -> (u32, u32) {
        let Some(block) = self.block(block) else { return (0, 0) };
        let rate = |page: usize| match self.counts {
            None => block.rate(page, self.rhythm.round).max(block.rate_lately(page)),
            Some(Counts { scans, .. }) => {
                self.counts_ready().then(|| Permil((u64::from(block.past.hits[page]) * 1000 / u64::from(scans.max(1))).min(1000)))
            }
        };
        let used = match (self.counts, block.open) {
            (Some(_), _) => block.present,
            // Asked and not answered yet: what it was is known from before.
            (None, true) => block.young.or(&block.past.asked).and(&block.present),
            (None, false) => block.young,
        };
        let known = used.and_not(&block.past.unproven);
        // A huge leaf has one bit.
        let (pages, each) = if block.leaf == Leaf::Base { (BLOCK_PAGES, 1) } else { (1, block.present.count()) };
        let rates = known.iter().take_while(|page| *page < pages).filter_map(rate).filter(|rate| *rate >= least);
        rates.fold((0, 0), |(hot, sum), rate| (hot + each, sum + rate.0 as u32 * each))
    }

    /// For how long all present pages of a block have been idle at least, by the last walk; none if one of them is in use, or
    /// nobody knows.
    #[must_use]
    pub fn idle_in(&self, block: BlockId) -> Option<Span> {
        let block = self.block(block).filter(|block| block.young.is_empty() && !block.present.is_empty())?;
        let tick = self.ticks_at(self.scan_at?);
        let youngest = block.present.iter().map(|page| block.idle(page, tick)).min()?;
        // Idleness begins somewhere inside a tick.
        Some(self.span(youngest.saturating_sub(1)))
    }

    /// Hotness by capacity: the `most` present pages with the highest estimated access rate, huge leaves only whole.
    /// Nothing while accesses are counted.
    #[must_use]
    pub fn hottest(&self, most: Pages) -> Vec<AddrRange> {
        if self.counts.is_some() {
            return Vec::new();
        }
        let round = self.rhythm.round;
        // Square roots tell low rates apart, where nearly all pages are.
        let key = |block: &Block, page| block.rate(page, round).map_or(0, |rate| (rate.0 * 65).isqrt() as u8);
        let keys = |block: &Block| std::array::from_fn(|page| key(block, page));
        let choice = Choice { candidates: |block: &Block| block.present, keys };
        pick(&self.blocks, &[AddrRange::EVERYTHING], most, &choice, |_, _| {}).ranges
    }

    /// The pages that are idle longest, if for `at_least`: at most `most`, only inside `within` (ascending), huge leaves
    /// only whole.
    #[must_use]
    pub fn cold(&self, now: Time, at_least: Span, most: Pages, within: &[AddrRange]) -> Cold {
        let (tick, edge) = (self.ticks_at(now), self.ticks(at_least));
        let candidates = |block: &Block| block.idle_for(edge, tick);
        self.take(tick, most, within, &Choice { candidates, keys: |block: &Block| block.idle_bytes(tick) })
    }

    fn take<C, K>(&self, tick: u32, most: Pages, within: &[AddrRange], choice: &Choice<C, K>) -> Cold
    where
        C: Fn(&Block) -> Bits,
        K: Fn(&Block) -> [u8; BLOCK_PAGES],
    {
        let (mut youngest, mut oldest) = (u32::MAX, 0);
        let picked = pick(&self.blocks, within, most, choice, |block, taken| {
            for page in taken.iter() {
                let idle = if block.young.get(page) { 0 } else { block.idle(page, tick) };
                (youngest, oldest) = (youngest.min(idle), oldest.max(idle));
            }
        });
        let Picked { ranges, pages, more } = picked;
        let youngest = if pages == 0 { Span::ZERO } else { self.span(youngest) };
        Cold { ranges, pages: Pages(pages), youngest, oldest: self.span(oldest), more }
    }

    /// When the first walk of the round of counts began.
    #[must_use]
    pub fn counting_since(&self) -> Option<Time> {
        self.counts?.since
    }

    /// A round of counts is complete and no further walk has begun.
    #[must_use]
    pub fn counts_ready(&self) -> bool {
        self.walk.is_none() && self.counts.is_some_and(|c| c.done >= c.scans)
    }

    /// Present pages counted fewer than `threshold` accesses in the last complete round, fewest first; nothing while
    /// counts are not ready. `youngest` and `oldest` tell idle ages as of the last walk, zero for accessed pages.
    #[must_use]
    pub fn counted_below(&self, threshold: u8, most: Pages, within: &[AddrRange]) -> Cold {
        if !self.counts_ready() {
            return Cold::default();
        }
        let tick = self.scan_at.map_or(0, |at| self.ticks_at(at));
        let candidates = |block: &Block| bits_where(&block.past.hits, |hits| hits < threshold).and(&block.present);
        self.take(tick, most, within, &Choice { candidates, keys: |block: &Block| block.past.hits.map(|hits| 255 - hits) })
    }

    /// Where pages are present, ascending: runs of blocks, joined over gaps of at most `gap`.
    #[must_use]
    pub fn spans(&self, gap: Bytes) -> Vec<AddrRange> {
        let mut spans: Vec<AddrRange> = Vec::new();
        for (id, _) in self.blocks.iter().filter(|(_, block)| !block.present.is_empty()) {
            let (start, end) = (id.start(), id.start() + BLOCK_BYTES);
            match spans.last_mut() {
                Some(last) if start - last.end <= gap.0 => last.end = end,
                Some(_) | None => spans.push(AddrRange { start, end }),
            }
        }
        spans
    }

    /// Present pages under huge leaves: one accessed bit for many of them.
    #[must_use]
    pub fn huge(&self) -> Pages {
        let huge = self.blocks.iter().filter(|(_, block)| block.leaf != Leaf::Base);
        Pages(huge.map(|(_, block)| u64::from(block.present.count())).sum())
    }

    /// A picture of `range` in `buckets` cells, as of the last walk.
    #[must_use]
    pub fn heat_row(&self, range: AddrRange, buckets: usize) -> Vec<HeatCell> {
        let mut cells = vec![HeatCell::default(); buckets];
        let mut idle = vec![0u64; buckets];
        let (length, tick) = (range.end.saturating_sub(range.start), self.scan_at.map_or(0, |at| self.ticks_at(at)));
        if length == 0 || buckets == 0 {
            return cells;
        }
        let cell_of = |addr: u64| (u128::from(addr - range.start) * buckets as u128 / u128::from(length)) as usize;
        let from = self.blocks.partition_point(|b| b.0 < BlockId::of(range.start));
        for (id, block) in self.blocks[from..].iter().take_while(|b| b.0.start() < range.end) {
            for page in block.present.and(&covered(*id, &[range])).iter() {
                let cell = cell_of(id.start() + page as u64 * PAGE_BYTES);
                cells[cell].resident.0 += 1;
                match (block.past.unproven.get(page), block.young.get(page)) {
                    (true, _) => cells[cell].unknown.0 += 1,
                    (false, true) => cells[cell].young.0 += 1,
                    (false, false) => idle[cell] += u64::from(block.idle(page, tick)),
                }
            }
        }
        for (cell, ticks) in cells.iter_mut().zip(idle) {
            let old = cell.resident.0 - cell.young.0 - cell.unknown.0;
            cell.idle = Span(self.tick.0.saturating_mul(ticks) / old.max(1));
        }
        cells
    }
}

#[cfg(test)]
impl ProcHeat {
    pub(super) fn blocks_for_test(&self, id: u64) -> &Block {
        self.block(BlockId(id)).expect("tracked")
    }
    /// What must hold between events.
    pub(super) fn check(&self) {
        assert!(self.blocks.is_sorted_by(|a, b| a.0 < b.0));
        let sum = |f: fn(&Block) -> u32| self.blocks.iter().map(|(_, b)| u64::from(f(b))).sum::<u64>();
        assert_eq!((self.present, self.swapped), (sum(|b| b.present.count()), sum(|b| b.swapped.count())));
        assert_eq!((self.young, self.unproven), (sum(|b| b.young.count()), sum(|b| b.past.unproven.count())));
        for (_, b) in &self.blocks {
            assert!(!b.gain().emptied);
            assert!(b.young.and_not(&b.present).is_empty() && b.past.unproven.and_not(&b.young).is_empty());
            assert!(b.past.stuck.and_not(&b.young).is_empty());
            assert!(b.present.and(&b.swapped).is_empty() && b.past.asked.and_not(&b.present.or(&b.swapped)).is_empty());
        }
        let held = size_of::<(ProcKey, Self)>()
            + self.blocks.capacity() * size_of::<(BlockId, Block)>()
            + self.blocks.len() * (size_of::<super::block::Past>() + 16)
            + self.tempo.held();
        assert!(held as u64 <= self.bytes(), "{held} bytes are held, {} are told", self.bytes());
    }
}
