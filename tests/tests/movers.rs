//! memcached's automover scripts: what the originals decide, look for look, and where ours decide otherwise and why.

use memtier::compat::slab::{Mode, Move, Mover, Pass, Pause, Raised, Rule, Sample, Script, Settings};
use memtier::vocab::{ClassId, Place, Reply, ServerLife};
use memtier_tests::slab::{Sequence, class, sequence, server};
use std::time::Duration;

const EXTSTORE: Script = Script::Extstore { free: 0.005, size: 512 };
const SETTINGS: Settings = Settings { mode: Mode::Repaired, script: EXTSTORE, window: 3, ratio: 0.8 };
const COMPAT: Settings = Settings { mode: Mode::Compat2017, ..SETTINGS };

/// As in the fixture.
fn shown(decided: &[String]) -> String {
    let runs = decided.chunk_by(|a, b| a == b).map(|run| match run {
        [one] => one.clone(),
        run => format!("{}*{}", run[0], run.len()),
    });
    runs.collect::<Vec<_>>().join(" ")
}

fn decisions(script: &str, number: u64) -> String {
    let Sequence { window, ratio, free, looks } = sequence(number);
    let script = if script == "plain" { Script::Plain } else { Script::Extstore { free, size: 512 } };
    let mut mover = Mover::new(Settings { mode: Mode::Compat2017, script, window, ratio });
    let (mut decided, mut printed) = (Vec::new(), crc32fast::Hasher::new());
    for (at, sample) in looks {
        match mover.look(sample, at) {
            Ok(Pass { decision, lines, .. }) => {
                lines.iter().for_each(|line| printed.update(format!("{line}\n").as_bytes()));
                decided.push(decision.map_or("-".to_owned(), |Move { from, to }| format!("{from}>{to}")));
            }
            Err(_) => decided.push("!".to_owned()),
        }
    }
    format!("{:08x} {}", printed.finalize(), shown(&decided))
}

#[test]
fn the_originals_decisions_and_lines() {
    let path = memtier_tests::root().join("tests/fixtures/slab/decisions-2017.txt");
    let text = std::fs::read_to_string(path).expect("the fixture");
    let mut count = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let (script, number, expected) = (words.next().expect("a script"), words.next().expect("a number"), words.next());
        let decided = decisions(script, number.parse().expect("a number"));
        assert_eq!(Some(decided.as_str()), expected, "{script} {number}");
        count += 1;
    }
    assert_eq!(count, 400);
}

fn place(id: u8) -> Place {
    if id == 0 { Place::Pool } else { Place::Class(ClassId(id)) }
}
fn moves(from: u8, to: u8) -> Option<Move> {
    Some(Move { from: place(from), to: place(to) })
}

/// One look a second.
fn looks(settings: Settings, samples: impl IntoIterator<Item = Sample>) -> Vec<Result<Pass, Raised>> {
    let mut mover = Mover::new(settings);
    (1..).zip(samples).map(|(at, sample)| mover.look(sample, Duration::from_secs(at))).collect()
}
fn decided(settings: Settings, samples: impl IntoIterator<Item = Sample>) -> Vec<Option<Move>> {
    looks(settings, samples).into_iter().map(|pass| pass.unwrap_or_else(|raised| panic!("{raised}")).decision).collect()
}
fn last(settings: Settings, samples: impl IntoIterator<Item = Sample>) -> Pass {
    looks(settings, samples).pop().expect("a look").expect("a decision")
}
/// Both modes on the same.
fn differ(samples: &[Sample], compat: Option<Move>, repaired: Option<Move>) {
    assert_eq!(last(COMPAT, samples.to_vec()).decision, compat, "the original");
    assert_eq!(last(SETTINGS, samples.to_vec()).decision, repaired, "repaired");
}

/// A small class of 4000 pages at the head, so that the pool shall have 20 pages.
fn large(pool: u64, classes: &[(u8, u64, u64, u64, u64)]) -> Sample {
    server(pool, &[&[(1, 96, 50, 0, 4000)], classes].concat())
}

const APART: [(u8, u64, u64, u64, u64); 2] = [(20, 1024, 100, 0, 10), (25, 4096, 500, 0, 10)];

