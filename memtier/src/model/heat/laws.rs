//! Heat by laws: whatever comes in, the sums hold, checkpoints and chunk sizes change nothing, and a slow twin agrees.

use super::tests::{PROC, Rig, TICK, bits, range, secs};
use super::*;
use crate::vocab::{BLOCK_BYTES, Bits, BlockSample, NodeId, PAGE_BYTES, Permil};
use proptest::prelude::*;

/// Longest period of a block: short, so that blocks are forgotten by whoever asks them.
const LONGEST: u32 = 2;

/// What one page is, told slowly.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Young { proven: bool },
    Old { from: u64, swapped: bool },
}

/// The same model without any cleverness: one entry per page.
#[derive(Default)]
struct Oracle {
    pages: BTreeMap<(u64, usize), Page>,
    walks: u32,
    /// Walk after which the block was asked last.
    armed: BTreeMap<u64, u32>,
    promotions: Vec<u64>,
}

impl Oracle {
    fn walk(&mut self, tick: u64, blocks: &[BlockSample]) {
        self.walks += 1;
        let listed: Vec<u64> = blocks.iter().map(|b| b.block.0).collect();
        self.pages.retain(|k, _| listed.contains(&k.0));
        for b in blocks {
            let id = b.block.0;
            let known = self.pages.keys().any(|k| k.0 == id);
            if !known {
                self.armed.remove(&id);
            }
            let told = self.armed.get(&id).is_some_and(|walk| self.walks - walk <= 2 * LONGEST);
            let (mut fallen, mut young_before) = (false, Vec::new());
            for page in 0..512 {
                let before = self.pages.remove(&(id, page));
                let (present, swapped) = (b.present.get(page), b.swapped.get(page) && !b.present.get(page));
                let accessed = present && b.accessed.get(page);
                if !present && !swapped {
                    continue;
                }
                let back = present && matches!(before, Some(Page::Old { swapped: true, .. }));
                if let Some(Page::Old { from, .. }) = before
                    && (accessed || back)
                {
                    self.promotions.push(tick - from);
                }
                let after = match before {
                    None if accessed => Page::Young { proven: self.armed.contains_key(&id) },
                    Some(Page::Young { proven }) if accessed || told && present => {
                        young_before.push(page);
                        Page::Young { proven }
                    }
                    Some(Page::Old { .. }) if accessed => Page::Young { proven: true },
                    Some(Page::Old { from, .. }) if !back => Page::Old { from, swapped },
                    None | Some(_) => {
                        fallen |= known;
                        Page::Old { from: tick, swapped }
                    }
                };
                self.pages.insert((id, page), after);
            }
            if fallen {
                for page in young_before {
                    self.pages.insert((id, page), Page::Young { proven: false });
                }
            }
        }
    }
    fn arm(&mut self, tick: u64, id: u64) {
        for (_, page) in self.pages.range_mut((id, 0)..(id + 1, 0)) {
            if let Page::Young { .. } = page {
                *page = Page::Old { from: tick, swapped: false };
            }
        }
        self.armed.insert(id, self.walks);
    }
}

fn sparse_bits() -> impl Strategy<Value = Bits> {
    prop_oneof![
        Just(Bits::NONE),
        Just(Bits::ALL),
        any::<[u64; 8]>().prop_map(Bits),
        (0usize..512).prop_map(|p| bits([p])),
        (0usize..512).prop_map(|p| bits(p..512)),
    ]
}

prop_compose! {
    fn any_sample(blocks: u64, huge: bool)(block in 0..blocks, leaf in 0..8, accessed in sparse_bits(), present in sparse_bits(),
                                           dirty in sparse_bits(), swapped in sparse_bits()) -> BlockSample {
        let leaf = match leaf { 0 if huge => Leaf::Pmd, 1 if huge => Leaf::Pud, _ => Leaf::Base };
        BlockSample { block: BlockId(block), leaf, accessed, present, dirty, swapped, node: NodeId(0), mixed: None }
    }
}

