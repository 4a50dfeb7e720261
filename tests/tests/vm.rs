//! What only a guest shows (`cargo xtask test --layer vm`): several nodes, soft-dirty bits, cgroup v2 with memory, zswap and
//! disk swap, both ways of reclaim. It changes the whole machine's settings, so it runs nowhere else.
#![cfg(feature = "host")]

use memtier::act::{Actuator as _, Hands};
use memtier::config;
use memtier::observe::Observer as _;
use memtier::observe::bpf::{Eyes, Options};
use memtier::observe::cgroup::Hierarchy;
use memtier::observe::walker::Walker;
use memtier::observe::{host, proc};
use memtier::sys::clock::boottime;
use memtier::sys::files::Root;
use memtier::sys::numa::move_pages;
use memtier::sys::pagemap::{Entry, PageMap};
use memtier::vocab::{
    Action, AddrRange, BLOCK_BYTES, BlockSample, Bytes, CgroupSample, Charge, End, Event, KernelEvent, Need, NodeId, Outcome,
    Pages, PolicyId, ProcKey, Reason, Rule, Source, Span, Step, StepId,
};
use memtier_tests::footing::{self, lab};
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::zram::Zram;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const MIB: u64 = 16;
const PAGES: u64 = MIB << 8;
const DISK: &str = "/dev/vda";
const BALANCING: &str = "/proc/sys/kernel/numa_balancing";
const MGLRU: &str = "/sys/kernel/mm/lru_gen/enabled";

fn set(path: &str, value: &str) {
    fs::write(path, value).unwrap_or_else(|e| panic!("{path} = {value}: {e}"));
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

fn eyes() -> Eyes {
    Eyes::open(&Options { object: Some(footing::host().expect("the lab brings the object")), ..Options::default() })
}

fn walker() -> Walker {
    eyes().take_walker().expect("the walker works on every kernel of the lab")
}

fn key(hog: &Hog) -> ProcKey {
    let root = Root::host();
    let hierarchy = Hierarchy::find(&root).expect("mountinfo reads");
    proc::sample(&root, hierarchy.as_ref(), hog.pid()).expect("the hog lives").proc
}

fn range(hog: &Hog, first: u64, end: u64) -> AddrRange {
    AddrRange { start: hog.addr(first), end: hog.addr(end) }
}

fn apply(action: Action) -> Outcome {
    let step = Step {
        id: StepId { decision: 1, index: 0 },
        action,
        guards: Vec::new(),
        expires: boottime().after(Span::from_secs(600)),
        charge: Charge::default(),
        by: PolicyId::Autocold,
        reason: Reason { rule: Rule::AutocoldIdle, evidence: Vec::new(), note: String::new() },
    };
    Hands::new(&config::Arm::default()).apply(&step)
}

fn page_out(hog: &Hog, first: u64, end: u64) -> Outcome {
    apply(Action::PageOut { proc: key(hog), ranges: vec![range(hog, first, end)] })
}

/// One page of the hog: in memory and where, or in swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    On(NodeId),
    Swapped,
    Nowhere,
}

/// By the walker.
fn places(walker: &mut Walker, hog: &Hog) -> Vec<Place> {
    let mut blocks: BTreeMap<u64, BlockSample> = BTreeMap::new();
    let each = &mut |chunk: memtier::vocab::PageChunk| blocks.extend(chunk.blocks.into_iter().map(|b| (b.block.start(), b)));
    walker.scan(key(hog), each).expect("the hog lives");
    let mut places = Vec::new();
    for start in (hog.base..hog.addr(hog.pages)).step_by(BLOCK_BYTES as usize) {
        let Some(block) = blocks.get(&start) else {
            places.extend([Place::Nowhere; 512]);
            continue;
        };
        // Runs count present pages only, in order.
        let runs = block.mixed.as_deref().unwrap_or_default();
        let mut nodes = runs.iter().flat_map(|run| std::iter::repeat_n(run.node, run.pages.into()));
        places.extend((0..512).map(|page| match (block.present.get(page), block.swapped.get(page)) {
            (true, _) => Place::On(nodes.next().unwrap_or(block.node)),
            (false, true) => Place::Swapped,
            (false, false) => Place::Nowhere,
        }));
    }
    places.truncate(hog.pages as usize);
    places
}

