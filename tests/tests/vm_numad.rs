//! A numad of ours where it has something to do: a process that is spread over two nodes goes onto one, threads and memory, and
//! is let go again as each mode has it (`cargo xtask test --layer vm`).
#![cfg(feature = "host")]

use memtier::observe::host;
use memtier::sys::affinity::{CpuMask, affinity};
use memtier::sys::files::Root;
use memtier::sys::numa::{by_node, move_pages};
use memtier::vocab::NodeId;
use memtier_tests::binary;
use memtier_tests::footing::{elsewhere, lab};
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::numad_daemon::NumadDaemon;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Over the 300 that make a process worth a look.
const MIB: u64 = 320;
/// Far beyond what it takes in an emulated guest.
const DEADLINE: Duration = Duration::from_secs(240);
const QUICK: [&str; 6] = ["-l", "7", "-i", "1:2", "-H", "0"];
/// Its clock shows a host that has been up for a day: the original leaves new processes alone on one that came up just now.
const AGED: [&str; 5] = ["/usr/bin/unshare", "-T", "--monotonic", "100000", "--fork"];

/// Two nodes with CPUs, in the lab and with NUMA balancing off.
fn ground() -> Option<[NodeId; 2]> {
    if !lab() {
        return None;
    }
    // A kernel that is not built with it has no such file.
    let _ = fs::write("/proc/sys/kernel/numa_balancing", "0");
    let nodes = host::node_ids(&Root::host()).expect("nodes list");
    let mut with_cpus = nodes.into_iter().filter(|node| !cpus(*node).is_empty());
    let two = with_cpus.next().zip(with_cpus.next()).map(|(one, two)| [one, two]);
    if two.is_none() {
        elsewhere("needs several nodes with CPUs");
    }
    two
}

fn cpus(node: NodeId) -> CpuMask {
    let path = format!("/sys/devices/system/node/node{}/cpulist", node.0);
    CpuMask::parse(&fs::read_to_string(path).expect("a node has a list")).expect("of CPUs")
}

/// Every other page on each node.
fn spread(nodes: [NodeId; 2]) -> Hog {
    let hog = Hog::start(MIB, Fill::Half).expect("a hog");
    for (odd, node) in (0..).zip(nodes) {
        let pages: Vec<u64> = (odd..hog.pages).step_by(2).map(|page| hog.addr(page)).collect();
        pages.chunks(4096).for_each(|pages| drop(move_pages(hog.pid(), pages, Some(node.0)).expect("moves")));
    }
    let on = on(hog.pid());
    assert!(nodes.iter().all(|node| on(*node) >= hog.pages / 2 - 64), "{nodes:?}");
    hog
}

/// Base pages of a process on a node.
fn on(pid: u32) -> impl Fn(NodeId) -> u64 {
    let sums = by_node(&fs::read_to_string(format!("/proc/{pid}/numa_maps")).expect("it lives"));
    move |node| sums.get(&node).map_or(0, |pages| pages.0)
}

/// Ends a process whatever happens, so that nobody waits for it.
struct Ended(u32);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.cast_signed()), Signal::SIGKILL);
    }
}

/// While the hog runs: what it had, then the daemon until it has moved it, then `after`.
fn moved(numad: &NumadDaemon, args: &[&str], after: impl FnOnce(u32, &CpuMask, &CpuMask)) {
    let Some(nodes) = ground() else { return };
    let mut hog = spread(nodes);
    let (pid, pages) = (hog.pid(), hog.pages);
    let before = affinity(pid).expect("it lives");
    thread::scope(|scope| {
        let _ended = Ended(pid);
        scope.spawn(|| hog.burn(3_600_000));
        numad.begin(&[&QUICK[..], args].concat()).expect("starts");
        let (begun, line) = (Instant::now(), format!("PID {pid} moved to node(s) "));
        while !numad.log().contains(&line) {
            assert!(begun.elapsed() < DEADLINE, "never: {line}\n{}", numad.log());
            thread::sleep(Duration::from_millis(100));
        }
        let log = numad.log();
        // A whole CPU, or what the neighbours left of one.
        assert!(log.contains(&format!("PICK NODES FOR:  PID: {pid},  CPUs ")), "{log}");
        assert!(log.contains(&format!("Advising pid {pid} (hog) move from nodes (")), "{log}");
        let on = on(pid);
        let target = nodes.into_iter().max_by_key(|node| on(*node)).expect("two");
        assert!(on(target) >= pages - 64, "{} of {pages} pages on {target}\n{log}", on(target));
        assert!(log.contains(&format!("{line}{} in ", target.0)), "{log}");
        let bound = affinity(pid).expect("it lives");
        assert_eq!(bound, cpus(target), "{log}");
        // It answers while it has something to do.
        let (code, out, _) = numad.run(&["-w", "1:100"]);
        assert!(code == 0 && !out.trim().is_empty(), "{code} {out}");
        after(pid, &before, &bound);
    });
}

fn undo(numad: &NumadDaemon) -> String {
    let memtier = binary("memtier").expect("built");
    let out = Command::new(memtier).arg("--run-dir").arg(numad.run_dir()).arg("undo").output().expect("it runs");
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).expect("text")
}

fn end(numad: &NumadDaemon, signal: Signal) {
    let pid = numad.pid().expect("it runs");
    numad.signal(signal);
    NumadDaemon::gone(pid);
}

#[test]
fn as_the_original_it_moves_a_process_and_leaves_it_bound() {
    let numad = NumadDaemon::at(&binary("memtier").expect("built")).wrapped(&AGED);
    moved(&numad, &["--compat"], |pid, before, bound| {
        end(&numad, Signal::SIGTERM);
        assert_eq!(affinity(pid).expect("it lives"), *bound);
        // What the original cannot: it is known what it had.
        let told = undo(&numad);
        assert!(told.contains("restored to"), "{told}");
        assert_eq!(affinity(pid).expect("it lives"), *before);
    });
}

#[test]
fn by_default_it_moves_a_process_and_lets_it_go_at_the_end() {
    let numad = NumadDaemon::at(&binary("memtier").expect("built"));
    moved(&numad, &[], |pid, before, _| {
        end(&numad, Signal::SIGTERM);
        assert_eq!(affinity(pid).expect("it lives"), *before);
        assert_eq!(undo(&numad), "nothing to undo\n");
    });
}

#[test]
fn killed_it_leaves_what_undo_needs() {
    let numad = NumadDaemon::at(&binary("memtier").expect("built"));
    moved(&numad, &[], |pid, before, bound| {
        end(&numad, Signal::SIGKILL);
        assert_eq!(affinity(pid).expect("it lives"), *bound);
        undo(&numad);
        assert_eq!(affinity(pid).expect("it lives"), *before);
    });
}

/// Only what is on the list, where only that is scanned; and never what is excluded.
#[test]
fn what_is_excluded_stays() {
    let Some(nodes) = ground() else { return };
    let mut hog = spread(nodes);
    let pid = hog.pid();
    let numad = NumadDaemon::at(&binary("memtier").expect("built"));
    thread::scope(|scope| {
        let _ended = Ended(pid);
        scope.spawn(|| hog.burn(3_600_000));
        numad.begin(&[&QUICK[..], &["-x", &pid.to_string()]].concat()).expect("starts");
        let (begun, rounds) = (Instant::now(), || numad.log().matches(": Processes: ").count());
        while rounds() < 5 {
            assert!(begun.elapsed() < DEADLINE, "no rounds\n{}", numad.log());
            thread::sleep(Duration::from_millis(100));
        }
        assert!(!numad.log().contains("Candidates: "), "{}", numad.log());
    });
}
