//! Placing on kernels with several nodes (`cargo xtask test --layer vm`). What is true of a page is what a query by
//! move_pages(2) answers afterwards, or numa_maps where that answers nothing.
#![cfg(feature = "host")]

use memmap2::{MmapMut, MmapOptions};
use memtier::act::{Actuator as _, Placer, Reins};
use memtier::config;
use memtier::daemon::boot_id;
use memtier::daemon::footprint::{Footprint, HostSettings, Shared, Verdict};
use memtier::observe::host;
use memtier::sys::affinity::CpuMask;
use memtier::sys::clock::boottime;
use memtier::sys::files::{Root, field, start_ticks};
use memtier::sys::numa::{by_node, move_pages};
use memtier::vocab::{
    Action, AddrRange, Bytes, CgroupId, Charge, End, Guard, NodeId, Outcome, Pages, PolicyId, ProcKey, Reason, Rule, Span, Step,
    StepId, Whom,
};
use memtier_tests::brood::{Brood, masks};
use memtier_tests::cpu::pin;
use memtier_tests::footing::{elsewhere, lab};
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::{Owned, binary, scratch};
use nix::fcntl::{SpliceFFlags, vmsplice};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 16;
const PAGES: u64 = MIB << 8;
const BALANCING: &str = "/proc/sys/kernel/numa_balancing";

fn nodes() -> Vec<NodeId> {
    host::node_ids(&Root::host()).expect("nodes list")
}

/// The nodes, where there are several: in the lab, with NUMA balancing off.
fn ground() -> Option<Vec<NodeId>> {
    if !lab() {
        return None;
    }
    // A kernel that is not built with it has no such file.
    let _ = fs::write(BALANCING, "0");
    let nodes = nodes();
    if nodes.len() < 2 {
        elsewhere("needs several nodes");
        return None;
    }
    Some(nodes)
}

fn key(pid: u32) -> ProcKey {
    let stat = fs::read(format!("/proc/{pid}/stat")).expect("it lives");
    ProcKey { pid, start: start_ticks(&stat).expect("a start time") }
}

fn step(action: Action, guards: Vec<Guard>) -> Step {
    Step {
        id: StepId { decision: 1, index: 0 },
        action,
        guards,
        expires: boottime().after(Span::from_secs(600)),
        charge: Charge::default(),
        by: PolicyId::Numa,
        reason: Reason::new(Rule::NumaMove),
    }
}

fn placer(dir: &Path) -> (Placer<Shared>, Shared) {
    let shared = Shared::new(Footprint::open(dir, &boot_id().expect("a boot")).expect("opens"));
    (Placer::new(shared.clone(), Reins::new(&config::Arm::default())), shared)
}

fn apply(action: Action, guards: Vec<Guard>) -> Outcome {
    placer(scratch().path()).0.apply(&step(action, guards))
}

fn send(pid: u32, range: AddrRange, to: NodeId) -> Outcome {
    let proc = key(pid);
    let outcome = apply(Action::MovePages { proc, to, ranges: vec![range] }, vec![Guard::Alive(proc)]);
    let done = outcome.done;
    eprintln!(
        "{} of {} pages to {to}: {} calls, {} ns of CPU a page",
        done.pages.0,
        done.asked.0,
        done.syscalls,
        done.cpu_ns / done.pages.0.max(1)
    );
    outcome
}

/// Where each page is, or the negative errno of the answer.
fn truth(pid: u32, range: AddrRange) -> Vec<i32> {
    let pages: Vec<u64> = (range.start..range.end).step_by(4096).collect();
    move_pages(pid, &pages, None).expect("answers")
}

fn on(pid: u32, range: AddrRange, node: NodeId) -> u64 {
    truth(pid, range).iter().filter(|at| **at == i32::from(node.0)).count() as u64
}

fn range(hog: &Hog, first: u64, end: u64) -> AddrRange {
    AddrRange { start: hog.addr(first), end: hog.addr(end) }
}

fn rollup(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("reads");
    field(&text, key).expect("the kernel tells it")
}

fn why(outcome: &Outcome) -> &str {
    match &outcome.end {
        End::Partial(why) => why,
        end => panic!("not partial: {end}"),
    }
}

