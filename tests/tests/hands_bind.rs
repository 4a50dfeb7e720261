//! Binding on the real kernel: threads that are born meanwhile, exact masks put back, by the one who bound and without it.
#![cfg(feature = "host")]

use memtier::act::{Actuator as _, Placer, Reins};
use memtier::config;
use memtier::daemon::boot_id;
use memtier::daemon::footprint::{Footprint, HostSettings, Shared, Undone, Verdict};
use memtier::sys::affinity::{CpuMask, affinity};
use memtier::sys::clock::boottime;
use memtier::sys::files::start_ticks;
use memtier::vocab::{Action, Charge, CpuId, End, Guard, Outcome, PolicyId, ProcKey, Reason, Rule, Span, Step, StepId, Whom};
use memtier_tests::brood::{Brood, masks};
use memtier_tests::{binary, footing, need, scratch};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The CPUs that we may run on, and so what we start: at least two.
fn cpus() -> Result<Vec<CpuId>, String> {
    footing::root()?;
    let cpus: Vec<CpuId> = affinity(0).map_err(|e| e.to_string())?.cpus().collect();
    if cpus.len() < 2 { Err(format!("needs two CPUs, has {}", cpus.len())) } else { Ok(cpus) }
}

fn list(cpus: &[CpuId]) -> String {
    cpus.iter().copied().collect::<CpuMask>().to_string()
}

fn key(pid: u32) -> ProcKey {
    let stat = fs::read(format!("/proc/{pid}/stat")).expect("it lives");
    ProcKey { pid, start: start_ticks(&stat).expect("a start time") }
}

fn footprint(dir: &Path) -> Footprint {
    Footprint::open(dir, &boot_id().expect("a boot")).expect("opens")
}

fn bind(placer: &mut Placer<Shared>, proc: ProcKey, cpus: &[CpuId]) -> Outcome {
    placer.apply(&Step {
        id: StepId { decision: 1, index: 0 },
        action: Action::Bind { proc, cpus: cpus.to_vec(), whom: Whom::All },
        guards: vec![Guard::Alive(proc)],
        expires: boottime().after(Span::from_secs(60)),
        charge: Charge::default(),
        by: PolicyId::Numa,
        reason: Reason::new(Rule::NumaBind),
    })
}

/// Masks of all threads but those of `but`.
fn others(pid: u32, but: &[u32]) -> BTreeSet<String> {
    masks(pid).into_iter().filter(|(tid, _)| !but.contains(tid)).map(|(_, mask)| mask).collect()
}