#[test]
fn what_is_decided_is_carried_out() {
    // From the pool: the original asks for a source above nought.
    let due = last(SETTINGS, vec![large(15, &APART); 4]).decision.expect("a page for the younger");
    assert_eq!(Some(due), moves(0, 20));
    assert!(Mover::new(SETTINGS).executes(due) && !Mover::new(COMPAT).executes(due));
    let from_class = Move { from: place(20), to: Place::Pool };
    let plain = Settings { script: Script::Plain, ..COMPAT };
    assert!(Mover::new(COMPAT).executes(from_class) && Mover::new(plain).executes(due));
}

#[test]
fn a_full_pool_feeds_the_youngest_whatever_class_was_looked_at_last() {
    let [young, old] = APART;
    let free = (old.0, old.1, old.2, 200, old.4);
    differ(&[(); 4].map(|()| large(30, &[young, free])), None, moves(0, 20));
    // And the other way round: the youngest has enough.
    let fed = (young.0, young.1, young.2, 200, young.4);
    let samples = [(); 2].map(|()| large(30, &[fed, old]));
    differ(&samples, moves(0, 20), None);
    assert_eq!(last(SETTINGS, samples).rule, Rule::HasFree);
}

#[test]
fn until_memory_was_full_nothing_is_decided_and_nothing_breaks() {
    let empty = Sample { evictions: Some(0), ..large(0, &APART) };
    assert_eq!(looks(COMPAT, vec![empty.clone(); 2]), [Err(Raised::Undecided), Err(Raised::Undecided)]);
    let pass = last(SETTINGS, vec![empty; 9]);
    assert_eq!((pass.decision, pass.rule, pass.looks), (None, Rule::NeverFull, 1));
    // Counters that are reset do not empty the memory.
    let reset = Sample { evictions: Some(0), ..large(0, &APART) };
    let samples = [large(0, &APART), large(0, &APART), large(0, &APART), reset];
    assert_eq!(last(SETTINGS, samples).decision, moves(25, 0));
}

#[test]
fn a_class_that_is_new_gets_a_target_at_once() {
    let before = large(15, &APART);
    let after = large(15, &[APART[0], APART[1], (30, 8192, 300, 0, 3)]);
    let samples = [before.clone(), before, after.clone(), after];
    let compat = looks(COMPAT, samples.clone());
    assert_eq!(compat.last(), Some(&Err(Raised::Missing("30".into()))));
    let repaired = looks(SETTINGS, samples);
    let told: Vec<_> = repaired.iter().map(|pass| pass.as_ref().expect("no exception").targets.len()).collect();
    // All at the first that can be compared, and then what is news.
    assert_eq!(told, [0, 3, 0, 1]);
    assert_eq!(repaired[3].as_ref().expect("no exception").targets, [(ClassId(30), 150)]);
}

#[test]
fn targets_are_looked_at_once_a_minute() {
    let told = |settings, pages: fn(u64) -> u64| {
        let mut mover = Mover::new(settings);
        let look = |at| (at, server(15, &[(1, 96, 50, 0, pages(at)), (20, 1024, 100, 0, 10)]));
        [0, 1, 30, 61, 62, 122]
            .map(look)
            .map(|(at, sample)| mover.look(sample, Duration::from_secs(at)).expect("sound").targets.len())
    };
    assert_eq!(told(COMPAT, |_| 4000), [0, 2, 0, 0, 2, 0]);
    // The server is told what changed.
    assert_eq!(told(SETTINGS, |_| 4000), [0, 2, 0, 0, 0, 0]);
    assert_eq!(told(SETTINGS, |at| 4000 + 100 * at), [0, 2, 0, 0, 1, 0]);
}

#[test]
fn a_page_to_the_pool_does_not_hasten_a_dry_run() {
    let samples = vec![large(1, &APART); 4];
    for (settings, pause) in [(SETTINGS, Pause::Sleep), (COMPAT, Pause::Soon(Duration::from_millis(10)))] {
        let mut mover = Mover::new(settings);
        for sample in samples.clone() {
            mover.look(sample, Duration::from_secs(1)).expect("sound");
        }
        assert_eq!(mover.pause(), pause, "{:?}", settings.mode);
    }
    // It was moved: there may be more, and soon.
    let mut mover = Mover::new(SETTINGS);
    samples.iter().for_each(|sample| drop(mover.look(sample.clone(), Duration::from_secs(1))));
    mover.heard(moves(25, 0).expect("a move"), Reply::Ok);
    assert_eq!(mover.pause(), Pause::Soon(Duration::from_millis(50)));
    // It was not.
    mover.heard(moves(25, 0).expect("a move"), Reply::Busy);
    assert_eq!(mover.pause(), Pause::Sleep);
}

