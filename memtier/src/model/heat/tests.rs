//! Heat by hand-computed tables: each case is one sentence of what the model promises.

use super::*;
use crate::vocab::{BLOCK_BYTES, Bits, BlockSample, PAGE_BYTES, Permil};

pub(super) const PROC: ProcKey = ProcKey { pid: 42, start: 7 };
pub(super) const TICK: u64 = 15;

pub(super) fn secs(s: u64) -> Time {
    Time(s * 1_000_000_000)
}
fn min(m: u64) -> Span {
    Span::from_secs(60 * m)
}
pub(super) fn bits(pages: impl IntoIterator<Item = usize>) -> Bits {
    let mut bits = Bits::NONE;
    pages.into_iter().for_each(|page| bits.set(page));
    bits
}
pub(super) fn base(block: u64, accessed: Bits, present: Bits) -> BlockSample {
    BlockSample { block: BlockId(block), accessed, present, ..BlockSample::default() }
}
pub(super) fn range(block: u64, from: u64, to: u64) -> AddrRange {
    let start = block * BLOCK_BYTES;
    AddrRange { start: start + from * PAGE_BYTES, end: start + to * PAGE_BYTES }
}
fn chunk(scan: u64, blocks: Vec<BlockSample>) -> PageChunk {
    PageChunk { proc: PROC, scan, range: AddrRange::EVERYTHING, blocks, last: true }
}

#[derive(Default)]
pub(super) struct Rig {
    pub heat: Heat,
    pub config: Config,
    pub sched: Sched,
    pub seq: u64,
}

impl Rig {
    pub fn event(&mut self, at: Time, event: Event) {
        self.seq += 1;
        self.heat.fold(&Stamped { seq: self.seq, at, event }, &self.config, &self.sched);
    }
    /// A complete walk at `at` seconds.
    pub fn walk(&mut self, at: u64, blocks: Vec<BlockSample>) {
        let chunk = chunk(self.seq, blocks);
        self.event(secs(at), Event::Sample(Sample::Pages(chunk)));
    }
    pub fn arm(&mut self, at: u64, block: u64) {
        self.heat.armed(secs(at), PROC, &[range(block, 0, 512)], &[]);
    }
    pub fn proc(&self) -> &ProcHeat {
        self.heat.get(PROC).unwrap()
    }
    /// Pages idle for at least 30 s, 1, 2, 5, 15, 60 min; young; unknown; swapped.
    pub fn pages(&self, at: u64) -> ([u64; 6], u64, u64, u64) {
        let h = self.proc().idle_histogram(secs(at));
        (h.idle.map(|b| b.pages().0), h.young.pages().0, h.unknown.pages().0, h.swapped.pages().0)
    }
    /// (least, greatest idle age in ticks, pages) of what is idle for at least `ticks`.
    fn ages(&self, at: u64, ticks: u64) -> (u64, u64, u64) {
        let all = self.proc().cold(secs(at), Span::from_secs(ticks * TICK), Pages(u64::MAX), &[AddrRange::EVERYTHING]);
        (all.youngest.as_secs() / TICK, all.oldest.as_secs() / TICK, all.pages.0)
    }
}

#[test]
fn what_was_never_asked_is_unknown() {
    let mut rig = Rig::default();
    for round in 0..5 {
        rig.walk(round * 600, vec![base(8, bits(0..100), bits(0..120))]);
    }
    // Twenty read 0 at first sight: idle since then. The others may be anything.
    assert_eq!(rig.pages(2400), ([20, 20, 20, 20, 20, 0], 0, 100, 0));
    assert_eq!((rig.proc().confidence(), rig.proc().scans(), rig.proc().round()), (Permil(166), 5, 5));
    assert_eq!(rig.proc().working_set(secs(2400)), Pages(0));
    let due = rig.proc().due();
    assert_eq!((due.len(), due[0].young.count(), rig.proc().young()), (1, 100, Pages(100)));
}

#[test]
fn idle_age_grows_by_itself_and_is_exact() {
    let mut rig = Rig::default();
    rig.walk(0, vec![base(8, bits(0..64), bits(0..64))]);
    rig.arm(1, 8);
    rig.walk(10, vec![base(8, bits(0..4), bits(0..64))]);
    for k in 0..300 {
        let all = rig.proc().cold(secs(1 + k * TICK), Span::ZERO, Pages(512), &[AddrRange::EVERYTHING]);
        assert_eq!((all.youngest, all.oldest, all.pages), (Span::from_secs(k * TICK), Span::from_secs(k * TICK), Pages(60)));
    }
    assert_eq!(rig.pages(1 + 2 * TICK), ([60, 0, 0, 0, 0, 0], 4, 0, 0));
    assert_eq!(rig.pages(1 + 60 * TICK), ([60, 60, 60, 60, 60, 0], 4, 0, 0));
    assert_eq!(rig.pages(3601), ([60; 6], 4, 0, 0));
    assert_eq!(rig.proc().confidence(), Permil(1000));
    assert_eq!(rig.proc().working_set(secs(60)), Pages(64));
    assert_eq!(rig.proc().working_set(secs(1 + 8 * TICK)), Pages(4));
}