fn pagemap(hog: &Hog) -> Vec<Entry> {
    let file = fs::File::open(format!("/proc/{}/pagemap", hog.pid())).expect("pagemap opens");
    let mut entries = Vec::new();
    PageMap::new(file).expect("4 KiB pages").entries(range(hog, 0, hog.pages), &mut entries).expect("pagemap reads");
    entries
}

fn swapped(hog: &Hog) -> u64 {
    pagemap(hog).iter().filter(|e| e.swapped()).count() as u64
}

/// The walker tells of each page what pagemap does, or somebody moved pages between the looks: then it must soon.
fn agrees(walker: &mut Walker, hog: &Hog) {
    let wrong = |walker: &mut Walker| {
        let (before, seen, after) = (pagemap(hog), places(walker, hog), pagemap(hog));
        let same = |(page, place): &(usize, &Place)| match place {
            Place::On(_) => !before[*page].present() && !after[*page].present(),
            Place::Swapped => !before[*page].swapped() && !after[*page].swapped(),
            Place::Nowhere => before[*page].present() && after[*page].present(),
        };
        seen.iter().enumerate().filter(same).count()
    };
    let tries: Vec<usize> = (0..5).map(|_| wrong(walker)).take_while(|&wrong| wrong > 0).collect();
    assert!(tries.len() < 5, "pages told wrong, five times: {tries:?}");
}

fn nodes() -> Vec<NodeId> {
    host::node_ids(&Root::host()).expect("nodes list")
}

#[test]
fn every_source_of_every_kernel_sees() {
    if !lab() {
        return;
    }
    let eyes = eyes();
    let mut blind: BTreeMap<_, _> =
        eyes.families().iter().filter_map(|(source, state)| Some((*source, state.as_ref().err()?))).collect();
    if !Path::new(Damon::ADMIN).exists() {
        let why = blind.remove(&Source::Damon).expect("a kernel without DAMON tells no regions");
        assert!(why.contains("this kernel has no") && why.to_lowercase().contains("damon"), "{why}");
    }
    assert!(blind.is_empty(), "{}: {blind:?}", read("/proc/sys/kernel/osrelease"));
    assert!(eyes.families().len() >= 6 && eyes.families().contains_key(&Source::Walker));
}

#[test]
fn facts_are_those_of_the_guest() {
    if !lab() {
        return;
    }
    let facts = memtier::observe::probe::facts(&Root::host(), Vec::new());
    for need in [Need::SoftDirty, Need::CgroupV2Memory, Need::ProcessMadvise, Need::Psi, Need::Kprobes] {
        assert_eq!(facts.has(need), Ok(()), "{}", facts.kernel);
    }
    assert!(facts.has(Need::CgroupV1Memory).is_err());
    assert_eq!(facts.has(Need::Mglru).is_ok(), !read(MGLRU).ends_with('0'));
    assert_eq!(facts.has(Need::ManyNodes).is_ok(), nodes().len() > 1);
    assert_eq!(facts.nodes.iter().map(|n| n.id).collect::<Vec<_>>(), nodes());
    for node in &facts.nodes {
        assert_eq!(node.cpus.is_empty(), read(&format!("/sys/devices/system/node/node{}/cpulist", node.id.0)).is_empty());
        assert!(node.distances.len() + 1 >= nodes().len(), "{node:?}");
    }
}

#[test]
fn each_page_is_on_the_node_that_the_walker_says() {
    if !lab() {
        return;
    }
    let balancing = fs::read_to_string(BALANCING).unwrap_or_default();
    if !balancing.is_empty() {
        set(BALANCING, "0");
    }
    let (mut walker, hog, nodes) = (walker(), Hog::start(MIB, Fill::Half).expect("a hog"), nodes());
    // Pages go around the nodes, so that neighbours lie apart; then each node has a part of its own.
    let around = |page: u64| nodes[(page % nodes.len() as u64) as usize];
    let apart = |page: u64| nodes[(page * nodes.len() as u64 / PAGES) as usize];
    for wanted in [&around as &dyn Fn(u64) -> NodeId, &apart] {
        for &node in &nodes {
            let pages: Vec<u64> = (0..PAGES).filter(|&p| wanted(p) == node).map(|p| hog.addr(p)).collect();
            move_pages(hog.pid(), &pages, Some(node.0)).expect("moves");
        }
        let all: Vec<u64> = (0..PAGES).map(|p| hog.addr(p)).collect();
        let truth = move_pages(hog.pid(), &all, None).expect("answers");
        let seen = places(&mut walker, &hog);
        let wrong = (0..PAGES as usize).filter(|&p| seen[p] != Place::On(NodeId(truth[p] as u16))).count();
        assert_eq!(wrong, 0, "of {PAGES} pages on {nodes:?}");
        let placed = (0..PAGES).filter(|&p| truth[p as usize] == i32::from(wanted(p).0)).count() as u64;
        assert!(placed > PAGES * 9 / 10, "only {placed} of {PAGES} pages went where they were sent");
    }
    if !balancing.is_empty() {
        set(BALANCING, balancing.trim());
    }
}

