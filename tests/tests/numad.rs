//! numad's command line: what is read of a host, and the real binary on this one.
#![cfg(feature = "host")]

use memtier::compat::numad::{Look, Mode, Node, Request, Settings, choose, figures, node_list};
use memtier::observe::nodes::{idle_ticks, look};
use memtier::sys::files::{ReadError, Root, number_list};
use memtier::vocab::{Bytes, CpuId, NodeId, Span};
use memtier_tests::{binary, need, scratch};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Two nodes with CPUs and one without; a CPU that is offline, one numbered 100; no distances from node 70.
fn tree() -> Root {
    Root::at(memtier_tests::root().join("tests/fixtures/nodes"))
}

fn settings() -> Settings {
    let smt_percent = Settings::SMT_PERCENT;
    Settings { mode: Mode::Repaired, inactive_file_is_free: true, smt_percent, reserved: BTreeSet::new() }
}

/// A copy that a test may spoil.
fn copy(of: &Path, to: &Path) {
    fs::create_dir_all(to).expect("scratch");
    for entry in fs::read_dir(of).expect("fixture").map(|e| e.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { fs::copy(&from, &to).map(drop).expect("scratch") }
    }
}

#[test]
fn nodes_of_a_host_that_is_a_tree() {
    let Look { nodes, idle: [before, after], elapsed, smt_width } = look(&tree(), Duration::ZERO).expect("reads");
    let [near, lent, far] = &nodes[..] else { panic!("{nodes:?}") };
    assert_eq!((near.node, &near.distances[..]), (NodeId(0), &[10, 14, 21][..]));
    assert_eq!((near.total, near.free, near.inactive_file), (Bytes(16 << 30), Bytes(8 << 30), Bytes(1 << 30)));
    assert_eq!((lent.node, lent.cpus.len(), lent.inactive_file), (NodeId(2), 0, Bytes::ZERO));
    assert_eq!((far.node, &far.cpus[..], far.distances.len()), (NodeId(70), &[CpuId(2), CpuId(3), CpuId(100)][..], 0));
    assert_eq!((before.len(), before[&CpuId(0)], after[&CpuId(100)], smt_width), (5, 1000, 90_071_992_547_409, 2));
    assert!(elapsed < Span::from_secs(60));
}

#[test]
fn two_samples_of_it() {
    let mut look = look(&tree(), Duration::ZERO).expect("reads");
    look.elapsed = Span::from_millis(100);
    [0, 1, 2, 3, 100].into_iter().zip([10, 5, 10, 10, 10]).for_each(|(cpu, ticks)| {
        *look.idle[1].get_mut(&CpuId(cpu)).expect("online") += ticks;
    });
    let seen = |settings: &Settings| -> Vec<(u16, usize, u64, u64, u64)> {
        let told = |n: &Node| (n.node.0, n.cpus.len(), n.cpus_total, n.cpus_free, n.mb_free);
        figures(&look, settings).iter().map(told).collect()
    };
    // CPU 4 is offline. Node 70 has three threads: two cores.
    assert_eq!(seen(&settings()), [(0, 2, 120, 70, 9216), (2, 0, 0, 0, 64_512), (70, 3, 220, 220, 4)]);
    let other = Settings { inactive_file_is_free: false, smt_percent: 100, reserved: [CpuId(0), CpuId(2)].into(), ..settings() };
    assert_eq!(seen(&other), [(0, 1, 100, 50, 8192), (2, 0, 0, 0, 64_512), (70, 2, 200, 200, 0)]);
    let answer = |cpus, mb| {
        let choice = choose(&figures(&look, &settings()), Request { cpus, mb }, Mode::Repaired).expect("a node");
        node_list(&choice.nodes)
    };
    assert_eq!([answer(50, 1000), answer(100, 0), answer(50, 20_000), answer(400, 20_000)], ["0", "0,70", "0,2", "0,2,70"]);
}

#[test]
fn a_host_that_makes_no_sense_is_named() {
    let scratch = scratch();
    let broken = |path: &str, text: Option<&str>| {
        let _ = fs::remove_dir_all(scratch.path());
        copy(&tree().path("/"), scratch.path());
        let root = Root::at(scratch.path());
        match text {
            Some(text) => fs::write(root.path(path), text).expect("scratch"),
            None => fs::remove_file(root.path(path)).expect("scratch"),
        }
        look(&root, Duration::ZERO)
    };
    let node = "/sys/devices/system/node/node0";
    for (path, text) in [
        (format!("{node}/cpulist"), Some("0-x\n")),
        (format!("{node}/cpulist"), None),
        (format!("{node}/distance"), Some("10 near\n")),
        (format!("{node}/distance"), Some("10 -1\n")),
        (format!("{node}/meminfo"), Some("")),
        (format!("{node}/meminfo"), Some("Node 0 MemTotal: 1 kB\n")),
        ("/proc/stat".to_owned(), Some("cpu0 1 2\n")),
        ("/proc/stat".to_owned(), None),
        ("/sys/devices/system/cpu/cpu0/topology/thread_siblings".to_owned(), Some("all\n")),
    ] {
        let error: ReadError = broken(&path, text).expect_err(&path);
        assert!(error.to_string().contains(&path), "{path} {text:?}: {error}");
    }
    // What some kernels do not tell.
    assert_eq!(broken("/sys/devices/system/cpu/cpu0/topology/thread_siblings", None).expect("reads").smt_width, 1);
    assert!(broken(&format!("{node}/distance"), None).expect("reads").nodes[0].distances.is_empty());
    // No NUMA at all, and nothing at all.
    fs::remove_dir_all(scratch.path().join("sys")).expect("scratch");
    assert_eq!(look(&Root::at(scratch.path()), Duration::ZERO).expect("reads").nodes, []);
    assert!(idle_ticks(&Root::at("/nowhere")).is_err_and(|e| e.is_gone()));
}