#[test]
fn idle_age_telescopes_over_arming_of_the_neighbours() {
    let mut rig = Rig::default();
    rig.walk(0, vec![base(8, bits(0..512), Bits::ALL)]);
    rig.arm(0, 8);
    // Page 0 is in use all the time: the block is asked again and again, at odd moments.
    for round in 1..40 {
        rig.walk(round * 22, vec![base(8, bits([0]), Bits::ALL)]);
        rig.arm(round * 22 + 1, 8);
        let ticks = (round * 22 + 1) / TICK;
        assert_eq!(rig.ages(round * 22 + 1, ticks), (ticks, ticks, 511), "round {round}");
        assert_eq!(rig.ages(round * 22 + 1, 0), (0, ticks, 512), "round {round}");
    }
}

#[test]
fn a_bit_cleared_by_others_moves_the_base_where_we_do_not_ask() {
    let mut rig = Rig::default();
    rig.config.arm.longest_walks = 1;
    rig.walk(0, vec![base(8, Bits::ALL, Bits::ALL)]);
    rig.arm(0, 8);
    for at in [30, 40, 50] {
        rig.walk(at, vec![base(8, bits(0..100), Bits::ALL)]);
    }
    let rates = |rig: &Rig| [0, 60, 300].map(|page| rig.proc().blocks_for_test(8).past.hits[page]);
    let before = rates(&rig);
    // Reclaim cleared 50..100; 0..50 still read 1, but of what?
    rig.walk(60, vec![base(8, bits(0..50), Bits::ALL)]);
    assert_eq!(rig.ages(60, 0), (0, 4, 462));
    assert_eq!(rig.ages(60, 4), (4, 4, 412));
    assert_eq!(rig.pages(60), ([412, 412, 0, 0, 0, 0], 0, 50, 0));
    assert_eq!(rig.ages(90, 0), (2, 6, 462));
    assert_eq!((rates(&rig), rig.proc().confidence()), (before, Permil(902)));
    // Asking again proves them; what was idle stays idle.
    rig.arm(90, 8);
    rig.walk(105, vec![base(8, bits(0..50), Bits::ALL)]);
    assert_eq!(rig.pages(105), ([462, 412, 0, 0, 0, 0], 50, 0, 0));
    assert_eq!(rig.ages(105, 0), (3, 7, 462));
}

/// Forty minutes after block 8 was asked and found idle, DAMON tells of these of its pages.
fn told_by_damon(leaf: Leaf, from: u64, to: u64, accesses: u32) -> Rig {
    let mut rig = Rig::default();
    let block = |accessed| BlockSample { leaf, ..base(8, accessed, Bits::ALL) };
    rig.walk(0, vec![block(Bits::ALL)]);
    rig.arm(1, 8);
    rig.walk(10, vec![block(Bits::NONE)]);
    let region = KernelEvent::Region { proc: PROC, range: range(8, from, to), accesses, samples: 20 };
    rig.event(secs(2401), Event::Kernel(region));
    rig
}

#[test]
fn what_damon_saw_accessed_is_not_idle() {
    // (leaf, region, accesses in 20 looks) -> (idle, young, unknown), promoted
    let cases = [
        ("one page, once: certain", Leaf::Base, (7, 8), 1, (511, 1, 0)),
        ("one page, never: nothing is known", Leaf::Base, (7, 8), 0, (512, 0, 0)),
        ("more than half: any of them may be in use", Leaf::Base, (0, 100), 11, (412, 0, 100)),
        ("half: too little", Leaf::Base, (0, 100), 10, (512, 0, 0)),
        ("a whole block", Leaf::Base, (0, 512), 20, (0, 0, 512)),
        ("more than a block: too little about any page", Leaf::Base, (0, 513), 20, (512, 0, 0)),
        ("over the edge of a block: the part inside", Leaf::Base, (500, 600), 20, (500, 0, 12)),
        ("the end of the block before", Leaf::Base, (512, 600), 20, (512, 0, 0)),
        ("a huge leaf has one bit", Leaf::Pmd, (7, 8), 1, (0, 512, 0)),
        ("a huge leaf, likely", Leaf::Pmd, (7, 9), 20, (0, 0, 512)),
        ("nothing at all", Leaf::Base, (9, 9), 20, (512, 0, 0)),
    ];
    for (what, leaf, (from, to), accesses, (idle, young, unknown)) in cases {
        let rig = told_by_damon(leaf, from, to, accesses);
        assert_eq!(rig.pages(2401), ([idle, idle, idle, idle, idle, 0], young, unknown, 0), "{what}");
        assert_eq!(rig.proc().confidence(), Permil::of(512 - unknown, 512), "{what}");
        // What was touched after forty idle minutes is told where policies look for it.
        let touched = rig.proc().promotions_per_min(secs(2401), min(30));
        // Of likely pages nobody knows which were touched.
        assert_eq!(touched > 0, young > 0, "{what}: {touched}");
    }
}