#[test]
fn looks_at_once_do_not_shorten_the_memory() {
    // The class evicted three looks ago; of the looks since, all but one followed at once on a page.
    let evicts = |evicted| {
        let mut sample = server(15, &[(1, 96, 50, 0, 4000), (5, 96, 50, 300, 10)]);
        sample.classes[1].1.evicted = Some(evicted);
        sample
    };
    let mut mover = Mover::new(SETTINGS);
    let mut look = |evicted, moved| {
        let pass = mover.look(evicts(evicted), Duration::from_secs(1)).expect("sound");
        if moved {
            mover.heard(moves(9, 0).expect("a move"), Reply::Ok);
        }
        pass.decision
    };
    let decided = [(7, false), (8, true), (8, true), (8, true), (8, false), (8, false), (8, false), (8, false)]
        .map(|(n, moved)| look(n, moved));
    assert_eq!(decided, [None, None, None, None, None, None, None, moves(5, 0)]);
}

/// None of them is one.
#[test]
fn class_nought_is_the_pool() {
    let mut sample = large(1, &APART);
    sample.classes.insert(0, class((0, 96, 10, 900, 20)));
    let nought = Some(Move { from: Place::Class(ClassId(0)), to: Place::Pool });
    differ(&vec![sample.clone(); 4], nought, moves(25, 0));
    let plain = |mode| Settings { script: Script::Plain, mode, ..SETTINGS };
    assert_eq!(last(plain(Mode::Compat2017), vec![sample.clone(); 4]).decision, nought);
    assert_eq!(last(plain(Mode::Repaired), vec![sample; 4]).decision, None);
}

#[test]
fn replies_are_heeded() {
    for (settings, held) in [(SETTINGS, [true, false, true]), (COMPAT, [false, false, false])] {
        let mut mover = Mover::new(settings);
        let mut look = || {
            let pass = mover.look(large(1, &APART), Duration::from_secs(1)).expect("sound");
            if let (Some(due), None) = (pass.decision, pass.held) {
                mover.heard(due, Reply::Busy);
            }
            pass.held.is_some()
        };
        // The second one is the first to decide.
        assert_eq!([look(), look()], [false, false]);
        assert_eq!([look(), look(), look()], held, "{:?}", settings.mode);
    }
}

#[test]
fn the_memory_outlives_a_connection_but_not_the_server() {
    let sample = large(1, &APART);
    for (settings, after) in [(SETTINGS, moves(25, 0)), (COMPAT, None)] {
        let mut mover = Mover::new(settings);
        (1..=4).for_each(|at| drop(mover.look(sample.clone(), Duration::from_secs(at))));
        mover.disconnected();
        assert_eq!(mover.look(sample.clone(), Duration::from_secs(5)).expect("sound").decision, after, "{:?}", settings.mode);
    }
    let mut mover = Mover::new(SETTINGS);
    (1..=4).for_each(|at| drop(mover.look(sample.clone(), Duration::from_secs(at))));
    let anew = Sample { life: Some(ServerLife { pid: 1, since: 2000 }), ..sample };
    let pass = mover.look(anew, Duration::from_secs(5)).expect("sound");
    assert_eq!((pass.decision, pass.looks), (None, 2));
}

/// With (N, 0) decided the original keeps the old look, so that an eviction of long ago makes a class dirty for ever.
#[test]
fn changes_count_once() {
    let with = |evicted: u64, free: u64| {
        let mut sample = server(15, &[(1, 96, 50, 0, 4000), (5, 96, 50, 300, 10), (6, 96, 50, free, 10)]);
        sample.classes[2].1.evicted = Some(evicted);
        sample
    };
    // While class 5 gives a page a look, class 6 evicts once, and has free pages later, when class 5 has none any more.
    let mut samples = vec![with(7, 0); 5];
    samples.extend(vec![with(8, 0); 4]);
    let none = |mut sample: Sample| {
        sample.classes[1].1.free_chunks = Some(0);
        sample
    };
    samples.push(none(with(8, 300)));
    differ(&samples, None, moves(6, 0));
}