#[test]
fn pages_go_where_they_are_sent() {
    let Some(nodes) = ground() else { return };
    let mut hog = Hog::start(MIB, Fill::Half).expect("a hog");
    let (pid, all, half) = (hog.pid(), range(&hog, 0, PAGES), range(&hog, 0, PAGES / 2));
    for &to in nodes.iter().chain(&nodes) {
        let there = on(pid, half, to);
        let outcome = send(pid, half, to);
        assert_eq!(
            (&outcome.end, outcome.done.pages, outcome.done.asked),
            (&End::Done, Pages(PAGES / 2 - there), Pages(PAGES / 2 - there))
        );
        assert_eq!(on(pid, half, to), PAGES / 2);
    }
    // The other half stayed, and what is there already is not moved again.
    let last = nodes[nodes.len() - 1];
    let there = on(pid, all, last);
    assert!(there >= PAGES / 2);
    assert_eq!(send(pid, all, last).done.pages, Pages(PAGES - there));
    let again = send(pid, all, last);
    assert_eq!((again.end, again.done.pages, again.done.asked), (End::Done, Pages(0), Pages(0)));
    assert!(hog.intact().expect("answers"), "moving changed memory");
}

#[test]
fn what_is_not_in_memory_or_mapped_twice_is_told() {
    let Some(nodes) = ground() else { return };
    let (first, last) = (nodes[0], nodes[nodes.len() - 1]);
    let hog = Hog::start(MIB, Fill::Untouched).expect("a hog");
    let outcome = send(hog.pid(), range(&hog, 0, PAGES), last);
    assert_eq!((outcome.end, outcome.done.asked), (End::Done, Pages(0)));
    // A file that is mapped at two places stays where it is until it is mapped at one.
    let file = tempfile::tempfile().expect("room");
    file.set_len(64 << 12).expect("room");
    let map = || {
        let map = MmapOptions::new().len(64 << 12).map_raw(&file).expect("maps");
        map.advise(memmap2::Advice::PopulateWrite).expect("touches");
        map
    };
    let (one, other, pid) = (map(), map(), std::process::id());
    let start = one.as_ptr().addr() as u64;
    let pages = AddrRange { start, end: start + (64 << 12) };
    let to = if on(pid, pages, first) > 32 { last } else { first };
    let elsewhere = 64 - on(pid, pages, to);
    let outcome = send(pid, pages, to);
    assert_eq!((outcome.done.pages, outcome.done.asked), (Pages(0), Pages(elsewhere)));
    assert!(why(&outcome).contains(&format!("{elsewhere} pages are mapped more than once")), "{}", outcome.end);
    drop(other);
    let outcome = send(pid, pages, to);
    assert_eq!((outcome.end, outcome.done.pages, on(pid, pages, to)), (End::Done, Pages(elsewhere), 64));
}

#[test]
fn huge_pages_go_whole() {
    let Some(nodes) = ground() else { return };
    let mut hog = Hog::huge(MIB, Fill::Half).expect("a hog");
    let (pid, all) = (hog.pid(), range(&hog, 0, PAGES));
    let huge = rollup(pid, "AnonHugePages");
    assert!(huge >= MIB << 9, "the kernel gives huge pages to who asks: {huge} kB");
    for &to in nodes.iter().rev() {
        let there = on(pid, all, to);
        let outcome = send(pid, all, to);
        assert_eq!((&outcome.end, outcome.done.pages, on(pid, all, to)), (&End::Done, Pages(PAGES - there), PAGES));
        assert_eq!(rollup(pid, "AnonHugePages"), huge, "huge pages were split on the way to {to}");
    }
    let cut = send(pid, range(&hog, 100, 400), nodes[1]);
    assert_eq!((cut.done.pages, why(&cut)), (Pages(0), "300 pages belong to huge pages that reach beyond the range"));
    assert!(hog.intact().expect("answers"), "moving changed memory");
}