#[test]
fn what_damon_sees_of_pages_that_we_just_asked_changes_nothing() {
    // The same walks and questions, and regions over the hot part a second after each question.
    let (mut alone, mut beside) = (Rig::default(), Rig::default());
    for (rig, watched) in [(&mut alone, false), (&mut beside, true)] {
        for round in 0..6 {
            rig.walk(round * 10, vec![base(8, bits(0..100), Bits::ALL)]);
            rig.arm(round * 10 + 1, 8);
            for (from, to) in [(0, 100), (3, 4)].into_iter().filter(|_| watched) {
                let region = KernelEvent::Region { proc: PROC, range: range(8, from, to), accesses: 20, samples: 20 };
                rig.event(secs(round * 10 + 2), Event::Kernel(region));
            }
        }
    }
    assert_eq!(alone.proc(), beside.proc());
    assert_eq!(beside.proc().rate_permil(BlockId(8), 50).map(|rate| rate.0 > 900), Some(true));
}

#[test]
fn what_damon_saw_stays_until_it_is_asked() {
    let mut rig = told_by_damon(Leaf::Base, 0, 100, 15);
    // A bit that DAMON cleared takes nothing back.
    rig.walk(2410, vec![base(8, Bits::NONE, Bits::ALL)]);
    assert_eq!(rig.pages(2410), ([412, 412, 412, 412, 412, 0], 0, 100, 0));
    assert_eq!(rig.proc().due().len(), 1);
    rig.arm(2420, 8);
    rig.walk(2440, vec![base(8, bits(0..60), Bits::ALL)]);
    assert_eq!((rig.pages(2480).0, rig.pages(2480).1), ([452, 452, 412, 412, 412, 0], 60));
    assert_eq!(rig.proc().confidence(), Permil(1000));
}

#[test]
fn a_bit_cleared_by_others_takes_nothing_back_while_we_ask() {
    // Page 0 is accessed in every second round, 1 in the first; others clear every bit after each walk of the second rig.
    let (mut alone, mut beside) = (Rig::default(), Rig::default());
    let ask = |rig: &mut Rig, bits: [Bits; 4]| {
        for (walk, accessed) in (0..).zip(bits) {
            rig.walk(walk * 15, vec![base(8, accessed, Bits::ALL)]);
            if walk == 0 {
                rig.arm(1, 8);
            }
        }
        rig.arm(61, 8);
    };
    ask(&mut alone, [Bits::ALL, bits([0, 1]), bits([0, 1]), bits([0, 1])]);
    ask(&mut beside, [Bits::ALL, bits([0, 1]), Bits::NONE, bits([0])]);
    assert_eq!(alone.proc(), beside.proc());
    assert_eq!(beside.pages(61), ([510, 510, 0, 0, 0, 0], 0, 0, 0));
    assert_eq!(beside.ages(61, 0), (0, 4, 512));
    assert_eq!([1, 2].map(|page| beside.proc().rate_permil(BlockId(8), page)), [Some(Permil(931)), Some(Permil(8))]);
}

