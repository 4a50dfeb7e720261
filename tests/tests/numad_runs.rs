//! A numad of ours in the background: how it starts, what later invocations tell it, how it ends. The real binary, in directories
//! of its own. On one node it manages nothing; tests/tests/vm_numad.rs has more of them.
#![cfg(feature = "host")]

use memtier::daemon::lock::Lock;
use memtier::sys::files::number_list;
use memtier_tests::numad_daemon::NumadDaemon;
use memtier_tests::{binary, footing, need};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Far beyond what anything here takes; hit only when it never happens.
const DEADLINE: Duration = Duration::from_secs(60);
/// Leaves the one setting of the host alone that numad changes.
const QUIET: [&str; 2] = ["-H", "0"];
const THP_SCAN: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";

#[track_caller]
fn until(what: &str, look: impl Fn() -> bool) {
    let begun = Instant::now();
    while !look() {
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(memtier: &Path, more: &[&str]) -> NumadDaemon {
    NumadDaemon::start(memtier, &[&QUIET[..], more].concat()).unwrap_or_else(|why| panic!("{why}"))
}

/// What it said, without the stamps.
fn said(numad: &NumadDaemon) -> Vec<String> {
    // "Sat Nov 28 13:03:52 2026: "
    numad.log().lines().map(|line| line.split_at_checked(26).map_or(line, |(_, said)| said).to_owned()).collect()
}

fn ok(numad: &NumadDaemon, args: &[&str]) -> String {
    let (code, out, err) = numad.run(args);
    assert!(code == 0 && err.is_empty(), "{args:?}: {code} {out:?} {err:?}");
    out
}

#[test]
fn one_that_runs_is_told_and_asked() {
    let memtier = need!(binary("memtier"));
    let numad = start(&memtier, &["-i", "2:30"]);
    let pid = numad.pid().expect("a pid file");
    let line = fs::read(format!("/proc/{pid}/cmdline")).expect("it lives");
    assert!(String::from_utf8_lossy(&line).contains("numad"));
    assert_eq!(said(&numad), [format!("Registering numad version 20150602 PID {pid}")]);
    // A second one is not started, whatever it says.
    assert_eq!(ok(&numad, &[]), "");
    for (options, line) in [
        (&["-C", "0"][..], "Counting inactive file cache as unavailable"),
        (&["-C1"], "Counting inactive file cache as available"),
        (&["-i", "1:60"], "Changing interval to 1:60"),
        (&["-i", "70"], "Changing interval to 5:70"),
        (&["-K1"], "Keeping interleaved memory spread across nodes"),
        (&["-K0"], "Merging interleaved memory to localized NUMA nodes"),
        (&["-m", "95"], "Changing target memory locality to 95"),
        (&["-p", "1"], "Adding PID 1 to inclusion PID list"),
        (&["-x", "1"], "Adding PID 1 to exclusion PID list"),
        (&["-r", "1"], "Removing PID 1 from explicit PID lists"),
        (&["-S0"], "Scanning only explicit PID list processes"),
        (&["-S1"], "Scanning all processes"),
        (&["-t", "30"], "Changing logical CPU thread percent to 30"),
        (&["-u", "80"], "Changing target utilization to 80"),
        (&["-v"], "Changing log level to 6"),
        (&["-d"], "Changing log level to 7"),
        (&["-l", "5"], "Changing log level to 5"),
    ] {
        assert_eq!(ok(&numad, options), "");
        assert_eq!(said(&numad).last().map(String::as_str), Some(line), "{options:?}");
    }
    // Out of range, and what it has no use for: nothing.
    let before = said(&numad).len();
    for options in [&["-m", "5"][..], &["-D", "/x"], &["-u9"]] {
        assert_eq!(ok(&numad, options), "");
    }
    assert_eq!(said(&numad).len(), before);
    // Mistakes do not reach it.
    assert_eq!(numad.run(&["-i", "9:3"]).0, 1);
    assert_eq!((said(&numad).len(), numad.pid()), (before, Some(pid)));
    let (code, _, err) = numad.run(&["-R", "1"]);
    assert!(code == 0 && err.contains("-R is of no effect"), "{err}");
}

#[test]
fn one_that_runs_answers() {
    let memtier = need!(binary("memtier"));
    let numad = start(&memtier, &["-t", "100"]);
    let out = ok(&numad, &["-w", "1:100"]);
    assert!(out.strip_suffix('\n').and_then(number_list).is_some_and(|nodes| !nodes.is_empty()), "{out}");
    let lines = said(&numad);
    let asked = lines.iter().position(|line| line == "Getting NUMA pre-placement advice for 100 CPUs and 100 MBs");
    assert!(asked.is_some_and(|at| lines[at + 1].starts_with("Advising pid -1 (unknown) move from nodes (")), "{lines:?}");
    // By its own settings, whoever asks; and from what it saw since its last round.
    let told: Value = serde_json::from_str(&ok(&numad, &["--json", "-w", "1.5:100", "--compat"])).expect("JSON");
    assert_eq!((&told["request"]["cpus"], &told["settings"]["mode"]), (&150.into(), &"repaired".into()), "{told}");
    assert_eq!(told["settings"]["smt_percent"], 100);
    // Options that come with the question hold from then on, for whoever asks next.
    let told: Value = serde_json::from_str(&ok(&numad, &["--json", "-t", "10", "-w", "1"])).expect("JSON");
    assert_eq!(told["settings"]["smt_percent"], 10);
    assert_eq!(numad.run(&["-w", "x"]).0, 1);
}

#[test]
fn asking_starts_none_and_neither_does_ending() {
    let numad = NumadDaemon::at(&need!(binary("memtier")));
    for args in [&["-w", "1"][..], &["-C0", "-w", "1"], &["-i", "0"]] {
        ok(&numad, args);
        assert!(numad.pid().is_none() && !numad.run_dir().join("numad.sock").exists());
    }
    assert_eq!((numad.run(&["-h"]).0, numad.run(&["-z"]).0, numad.pid()), (1, 1, None));
}

#[test]
fn ends() {
    let memtier = need!(binary("memtier"));
    let term: fn(&NumadDaemon) = |numad| numad.signal(Signal::SIGTERM);
    for end in [term, |numad| numad.signal(Signal::SIGQUIT), |numad| drop(ok(numad, &["-i", "0"]))] {
        let numad = start(&memtier, &[]);
        let pid = numad.pid().expect("a pid file");
        end(&numad);
        NumadDaemon::gone(pid);
        assert!(numad.pid().is_none() && !numad.run_dir().join("numad.sock").exists());
        assert_eq!(said(&numad).last().map(String::as_str), Some("Shutting down numad"));
        // And again.
        numad.begin(&QUIET).expect("the way is free");
        assert!(numad.pid().is_some_and(|new| new != pid));
    }
}

#[test]
fn one_that_was_killed_is_in_nobodys_way() {
    let numad = start(&need!(binary("memtier")), &[]);
    let pid = numad.pid().expect("a pid file");
    numad.signal(Signal::SIGKILL);
    NumadDaemon::gone(pid);
    assert!(numad.pid_file().exists() && numad.run_dir().join("numad.sock").exists());
    ok(&numad, &["-w", "1"]);
    numad.begin(&QUIET).expect("what is stale is removed");
    assert!(numad.pid().is_some_and(|new| new != pid));
}

#[test]
fn somebody_elses_pid_file() {
    let numad = NumadDaemon::at(&need!(binary("memtier")));
    // A numad that is none of ours, say.
    fs::write(numad.pid_file(), "1\n").expect("scratch");
    let (code, out, err) = numad.run(&QUIET);
    assert!(code == 1 && out.is_empty() && err.starts_with("numad: numad runs already as pid 1 ("), "{code} {err}");
    assert_eq!(numad.pid(), Some(1));
    fs::write(numad.pid_file(), "4194305\n").expect("scratch");
    numad.begin(&QUIET).expect("nobody has that pid");
}

#[test]
fn where_memtier_places_numad_does_not() {
    let memtier = need!(binary("memtier"));
    let numad = NumadDaemon::at(&memtier);
    let lock = Lock::take(&numad.run_dir(), "run").expect("free");
    let (code, _, err) = numad.run(&QUIET);
    assert!(code == 1 && err.contains("(memtier run) holds ") && err.contains("end that one first"), "{code} {err}");
    assert!(numad.pid().is_none());
    // Advice is none of its business.
    ok(&numad, &["-w", "1"]);
    drop(lock);
    numad.begin(&QUIET).expect("free");
    // Nor memtier where numad does, and nobody undoes beneath it.
    for args in [&["run"][..], &["undo"]] {
        let out = Command::new(&memtier).arg("--run-dir").arg(numad.run_dir()).args(args).output().expect("it runs");
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(4) && err.contains("(memtier numad) holds "), "{args:?}: {err}");
    }
}

#[test]
fn what_keeps_it_from_starting_is_said() {
    let memtier = need!(binary("memtier"));
    let numad = NumadDaemon::at(&memtier);
    let (code, _, err) = numad.run(&["-H0", "--pid-file", "/proc/none/numad.pid"]);
    assert!(code == 1 && err.starts_with("numad: cannot make /proc/none/numad.pid: "), "{code} {err}");
    let elsewhere = Command::new(&memtier).args(["--run-dir", "/proc/none", "numad", "-H0"]).output().expect("it runs");
    let (code, err) = (elsewhere.status.code(), String::from_utf8_lossy(&elsewhere.stderr));
    assert!(code == Some(1) && err.starts_with("numad: cannot create /proc/none: "), "{code:?} {err}");
}

#[test]
fn the_log_is_appended_to_and_opened_anew() {
    let numad = NumadDaemon::at(&need!(binary("memtier")));
    fs::write(numad.log_file(), "of yesterday\n").expect("scratch");
    numad.begin(&[&QUIET[..], &["-l", "6", "-i", "1:1"]].concat()).expect("starts");
    assert!(numad.log().starts_with("of yesterday\n"));
    until("a round is logged", || numad.log().contains(": Processes: "));
    assert!(numad.log().contains("\n\n") && said(&numad).iter().any(|line| line.starts_with("Nodes: ")), "{}", numad.log());
    let old = numad.log_file().with_file_name("old");
    fs::rename(numad.log_file(), &old).expect("scratch");
    numad.signal(Signal::SIGHUP);
    until("a new log", || numad.log().contains(": Processes: "));
    assert!(numad.pid().is_some());
}

#[test]
fn without_a_log_file_it_logs_to_standard_error() {
    let numad = NumadDaemon::at(&need!(binary("memtier")));
    let err = numad.log_file().with_file_name("err");
    let file = fs::File::create(&err).expect("scratch");
    let mut command = numad.command(&[&QUIET[..], &["--log-file", "/proc/none/numad.log"]].concat());
    assert!(command.stdout(Stdio::null()).stderr(file).status().expect("it runs").success());
    let told = fs::read_to_string(&err).expect("scratch");
    assert!(told.contains(": Cannot open log file /proc/none/numad.log: ") && told.contains(": Registering numad"), "{told}");
}

#[test]
fn the_scan_of_huge_pages_goes_back() {
    let memtier = need!(binary("memtier"));
    need!(footing::root());
    let read = || fs::read_to_string(THP_SCAN).map(|text| text.trim().to_owned());
    let Ok(before) = read() else { return footing::elsewhere("a kernel without transparent huge pages") };
    let numad = NumadDaemon::start(&memtier, &["-H", "12345"]).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(read().expect("there"), "12345");
    assert!(said(&numad)[0].ends_with(&format!("/khugepaged/scan_sleep_millisecs from {before} to 12345 ms.")), "{}", numad.log());
    ok(&numad, &["-H", "23456"]);
    assert_eq!(read().expect("there"), "23456");
    let pid = numad.pid().expect("a pid file");
    numad.signal(Signal::SIGKILL);
    NumadDaemon::gone(pid);
    let undo = Command::new(&memtier).arg("--run-dir").arg(numad.run_dir()).arg("undo").output().expect("it runs");
    assert!(undo.status.success() && read().expect("there") == before, "{undo:?}");
    numad.begin(&["-H", "12345"]).expect("starts");
    let pid = numad.pid().expect("a pid file");
    numad.signal(Signal::SIGTERM);
    NumadDaemon::gone(pid);
    assert_eq!(read().expect("there"), before);
}