#[derive(Clone, Debug)]
enum Deed {
    Chunk { pid: u32, scan: u64, from: u64, to: u64, blocks: Vec<BlockSample>, last: bool },
    Arm { pid: u32, block: u64, from: u64, to: u64 },
    Count { pid: u32, scans: u32 },
    Exit { pid: u32 },
    Fault { pid: u32, addr: u64 },
    Region { pid: u32, page: u64, pages: u64, accesses: u32 },
    Tick { ms: u64 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let pid = 1u32..4;
    prop_oneof![
        8 => (pid.clone(), 0u64..4, 0u64..40, 0u64..40, prop::collection::vec(any_sample(40, true), 0..6), any::<bool>())
            .prop_map(|(pid, scan, from, to, blocks, last)| Deed::Chunk { pid, scan, from, to, blocks, last }),
        4 => (pid.clone(), 0u64..40, 0u64..600, 0u64..600).prop_map(|(pid, block, from, to)| Deed::Arm { pid, block, from, to }),
        1 => (pid.clone(), 0u32..4).prop_map(|(pid, scans)| Deed::Count { pid, scans }),
        1 => pid.clone().prop_map(|pid| Deed::Exit { pid }),
        1 => (pid.clone(), any::<u64>()).prop_map(|(pid, addr)| Deed::Fault { pid, addr }),
        3 => region(pid),
        1 => prop_oneof![Just(100u64), Just(15_000), Just(60_000)].prop_map(|ms| Deed::Tick { ms }),
    ]
}

fn region(pid: std::ops::Range<u32>) -> impl Strategy<Value = Deed> {
    let pages = prop_oneof![Just(1u64), 0u64..700];
    (pid, 0u64..40 * 512, pages, 0u32..22).prop_map(|(pid, page, pages, accesses)| Deed::Region { pid, page, pages, accesses })
}

impl Rig {
    fn deed(&mut self, at: Time, deed: &Deed) {
        let key = |pid| ProcKey { pid, start: 1 };
        match deed.clone() {
            Deed::Chunk { pid, scan, from, to, mut blocks, last } => {
                if from % 5 != 0 {
                    blocks.sort_by_key(|b| b.block);
                }
                let range = AddrRange { start: from * BLOCK_BYTES, end: to * BLOCK_BYTES + from * PAGE_BYTES };
                self.event(at, Event::Sample(Sample::Pages(PageChunk { proc: key(pid), scan, range, blocks, last })));
            }
            Deed::Arm { pid, block, from, to } => {
                self.heat.armed(at, key(pid), &[range(block, from, to), range(block + 1, from, to)], &[]);
            }
            Deed::Count { pid, scans } => self.heat.expect_counts(key(pid), scans),
            Deed::Exit { pid } => self.event(at, Event::Kernel(KernelEvent::Exit { proc: key(pid) })),
            Deed::Fault { pid, addr } => {
                let fault = KernelEvent::Fault {
                    proc: key(pid),
                    tid: 0,
                    addr: addr % (40 * BLOCK_BYTES),
                    kind: FaultKind::Major,
                    period: 3,
                };
                self.event(at, Event::Kernel(fault));
            }
            Deed::Region { pid, page, pages, accesses } => {
                let range = AddrRange { start: page * PAGE_BYTES, end: (page + pages) * PAGE_BYTES };
                let region = KernelEvent::Region { proc: key(pid), range, accesses, samples: 20 };
                self.event(at, Event::Kernel(region));
            }
            Deed::Tick { ms } => self.config.heat.age_tick_ms = ms,
        }
    }