#[test]
fn a_page_back_from_swap_is_a_refault_with_its_idle_age() {
    let mut rig = Rig::default();
    rig.walk(0, vec![base(8, bits(0..8), bits(0..8))]);
    rig.arm(0, 8);
    rig.walk(15, vec![base(8, Bits::NONE, bits(0..8))]);
    let swapped = |at: u64, n: usize, accessed: Bits| {
        let mut sample = base(8, accessed, bits(n..8));
        sample.swapped = bits(0..n);
        (at, vec![sample])
    };
    let (at, blocks) = swapped(60, 4, Bits::NONE);
    rig.walk(at, blocks);
    assert_eq!((rig.proc().resident(), rig.proc().swapped()), (Pages(4), Pages(4)));
    assert_eq!((rig.proc().refaults_per_min(secs(60)), rig.ages(60, 0)), (0, (4, 4, 4)));
    // Pages 2 and 3 come back at 120 s, after 8 ticks; 3 was cleared again before we looked.
    let (at, blocks) = swapped(120, 2, bits([2]));
    rig.walk(at, blocks);
    let proc = rig.proc();
    assert_eq!(proc.refaults_per_min(secs(120)), 1, "two in two minutes");
    assert_eq!(proc.promotions_per_min(secs(120), Span::from_secs(8 * TICK)), 1);
    assert_eq!(proc.promotions_per_min(secs(120), Span::from_secs(9 * TICK)), 0);
    assert_eq!(rig.ages(120, 0), (0, 8, 5));
    assert_eq!(rig.pages(120), ([4, 4, 4, 0, 0, 0], 1, 0, 2));
    // Sampled major faults count where the page is known to be in swap, and only if they tell more.
    let fault = |addr| Event::Kernel(KernelEvent::Fault { proc: PROC, tid: 0, addr, kind: FaultKind::Major, period: 60 });
    rig.event(secs(120), fault(8 * BLOCK_BYTES + PAGE_BYTES));
    rig.event(secs(120), fault(8 * BLOCK_BYTES + 5 * PAGE_BYTES));
    assert_eq!(rig.proc().refaults_per_min(secs(120)), 30);
}

#[test]
fn a_huge_leaf_is_one_bit_for_512_pages() {
    let mut rig = Rig::default();
    let huge = |accessed| BlockSample { leaf: Leaf::Pmd, ..base(8, accessed, Bits::ALL) };
    rig.walk(0, vec![huge(Bits::ALL)]);
    rig.arm(0, 8);
    rig.walk(60, vec![huge(Bits::NONE)]);
    assert_eq!(rig.pages(60), ([512, 512, 0, 0, 0, 0], 0, 0, 0));
    // Whole or not at all.
    let take = |most, within: &[AddrRange]| rig.proc().cold(secs(60), min(1), Pages(most), within);
    assert_eq!(take(512, &[AddrRange::EVERYTHING]).ranges, [range(8, 0, 512)]);
    assert_eq!((take(511, &[AddrRange::EVERYTHING]).pages, take(511, &[AddrRange::EVERYTHING]).more), (Pages(0), true));
    assert_eq!(take(512, &[range(8, 0, 511)]), Cold::default());
    rig.walk(90, vec![huge(Bits::ALL)]);
    assert_eq!(rig.proc().promotions_per_min(secs(90), Span::from_secs(6 * TICK)), 512 * 60 / 90 + 1);
}

#[test]
fn split_and_collapse_keep_what_is_known() {
    let mut rig = Rig::default();
    let huge = |accessed| BlockSample { leaf: Leaf::Pmd, ..base(8, accessed, Bits::ALL) };
    rig.walk(0, vec![huge(Bits::ALL)]);
    rig.arm(0, 8);
    rig.walk(30, vec![huge(Bits::NONE)]);
    // Split: the pages go on being idle, one by one.
    rig.walk(60, vec![base(8, bits(0..12), Bits::ALL)]);
    assert_eq!(rig.ages(60, 0), (4, 4, 500));
    assert_eq!(rig.proc().promotions_per_min(secs(60), Span::ZERO), 12);
    // Collapse: khugepaged set the bit, nobody accessed anything.
    rig.walk(90, vec![huge(Bits::ALL)]);
    assert_eq!(rig.proc().promotions_per_min(secs(60), Span::ZERO), 12);
    assert_eq!(rig.pages(90), ([0; 6], 12, 500, 0));
    // Collapse of something else that stays idle: as old as its youngest page.
    rig.arm(90, 8);
    rig.walk(120, vec![base(8, bits([5]), Bits::ALL)]);
    rig.arm(120, 8);
    rig.walk(150, vec![huge(Bits::NONE)]);
    assert_eq!(rig.proc().cold(secs(150), Span::ZERO, Pages(512), &[AddrRange::EVERYTHING]).youngest, Span::from_secs(2 * TICK));
}

#[test]
fn the_estimator_learns_from_whole_cycles() {
    let mut rig = Rig::default();
    let rate = |rig: &Rig, page| rig.proc().rate_permil(BlockId(8), page).map(|p| p.0);
    rig.walk(0, vec![base(8, Bits::ALL, Bits::ALL)]);
    assert_eq!(rate(&rig, 0), None, "never asked");
    rig.arm(0, 8);
    assert_eq!(rate(&rig, 0), None, "not a round yet");
    // Page 0 is accessed within each round, page 1 within every second, page 2 never.
    for cycle in 0..4 {
        rig.walk(cycle * 20 + 10, vec![base(8, bits([0]), Bits::ALL)]);
        rig.walk(cycle * 20 + 20, vec![base(8, bits([0, 1]), Bits::ALL)]);
        rig.arm(cycle * 20 + 20, 8);
    }
    // Quarter rounds: 16 hits in 16, 16 hits in 32, none in 32.
    assert_eq!([0, 1, 2].map(|p| rate(&rig, p)), [Some(161_000 / 164), Some(161_000 / 324), Some(1000 / 324)]);
    // A page that stays away for long is halved, never overflows, and tells ever less.
    for cycle in 0..40 {
        for round in 0..20 {
            rig.walk(1000 + cycle * 400 + round * 20, vec![base(8, bits([0]), Bits::ALL)]);
        }
        rig.arm(1000 + cycle * 400 + 390, 8);
    }
    assert_eq!([0, 1, 2].map(|p| rate(&rig, p)), [Some(801_000 / 804), Some(0), Some(0)]);
}