#[test]
fn hugetlb_pages_go_whole() {
    let Some(nodes) = ground() else { return };
    let (first, last) = (nodes[0], nodes[nodes.len() - 1]);
    let pool = |node: NodeId| format!("/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages", node.0);
    for node in [first, last] {
        fs::write(pool(node), "4").expect("a kernel with hugetlb");
        assert_eq!(fs::read_to_string(pool(node)).expect("reads").trim(), "4");
    }
    let mut memory = MmapOptions::new().len(4 << 20).huge(Some(21)).map_anon().expect("two huge pages");
    memory.chunks_mut(4096).for_each(|page| page[0] = 7);
    let (pid, start) = (std::process::id(), memory.as_ptr().addr() as u64);
    let all = AddrRange { start, end: start + (4 << 20) };
    for to in [first, last] {
        let there = on(pid, all, to);
        let outcome = send(pid, all, to);
        assert_eq!((&outcome.end, outcome.done.pages, on(pid, all, to)), (&End::Done, Pages(1024 - there), 1024));
    }
    assert!(memory.chunks(4096).all(|page| page[0] == 7));
    drop(memory);
    [first, last].iter().for_each(|node| fs::write(pool(*node), "0").expect("as before"));
}

#[test]
fn pinned_pages_stay_and_the_others_go() {
    let Some(nodes) = ground() else { return };
    let mut memory = MmapMut::map_anon(1 << 20).expect("maps");
    memory.fill(1);
    let (pid, start) = (std::process::id(), memory.as_ptr().addr() as u64);
    let start = start.next_multiple_of(4096);
    let all = AddrRange { start, end: start + (1 << 20) };
    assert_eq!(send(pid, all, nodes[0]).end, End::Done);
    // Pages 3 to 10 are held by a pipe until somebody reads it.
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    let held = &memory[3 << 12..11 << 12];
    assert_eq!(vmsplice(&write, &[IoSlice::new(held)], SpliceFFlags::empty()).expect("splices"), 8 << 12);
    let to = nodes[nodes.len() - 1];
    let outcome = send(pid, all, to);
    assert_eq!((outcome.done.pages, outcome.done.asked), (Pages(248), Pages(256)));
    assert_eq!((why(&outcome), on(pid, all, to)), ("8 pages stayed (pinned or busy)", 248));
    drop((read, write));
    let rest = send(pid, all, to);
    assert_eq!((rest.end, rest.done.pages), (End::Done, Pages(8)));
}

#[test]
fn a_node_without_room_and_one_that_is_none() {
    let Some(nodes) = ground() else { return };
    let hog = Hog::start(MIB, Fill::Half).expect("a hog");
    let (proc, all, to) = (key(hog.pid()), range(&hog, 0, PAGES), nodes[nodes.len() - 1]);
    assert_eq!(send(proc.pid, all, nodes[0]).end, End::Done);
    let before = truth(proc.pid, all);
    let guard = Guard::NodeFree { node: to, least: Bytes::from_mib(1 << 20) };
    let action = Action::MovePages { proc, to, ranges: vec![all] };
    assert_eq!(apply(action.clone(), vec![guard.clone()]).end, End::Skipped(guard));
    let free = Guard::NodeFree { node: NodeId(900), least: Bytes::ZERO };
    assert!(matches!(apply(action, vec![free]).end, End::Failed(fault) if fault.errno == libc::ENOENT));
    let nowhere = send(proc.pid, all, NodeId(900));
    assert!(matches!(&nowhere.end, End::Failed(fault) if fault.errno == libc::ENODEV), "{}", nowhere.end);
    let beyond = apply(Action::Migrate { proc, from: nodes.clone(), to: NodeId(900) }, vec![]);
    assert!(matches!(&beyond.end, End::Failed(fault) if fault.errno == libc::EINVAL), "{}", beyond.end);
    assert_eq!(truth(proc.pid, all), before);
}

#[test]
fn migration_takes_everything_that_may_move() {
    let Some(nodes) = ground() else { return };
    let mut hog = Hog::start(MIB, Fill::Half).expect("a hog");
    let (proc, all) = (key(hog.pid()), range(&hog, 0, PAGES));
    for &to in nodes.iter().rev() {
        let there = on(proc.pid, all, to);
        let outcome = apply(Action::Migrate { proc, from: nodes.clone(), to }, vec![Guard::Alive(proc)]);
        // Its libraries are shared with others and stay.
        assert_eq!(on(proc.pid, all, to), PAGES, "{}", outcome.end);
        assert!(outcome.done.pages.0 >= PAGES - there && outcome.done.asked >= outcome.done.pages, "{:?}", outcome.done);
    }
    assert!(hog.intact().expect("answers"));
}

