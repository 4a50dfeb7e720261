//! When blocks are asked, and what their answers do.

use super::tests::{PROC, Rig, base, bits, range, secs};
use super::*;
use crate::vocab::{Bits, BlockId, BlockSample, Permil};

/// Asks what can be asked of a block, as the policy does it, and clears it but for what is `stuck`. Pages that were asked.
fn ask_but(rig: &mut Rig, at: u64, due: &DueBlock, eligible: &Bits, stuck: &Bits) -> u64 {
    let Some(part) = due.parts().map(|part| part.and(eligible)).find(|part| !part.is_empty()) else { return 0 };
    let ranges = |pages: Bits| pages.iter().map(|page| range(due.block.0, page as u64, page as u64 + 1)).collect::<Vec<_>>();
    rig.heat.armed(secs(at), PROC, &ranges(part), &ranges(part.and(stuck)));
    u64::from(part.count())
}

fn ask(rig: &mut Rig, at: u64, due: &DueBlock) -> u64 {
    ask_but(rig, at, due, &Bits::ALL, &Bits::NONE)
}

/// Blocks 8..8+n, of which each has the pages of `hot(block)` in use all the time. Every round all that is due is asked.
/// Pages asked in each round.
fn rounds(rig: &mut Rig, from: u64, rounds: u64, blocks: u64, hot: impl Fn(u64) -> Bits) -> Vec<u64> {
    let mut asked = Vec::new();
    for round in from..from + rounds {
        let young = |id: u64| rig.heat.get(PROC).map_or(Bits::ALL, |heat| heat.blocks_for_test(id).young).or(&hot(id));
        let walk: Vec<BlockSample> = (8..8 + blocks).map(|id| base(id, young(id), Bits::ALL)).collect();
        rig.walk(10 * round, walk);
        let due = rig.proc().due();
        asked.push(due.iter().map(|due| ask(rig, 10 * round, due)).sum());
        rig.proc().check();
    }
    asked
}

#[test]
fn a_block_that_answers_as_expected_is_asked_ever_more_rarely() {
    let mut rig = Rig::default();
    let asked = rounds(&mut rig, 0, 100, 32, |_| bits(0..100));
    assert_eq!(asked[..4], [32 * 512, 0, 32 * 100, 0]);
    // Once in 16 rounds each, and no longer together. All their pages lie in one quarter: it is always that one's turn.
    let late = &asked[60..];
    let (sum, most) = (late.iter().sum::<u64>(), *late.iter().max().unwrap());
    assert!((40 * 100..40 * 300).contains(&sum) && most <= 800, "{late:?}");
    assert!(rig.proc().changes() == 0 && rig.proc().retouched() > Some(Permil(990)), "{:?}", rig.proc().retouched());
}

#[test]
fn a_settled_block_is_asked_a_quarter_at_a_time_and_nothing_is_forgotten() {
    let mut rig = Rig::default();
    let hot = |_| bits((0..512).step_by(2));
    rounds(&mut rig, 0, 60, 1, hot);
    let (mut quarters, mut at) = (Vec::new(), 60);
    while quarters.len() < 5 {
        assert!(at < 180, "{quarters:?}");
        rounds(&mut rig, at, 1, 1, hot);
        let block = rig.proc().blocks_for_test(8);
        if block.open {
            let pages: Vec<usize> = block.past.asked.iter().collect();
            assert!(pages.len() == 64 && pages[63] - pages[0] == 126 && pages[0].is_multiple_of(128), "{pages:?}");
            quarters.push(pages[0] / 128);
        }
        // What was left out stays known to be in use, and each answer teaches one hit in one round.
        assert_eq!(rig.proc().confidence(), Permil(1000));
        let rates: Vec<u64> = (0..512).map(|page| rig.proc().rate_permil(BlockId(8), page).unwrap().0).collect();
        assert!(rates.iter().enumerate().all(|(page, rate)| if page % 2 == 0 { *rate > 900 } else { *rate < 20 }), "{rates:?}");
        at += 1;
    }
    let first = quarters[0];
    assert_eq!(quarters, [0, 1, 2, 3, 4].map(|turn| (first + turn) % 4));
    // One page that cools among others is found when its quarter was asked.
    rounds(&mut rig, at, 80, 1, |_| bits((2..512).step_by(2)));
    assert!(!rig.proc().blocks_for_test(8).young.get(0));
}