#[test]
fn a_block_is_hot_or_idle_only_as_far_as_that_is_known() {
    let mut rig = Rig::default();
    let said = |rig: &Rig, block| {
        let heat = rig.proc();
        (heat.hot_in(BlockId(block), Permil(500)).0, heat.idle_in(BlockId(block)).map(Span::as_secs))
    };
    let walk = |rig: &mut Rig, at, hot| rig.walk(at, vec![base(8, hot, Bits::ALL), base(9, Bits::NONE, Bits::ALL)]);
    walk(&mut rig, 0, Bits::ALL);
    // Accessed when nobody had asked proves nothing. What reads 0 is idle from then on.
    assert_eq!((said(&rig, 8), said(&rig, 9)), ((0, None), (0, Some(0))));
    rig.arm(1, 8);
    walk(&mut rig, 60, bits(0..100));
    assert_eq!((said(&rig, 8), said(&rig, 9)), ((100, None), (0, Some(45))));
    // Asked again it is what it was, until it answers.
    rig.arm(61, 8);
    assert_eq!(said(&rig, 8), (100, Some(0)));
    walk(&mut rig, 120, Bits::NONE);
    assert_eq!((said(&rig, 8), said(&rig, 10)), ((0, Some(45)), (0, None)));
    // What wakes up is hot once it was asked and is accessed again, however long it slept.
    for at in 3..20 {
        walk(&mut rig, 60 * at, Bits::NONE);
    }
    walk(&mut rig, 1200, Bits::ALL);
    assert_eq!(said(&rig, 8), (0, None));
    rig.arm(1201, 8);
    walk(&mut rig, 1260, Bits::ALL);
    assert_eq!(said(&rig, 8), (512, None));
}

#[test]
fn counts_tumble_in_rounds() {
    let mut rig = Rig::default();
    rig.heat.expect_counts(PROC, 3);
    let sample = |accessed, dirty| BlockSample { dirty, ..base(8, accessed, bits(0..4)) };
    let below = |rig: &Rig, threshold| rig.proc().counted_below(threshold, Pages(99), &[AddrRange::EVERYTHING]);
    rig.walk(0, vec![sample(bits([0, 1]), bits([1]))]);
    rig.walk(10, vec![sample(bits([1, 2]), bits([1, 3]))]);
    assert!(!rig.proc().counts_ready() && below(&rig, 255) == Cold::default());
    rig.walk(20, vec![sample(bits([1]), bits([1]))]);
    // Counts are 1, 9, 1, 0.
    rig.heat.expect_counts(PROC, 3);
    assert!(rig.proc().counts_ready());
    assert_eq!(below(&rig, 1).ranges, [range(8, 3, 4)]);
    assert_eq!(below(&rig, 2).ranges, [range(8, 0, 1), range(8, 2, 4)]);
    assert_eq!(below(&rig, 9).pages, Pages(3));
    assert_eq!(below(&rig, 10).pages, Pages(4));
    let coldest = rig.proc().counted_below(9, Pages(2), &[AddrRange::EVERYTHING]);
    assert_eq!((coldest.ranges, coldest.more), (vec![range(8, 0, 1), range(8, 3, 4)], true));
    // The next round starts from nothing; a walk that is broken off does not end it.
    let mut part = chunk(99, vec![sample(bits([0]), Bits::NONE)]);
    part.last = false;
    rig.event(secs(30), Event::Sample(Sample::Pages(part)));
    assert!(!rig.proc().counts_ready());
    for at in [40, 50, 60] {
        rig.walk(at, vec![sample(bits([0]), Bits::NONE)]);
    }
    assert_eq!(below(&rig, 1).ranges, [range(8, 1, 4)]);
    assert_eq!((below(&rig, 3).pages, below(&rig, 4).pages), (Pages(3), Pages(4)));
    rig.heat.expect_counts(PROC, 0);
    assert!(!rig.proc().counts_ready());
}