#[test]
fn pages_that_wait_for_a_hint_fault_are_present() {
    if !lab() || nodes().len() < 2 {
        return;
    }
    let knobs = "/sys/kernel/debug/sched/numa_balancing";
    let before = read(BALANCING);
    set(BALANCING, "1");
    set(&format!("{knobs}/scan_delay_ms"), "10");
    set(&format!("{knobs}/scan_period_min_ms"), "100");
    set(&format!("{knobs}/scan_period_max_ms"), "200");
    let hints = || -> u64 {
        let text = read("/proc/vmstat");
        text.lines().find_map(|l| l.strip_prefix("numa_pte_updates ")?.parse().ok()).expect("the kernel counts them")
    };
    let (mut walker, mut hog, first) = (walker(), Hog::start(MIB, Fill::Half).expect("a hog"), hints());
    let least = PAGES / 2;
    // The kernel counts a task's own CPU time towards its next scan, at the ticks that meet it running.
    let scanned = (0..600).any(|_| hog.burn(50).is_ok() && hints() - first >= least);
    assert!(scanned, "the kernel never scanned the hog");
    agrees(&mut walker, &hog);
    let told = places(&mut walker, &hog).iter().filter(|p| matches!(p, Place::On(_))).count() as u64;
    assert_eq!(told, PAGES);
    set(BALANCING, &before);
}

#[test]
fn soft_dirty_bits_are_left_to_those_who_use_them() {
    if !lab() {
        return;
    }
    let _zram = Zram::start(64).expect("a swap area");
    let mut hog = Hog::start(MIB, Fill::Half).expect("a hog");
    // What CRIU does.
    set(&format!("/proc/{}/clear_refs", hog.pid()), "4");
    hog.write(100..200).expect("the hog writes");
    let dirty = |hog: &Hog| -> Vec<bool> { pagemap(hog).iter().map(|e| e.soft_dirty()).collect() };
    let before = dirty(&hog);
    assert_eq!(before.iter().filter(|d| **d).count(), 100);
    let armed = apply(Action::Arm { proc: key(&hog), ranges: vec![range(&hog, 0, PAGES)] });
    assert_eq!(armed.end, End::Done);
    assert_eq!(dirty(&hog), before, "arming changed soft-dirty bits");
    // The kernel leaves what it has in its own hands at the moment (compaction, khugepaged): most is enough here.
    let out = page_out(&hog, 0, 1024);
    assert!(out.done.pages.0 > 512, "{out}");
    assert_eq!(dirty(&hog), before, "paging out changed soft-dirty bits");
    hog.read(0..PAGES).expect("the hog reads");
    assert!(dirty(&hog).iter().zip(&before).all(|(now, then)| now >= then), "paging in lost a soft-dirty bit");
}

/// A cgroup of our own with a hog whose memory is charged to it.
struct Group {
    hog: Option<Hog>,
}

impl Group {
    const DIR: &str = "/sys/fs/cgroup/lab";