/// One block, in use until round 60 and idle from then on, of which some pages cannot be asked: how many of the others are
/// still held for used in the end.
fn forgotten(cannot: &Bits, eligible: &Bits, stuck: &Bits) -> u32 {
    let mut rig = Rig::default();
    for round in 0..200 {
        let young = rig.heat.get(PROC).map_or(Bits::ALL, |heat| heat.blocks_for_test(8).young);
        let in_use = if round < 60 { Bits::ALL } else { *cannot };
        rig.walk(10 * round, vec![base(8, young.or(&in_use), Bits::ALL)]);
        for due in rig.proc().due() {
            ask_but(&mut rig, 10 * round, &due, eligible, stuck);
        }
        rig.proc().check();
    }
    rig.proc().blocks_for_test(8).young.and_not(cannot).count()
}

#[test]
fn pages_that_cannot_be_asked_keep_no_quarter_from_its_turn() {
    let (part, rest) = (bits(0..128), bits(128..512));
    assert_eq!(forgotten(&part, &rest, &Bits::NONE), 0, "a quarter that no hand may touch");
    assert_eq!(forgotten(&rest, &part, &Bits::NONE), 0, "three of them");
    assert_eq!(forgotten(&part, &Bits::ALL, &part), 0, "a quarter whose bits do not clear");
    assert_eq!(forgotten(&rest, &Bits::ALL, &rest), 0, "three of them");
}

#[test]
fn quarters_of_many_blocks_are_out_of_step() {
    let mut rig = Rig::default();
    rounds(&mut rig, 0, 40, 64, |_| Bits::ALL);
    let turns = |quarter: u8| (8..72).filter(|id| rig.proc().blocks_for_test(*id).turn == quarter).count();
    assert!((0..4).all(|quarter| turns(quarter) >= 8), "{:?}", [0, 1, 2, 3].map(turns));
}

#[test]
fn a_block_that_was_all_cold_is_never_asked_again() {
    let mut rig = Rig::default();
    let asked = rounds(&mut rig, 0, 40, 16, |id| if id == 8 { Bits::ALL } else { Bits::NONE });
    assert_eq!(asked[0], 16 * 512);
    assert!(asked[1..].iter().all(|&pages| pages <= 512));
}

#[test]
fn a_hot_set_that_moves_is_told_at_once_and_the_old_one_within_four_rounds() {
    let mut rig = Rig::default();
    rounds(&mut rig, 0, 60, 64, |id| if id < 24 { Bits::ALL } else { Bits::NONE });
    let pages =
        |rig: &Rig, ids: std::ops::Range<u64>| ids.map(|id| u64::from(rig.proc().blocks_for_test(id).young.count())).sum::<u64>();
    // The new set is seen in the first walk; all blocks are due within two rounds of it, and read one round later.
    rounds(&mut rig, 60, 1, 64, |id| if id >= 56 { Bits::ALL } else { Bits::NONE });
    assert_eq!((rig.proc().changes(), rig.proc().boosted()), (1, true));
    rounds(&mut rig, 61, 3, 64, |id| if id >= 56 { Bits::ALL } else { Bits::NONE });
    assert_eq!(pages(&rig, 8..24), 0);
    assert_eq!(rig.proc().changes(), 1);
}