    fn check(&self, now: Time) {
        let heat = &self.heat;
        assert_eq!(heat.bytes, heat.procs.values().map(ProcHeat::bytes).sum::<u64>());
        assert_eq!(heat.tracked, heat.procs.values().map(ProcHeat::tracked).sum::<u64>());
        assert!(heat.bytes <= heat.cap());
        for (_, proc) in heat.procs() {
            proc.check();
            let h = proc.idle_histogram(now);
            let all = proc.cold(now, Span::ZERO, Pages(u64::MAX), &[AddrRange::EVERYTHING]).pages;
            assert!(h.idle.is_sorted_by(|a, b| a >= b));
            let old = h.resident.0 - h.young.0 - h.unknown.0;
            assert!(h.idle[0].0 <= old && all.bytes().0 <= old);
            assert!(proc.confidence() <= Permil(1000));
            for most in [0, 1, 700] {
                let cold = proc.cold(now, Span::from_secs(30), Pages(most), &[AddrRange::EVERYTHING]);
                assert!(cold.pages.0 <= most && cold.ranges.iter().map(AddrRange::pages).sum::<Pages>() == cold.pages);
                assert!(cold.ranges.is_sorted_by(|a, b| a.end < b.start));
                assert!(cold.pages == Pages(0) || cold.youngest >= Span::from_secs(30));
            }
            assert!(proc.working_set(now) <= proc.resident());
            assert!(proc.counted_below(2, Pages(100), &[AddrRange::EVERYTHING]).pages <= Pages(100));
            let row = proc.heat_row(AddrRange { start: 0, end: 40 * BLOCK_BYTES }, 17);
            assert_eq!(row.iter().map(|c| c.resident).sum::<Pages>(), Pages(proc.tracked()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn folding_is_total_and_sums_hold(deeds in prop::collection::vec((0u64..100, deed()), 1..60)) {
        let (mut rig, mut at) = (Rig::default(), 1000);
        for (pause, deed) in &deeds {
            at += pause;
            rig.deed(secs(at), deed);
            rig.check(secs(at));
        }
    }

    #[test]
    fn no_region_makes_a_page_older(deeds in prop::collection::vec((0u64..100, deed()), 1..40), region in region(1..4)) {
        let (mut rig, mut at) = (Rig::default(), 1000);
        for (pause, deed) in &deeds {
            at += pause;
            rig.deed(secs(at), deed);
        }
        let cold = |rig: &Rig, idle: u64| -> Vec<(ProcKey, u64)> {
            let of = |heat: &ProcHeat| heat.cold(secs(at), Span::from_secs(idle), Pages(u64::MAX), &[AddrRange::EVERYTHING]).ranges;
            let pages = |r: AddrRange| (r.start..r.end).step_by(PAGE_BYTES as usize);
            rig.heat.procs().flat_map(|(key, heat)| of(heat).into_iter().flat_map(pages).map(move |addr| (key, addr))).collect()
        };
        // Another tick counts ages anew at the next event, whatever it is.
        rig.deed(secs(at), &Deed::Region { pid: 1, page: 0, pages: 0, accesses: 0 });
        let before = [0, 30, 300].map(|idle| cold(&rig, idle));
        rig.deed(secs(at), &region);
        for (before, idle) in before.iter().zip([0, 30, 300]) {
            prop_assert!(cold(&rig, idle).iter().all(|page| before.binary_search(page).is_ok()));
        }
    }

    #[test]
    fn a_checkpoint_anywhere_changes_nothing(deeds in prop::collection::vec((0u64..100, deed()), 1..40), cut in any::<prop::sample::Index>()) {
        let (mut rig, mut at) = (Rig::default(), 1000);
        let mut restored: Option<Rig> = None;
        for (place, (pause, deed)) in deeds.iter().enumerate() {
            at += pause;
            if place == cut.index(deeds.len()) {
                let bytes = minicbor_serde::to_vec(&rig.heat).unwrap();
                let heat: Heat = minicbor_serde::from_slice(&bytes).unwrap();
                prop_assert_eq!(&heat, &rig.heat);
                restored = Some(Rig { heat, config: rig.config.clone(), sched: Sched::default(), seq: rig.seq });
            }
            rig.deed(secs(at), deed);
            if let Some(other) = &mut restored {
                other.deed(secs(at), deed);
            }
        }
        prop_assert_eq!(restored.unwrap().heat, rig.heat);
    }

    #[test]
    fn chunks_of_any_size_make_the_same_model(walks in prop::collection::vec(prop::collection::vec(any_sample(60, true), 0..20), 1..6),
                                              sizes in prop::collection::vec(1u64..60, 1..6)) {
        let (mut whole, mut parts) = (Rig::default(), Rig::default());
        for (place, mut blocks) in walks.into_iter().enumerate() {
            blocks.sort_by_key(|b| b.block);
            blocks.dedup_by_key(|b| b.block);
            let at = secs(100 * place as u64);
            let send = |rig: &mut Rig, from: u64, to: u64, last| {
                let blocks = blocks.iter().filter(|b| (from..to).contains(&b.block.0)).cloned().collect();
                let range = AddrRange { start: from * BLOCK_BYTES, end: to * BLOCK_BYTES };
                let chunk = PageChunk { proc: PROC, scan: place as u64, range, blocks, last };
                rig.event(at, Event::Sample(Sample::Pages(chunk)));
            };
            send(&mut whole, 0, 60, true);
            let (mut from, size) = (0, sizes[place % sizes.len()]);
            while from < 60 {
                send(&mut parts, from, (from + size).min(60), from + size >= 60);
                from += size;
            }
            for rig in [&mut whole, &mut parts] {
                rig.heat.armed(at, PROC, &[AddrRange { start: 20 * BLOCK_BYTES, end: 40 * BLOCK_BYTES }], &[]);
            }
            prop_assert_eq!(&whole.heat, &parts.heat);
        }
    }

    #[test]
    fn the_clever_model_and_the_slow_one_agree(steps in prop::collection::vec((0u64..5, prop::collection::vec(any_sample(3, false), 1..4), prop::option::of(0u64..3)), 1..11)) {
        let (mut rig, mut oracle, mut tick, first) = (Rig::default(), Oracle::default(), 0, steps[0].0);
        rig.config.arm.longest_walks = u64::from(LONGEST);
        for (pause, mut blocks, arm) in steps {
            blocks.sort_by_key(|b| b.block);
            blocks.dedup_by_key(|b| b.block);
            blocks.retain(|b| !b.present.is_empty() || !b.swapped.is_empty());
            tick += pause;
            rig.walk(tick * TICK, blocks.clone());
            oracle.walk(tick, &blocks);
            if let Some(block) = arm {
                rig.arm(tick * TICK, block);
                oracle.arm(tick, block);
            }
            let count = |f: &dyn Fn(&Page) -> bool| oracle.pages.values().filter(|p| f(p)).count() as u64;
            let (idle, young, unknown, swapped) = rig.pages(tick * TICK);
            prop_assert_eq!(young, count(&|p| *p == Page::Young { proven: true }));
            prop_assert_eq!(unknown, count(&|p| *p == Page::Young { proven: false }));
            prop_assert_eq!(swapped, count(&|p| matches!(p, Page::Old { swapped: true, .. })));
            let ripe = |from: u64, edge: u64| (tick - from) * TICK >= edge;
            for (seen, edge) in idle.into_iter().zip([30, 60, 120, 300, 900, 3600]) {
                prop_assert_eq!(seen, count(&|p| matches!(p, Page::Old { from, swapped: false } if ripe(*from, edge))), "edge {}", edge);
            }
            let cold = rig.proc().cold(secs(tick * TICK), Span::from_secs(45), Pages(u64::MAX), &[AddrRange::EVERYTHING]);
            let taken: Vec<(u64, usize)> = cold.ranges.iter()
                .flat_map(|r| (r.start..r.end).step_by(PAGE_BYTES as usize))
                .map(|addr| (addr / BLOCK_BYTES, (addr % BLOCK_BYTES / PAGE_BYTES) as usize))
                .collect();
            let expected: Vec<(u64, usize)> = oracle.pages.iter()
                .filter(|(_, p)| matches!(p, Page::Old { from, swapped: false } if ripe(*from, 45)))
                .map(|(k, _)| *k).collect();
            prop_assert_eq!(taken, expected);
            let promoted = oracle.promotions.iter().filter(|idle| **idle >= 3).count() as u64;
            let told = rig.proc().promotions_per_min(secs(tick * TICK), Span::from_secs(45));
            prop_assert_eq!(told, crate::model::series::per_min(promoted, Span::from_secs(((tick - first) * TICK).max(60))));
        }
    }
}
