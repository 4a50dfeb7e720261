//! Memory whose owner said where it lies (mbind), where there is somewhere else to go (`cargo xtask test --layer vm`).
#![cfg(feature = "host")]

use memtier::observe::host;
use memtier::sys::affinity::CpuMask;
use memtier::sys::files::Root;
use memtier::sys::numa::{migrate_pages, move_pages};
use memtier::vocab::NodeId;
use memtier_tests::cpu::pin;
use memtier_tests::footing::{elsewhere, lab};
use memtier_tests::owner::Owner;
use memtier_tests::{Owned, binary, need, scratch};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 16;
const PAGES: u64 = MIB << 8;
/// Far beyond what it takes in an emulated guest.
const DEADLINE: Duration = Duration::from_secs(120);

fn on(pid: u32, start: u64, node: NodeId) -> u64 {
    let pages: Vec<u64> = (0..PAGES).map(|page| start + (page << 12)).collect();
    let lies = move_pages(pid, &pages, None).expect("answers");
    lies.iter().filter(|at| **at == i32::from(node.0)).count() as u64
}

/// All of it lies on the other node than its only thread runs on; that half comes of which its owner said nothing.
#[test]
fn what_its_owner_bound_stays_and_the_rest_comes() {
    if !lab() {
        return;
    }
    // A kernel that is not built with it has no such file.
    let _ = fs::write("/proc/sys/kernel/numa_balancing", "0");
    let nodes = host::node_ids(&Root::host()).expect("nodes list");
    let [near, far] = nodes[..] else { return elsewhere("once a kernel is enough: in the guest of two nodes") };
    let cpus = fs::read_to_string(format!("/sys/devices/system/node/node{}/cpulist", near.0)).expect("reads");
    let Some(cpu) = CpuMask::parse(&cpus).expect("a list").cpus().next() else { return elsewhere("node 0 has no CPUs") };
    let owner = need!(Owner::start(MIB, far.0));
    let pid = owner.pid();
    pin(pid, cpu.0 as usize).expect("runs there");
    migrate_pages(pid, &[near], far).expect("migrates");
    assert_eq!([owner.free, owner.bound].map(|start| on(pid, start, far)), [PAGES, PAGES]);
    let (memtier, dir) = (binary("memtier").expect("built"), scratch());
    let config = dir.path().join("memtier.toml");
    fs::write(&config, format!("[[target]]\npid = {pid}\n")).expect("room");
    let command = |args: &[&str]| {
        let mut command = Command::new(&memtier);
        command.arg("--run-dir").arg(dir.path()).args(args);
        command
    };
    let mut daemon = command(&["run", "--act", "--set", "scan.period_ms=300", "--set", "scan.min_resident_mib=1", "--config"]);
    let _daemon = Owned(daemon.arg(&config).stdout(Stdio::null()).spawn().expect("starts"));
    let began = Instant::now();
    loop {
        let explained = command(&["explain", &pid.to_string()]).output().expect("runs").stdout;
        let (came, said) = (on(pid, owner.free, near), String::from_utf8_lossy(&explained));
        if came == PAGES && said.contains("what its owner bound (mbind) stays") {
            eprintln!("after {} ms:\n{said}", began.elapsed().as_millis());
            break;
        }
        assert!(began.elapsed() < DEADLINE, "{came} of {PAGES} pages came: {said}");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!([owner.free, owner.bound].map(|start| on(pid, start, near)), [PAGES, 0]);
}