/// Linux 6.1 answers "not there" for pages that wait for a hint fault: then they are told as such, and not as gone.
#[test]
fn pages_that_wait_for_a_hint_fault_are_moved_or_told() {
    let Some(nodes) = ground() else { return };
    let knobs = "/sys/kernel/debug/sched/numa_balancing";
    let set = |path: &str, value: &str| fs::write(path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
    // A task takes its first scan period from these when it begins.
    set(BALANCING, "1");
    set(&format!("{knobs}/scan_delay_ms"), "10");
    set(&format!("{knobs}/scan_period_min_ms"), "100");
    set(&format!("{knobs}/scan_period_max_ms"), "200");
    let mut hog = Hog::start(MIB, Fill::Half).expect("a hog");
    let (pid, all, to) = (hog.pid(), range(&hog, 0, PAGES), nodes[nodes.len() - 1]);
    assert_eq!(send(pid, all, nodes[0]).end, End::Done);
    // What lies where its only thread runs, the kernel does not scan (change_pte_range in mm/mprotect.c).
    let runs = nodes.iter().skip(1).find_map(|&node| CpuMask::parse(&cpus_of(node)).expect("a list").cpus().next());
    let Some(runs) = runs else { return elsewhere("needs two nodes with CPUs") };
    pin(pid, runs.0 as usize).expect("runs there");
    let vmstat = || fs::read_to_string("/proc/vmstat").ok().and_then(|text| field(&text, "numa_pte_updates")).expect("counted");
    let before = vmstat();
    assert!((0..600).any(|_| hog.burn(50).is_ok() && vmstat() - before >= PAGES / 2), "the kernel never scanned the hog");
    let outcome = send(pid, all, to);
    set(BALANCING, "0");
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).expect("reads");
    let seen = by_node(&maps).get(&to).copied().unwrap_or_default();
    // What the kernel's balancing brought there meanwhile is not ours.
    assert!(seen >= outcome.done.pages, "{seen:?}, and said {:?}", outcome.done);
    match &outcome.end {
        // It touches its first 64 pages only, so that the kernel brought hardly any there.
        End::Done => assert!(on(pid, all, to) == PAGES && outcome.done.asked.0 > PAGES / 2, "{:?}", outcome.done),
        End::Partial(why) => assert!(why.contains("wait for a NUMA hint fault"), "{why}"),
        end => panic!("{end}"),
    }
    assert!(hog.intact().expect("answers"));
}

#[test]
fn a_process_killed_under_the_hand_costs_one_outcome() {
    let Some(nodes) = ground() else { return };
    let hog = Hog::start(8 * MIB, Fill::Half).expect("a hog");
    let (proc, all) = (key(hog.pid()), range(&hog, 0, 8 * PAGES));
    assert_eq!(send(proc.pid, range(&hog, 0, PAGES), nodes[0]).end, End::Done);
    let to = nodes[nodes.len() - 1];
    let hand = std::thread::spawn(move || {
        let reins = Reins::new(&config::Arm { pause_us: 20_000, ..config::Arm::default() });
        let shared = Shared::new(Footprint::open(scratch().path(), "boot").expect("opens"));
        Placer::new(shared, reins).apply(&step(Action::MovePages { proc, to, ranges: vec![all] }, vec![Guard::Alive(proc)]))
    });
    while on(proc.pid, all, to) == 0 {
        std::thread::yield_now();
    }
    drop(hog);
    let outcome = hand.join().expect("no panic");
    match &outcome.end {
        End::Partial(why) => assert!(why.starts_with("stopped: pid"), "{why}"),
        // It was killed under the first call already.
        end => assert_eq!((end, outcome.done.pages), (&End::Skipped(Guard::Alive(proc)), Pages(0))),
    }
}