#[test]
fn what_a_walk_does_not_list_is_gone() {
    let mut rig = Rig::default();
    let full = |block| base(block, Bits::ALL, Bits::ALL);
    rig.walk(0, vec![full(3), full(4), full(9)]);
    assert_eq!((rig.proc().resident(), rig.heat.tracked()), (Pages(3 * 512), Bytes::from_mib(6)));
    // Block 4 lies only half inside the range: its absence says nothing.
    let half = AddrRange { start: 3 * BLOCK_BYTES, end: 4 * BLOCK_BYTES + 4096 };
    let part = PageChunk { range: half, ..chunk(50, vec![]) };
    rig.event(secs(1), Event::Sample(Sample::Pages(part)));
    assert_eq!(rig.proc().resident(), Pages(2 * 512));
    // Single pages go and come as strangers.
    rig.arm(2, 9);
    rig.walk(30, vec![base(9, Bits::NONE, bits(0..10))]);
    assert_eq!((rig.proc().resident(), rig.proc().blocks()), (Pages(10), 1));
    rig.walk(60, vec![base(9, Bits::NONE, bits(0..20))]);
    assert_eq!(rig.ages(60, 0), (0, 4, 20));
    rig.walk(90, vec![]);
    assert_eq!((rig.proc().resident(), rig.proc().blocks(), rig.heat.tracked()), (Pages(0), 0, Bytes(0)));
}

#[test]
fn exit_exec_and_reuse_of_the_pid_forget() {
    let full = || vec![base(8, Bits::ALL, Bits::ALL)];
    for event in [KernelEvent::Exit { proc: PROC }, KernelEvent::Exec { proc: PROC }] {
        let mut rig = Rig::default();
        rig.walk(0, full());
        rig.event(secs(1), Event::Kernel(event));
        assert_eq!((rig.heat.procs().count(), rig.heat.tracked(), &rig.heat.bytes), (0, Bytes(0), &0));
    }
    let mut rig = Rig::default();
    rig.walk(0, full());
    let next = ProcKey { start: 8, ..PROC };
    rig.event(secs(1), Event::Sample(Sample::Pages(PageChunk { proc: next, ..chunk(5, full()) })));
    assert_eq!(rig.heat.procs().map(|p| p.0).collect::<Vec<_>>(), [next]);
    rig.heat.armed(secs(2), PROC, &[AddrRange::EVERYTHING], &[]);
    assert_eq!(rig.heat.get(next).unwrap().confidence(), Permil(0));
}

#[test]
fn promotions_are_told_by_age_as_mean_and_worst() {
    let mut rig = Rig::default();
    rig.walk(0, vec![base(8, Bits::ALL, Bits::ALL)]);
    rig.arm(0, 8);
    // Ten pages a minute for ten minutes, and 90 more in the fifth; nobody is asked again.
    let mut hot = 0;
    for minute in 1..=10 {
        hot += if minute == 5 { 100 } else { 10 };
        rig.walk(minute * 60, vec![base(8, bits(0..hot), Bits::ALL)]);
    }
    let proc = rig.proc();
    let at = |ticks: u64| {
        let idle = Span::from_secs(ticks * TICK);
        (proc.promotions_per_min(secs(600), idle), proc.worst_promotions_per_min(secs(600), idle))
    };
    assert_eq!(at(0), (19, 100));
    assert_eq!(at(4), (19, 100));
    assert_eq!(at(20), (15, 100));
    // 21 lies in the bucket of 20 and 21; 22 does not.
    assert_eq!(at(21), (15, 100));
    assert_eq!(at(22), (5, 10));
    assert_eq!(at(40), (1, 10));
    assert_eq!(at(10_000), (0, 0));
    // An hour without a walk dilutes it.
    assert_eq!(proc.promotions_per_min(secs(3600), Span::ZERO), 190 / 60 + 1);
}

