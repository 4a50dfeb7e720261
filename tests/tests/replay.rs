//! Replay of whole runs: the same decisions byte for byte, however the stream is batched and wherever it begins, and
//! what another configuration would have done.

use memtier::config::{self, Config, Target};
use memtier::plan::Governor;
use memtier::sim::{self, Faults, Pattern, ProcSpec, RegionSpec, Scenario, Turn, World};
use memtier::trace::replay::{self, Differing, OneSided, Overlay, Verified, WhatIf, WhatIfError};
use memtier::trace::{Clocks, Item, Limits, Reader, Record, TraceError, Writer};
use memtier::vocab::{Action, Bytes, Event, PolicyId, Span, Time};
use memtier_tests::scratch;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

const KEEP: Limits = Limits { segment: Bytes(1 << 40), keep: Bytes(1 << 50), keep_for: Span(u64::MAX) };

fn acting() -> Config {
    let mut config = Config::default();
    config.daemon.act = true;
    config.scan.min_resident_mib = 0;
    config.autocold.warmup_s = 60;
    config.autocold.min_idle_s = 60;
    config.target.push(Target { comm: Some("cache".into()), policy: Some(PolicyId::Autocold), ..Target::default() });
    config
}

fn scenario(minutes: u64, faults: Faults) -> Scenario {
    let hot = RegionSpec::new(2_000, Pattern::Zipf { touches: 100 });
    let cold = RegionSpec::new(8_000, Pattern::Idle);
    Scenario::new("replay", Span::from_secs(minutes * 60))
        .with(ProcSpec::new("cache", vec![hot, cold]))
        .with(ProcSpec::new("other", vec![hot, cold]))
        .faults(faults)
}

/// Runs a scenario and records it as the daemon does.
fn record(dir: &Path, seed: u64, scenario: &Scenario, config: &Config, limits: Limits) -> (u64, u64) {
    let mut world = World::new(seed, scenario, config);
    let clocks = |at: Time| Clocks { at, unix_ns: at.0 };
    let mut writer = Writer::create(dir, "sim", "b007", clocks(world.now()), limits).unwrap();
    let mut governor = Governor::new();
    let (mut events, mut decisions) = (0, 0);
    let until = world.now().after(scenario.length);
    sim::drive(&mut world, &mut governor, until, |turn, governor| match turn {
        Turn::Event(event) => {
            events += 1;
            writer.event(&event).unwrap();
        }
        Turn::Decision(decision) => {
            decisions += 1;
            writer.decision(&decision).unwrap();
            writer.flush().unwrap();
            writer.turn(governor, clocks(decision.at)).unwrap();
        }
    });
    writer.finish().unwrap();
    (events, decisions)
}

fn verify(path: &Path, rebatch: usize) -> Verified {
    replay::verify(Reader::open(path).unwrap(), NonZeroUsize::new(rebatch), |_| Ok(())).unwrap()
}