/// The numa policy binds a busy process whose memory lies on one node; then the daemon is killed, or stopped, or told
/// that this process is none of its own any more.
#[test]
fn what_the_daemon_bound_goes_back_however_it_ends() {
    let Some(nodes) = ground() else { return };
    let memtier = binary("memtier").expect("built");
    let hog = Hog::start(4 * MIB, Fill::Half).expect("a hog");
    let (pid, all) = (hog.pid(), range(&hog, 0, 4 * PAGES));
    assert_eq!(send(pid, all, nodes[1]).end, End::Done);
    let before = masks(pid);
    let (over, hog) = (AtomicBool::new(false), Mutex::new(hog));
    let order = || hog.lock().expect("nobody panics with it");
    std::thread::scope(|scope| {
        // Less than an emulated CPU has left beside the daemon.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && order().burn(20).is_ok() {
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        // Also where an assertion ends this.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for end in ["kill -9", "SIGTERM", "unselected"] {
                let run = scratch();
                let config = run.path().join("memtier.toml");
                fs::write(&config, format!("[[target]]\npid = {pid}\n")).expect("room");
                let command = |args: &[&str]| {
                    let mut command = Command::new(&memtier);
                    command.arg("--run-dir").arg(run.path()).args(args);
                    command
                };
                let settings = ["--set", "scan.period_ms=300", "--set", "scan.min_resident_mib=1"];
                let mut daemon = command(&["run", "--act", "--config"]);
                daemon
                    .arg(&config)
                    .args(settings)
                    .stdout(Stdio::null())
                    .stderr(fs::File::create(run.path().join("err")).expect("room"));
                let mut daemon = Owned(daemon.spawn().expect("starts"));
                until(|| {
                    assert_eq!(
                        daemon.0.try_wait().expect("ours"),
                        None,
                        "{}",
                        fs::read_to_string(run.path().join("err")).expect("reads")
                    );
                    let explain = || {
                        command(&["explain", &pid.to_string()]).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
                    };
                    (masks(pid) != before).then_some(()).ok_or_else(|| format!("{end}: not bound: {:?}", explain()))
                });
                let listed = command(&["status", "--footprint"]).output().expect("runs").stdout;
                assert!(String::from_utf8_lossy(&listed).starts_with(&format!("CPUs of pid {pid} (")), "{listed:?}");
                // Its parent has ended, so that nobody but the daemon knows whose it is.
                let orphan = order().orphan().expect("an orphan");
                assert_ne!(masks(orphan)[&orphan], before[&pid], "born bound");
                until(|| {
                    let held = command(&["status", "--footprint"]).output().expect("runs").stdout;
                    let held = String::from_utf8_lossy(&held).into_owned();
                    held.contains(&format!("CPUs of pid {orphan} (born bound)")).then_some(()).ok_or(held)
                });
                // Who asks as numad is told what the daemon knows: a look of its own is over 100 ms, not 2 s.
                let advice = command(&["numad", "-w", "1:10", "--json"]).output().expect("runs").stdout;
                let advice: serde_json::Value = serde_json::from_slice(&advice).expect("an answer");
                assert!(advice["sampled_ms"].as_u64() >= Some(500), "{advice}");
                match end {
                    "kill -9" => {
                        daemon.0.kill().expect("ours");
                        daemon.0.wait().expect("ours");
                        assert_ne!(masks(pid), before);
                        assert!(command(&["undo"]).status().expect("runs").success());
                    }
                    "SIGTERM" => {
                        kill(Pid::from_raw(daemon.0.id().cast_signed()), Signal::SIGTERM).expect("ours");
                        assert!(daemon.0.wait().expect("ours").success());
                    }
                    _ => {
                        fs::write(&config, "[[target]]\ncomm = 'nobody'\n").expect("room");
                        assert!(command(&["reload"]).status().expect("runs").success());
                        until(|| {
                            let said = || fs::read_to_string(run.path().join("err")).expect("reads");
                            if masks(pid) == before { Ok(()) } else { Err(format!("{:?}: {}", masks(pid), said())) }
                        });
                    }
                }
                assert_eq!(masks(pid), before, "{end}");
                until(|| {
                    (masks(orphan)[&orphan] == before[&pid]).then_some(()).ok_or_else(|| format!("{end}: {:?}", masks(orphan)))
                });
            }
        }));
        over.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Polls until it is so; says what it was last when it never is.