#[test]
fn pages_that_cannot_be_asked_hide_no_move() {
    let mut rig = Rig::default();
    // One page in use in each of 16 blocks, and 512 that read accessed for ever: a file, say.
    let round = |rig: &mut Rig, round: u64, page: usize| {
        let young = |id: u64| rig.heat.get(PROC).map_or(Bits::ALL, |heat| heat.blocks_for_test(id).young);
        let in_use = (8..24).map(|id| base(id, young(id).or(&bits([page])), Bits::ALL));
        let walk = [base(4, Bits::ALL, Bits::ALL)].into_iter().chain(in_use).collect();
        rig.walk(10 * round, walk);
        let due = rig.proc().due();
        for due in due.iter().filter(|b| b.block.0 != 4) {
            ask(rig, 10 * round, due);
        }
    };
    (0..40).for_each(|n| round(&mut rig, n, 3));
    assert_eq!(rig.proc().changes(), 0);
    round(&mut rig, 40, 300);
    assert_eq!(rig.proc().changes(), 1);
    (41..44).for_each(|n| round(&mut rig, n, 300));
    assert_eq!(rig.proc().young(), Pages(512 + 16));
}

#[test]
fn part_of_a_hot_set_that_cools_is_found_by_surprise() {
    let mut rig = Rig::default();
    rounds(&mut rig, 0, 80, 256, |_| bits(0..256));
    // A quarter of the pages of one block is left: no change point for the process, but that block is asked soon again.
    let cooled = |id| if id == 20 { bits(0..64) } else { bits(0..256) };
    rounds(&mut rig, 80, 24, 256, cooled);
    assert_eq!(rig.proc().changes(), 0);
    assert_eq!(rig.proc().blocks_for_test(20).young.or(&bits(0..64)), bits(0..64));
}

#[test]
fn growth_is_no_change_point() {
    let mut rig = Rig::default();
    let mut changes = Vec::new();
    for round in 0..60 {
        let walk: Vec<BlockSample> = (8..40 + 8 * round).map(|id| base(id, Bits::ALL, Bits::ALL)).collect();
        rig.walk(10 * round, walk);
        changes.push(rig.proc().changes());
    }
    assert_eq!(changes.last(), Some(&0));
}

#[test]
fn growth_shows_however_slow_it_is_and_so_does_its_end() {
    let mut rig = Rig::default();
    for (at, blocks, grew, known_as) in [
        (10, 200, 10, None),
        (20, 202, 10, Some(10)),
        (30, 204, 10, Some(10)),
        // More than a thirty-second since it last grew, though not since the last walk.
        (40, 207, 40, Some(10)),
        (45, 207, 40, Some(40)),
        // What went away and comes again is growth.
        (50, 100, 40, Some(40)),
        (60, 104, 60, Some(40)),
    ] {
        rig.walk(at, (8..8 + blocks).map(|id| base(id, Bits::ALL, Bits::ALL)).collect());
        let told = (rig.proc().grew_at(), rig.proc().grown_at());
        assert_eq!(told, (Some(secs(grew)), known_as.map(secs)), "{blocks} blocks at {at} s");
    }
}

#[test]
fn a_walk_of_a_starved_process_is_no_round() {
    use crate::vocab::{CpuId, CpuTime, SchedSample};
    let mut rig = Rig::default();
    let ran = |rig: &mut Rig, at: u64, runtime_ns: u64| {
        let times = vec![CpuTime { proc: PROC, cpu: CpuId(0), runtime_ns, tid: 42, switches: 1 }];
        let sample = SchedSample { period_ns: 10_000_000_000, times };
        rig.sched.fold(&Stamped { seq: at, at: secs(at), event: Event::Sample(Sample::Sched(sample)) });
    };
    for round in 1..20 {
        ran(&mut rig, 10 * round, 1_000_000_000);
        rig.walk(10 * round, vec![base(8, Bits::ALL, Bits::ALL)]);
    }
    assert_eq!(rig.proc().round(), 19);
    // An eighth of the usual time: it takes several walks until there is half of it.
    for round in 20..24 {
        ran(&mut rig, 10 * round, 125_000_000);
        rig.walk(10 * round, vec![base(8, Bits::ALL, Bits::ALL)]);
    }
    assert_eq!((rig.proc().round(), rig.proc().scans()), (20, 23));
}