    fn start() -> Self {
        set("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
        fs::create_dir(Self::DIR).expect("a cgroup");
        set(&Self::file("cgroup.procs"), &std::process::id().to_string());
        let hog = Hog::start(MIB, Fill::Half);
        set("/sys/fs/cgroup/cgroup.procs", &std::process::id().to_string());
        Self { hog: Some(hog.expect("a hog")) }
    }
    fn file(name: &str) -> String {
        format!("{}/{name}", Self::DIR)
    }
    fn hog(&mut self) -> &mut Hog {
        self.hog.as_mut().expect("it lives as long as the group")
    }
    fn sample() -> CgroupSample {
        let root = Root::host();
        let hierarchy = Hierarchy::find(&root).expect("mountinfo reads").expect("cgroup v2");
        hierarchy.sample(&root, "/lab").expect("the cgroup reads")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(self.hog.take());
        let _ = fs::remove_dir(Self::DIR);
    }
}

#[test]
fn limits_of_a_cgroup_hold_for_pages_we_take_out() {
    if !lab() {
        return;
    }
    let _zram = Zram::start(64).expect("a swap area");
    let mut group = Group::start();
    let sample = Group::sample();
    assert!(sample.usage >= Bytes::from_mib(MIB) && sample.anon >= Bytes::from_mib(MIB), "{sample:?}");
    assert_eq!((sample.limit, sample.swap_limit), (Bytes::MAX, Bytes::MAX));

    set(&Group::file("memory.swap.max"), "0");
    assert_eq!(Group::sample().swap_limit, Bytes::ZERO);
    let none = page_out(group.hog(), 0, 1024);
    assert!(matches!(none.end, End::Partial(_)) && none.done.pages == Pages(0), "{} {}", none.end, none.done.pages.0);

    set(&Group::file("memory.swap.max"), "4M");
    assert_eq!(Group::sample().swap_limit, Bytes::from_mib(4));
    let some = page_out(group.hog(), 0, 2048);
    assert!(matches!(some.end, End::Partial(_)) && (1..=1024).contains(&some.done.pages.0), "{} {}", some.end, some.done.pages.0);
    assert!(swapped(group.hog()) <= 1024);
    set(&Group::file("memory.swap.max"), "max");
    set(&Group::file("memory.max"), "64M");
    assert_eq!(Group::sample().limit, Bytes::from_mib(64));
    assert!(group.hog().intact().expect("answers"));
}

#[test]
fn what_the_cgroup_reclaims_is_seen() {
    if !lab() {
        return;
    }
    let _zram = Zram::start(64).expect("a swap area");
    let (mut walker, mut group) = (walker(), Group::start());
    // It may reach less than was asked, and says so by an error: what was just touched gets another chance each time.
    let more = |file: &str, what: &str, group: &mut Group, than: u64| {
        let mut tries = (0..50).map(|_| {
            let _ = fs::write(Group::file(file), what);
            sleep(Duration::from_millis(50));
            swapped(group.hog())
        });
        tries.find(|pages| *pages > than).unwrap_or_else(|| panic!("{file}: never more than {than} pages"))
    };
    let reclaimed = more("memory.reclaim", "8M", &mut group, 512);
    agrees(&mut walker, group.hog());
    let target = Group::sample().usage.0 - (4 << 20);
    let over_high = more("memory.high", &target.to_string(), &mut group, reclaimed);
    agrees(&mut walker, group.hog());
    // Its stack and its heap are charged too.
    assert!(Group::sample().swap_usage.0 >> 12 >= over_high);
    set(&Group::file("memory.high"), "max");
    // What the kernel's own reclaim has in its hands at this moment, or a CPU in its batch for the LRU lists, is refused.
    let all = (0..50).any(|_| {
        set("/proc/sys/vm/compact_memory", "1"); // drains the batches
        page_out(group.hog(), 0, PAGES);
        swapped(group.hog()) == PAGES
    });
    assert!(all, "{} of {PAGES} pages are out", swapped(group.hog()));
    assert!(group.hog().intact().expect("answers"));
}

/// mkswap and swapon of the lab's disk; off again when dropped.
struct Disk;

impl Disk {
    fn on() -> Self {
        run("mkswap", &[DISK]);
        run("swapon", &[DISK]);
        Self
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("swapoff", &[DISK]);
    }
}

fn run(program: &str, args: &[&str]) {
    let path = footing::program(program, "util-linux mount").expect("the machine has it");
    let out = Command::new(path).args(args).output().expect("starts");
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_disk_takes_pages_and_so_does_zswap_before_it() {
    if !lab() {
        return;
    }
    let zswap = "/sys/module/zswap/parameters/enabled";
    let _disk = Disk::on();
    let mut walker = walker();
    let sample = || host::sample(&Root::host()).expect("the host reads");
    for enabled in ["N", "Y"] {
        set(zswap, enabled);
        let mut hog = Hog::start(MIB, Fill::Half).expect("a hog");
        let before = sample();
        assert_eq!(before.zswap_enabled, enabled == "Y");
        assert!(before.swaps.iter().any(|s| s.size >= Bytes::from_mib(200)), "{:?}", before.swaps);
        let out = page_out(&hog, 0, 2048);
        assert!(out.done.pages.0 > 2000, "{} {}", out.end, out.done.pages.0);
        agrees(&mut walker, &hog);
        assert!(sample().swapped_out > before.swapped_out || enabled == "Y");
        assert!(hog.intact().expect("answers"), "zswap {enabled}");
    }
    set(zswap, "N");
}

#[test]
fn both_ways_of_reclaim_give_pages_out() {
    if !lab() {
        return;
    }
    let _zram = Zram::start(64).expect("a swap area");
    let before = read(MGLRU);
    let mut walker = walker();
    for enabled in ["n", "y"] {
        set(MGLRU, enabled);
        assert_eq!(read(MGLRU).ends_with('0'), enabled == "n");
        let mut hog = Hog::start(MIB, Fill::Half).expect("a hog");
        let out = page_out(&hog, 0, 2048);
        assert_eq!((out.end, out.done.pages), (End::Done, Pages(2048)), "lru_gen {enabled}");
        agrees(&mut walker, &hog);
        let armed = apply(Action::Arm { proc: key(&hog), ranges: vec![range(&hog, 2048, PAGES)] });
        assert_eq!((armed.end, armed.done.pages), (End::Done, Pages(PAGES - 2048)), "lru_gen {enabled}");
        assert!(hog.intact().expect("answers"));
    }
    set(MGLRU, &before);
}

/// DAMON on the hog, by sysfs; off again when dropped.
struct Damon;

impl Damon {
    const ADMIN: &str = "/sys/kernel/mm/damon/admin/kdamonds";

    fn on(pids: &[u32]) -> Self {
        // A kernel that watches itself lets nobody else.
        let _ = fs::write("/sys/module/damon_stat/parameters/enabled", "N");
        let at = |file: &str| format!("{}/{file}", Self::ADMIN);
        set(&at("nr_kdamonds"), "1");
        set(&at("0/contexts/nr_contexts"), "1");
        set(&at("0/contexts/0/operations"), "vaddr");
        // Regions of a part of a block; looks so far apart that whoever reads all the time has read between two of them.
        set(&at("0/contexts/0/monitoring_attrs/nr_regions/min"), "200");
        set(&at("0/contexts/0/monitoring_attrs/intervals/aggr_us"), "2500000");
        set(&at("0/contexts/0/monitoring_attrs/intervals/sample_us"), "250000");
        set(&at("0/contexts/0/targets/nr_targets"), &pids.len().to_string());
        for (place, pid) in pids.iter().enumerate() {
            set(&at(&format!("0/contexts/0/targets/{place}/pid_target")), &pid.to_string());
        }
        set(&at("0/state"), "on");
        Self
    }
}

impl Drop for Damon {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/0/state", Self::ADMIN), "off");
        let _ = fs::write(format!("{}/nr_kdamonds", Self::ADMIN), "0");
    }
}

#[test]
fn damon_may_watch_the_same_process() {
    if !lab() {
        return;
    }
    let fact = |need| memtier::observe::probe::facts(&Root::host(), Vec::new()).has(need);
    if !Path::new(Damon::ADMIN).exists() {
        assert!(fact(Need::DamonVaddr).is_err() && fact(Need::DamonEvents).is_err());
        return;
    }
    let (mut walker, mut hog) = (walker(), Hog::start(MIB, Fill::Half).expect("a hog"));
    let _damon = Damon::on(&[hog.pid()]);
    assert_eq!((fact(Need::DamonVaddr), fact(Need::DamonEvents)), (Ok(()), Ok(())));
    for _ in 0..5 {
        agrees(&mut walker, &hog);
        let armed = apply(Action::Arm { proc: key(&hog), ranges: vec![range(&hog, 0, PAGES)] });
        assert_eq!((armed.end, armed.done.pages), (End::Done, Pages(PAGES)));
        hog.read(0..PAGES).expect("the hog reads");
    }
    assert!(hog.intact().expect("answers"));
}

/// A region as it was told.
#[derive(Clone, Copy, Debug)]
struct Region {
    proc: ProcKey,
    range: AddrRange,
    accesses: u32,
    samples: u32,
}

impl Region {
    /// Accesses in `part`, as if they were spread evenly: pages times permil.
    fn heat(&self, part: AddrRange) -> u64 {
        let shared = AddrRange { start: self.range.start.max(part.start), end: self.range.end.min(part.end) };
        shared.pages().0 * u64::from(self.accesses) * 1000 / u64::from(self.samples)
    }
}

/// What DAMON tells in `seconds`, while each hog reads its own part over and over; and how many regions were lost.
async fn regions(eyes: &mut Eyes, hogs: &mut [(Hog, Range<u64>)], seconds: u64) -> (Vec<Region>, u64) {
    let (mut told, mut lost, end) = (Vec::new(), 0, Instant::now() + Duration::from_secs(seconds));
    while Instant::now() < end {
        hogs.iter_mut().for_each(|(hog, part)| hog.read(part.clone()).expect("the hog reads"));
        while let Ok(event) = tokio::time::timeout(Duration::from_millis(1), eyes.next()).await {
            match event {
                Event::Kernel(KernelEvent::Region { proc, range, accesses, samples }) => {
                    told.push(Region { proc, range, accesses, samples });
                }
                Event::Lost { source: Source::Damon, count } => lost += count,
                _ => {}
            }
        }
    }
    (told, lost)
}

#[test]
fn damon_tells_which_process_is_hot_and_where() {
    // It takes a minute and asks nothing about nodes: one topology is enough.
    if !lab() || !Path::new(Damon::ADMIN).exists() || Path::new("/sys/devices/system/node/node1").exists() {
        return;
    }
    // On one CPU all are the neighbours that emulation needs to set accessed bits again (docs/vm-lab.md).
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0).expect("there is one");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).expect("we may");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut eyes = eyes();
    let mut hogs = [1024..1280, 3072..3328, 0..16].map(|part| (Hog::start(MIB, Fill::Half).expect("a hog"), part));
    let [one, other, unwatched] = [0, 1, 2].map(|place| (key(&hogs[place].0), hogs[place].0.pid()));
    {
        let _damon = Damon::on(&[one.1, other.1]);
        let seconds = 30;
        let began = Instant::now();
        let (told, lost) = runtime.block_on(regions(&mut eyes, &mut hogs, seconds));
        let took = began.elapsed().as_secs();
        assert_eq!(lost, 0);
        assert!(told.iter().all(|r| r.proc != unwatched.0 && [one.0, other.0].contains(&r.proc)), "{told:?}");
        assert!(told.iter().all(|r| (1..=r.samples).contains(&r.accesses)), "{told:?}");
        for (hog, part) in &hogs[..2] {
            let its: Vec<_> = told.iter().filter(|r| r.proc == key(hog)).collect();
            let heat = |first, end| its.iter().map(|r| r.heat(range(hog, first, end))).sum::<u64>();
            let (hot, all) = (heat(part.start, part.end), heat(0, PAGES));
            // A sixteenth of its pages.
            assert!(hot > all - hot, "pages {part:?} have {hot} of {all}: {its:?}");
            // One aggregation a second: each ascends.
            let aggregations = 1 + its.windows(2).filter(|two| two[1].range.start <= two[0].range.start).count() as u64;
            assert!(aggregations <= took + 2, "{aggregations} in {took} s");
        }
    }
    // What is still under way from then.
    runtime.block_on(regions(&mut eyes, &mut hogs, 1));
    // Of more processes than the probe looks through, the rest are counted.
    let _damon = Damon::on(&[[one.1; 32].as_slice(), &[other.1]].concat());
    let mut seen = (0..12).map(|_| runtime.block_on(regions(&mut eyes, &mut hogs, 10)));
    let found = seen.find(|(told, lost)| {
        assert!(told.iter().all(|r| r.proc == one.0), "{told:?}");
        *lost > 0 && !told.is_empty()
    });
    assert!(found.is_some(), "none told and lost in two minutes");
}