#[test]
fn the_oldest_go_first_and_only_where_allowed() {
    let mut rig = Rig::default();
    let at = [0, 100, 200];
    // Block 8 is idle from 0 s, 9 from 100 s, 10 from 200 s; pages 0..2 of each are in use.
    for (i, t) in at.iter().enumerate() {
        let blocks = (8..11).map(|b| base(b, if b as usize - 8 >= i { Bits::ALL } else { bits(0..2) }, Bits::ALL)).collect();
        rig.walk(*t, blocks);
        rig.arm(*t, 8 + i as u64);
    }
    rig.walk(210, (8..11).map(|b| base(b, bits(0..2), Bits::ALL)).collect());
    let take = |at_least, most, within: &[AddrRange]| rig.proc().cold(secs(300), Span::from_secs(at_least), Pages(most), within);
    let everywhere = [AddrRange::EVERYTHING];
    assert_eq!(take(0, 510, &everywhere).ranges, [range(8, 2, 512)]);
    let cold = take(0, 512, &everywhere);
    assert_eq!((cold.ranges, cold.more), (vec![range(8, 2, 512), range(9, 2, 4)], true));
    assert_eq!((cold.youngest, cold.oldest), (Span::from_secs(14 * TICK), Span::from_secs(20 * TICK)));
    assert_eq!(take(14 * TICK, 9999, &everywhere).pages, Pages(1020));
    assert_eq!(take(14 * TICK + 1, 9999, &everywhere).pages, Pages(510));
    assert_eq!(take(0, 9999, &everywhere).pages, Pages(1530));
    assert_eq!(take(0, 0, &everywhere), Cold { more: true, ..Cold::default() });
    assert_eq!(take(0, 9999, &[]), Cold::default());
    // Adjacent pages of adjacent blocks are one range.
    let within = [range(8, 0, 1), range(8, 511, 512), range(9, 2, 5), range(10, 500, 900)];
    assert_eq!(take(0, 9999, &within).ranges, [range(8, 511, 512), range(9, 2, 5), range(10, 500, 512)]);
    // Accessed, though nobody looked since: as of the last walk it is old.
    assert_eq!(take(0, 9999, &[range(9, 0, 2)]).pages, Pages(0));
}

#[test]
fn arming_part_of_a_block_asks_that_part() {
    let mut rig = Rig::default();
    rig.walk(0, vec![base(8, Bits::ALL, Bits::ALL)]);
    rig.heat.armed(secs(0), PROC, &[range(8, 0, 100), range(8, 300, 600)], &[]);
    assert_eq!(rig.pages(60), ([312, 312, 0, 0, 0, 0], 0, 200, 0));
    rig.walk(60, vec![base(8, bits(0..310), Bits::ALL)]);
    let block = rig.proc().blocks_for_test(8);
    assert_eq!((block.past.asked.count(), block.young.count(), block.armed_round), (312, 310, 1));
    assert_eq!(rig.proc().retouched(), Some(Permil(110 * 1000 / 312)));
}

#[test]
fn another_tick_keeps_ages() {
    let mut rig = Rig::default();
    rig.walk(0, vec![base(8, Bits::ALL, Bits::ALL)]);
    rig.arm(0, 8);
    rig.walk(60, vec![base(8, bits([0]), Bits::ALL)]);
    rig.arm(60, 8);
    rig.config.heat.age_tick_ms = 5_000;
    rig.walk(120, vec![base(8, bits([0]), Bits::ALL)]);
    let ages = |rig: &Rig| rig.proc().cold(secs(120), Span::ZERO, Pages(512), &[AddrRange::EVERYTHING]).oldest;
    assert_eq!(ages(&rig), Span::from_secs(120));
    assert_eq!(rig.proc().promotions_per_min(secs(120), Span::from_secs(60)), 1);
    rig.config.heat.age_tick_ms = 60_000;
    rig.walk(120, vec![base(8, bits([0]), Bits::ALL)]);
    assert_eq!(ages(&rig), Span::from_secs(120));
}

#[test]
fn a_row_shows_what_the_last_walk_saw() {
    let mut rig = Rig::default();
    rig.walk(0, vec![base(8, Bits::ALL, Bits::ALL), base(9, Bits::ALL, bits(0..256))]);
    rig.arm(0, 8);
    rig.walk(60, vec![base(8, bits(0..128), Bits::ALL), base(9, Bits::ALL, bits(0..256))]);
    let row = rig.proc().heat_row(AddrRange { start: 8 * BLOCK_BYTES, end: 10 * BLOCK_BYTES }, 4);
    let cell = |resident, young, unknown, idle| HeatCell {
        resident: Pages(resident),
        young: Pages(young),
        unknown: Pages(unknown),
        idle: Span::from_secs(idle),
    };
    // Block 9 was never asked.
    assert_eq!(row, [cell(256, 128, 0, 60), cell(256, 0, 0, 60), cell(256, 0, 256, 0), cell(0, 0, 0, 0)]);
    assert_eq!(rig.proc().heat_row(AddrRange::default(), 3).len(), 3);
}

