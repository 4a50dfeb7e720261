//! What holds of every decision, whatever a server says.

use super::plain::RECLAIM_PAGES;
use super::{ClassStats, Mode, Move, Mover, Pass, Sample, Script, Settings};
use crate::vocab::{ClassId, Place, Reply, ServerLife};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const PER_PAGE: u64 = 100;

fn told() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 9 => (0..3000u64).prop_map(Some), 1 => any::<u64>().prop_map(Some)]
}

prop_compose! {
    fn stats()(chunk_size in told(), chunks_per_page in told(), total_pages in told(), used_chunks in told(), free_chunks in told(),
               number in told(), age in told(), evicted in told()) -> ClassStats {
        ClassStats { chunk_size, chunks_per_page, total_pages, used_chunks, free_chunks, number, age, evicted }
    }
}

prop_compose! {
    /// Anything that a server, or what takes its place, can say.
    fn any_look()(pid in 1..3u32, pool in told(), evictions in told(), classes in vec((0..40u8, stats()), 0..8)) -> Sample {
        let classes: BTreeMap<ClassId, ClassStats> = classes.into_iter().map(|(id, stats)| (ClassId(id), stats)).collect();
        let life = Some(ServerLife { pid, since: 1000 });
        Sample { life, pool, evictions, classes: classes.into_iter().collect() }
    }
}

fn script() -> impl Strategy<Value = Script> {
    prop_oneof![Just(Script::Plain), (0.0..0.2f64, 0..2000u64).prop_map(|(free, size)| Script::Extstore { free, size }),]
}

fn reply() -> impl Strategy<Value = Reply> {
    prop::sample::select(vec![Reply::Ok, Reply::Ok, Reply::Busy, Reply::NoSpare, Reply::BadClass, Reply::ClientError])
}

/// A server on which the repairs have nothing to repair: every class has items and keeps its age, and a target is no surprise.
fn quiet_looks() -> impl Strategy<Value = Vec<Sample>> {
    let class = (100..10_000u64, 2..20u64, 100..3000u64);
    // Seldom pages that could be taken away.
    let free = prop_oneof![40 => 0..=250u64, 1 => 251..400u64];
    (vec(class, 1..6), vec((0..300u64, vec((0..3u64, free), 6)), 4..20)).prop_map(|(classes, looks)| {
        let mut evicted = [7; 6];
        let sample = |(pool, moves): (u64, Vec<(u64, u64)>)| {
            let of = |(n, &(chunk_size, pages, age)): (usize, &(u64, u64, u64))| {
                evicted[n] += moves[n].0.saturating_sub(1);
                let (per_page, free) = (PER_PAGE, moves[n].1);
                let stats = ClassStats {
                    chunk_size: Some(chunk_size),
                    chunks_per_page: Some(per_page),
                    total_pages: Some(pages),
                    used_chunks: Some(pages * per_page),
                    free_chunks: Some(free),
                    number: Some(1),
                    age: Some(age),
                    evicted: Some(evicted[n]),
                };
                (ClassId(n as u8 + 1), stats)
            };
            let classes: Vec<_> = classes.iter().enumerate().map(of).collect();
            // Never more than enough, for then it is the last class that counts.
            Sample { life: None, pool: Some(pool.min(4)), evictions: Some(1), classes }
        };
        looks.into_iter().map(sample).collect()
    })
}

proptest! {
    #[test]
    fn whatever_a_server_says_a_decision_is_sound(
        looks in vec((any_look(), reply()), 1..20), script in script(), window in 1..6usize, ratio in 0.0..1.5f64,
    ) {
        let mut mover = Mover::new(Settings { mode: Mode::Repaired, script, window, ratio });
        for (at, (sample, reply)) in (0..).zip(looks) {
            let known: BTreeMap<ClassId, ClassStats> = sample.classes.iter().copied().collect();
            let Pass { decision, held, looks, .. } = mover.look(sample, Duration::from_secs(at)).expect("it never falls over");
            prop_assert!(looks <= window.max(2));
            let Some(due @ Move { from, to }) = decision else { continue };
            prop_assert_ne!(from, to);
            for place in [from, to] {
                // A class that there is, and not the pool under another name.
                prop_assert!(matches!(place, Place::Pool) || matches!(place, Place::Class(class) if class.0 > 0 && known.contains_key(&class)));
            }
            if let (Place::Class(class), Place::Class(_)) = (from, to) {
                prop_assert!(known[&class].total_pages > Some(2));
            }
            if held.is_none() {
                mover.heard(due, reply);
            }
        }
    }

    #[test]
    fn the_original_never_panics(looks in vec(any_look(), 1..20), script in script(), window in 1..6usize, ratio in 0.0..1.5f64) {
        let mut mover = Mover::new(Settings { mode: Mode::Compat2017, script, window, ratio });
        for (at, sample) in (0..).zip(looks) {
            let _ = mover.look(sample, Duration::from_secs(at));
        }
    }

    /// Until a page goes to the pool, after which the original counts changes twice.
    #[test]
    fn where_nothing_is_to_be_repaired_both_decide_alike(looks in quiet_looks(), window in 2..6usize, ratio in 0.1..1.0f64, plain: bool) {
        // Pages of the pool that the original's share comes to as well.
        let pages: u64 = looks[0].classes.iter().filter_map(|(_, stats)| stats.total_pages).sum();
        let script = if plain { Script::Plain } else { Script::Extstore { free: 4.5 / pages as f64, size: 512 } };
        let mover = |mode| Mover::new(Settings { mode, script, window, ratio });
        let (mut repaired, mut compat) = (mover(Mode::Repaired), mover(Mode::Compat2017));
        for (at, sample) in (1..).zip(looks) {
            let at = Duration::from_secs(at);
            let pages_free = |free: u64| free as f64 / PER_PAGE as f64;
            let some_free = |stats: &ClassStats| stats.free_chunks.is_some_and(|free| pages_free(free) > RECLAIM_PAGES);
            let has_free = sample.classes.iter().any(|(_, stats)| some_free(stats));
            let ours = repaired.look(sample.clone(), at).expect("it never falls over").decision;
            let theirs = compat.look(sample, at).expect("every class has a target");
            prop_assert_eq!(ours, theirs.decision);
            // The sister looks at no class after one that has free pages, and counts the age of those as nought in this look.
            if plain && has_free || matches!(theirs.decision, Some(Move { to: Place::Pool, .. })) {
                break;
            }
        }
    }
}