#[test]
fn threads_born_meanwhile_are_bound_and_exact_masks_go_back() {
    let cpus = need!(cpus());
    let (dir, mut brood) = (scratch(), Brood::start(60).expect("starts"));
    let (pid, first, last) = (brood.pid(), &cpus[..1], cpus[cpus.len() - 1]);
    let (stubborn, inside) = (brood.pin(last.0).expect("pins"), brood.pin(first[0].0).expect("pins"));
    let (before, all) = (masks(pid), others(pid, &[stubborn, inside]));
    assert_eq!(all.len(), 1, "{all:?}");
    let shared = Shared::new(footprint(dir.path()));
    let mut placer = Placer::new(shared.clone(), Reins::new(&config::Arm::default()));

    let outcome = bind(&mut placer, key(pid), first);
    let End::Partial(why) = &outcome.end else { panic!("{}", outcome.end) };
    assert_eq!(why, "1 task left alone: bound by somebody else");
    assert_eq!(outcome.done.asked.0, outcome.done.pages.0 + 1);
    assert!(outcome.done.pages.0 >= 63, "{}", outcome.done.pages.0);
    eprintln!(
        "bind: {} tasks, {} ns of CPU a task, {} system calls",
        outcome.done.pages.0,
        outcome.done.cpu_ns / outcome.done.pages.0,
        outcome.done.syscalls
    );
    brood.more(40).expect("more");
    let child = brood.child().expect("a child");
    for _ in 0..20 {
        let now = others(pid, &[stubborn]);
        assert_eq!(now, [list(first)].into(), "born meanwhile, and not bound");
    }
    assert_eq!((&masks(pid)[&stubborn], &masks(child)[&child]), (&list(&[last]), &list(first)));
    assert!(shared.lock().held().iter().any(|held| held.setting.to_string().starts_with(&format!("CPUs of pid {pid} ("))));

    // A thread that somebody sets meanwhile is that one's.
    let taken = *before.keys().find(|tid| ![pid, stubborn, inside].contains(tid)).expect("sixty");
    memtier::sys::affinity::set_affinity(taken, &[last].into_iter().collect()).expect("sets");
    let undone = shared.lock().undo(&mut HostSettings).expect("undoes");
    let after = masks(pid);
    for (tid, mask) in &before {
        // Short-lived threads of the brood are gone.
        let Some(now) = after.get(tid) else { continue };
        assert_eq!((tid, now), (tid, if *tid == taken { &after[&stubborn] } else { mask }));
    }
    assert_eq!(others(pid, &[stubborn, inside, taken]), all);
    assert_eq!(masks(child)[&child], before[&pid], "a child that was born bound");
    let left: Vec<String> =
        undone.iter().filter(|u| matches!(u.verdict, Verdict::LeftAlone { .. })).map(ToString::to_string).collect();
    let (was, is) = (&before[&pid], list(&[last]));
    let said = format!(
        "CPUs of pid {pid} (task {taken}): left alone, somebody set it to \"{is}\" after memtier (it was \"{was}\" before)"
    );
    assert_eq!(left, [said]);
    assert!(!undone.iter().any(|u| matches!(u.verdict, Verdict::Failed { .. })), "{undone:?}");
    assert_eq!((shared.lock().held(), dir.path().join("footprint.log").exists()), (vec![], false));
}

#[test]
fn bound_twice_it_goes_back_to_what_was_before_the_first() {
    let cpus = need!(cpus());
    let (dir, mut brood) = (scratch(), Brood::start(20).expect("starts"));
    let (pid, before) = (brood.pid(), masks(brood.pid()));
    let shared = Shared::new(footprint(dir.path()));
    let mut placer = Placer::new(shared.clone(), Reins::new(&config::Arm::default()));
    for part in [&cpus[..1], &cpus[1..2], &cpus[..2]] {
        assert_eq!(bind(&mut placer, key(pid), part).end, End::Done, "{}", list(part));
        assert_eq!(others(pid, &[]), [list(part)].into());
        brood.more(5).expect("more");
    }
    shared.lock().unbind(&mut HostSettings, key(pid)).expect("unbinds");
    assert_eq!(others(pid, &[]), [before[&pid].clone()].into());
    assert_eq!(shared.lock().bound().count(), 0);
    // Its pid is another process's: nothing is done.
    let reused = ProcKey { start: key(pid).start + 1, ..key(pid) };
    assert_eq!(bind(&mut placer, reused, &cpus[..1]).end, End::Skipped(Guard::Alive(reused)));
}

/// Who made it tells nobody; the daemon hears of that end and keeps it, as is done here by hand.
#[test]
fn who_outlives_its_bound_parent_gets_back_what_that_had() {
    let cpus = need!(cpus());
    let memtier = need!(binary("memtier"));
    let (dir, mut brood) = (scratch(), Brood::start(5).expect("starts"));
    let (pid, before) = (brood.pid(), masks(brood.pid()));
    let earlier = brood.orphan().expect("an orphan");
    // Start times are told in ticks of 10 ms: who came in the same one as the bind may have been born bound.
    std::thread::sleep(Duration::from_millis(30));
    let shared = Shared::new(footprint(dir.path()));
    let mut placer = Placer::new(shared.clone(), Reins::new(&config::Arm::default()));
    assert_eq!(bind(&mut placer, key(pid), &cpus[..1]).end, End::Done);
    let orphans = [brood.orphan().expect("an orphan"), brood.orphan().expect("an orphan")];
    let mask = |pid: u32| masks(pid)[&pid].clone();
    assert_eq!(orphans.map(mask), [list(&cpus[..1]), list(&cpus[..1])]);
    // The shell between them is gone.
    let line = |orphan: u32| [ProcKey { pid: u32::MAX, start: key(orphan).start }, key(pid)];
    let keep = |orphan: u32| shared.lock().adopt(&line(orphan), [key(orphan)].into_iter()).expect("room");
    keep(earlier);
    orphans.into_iter().for_each(keep);
    let held = shared.lock().bound().map(|proc| proc.pid).collect::<BTreeSet<_>>();
    assert_eq!(held, [pid, orphans[0], orphans[1]].into());
    // It is bound anew as what it is: what it had is known.
    assert_eq!(bind(&mut placer, key(orphans[1]), &cpus[1..2]).end, End::Done);
    assert_eq!(mask(orphans[1]), list(&cpus[1..2]));
    undo(&memtier, dir.path().to_owned());
    assert_eq!([pid, earlier, orphans[0], orphans[1]].map(mask), [pid; 4].map(|pid| before[&pid].clone()));
}