#[test]
fn ages_are_of_the_looks_that_saw_the_class() {
    // Class 30 is as old as the others, but new.
    let samples = |window: usize| {
        let old = [(20, 1024, 500, 0, 10), (25, 4096, 500, 0, 10)];
        let mut samples = vec![large(15, &old); window + 1];
        samples.extend(vec![large(15, &[old[0], old[1], (30, 8192, 500, 0, 10)]); 3]);
        samples
    };
    let of = |mode| {
        let mut mover = Mover::new(Settings { window: 8, mode, ..SETTINGS });
        let mut last = None;
        for (at, sample) in (1..).zip(samples(8)) {
            // The original gets a target for it when it looks for that, once a minute.
            last = mover.look(sample, Duration::from_secs(at * 61)).expect("sound").decision;
        }
        last
    };
    assert_eq!((of(Mode::Compat2017), of(Mode::Repaired)), (moves(0, 30), None));
}

#[test]
fn ages_of_another_phase_do_not_count() {
    // Two classes of one age; the items of one were flushed.
    let before = large(15, &[(20, 1024, 5000, 0, 10), (25, 4096, 5000, 0, 10)]);
    let after = large(15, &[(20, 1024, 20, 0, 10), (25, 4096, 5000, 0, 10)]);
    let samples: Vec<Sample> = vec![before; 9].into_iter().chain(vec![after; 4]).collect();
    let of = |mode| last(Settings { window: 8, mode, ratio: 0.3, ..SETTINGS }, samples.clone()).decision;
    assert_eq!((of(Mode::Compat2017), of(Mode::Repaired)), (None, moves(0, 20)));
}

/// A class that lost all its items is not listed among them any more.
#[test]
fn pages_without_items_come_back() {
    let mut emptied = large(15, &[(5, 96, 50, 1000, 10)]);
    let (_, stats) = &mut emptied.classes[1];
    (stats.number, stats.age, stats.evicted) = (None, None, None);
    differ(&vec![emptied.clone(); 6], None, moves(5, 0));
    let plain = |mode| last(Settings { script: Script::Plain, mode, ..SETTINGS }, vec![emptied.clone(); 6]).decision;
    assert_eq!((plain(Mode::Compat2017), plain(Mode::Repaired)), (None, moves(5, 0)));
}

/// On less than 200 pages the original's pool may be empty, and what it feeds from is empty.
#[test]
fn a_small_server_has_a_pool_to_feed_from() {
    let samples = vec![server(0, &APART); 4];
    differ(&samples, moves(0, 20), moves(25, 0));
    assert_eq!(last(SETTINGS, samples).pool_target, 4);
    differ(&vec![server(3, &APART); 4], moves(0, 20), moves(0, 20));
}

#[test]
fn the_sister() {
    let plain = |mode| Settings { script: Script::Plain, mode, ratio: 0.8, ..SETTINGS };
    // The younger class evicts at every look.
    let evicting = |count: u64| {
        (0..count).map(|n| {
            let mut sample = server(0, &APART);
            sample.classes[0].1.evicted = Some(7 + n);
            sample
        })
    };
    for mode in [Mode::Repaired, Mode::Compat2017] {
        assert_eq!(decided(plain(mode), evicting(4)), [None, moves(25, 20), moves(25, 20), moves(25, 20)], "{mode:?}");
        // Who does not evict gets nothing.
        assert_eq!(last(plain(mode), vec![server(0, &APART); 6]).decision, None);
        // Free pages first, and no more looks after that.
        let free = server(0, &[(5, 96, 3, 251, 10), (6, 96, 3, 300, 10)]);
        assert_eq!(last(plain(mode), vec![free; 4]).decision, moves(5, 0));
        let few = server(0, &[(5, 96, 3, 250, 10)]);
        assert_eq!(last(plain(mode), vec![few; 4]).decision, None);
    }
    // From a class to itself: no server does that.
    let one = |n: u64| {
        let mut sample = server(0, &APART[..1]);
        sample.classes[0].1.evicted = Some(7 + n);
        sample
    };
    let more = |mode| last(Settings { ratio: 1.2, ..plain(mode) }, (0..4).map(one)).decision;
    assert_eq!((more(Mode::Compat2017), more(Mode::Repaired)), (moves(20, 20), None));
    // A counter that was reset makes the sum of the changes nought.
    let reset = |n: u64| {
        let mut sample = server(0, &APART);
        (sample.classes[0].1.evicted, sample.classes[1].1.evicted) = (Some(7 + n), Some(107 - n));
        sample
    };
    assert_eq!(looks(plain(Mode::Compat2017), (0..2).map(reset)).pop(), Some(Err(Raised::Division)));
    assert_eq!(last(plain(Mode::Repaired), (0..4).map(reset)).decision, moves(25, 20));
}