fn run(program: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(program).args(args).env_remove("MEMTIER_LOG").output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

/// libvirt's contract: the list and a newline, nothing else, exit code 0.
#[track_caller]
fn is_list((code, out, err): &(i32, String, String)) {
    let nodes = out.strip_suffix('\n').and_then(number_list);
    assert!(*code == 0 && err.is_empty() && nodes.is_some_and(|n| !n.is_empty()), "{code} {out:?} {err:?}");
}

#[test]
fn advice_on_this_host() {
    let memtier = need!(binary("memtier"));
    is_list(&run(&memtier, &["numad", "-w", "1:100"]));
    is_list(&run(&memtier, &["numad", "-w2.5", "-C0", "-t", "50", "-m5", "-u85", "-D", "/nowhere"]));
    let numad = scratch();
    let numad = numad.path().join("numad");
    symlink(&memtier, &numad).expect("scratch");
    is_list(&run(&numad, &["-w", "1:1"]));
    // More than any host has: all of it that can help.
    is_list(&run(&numad, &["-w", "20000000:2000000000"]));
}

#[test]
fn the_originals_arithmetic_takes_its_time() {
    let memtier = need!(binary("memtier"));
    let began = Instant::now();
    is_list(&run(&memtier, &["numad", "--compat", "-w", "1:100"]));
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[test]
fn advice_says_why() {
    let memtier = need!(binary("memtier"));
    for args in [["--json", "numad", "-w", "1.5:100"], ["numad", "-w", "1.5:100", "--json"]] {
        let (code, out, err) = run(&memtier, &args);
        assert_eq!((code, err.as_str()), (0, ""));
        let told: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((&told["request"]["cpus"], &told["request"]["mb"]), (&150.into(), &100.into()), "{told}");
        assert_eq!(told["settings"]["mode"], "repaired");
        let figures = told["figures"].as_array().expect("nodes");
        assert!(figures.iter().all(|f| f["mb_total"].is_u64() && f["cpus_free"].is_u64()), "{told}");
        let taken = told["why"]["taken"].as_array().expect("steps");
        assert!(!taken.is_empty() && taken.iter().all(|t| t["why"].is_string()), "{told}");
        assert!(told["sampled_ms"].as_u64().is_some_and(|ms| ms >= 70), "{told}");
    }
}

#[test]
fn numads_log_lines_go_to_standard_error() {
    let memtier = need!(binary("memtier"));
    let (code, out, err) = run(&memtier, &["numad", "-d", "-w", "1:100"]);
    assert!(code == 0 && number_list(&out).is_some(), "{out}");
    // "Sat Nov 28 13:03:52 2026: Nodes: 1", and what hangs below it.
    let stamped = |line: &&str| line.get(24..26) == Some(": ");
    let lines: Vec<&str> = err.lines().map(|line| if stamped(&line) { &line[26..] } else { line }).collect();
    for head in [
        "Nodes: ",
        "Min CPUs free: ",
        "Min MBs free: ",
        "Node ",
        "PICK NODES FOR:  PID: -1,  CPUs 100,  MBs 100",
        "Advising pid -1",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(head)), "{head}: {err}");
    }
    let (_, _, err) = run(&memtier, &["numad", "-v", "-w", "1:100"]);
    assert!(err.contains("Nodes: ") && !err.contains("PICK NODES"), "{err}");
}

#[test]
fn refusals_end_with_one_and_say_why() {
    let memtier = need!(binary("memtier"));
    let refused = |args: &[&str], told: &str| {
        let (code, out, err) = run(&memtier, &[&["numad"], args].concat());
        assert!(code == 1 && out.is_empty() && err.starts_with(told), "{args:?}: {code} {out:?} {err:?}");
        err
    };
    assert_eq!(refused(&["-w", "4:8G"], ""), "Can't parse arg value(s): 4:8G\n");
    assert_eq!(refused(&["-w", "4", "more"], ""), "Unexpected arg = more\n");
    refused(&["-h"], "Usage: numad <options> ...");
    assert_eq!(refused(&["-i", "10:5"], ""), "Max interval (5) must be greater than min interval (10)\n");
    assert_eq!(refused(&["-H", "5"], ""), "THP scan_sleep_ms must be > 9 and < 1000001\n");
    refused(&["-z"], "error: ");
    refused(&["-w"], "error: ");
    refused(&["--nonsense"], "error: ");
    let (code, out, err) = run(&memtier, &["--json", "numad", "-w", "x"]);
    let told: Value = serde_json::from_str(&err).expect("JSON");
    assert_eq!((code, out.as_str(), &told["error"], &told["exit"]), (1, "", &"Can't parse arg value(s): x".into(), &1.into()));
    // All CPUs reserved: nothing could run anywhere.
    let (code, out, err) = run(&memtier, &["numad", "-R", "0-65535", "-w", "1"]);
    assert!(code == 1 && out.is_empty() && err.contains("no node has a CPU"), "{err}");
}

#[test]
fn version_and_help() {
    let memtier = need!(binary("memtier"));
    let (code, out, _) = run(&memtier, &["numad", "-V"]);
    assert!(code == 0 && out.starts_with("numad version: 20150602: "), "{out}");
    let (code, out, _) = run(&memtier, &["numad", "--help"]);
    assert!(code == 0 && out.contains("--compat"), "{out}");
    // Others' mistakes end as ever.
    assert_eq!(run(&memtier, &["nonsense"]).0, 2);
}