/// The binder is killed at some moment of its work, and `memtier undo` finds in the log what to put back.
#[test]
fn killed_at_any_moment_undo_puts_exact_masks_back() {
    let cpus = need!(cpus());
    let (memtier, binder) = (need!(binary("memtier")), need!(binary("binder")));
    let mut broods: Vec<Brood> = (0..3).map(|_| Brood::start(200).expect("starts")).collect();
    let pinned: Vec<u32> = broods.iter_mut().map(|brood| brood.pin(cpus[1].0).expect("pins")).collect();
    let before: Vec<BTreeMap<u32, String>> = broods.iter().map(|brood| masks(brood.pid())).collect();
    let mut bound = 0;
    // Microseconds after it began, and once when all is done.
    for delay in [Some(0), Some(3_000), Some(10_000), Some(30_000), None] {
        let dir = scratch();
        let pids = broods.iter().map(|brood| brood.pid().to_string());
        let mut child =
            Command::new(&binder).arg(dir.path()).arg(list(&cpus[..1])).args(pids).stdout(Stdio::piped()).spawn().expect("starts");
        match delay {
            Some(delay) => std::thread::sleep(Duration::from_micros(delay)),
            None => {
                let lines = BufReader::new(child.stdout.take().expect("asked for")).lines().take(3);
                let said: Vec<String> = lines.map(|line| line.expect("says")).collect();
                assert_eq!(said, ["partly done: 1 task left alone: bound by somebody else"; 3]);
                broods.iter_mut().for_each(|brood| brood.more(3).expect("more"));
            }
        }
        child.kill().expect("kill -9");
        child.wait().expect("ours");
        let halfway: Vec<BTreeSet<String>> = broods.iter().map(|brood| others(brood.pid(), &[])).collect();
        bound += usize::from(halfway.iter().any(|masks| masks.contains(&list(&cpus[..1]))));
        undo(&memtier, dir.path().to_owned());
        for ((brood, before), pinned) in broods.iter().zip(&before).zip(&pinned) {
            let after = masks(brood.pid());
            let exact = before.iter().all(|(tid, mask)| after.get(tid).is_none_or(|now| now == mask));
            assert!(exact, "{delay:?}: {before:?} {after:?}");
            assert_eq!(others(brood.pid(), &[*pinned]), [before[&brood.pid()].clone()].into(), "{delay:?}");
        }
    }
    assert!(bound > 0, "never killed with anything bound");
}

fn undo(memtier: &Path, run: PathBuf) {
    let undo = |args: &[&str]| Command::new(memtier).arg("--run-dir").arg(&run).args(args).output().expect("runs");
    let listed = undo(&["status", "--footprint", "--json"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let first = undo(&["undo", "--json"]);
    let undone: Vec<Undone> = serde_json::from_slice(&first.stdout).expect("JSON");
    assert!(first.status.success() && !undone.iter().any(|u| matches!(u.verdict, Verdict::Failed { .. })), "{undone:?}");
    assert_eq!(listed.contains("affinity"), !undone.is_empty(), "{listed}");
    let again = undo(&["undo"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), "nothing to undo\n");
}