fn until(mut so: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(why) = so() {
        assert!(begun.elapsed() < Duration::from_secs(120), "never: {why}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn threads_go_to_the_cpus_of_a_node_and_back() {
    let Some(nodes) = ground() else { return };
    let (dir, mut brood) = (scratch(), Brood::start(30).expect("starts"));
    let before: BTreeMap<u32, String> = masks(brood.pid());
    let (mut placer, shared) = placer(dir.path());
    let proc = key(brood.pid());
    for node in nodes {
        let list = fs::read_to_string(format!("/sys/devices/system/node/node{}/cpulist", node.0)).expect("reads");
        let cpus: Vec<_> = CpuMask::parse(&list).expect("a list").cpus().collect();
        // Of a node without processors nobody can run there.
        if cpus.is_empty() {
            continue;
        }
        let outcome = placer.apply(&step(Action::Bind { proc, cpus, whom: Whom::All }, vec![Guard::Alive(proc)]));
        assert_eq!(outcome.end, End::Done);
        brood.more(3).expect("more");
        assert_eq!(masks(brood.pid()).into_values().collect::<BTreeSet<_>>(), [list.trim().to_owned()].into());
    }
    let undone = shared.lock().undo(&mut HostSettings).expect("undoes");
    assert!(!undone.iter().any(|u| matches!(u.verdict, Verdict::Failed { .. } | Verdict::LeftAlone { .. })), "{undone:?}");
    let after = masks(brood.pid());
    assert!(before.iter().all(|(tid, mask)| after.get(tid).is_none_or(|now| now == mask)), "{before:?} {after:?}");
    assert_eq!(after.into_values().collect::<BTreeSet<_>>(), [before[&proc.pid].clone()].into());
}

/// A cgroup of our own, with the cpuset controller on; gone with the test.
struct Group(&'static str);

impl Group {
    fn start(name: &'static str) -> Self {
        let group = Self(name);
        fs::create_dir(group.dir()).expect("a cgroup");
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset").expect("the kernel has it");
        group
    }
    fn dir(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(self.0)
    }
    fn take(&self, pid: u32) {
        fs::write(self.dir().join("cgroup.procs"), pid.to_string()).expect("moves");
    }
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir().join(name)).expect("reads").trim().to_owned()
    }
    fn bind(&self, placer: &mut Placer<Shared>, proc: ProcKey, cpus: &str) -> Outcome {
        let id = CgroupId(fs::metadata(self.dir()).expect("there").ino());
        let whom = Whom::Cgroup(memtier::vocab::Group { id, path: format!("/{}", self.0), members: vec![proc] });
        let cpus = CpuMask::parse(cpus).expect("a list").cpus().collect();
        placer.apply(&step(Action::Bind { proc, cpus, whom }, vec![Guard::Alive(proc)]))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever is still dying is in it.
        let begun = Instant::now();
        while fs::remove_dir(self.dir()).is_err() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn cpus_of(node: NodeId) -> String {
    let list = fs::read_to_string(format!("/sys/devices/system/node/node{}/cpulist", node.0)).expect("reads");
    list.trim().to_owned()
}

#[test]
fn a_cgroup_goes_to_the_cpus_of_a_node_and_back() {
    let Some(nodes) = ground() else { return };
    let (group, dir) = (Group::start("hand"), scratch());
    let (mut placer, shared) = placer(dir.path());
    let mut brood = Brood::start(10).expect("starts");
    let (pid, proc) = (brood.pid(), key(brood.pid()));
    let before = masks(pid);
    let refused = |outcome: Outcome, why: &str| {
        assert!(matches!(&outcome.end, End::Failed(fault) if fault.message.contains(why)), "{}", outcome.end);
        assert_eq!(shared.lock().cgroups().count(), 0, "{why}");
    };
    refused(group.bind(&mut placer, proc, "0"), "the process is not in it any more");
    group.take(pid);
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "-cpuset").expect("nobody has set any");
    refused(group.bind(&mut placer, proc, "0"), "the cpuset controller is not on for it: write +cpuset to /sys/fs/cgroup/");
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset").expect("the kernel has it");
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").expect("reads").trim().to_owned();
    let (all, empty) = (group.read("cpuset.cpus.effective"), group.read("cpuset.cpus"));
    assert_eq!((all.as_str(), empty.as_str()), (before[&pid].as_str(), ""));

    let stranger = Hog::start(1, Fill::Half).expect("a hog");
    group.take(stranger.pid());
    refused(group.bind(&mut placer, proc, "0"), &format!("pid {} is in it, and its rule does not select", stranger.pid()));
    drop(stranger);

    let places: Vec<String> = nodes.iter().map(|node| cpus_of(*node)).filter(|cpus| !cpus.is_empty()).collect();
    for cpus in &places {
        let outcome = group.bind(&mut placer, proc, cpus);
        assert_eq!((&outcome.end, group.read("cpuset.cpus.effective")), (&End::Done, cpus.clone()));
        assert!(outcome.done.pages.0 > 10 && outcome.done.pages == outcome.done.asked, "{:?}", outcome.done);
        brood.more(3).expect("more");
        let child = brood.child().expect("a child");
        let of = |pid| masks(pid).into_values().collect::<BTreeSet<_>>();
        assert_eq!((of(pid), of(child)), ([cpus.clone()].into(), [cpus.clone()].into()), "born later");
        let held: Vec<String> = shared.lock().held().iter().map(|held| held.old.clone()).collect();
        assert_eq!(held, [""]);
    }
    let undone = shared.lock().undo(&mut HostSettings).expect("undoes");
    assert!(matches!(&undone[..], [one] if one.verdict == Verdict::RestoredAs { value: possible.clone() }), "{undone:?}");
    assert_eq!((group.read("cpuset.cpus.effective"), &masks(pid)[&pid]), (all.clone(), &before[&pid]));

    // A thread with a mask of its own keeps that; where the kernel would forget it, nobody is bound.
    let last = places.last().expect("two");
    let first: u32 = CpuMask::parse(&places[0]).and_then(|mask| mask.cpus().next()).expect("a CPU").0;
    let pinned = brood.pin(first).expect("pins");
    refused(group.bind(&mut placer, proc, last), "1 task bound by somebody else");
    let outcome = group.bind(&mut placer, proc, &places[0]);
    eprintln!("with a thread that has a mask of its own: {}", outcome.end);
    assert!(outcome.end == End::Done || outcome.end.to_string().contains("this kernel would forget it"), "{}", outcome.end);
    assert_eq!(masks(pid)[&pinned], first.to_string());
    // Somebody sets it after us.
    let theirs = outcome.end == End::Done;
    if theirs {
        fs::write(group.dir().join("cpuset.cpus"), last).expect("sets");
    }
    let undone = shared.lock().undo(&mut HostSettings).expect("undoes");
    let left = undone.iter().filter(|one| matches!(one.verdict, Verdict::LeftAlone { .. })).count();
    assert_eq!((left, undone.len()), (usize::from(theirs), usize::from(theirs)), "{undone:?}");
    if theirs {
        assert_eq!(group.read("cpuset.cpus"), *last);
        fs::write(group.dir().join("cpuset.cpus"), &all).expect("sets");
    }
    assert_eq!((&masks(pid)[&pinned], &masks(pid)[&pid]), (&first.to_string(), &before[&pid]));
    // The cgroup is gone before the undo.
    let gone = Group::start("gone");
    let child = Brood::start(1).expect("starts");
    gone.take(child.pid());
    assert_eq!(gone.bind(&mut placer, key(child.pid()), last).end, End::Done);
    drop(child);
    drop(gone);
    let undone = shared.lock().undo(&mut HostSettings).expect("undoes");
    assert!(matches!(&undone[..], [one] if one.verdict == Verdict::Gone), "{undone:?}");
}

/// A rule with `cpuset = true`: one large process and a small one in a cgroup, and a child that is born while they are bound.
#[test]
fn a_cgroup_that_the_daemon_bound_goes_back_however_it_ends() {
    let Some(nodes) = ground() else { return };
    if Path::new("/sys/devices/system/node/node2").exists() {
        return elsewhere("once a kernel is enough: in the guest of two nodes");
    }
    let memtier = binary("memtier").expect("built");
    let group = Group::start("daemon");
    let mut hog = Hog::start(4 * MIB, Fill::Half).expect("a hog");
    let (pid, all) = (hog.pid(), range(&hog, 0, 4 * PAGES));
    group.take(pid);
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", "while read order; do sleep 1000 & echo $!; done"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = Owned(shell.spawn().expect("starts"));
    group.take(shell.0.id());
    let mut said = BufReader::new(shell.0.stdout.take().expect("asked for"));
    assert_eq!(send(pid, all, nodes[1]).end, End::Done);
    let before = group.read("cpuset.cpus.effective");
    let homes: Vec<String> = nodes.iter().map(|node| cpus_of(*node)).collect();
    let over = AtomicBool::new(false);
    let mut children = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && hog.burn(20).is_ok() {
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for end in ["kill -9", "SIGTERM", "unselected"] {
                let run = scratch();
                let config = run.path().join("memtier.toml");
                fs::write(&config, "[[target]]\ncgroup = '/daemon'\ncpuset = true\n").expect("room");
                let command = |args: &[&str]| {
                    let mut command = Command::new(&memtier);
                    command.arg("--run-dir").arg(run.path()).args(args);
                    command
                };
                let said_by = |args: &[&str]| String::from_utf8_lossy(&command(args).output().expect("runs").stdout).into_owned();
                let mut daemon = command(&["run", "--act", "--config"]);
                daemon.arg(&config).args(["--set", "scan.period_ms=300", "--set", "scan.min_resident_mib=1"]);
                daemon.stdout(Stdio::null()).stderr(fs::File::create(run.path().join("err")).expect("room"));
                let mut daemon = Owned(daemon.spawn().expect("starts"));
                until(|| {
                    let bound = group.read("cpuset.cpus.effective") != before;
                    bound.then_some(()).ok_or_else(|| format!("{end}: not bound: {}", said_by(&["explain", &pid.to_string()])))
                });
                // Which one is the policy's to say.
                let home = group.read("cpuset.cpus.effective");
                assert!(homes.contains(&home), "{home}");
                let listed = said_by(&["status", "--footprint"]);
                assert!(listed.starts_with(&format!("/sys/fs/cgroup/daemon/cpuset.cpus: {home} (was ")), "{listed}");
                writeln!(shell.0.stdin.as_ref().expect("asked for"), "child").expect("it reads");
                let mut line = String::new();
                said.read_line(&mut line).expect("it answers");
                let child: u32 = line.trim().parse().expect("a pid");
                children.push(child);
                assert_eq!((&masks(child)[&child], &masks(pid)[&pid]), (&home, &home), "born later");
                match end {
                    "kill -9" => {
                        daemon.0.kill().expect("ours");
                        daemon.0.wait().expect("ours");
                        assert_eq!(group.read("cpuset.cpus.effective"), home);
                        let undone = said_by(&["undo"]);
                        assert!(undone.starts_with("/sys/fs/cgroup/daemon/cpuset.cpus: restored to "), "{undone}");
                    }
                    "SIGTERM" => {
                        kill(Pid::from_raw(daemon.0.id().cast_signed()), Signal::SIGTERM).expect("ours");
                        assert!(daemon.0.wait().expect("ours").success());
                    }
                    _ => {
                        fs::write(&config, "[[target]]\ncomm = 'nobody'\n").expect("room");
                        assert!(command(&["reload"]).status().expect("runs").success());
                        until(|| {
                            let now = group.read("cpuset.cpus.effective");
                            let said = || fs::read_to_string(run.path().join("err")).expect("reads");
                            if now == before { Ok(()) } else { Err(format!("{now}: {}", said())) }
                        });
                    }
                }
                assert_eq!(group.read("cpuset.cpus.effective"), before, "{end}");
                assert_eq!((&masks(child)[&child], &masks(pid)[&pid]), (&before, &before), "{end}");
            }
        }));
        over.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    for child in children {
        kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL).expect("it lives");
    }
}