#[test]
fn at_the_cap_the_emptiest_blocks_go_and_nothing_is_hidden() {
    let mut rig = Rig::default();
    rig.config.heat.fixed_mib = 36;
    // 3000 blocks of a few pages each cannot be paid for by 4 MiB.
    let sparse: Vec<_> = (0..3000).map(|b| base(b, Bits::ALL, bits(0..1 + b as usize % 7))).collect();
    let pages: u64 = (0..3000).map(|b| 1 + b % 7).sum();
    for round in 0..4 {
        for (part, blocks) in sparse.chunks(128).enumerate() {
            let (start, end) = (blocks[0].block.start(), blocks[blocks.len() - 1].block.start() + BLOCK_BYTES);
            let last = (part + 1) * 128 >= sparse.len();
            let part = PageChunk { proc: PROC, scan: round, range: AddrRange { start, end }, blocks: blocks.to_vec(), last };
            rig.event(secs(round * 10), Event::Sample(Sample::Pages(part)));
            assert!(rig.heat.bytes <= rig.heat.cap());
        }
        assert_eq!(rig.proc().resident(), Pages(pages), "round {round}");
        assert_eq!(rig.pages(round * 10).2, pages);
    }
    assert!(rig.heat.evicted() > 0 && rig.heat.bytes > rig.heat.cap() / 2);
    let least = rig.proc().due().iter().map(|b| b.young.count()).min();
    assert!(least > Some(1), "{least:?}");
    // With room again, all are taken in.
    rig.config.heat.fixed_mib = 64;
    rig.walk(100, sparse.clone());
    rig.walk(110, sparse);
    assert_eq!(rig.proc().blocks(), 3000);
}

#[test]
fn a_thousand_small_processes_fit() {
    let mut rig = Rig::default();
    let blocks: Vec<BlockSample> = (0..32).map(|b| base(b, Bits::ALL, Bits::ALL)).collect();
    for pid in 0..1024 {
        let proc = ProcKey { pid, start: 1 };
        rig.event(secs(0), Event::Sample(Sample::Pages(PageChunk { proc, ..chunk(1, blocks.clone()) })));
    }
    assert_eq!((rig.heat.procs().count(), rig.heat.evicted()), (1024, 0));
}

#[test]
fn processes_that_nobody_walks_go_before_blocks_do() {
    let mut rig = Rig::default();
    rig.config.heat.fixed_mib = 36;
    let sparse = |n| (0..n).map(|b| base(b, Bits::ALL, bits([0]))).collect::<Vec<_>>();
    rig.walk(0, sparse(1500));
    let other = ProcKey { pid: 50, start: 1 };
    let late = secs(255 * TICK + 1);
    rig.event(late, Event::Sample(Sample::Pages(PageChunk { proc: other, ..chunk(5, sparse(1500)) })));
    assert!(rig.heat.get(PROC).is_none());
    assert_eq!((rig.heat.get(other).unwrap().blocks(), rig.heat.evicted()), (1500, 1500));
}

#[test]
fn addresses_at_the_end_of_the_world_do_no_harm() {
    let mut rig = Rig::default();
    let last = u64::MAX / BLOCK_BYTES;
    rig.walk(0, [last - 1, last, last + 1, u64::MAX].map(|b| base(b, Bits::ALL, Bits::ALL)).to_vec());
    let all = AddrRange { start: 0, end: u64::MAX };
    rig.heat.armed(secs(0), PROC, &[all], &[]);
    rig.walk(60, [last - 1, last, last + 1, u64::MAX].map(|b| base(b, Bits::NONE, Bits::ALL)).to_vec());
    assert_eq!(rig.proc().cold(secs(60), min(1), Pages(9999), &[all]).ranges, [range(last - 1, 0, 512)]);
    assert_eq!(rig.proc().heat_row(all, 7)[6].resident, Pages(512));
}

#[test]
fn what_could_not_be_cleared_stays_unknown() {
    let mut rig = Rig::default();
    rig.walk(0, vec![base(8, Bits::ALL, Bits::ALL)]);
    rig.heat.armed(secs(0), PROC, &[range(8, 0, 512)], &[range(8, 100, 200)]);
    rig.walk(10, vec![base(8, bits(0..200), Bits::ALL)]);
    // A hundred were touched again, a hundred never asked.
    assert_eq!(rig.pages(60), ([312, 312, 0, 0, 0, 0], 100, 100, 0));
    assert_eq!(rig.proc().blocks_for_test(8).past.stuck, bits(100..200));
}

#[test]
fn the_hottest_by_capacity_are_those_touched_most_often() {
    let mut rig = Rig::default();
    // Page n of block 8 is touched in every 2^n-th round; block 9 never.
    for round in 0..40u64 {
        let touched = bits((0..6).filter(|n| round % (1 << n) == 0));
        let young = rig.heat.get(PROC).map_or(Bits::ALL, |heat| heat.blocks_for_test(8).young.or(&touched));
        rig.walk(10 * round, vec![base(8, young, Bits::ALL), base(9, Bits::NONE, Bits::ALL)]);
        rig.arm(10 * round, 8);
    }
    for most in 1..6 {
        assert_eq!(rig.proc().hottest(Pages(most)), [range(8, 0, most)]);
    }
    let hot: Vec<_> = rig.proc().hot().collect();
    assert_eq!(hot, [(BlockId(8), bits(0..1))]);
}