fn what_if(path: &Path, text: &str) -> Vec<Differing> {
    let overlay = Overlay::new(vec![("what-if.toml".to_owned(), text.to_owned())]).unwrap();
    WhatIf::new(Reader::open(path).unwrap(), overlay).map(Result::unwrap).collect()
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_run_replays_to_the_same_bytes_however_it_is_batched() {
    for (seed, faults) in [(1, Faults::default()), (2, Faults::STORM)] {
        let dir = scratch();
        let (events, decisions) = record(dir.path(), seed, &scenario(10, faults), &acting(), KEEP);
        for rebatch in [0, 1, 1000] {
            let verified = verify(dir.path(), rebatch);
            assert!(verified.first_difference.is_none(), "seed {seed}, rebatch {rebatch}: {}", verified.first_difference.unwrap());
            assert_eq!((verified.events, verified.decisions, verified.starts), (events, decisions, 1));
            assert!(verified.steps > 50, "a run in which something happens: {} steps", verified.steps);
        }
    }
}

#[test]
fn every_segment_replays_from_its_checkpoint() {
    let dir = scratch();
    let limits = Limits { segment: Bytes::from_kib(64), ..KEEP };
    record(dir.path(), 3, &scenario(10, Faults::STORM), &acting(), limits);
    let files = segments(dir.path());
    assert!(files.len() > 3, "{} segments", files.len());
    let all = verify(dir.path(), 0);
    assert!(all.first_difference.is_none() && all.starts == 1);
    for (i, file) in files.iter().enumerate() {
        if i > 0 {
            fs::remove_file(&files[i - 1]).unwrap();
        }
        for path in [dir.path(), file] {
            let verified = verify(path, 0);
            assert!(verified.first_difference.is_none(), "{}: {}", path.display(), verified.first_difference.unwrap());
            assert!(verified.decisions > 0 || i == files.len() - 1);
        }
    }
}

#[test]
fn a_salvaged_recording_replays_around_its_damage() {
    let dir = scratch();
    let limits = Limits { segment: Bytes::from_kib(64), ..KEEP };
    record(dir.path(), 4, &scenario(10, Faults::default()), &acting(), limits);
    let files = segments(dir.path());
    let mut bytes = fs::read(&files[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&files[1], bytes).unwrap();
    let stopped = replay::verify(Reader::open(dir.path()).unwrap(), None, |_| Ok(())).unwrap_err();
    assert!(stopped.to_string().contains("is damaged at byte"), "{stopped}");
    let verified = replay::verify(Reader::open(dir.path()).unwrap().salvage(true), None, |_| Ok(())).unwrap();
    assert!(verified.first_difference.is_none() && verified.starts == 2 && verified.damage.len() == 1);
}

/// Copies a recording with one record changed.
fn forged(from: &Path, to: &Path, mut change: impl FnMut(&mut Record) -> bool) {
    let mut writer = Writer::create(to, "sim", "b007", Clocks::default(), KEEP).unwrap();
    let mut done = false;
    for item in Reader::open(from).unwrap() {
        let Item::Record(mut record) = item.unwrap() else { continue };
        done = done || change(&mut record);
        match record {
            Record::Event(event) => writer.event(&event).unwrap(),
            Record::Decision(decision) => writer.decision(&decision).unwrap(),
            Record::Checkpoint(_) => {}
        }
    }
    assert!(done, "nothing was changed");
    writer.finish().unwrap();
}

#[test]
fn the_first_difference_is_found_and_shown() {
    let dir = scratch();
    record(dir.path(), 5, &scenario(10, Faults::default()), &acting(), KEEP);
    // A step that says another charge than it had.
    let changed = scratch();
    let mut number = 0;
    forged(dir.path(), changed.path(), |record| match record {
        Record::Decision(decision) if decision.plan.iter().any(|s| matches!(s.action, Action::PageOut { .. })) => {
            number = decision.number;
            decision.plan[0].charge.syscalls += 1;
            true
        }
        Record::Decision(_) | Record::Event(_) | Record::Checkpoint(_) => false,
    });
    let difference = verify(changed.path(), 0).first_difference.expect("a difference");
    assert_eq!(difference.recorded.number, number);
    let text = difference.to_string();
    assert!(
        text.starts_with(&format!("decision {number} at "))
            && text.contains("step 0 recorded: ")
            && text.contains("step 0 here:     "),
        "{text}"
    );
    // An event that is gone is noticed at the next decision.
    let changed = scratch();
    forged(dir.path(), changed.path(), |record| match record {
        Record::Event(stamped) if matches!(stamped.event, Event::Config(_)) => {
            stamped.event = Event::Config(config::canonical(&Config::default()));
            true
        }
        Record::Decision(_) | Record::Event(_) | Record::Checkpoint(_) => false,
    });
    assert!(verify(changed.path(), 0).first_difference.is_some());
}

#[test]
fn the_same_configuration_would_have_done_the_same() {
    for (seed, faults) in [(6, Faults::default()), (7, Faults::STORM)] {
        let dir = scratch();
        record(dir.path(), seed, &scenario(10, faults), &acting(), KEEP);
        let differing = what_if(dir.path(), "");
        assert!(differing.is_empty(), "{}", differing[0]);
    }
}

#[test]
fn what_if_names_the_steps_and_the_reasons() {
    let dir = scratch();
    let limits = Limits { segment: Bytes::from_kib(64), ..KEEP };
    let (_, decisions) = record(dir.path(), 8, &scenario(10, Faults::default()), &acting(), limits);
    let page_outs = |sides: &[OneSided]| sides.iter().filter(|s| matches!(s.step.action, Action::PageOut { .. })).count();
    // Never old enough: no page-out, and the reason is the policy's own.
    let differing = what_if(dir.path(), "[autocold]\nmin_idle_s = 86400\n");
    assert!(differing.iter().all(|d| page_outs(&d.only_ours) == 0));
    let lost: Vec<_> =
        differing.iter().flat_map(|d| &d.only_recorded).filter(|s| matches!(s.step.action, Action::PageOut { .. })).collect();
    assert!(!lost.is_empty());
    assert!(lost.iter().all(|s| s.why_not.is_some()), "{:?}", lost[0]);
    assert!(
        differing
            .iter()
            .any(|d| d.to_string().contains("only recorded: page-out pid ") && d.to_string().contains("not on the other side: "))
    );
    // Advice only: the same process, another kind of step.
    let differing = what_if(dir.path(), "[daemon]\nact = false\n");
    assert!(differing.iter().any(|d| page_outs(&d.only_ours) > 0), "advice differs from doing");
    // More turns than were taken, at the times at which only the new configuration has one.
    let overlay = Overlay::new(vec![("command line".to_owned(), "scan.period_ms = 3000".to_owned())]).unwrap();
    let mut asked = WhatIf::new(Reader::open(dir.path()).unwrap(), overlay);
    assert!(asked.by_ref().any(|d| !d.unwrap().only_ours.is_empty()));
    asked.by_ref().for_each(drop);
    assert!(asked.turns > decisions + decisions / 4, "{} turns, recorded {decisions}", asked.turns);
    // Other targets replace the recorded ones.
    let differing = what_if(dir.path(), "[[target]]\ncomm = \"nobody\"\n");
    assert!(differing.iter().map(|d| page_outs(&d.only_recorded)).sum::<usize>() > 0);
    // The head is gone: the answer begins at the first checkpoint.
    fs::remove_file(&segments(dir.path())[0]).unwrap();
    assert!(what_if(dir.path(), "").is_empty());
    assert!(!what_if(dir.path(), "[scan]\nperiod_ms = 3000\n").is_empty());
}

#[test]
fn a_checkpoint_of_another_version_is_refused_in_words() {
    let dir = scratch();
    let clocks = Clocks::default();
    let mut writer = Writer::create(dir.path(), "sim", "b007", clocks, Limits { segment: Bytes(0), ..KEEP }).unwrap();
    writer.turn(&"not a planner", clocks).unwrap();
    writer.finish().unwrap();
    fs::remove_file(dir.path().join("000001.mtt")).unwrap();
    let stopped = replay::verify(Reader::open(dir.path()).unwrap(), None, |_| Ok(())).unwrap_err();
    let text = stopped.to_string();
    let by = concat!("memtier ", env!("CARGO_PKG_VERSION"));
    assert!(text.starts_with("the recording begins at event 1 with a checkpoint that this memtier cannot read: "), "{text}");
    assert!(text.ends_with(&format!("; use {by}, which wrote it")), "{text}");
    let WhatIfError::Trace(TraceError::Checkpoint { .. }) =
        WhatIf::new(Reader::open(dir.path()).unwrap(), Overlay::new(vec![]).unwrap()).next().unwrap().unwrap_err()
    else {
        panic!("the same for what-if")
    };
}
