//! Processes that give trouble, and memory that nobody may touch: walked, told apart, left alone. Root, BPF and the object.
#![cfg(feature = "host")]

use memtier::act::{Actuator as _, Hands};
use memtier::config;
use memtier::model::Models;
use memtier::observe::bpf::{Eyes, Options};
use memtier::observe::walker::Walker;
use memtier::sys::clock::boottime;
use memtier::sys::files::start_ticks;
use memtier::vocab::{
    Action, AddrRange, Charge, End, Event, Guard, MapsSample, Outcome, PAGE_BYTES, Pages, PolicyId, ProcKey, Reason, Rule, Sample,
    Source, Span, Stamped, Step, StepId, VmaFlags,
};
use memtier_tests::owner::Owner;
use memtier_tests::{binary, footing, need};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";

/// One at a time: two change settings of the host.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that gives trouble; ends with its owner.
struct Trouble {
    child: Child,
    base: u64,
}

impl Trouble {
    fn start(verb: &str, much: u64) -> Self {
        let mut command = Command::new(binary("trouble").expect("built beside"));
        command.args([verb, &much.to_string()]);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("asked for")).read_line(&mut line).expect("it speaks");
        let base = line.trim().parse();
        let trouble = Self { child, base: base.clone().unwrap_or(0) };
        assert!(base.is_ok(), "it could not: {line:?}");
        trouble
    }

    fn key(&self) -> ProcKey {
        let pid = self.child.id();
        let stat = fs::read(format!("/proc/{pid}/stat")).expect("it lives");
        ProcKey { pid, start: start_ticks(&stat).expect("stat has 22 fields") }
    }

    /// The first pages of its region.
    fn region(&self, pages: u64) -> AddrRange {
        AddrRange { start: self.base, end: self.base + pages * PAGE_BYTES }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A setting of the host that goes back.
struct Set {
    path: &'static str,
    old: String,
}

impl Set {
    fn to(path: &'static str, value: &str) -> Result<Self, String> {
        let old = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?.trim().to_owned();
        fs::write(path, value).map_err(|e| format!("{path}: {e}"))?;
        Ok(Self { path, old })
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, &self.old) {
            eprintln!("{}: {error}", self.path);
        }
    }
}

fn walker() -> Result<Walker, String> {
    footing::memory(1024)?;
    let mut eyes = Eyes::open(&Options { object: Some(footing::host()?), ..Options::default() });
    match eyes.take_walker() {
        Some(walker) => Ok(walker),
        None => Err(eyes.families()[&Source::Walker].clone().expect_err("no walker")),
    }
}

/// What the models make of a walk: its mappings, the pages seen, and what a hand may touch.
fn walk(walker: &mut Walker, proc: ProcKey) -> (MapsSample, Pages, Vec<AddrRange>) {
    let (mut models, config, mut seq) = (Models::default(), config::Config::default(), 0);
    let mut tell = |sample| {
        seq += 1;
        models.fold(&Stamped { seq, at: boottime(), event: Event::Sample(sample) }, &config);
    };
    let maps = walker.maps(proc).expect("it lives");
    tell(Sample::Maps(maps.clone()));
    let stats = walker.scan(proc, &mut |chunk| tell(Sample::Pages(chunk))).expect("it lives");
    let eligible = models.procs.eligible_ranges(proc);
    assert_eq!(models.heat.get(proc).expect("walked").resident(), stats.pages);
    (maps, stats.pages, eligible)
}

fn apply(action: Action) -> Outcome {
    let step = Step {
        id: StepId { decision: 1, index: 0 },
        guards: vec![Guard::Alive(action.proc())],
        action,
        expires: boottime().after(Span::from_secs(60)),
        charge: Charge::default(),
        by: PolicyId::Arm,
        reason: Reason::new(Rule::ArmYoung),
    };
    Hands::new(&config::Arm::default()).apply(&step)
}

fn arm(proc: ProcKey, ranges: Vec<AddrRange>) -> Outcome {
    apply(Action::Arm { proc, ranges })
}

fn flags(maps: &MapsSample, at: u64) -> VmaFlags {
    maps.vmas.iter().find(|v| v.start <= at && at < v.end).expect("the region is mapped").flags
}

#[test]
fn a_hundred_thousand_mappings_are_walked_and_armed() {
    let _one = alone();
    let mut walker = need!(walker());
    let most = fs::read_to_string(MAX_MAP_COUNT).expect("every kernel has it");
    let _more = (most.trim().parse::<u64>().is_ok_and(|most| most < 131_072))
        .then(|| Set::to(MAX_MAP_COUNT, "131072").expect("root sets it"));
    let many = Trouble::start("vmas", 100_000);
    let (maps, pages, eligible) = walk(&mut walker, many.key());
    assert!(maps.vmas.len() >= 100_000 && pages.0 >= 100_000, "{} mappings, {pages}", maps.vmas.len());
    let all: Pages = eligible.iter().map(AddrRange::pages).sum();
    assert!(all.0 >= 100_000, "{all} of a hundred thousand may be touched");
    let outcome = arm(many.key(), eligible);
    assert!(matches!(outcome.end, End::Done | End::Partial(_)), "{outcome}");
    assert!(outcome.done.pages.0 >= 99_000, "{outcome}");
}

#[test]
fn reserved_address_space_costs_nothing() {
    let _one = alone();
    let mut walker = need!(walker());
    let vast = Trouble::start("reserve", 64);
    let (maps, pages, eligible) = walk(&mut walker, vast.key());
    assert!(maps.vmas.iter().any(|v| v.end - v.start >= 64 << 40), "64 TiB in one mapping");
    assert!(pages.0 < 10_000, "{pages}");
    assert!(eligible.iter().any(|r| r.start <= vast.base && vast.base < r.end));
    let outcome = arm(vast.key(), vec![vast.region(1)]);
    assert_eq!((&outcome.end, outcome.done.pages), (&End::Done, Pages(1)), "{outcome}");
}

#[test]
fn locked_memory_is_nobody_s() {
    let _one = alone();
    let mut walker = need!(walker());
    let locked = Trouble::start("locked", 8);
    let (maps, _, eligible) = walk(&mut walker, locked.key());
    assert!(flags(&maps, locked.base).has(VmaFlags::LOCKED));
    assert!(!eligible.iter().any(|r| r.contains(locked.base)));
    // A hand that is sent there all the same says why nothing came of it.
    let outcome = arm(locked.key(), vec![locked.region(2048)]);
    assert!(matches!(&outcome.end, End::Partial(why) if why.contains("locked")), "{outcome}");
    assert_eq!((outcome.done.pages, outcome.missed), (Pages(0), vec![locked.region(2048)]));
}

/// Registers 8 MiB for missing pages, and touches none of it.
const REGISTER: &str = "
import ctypes, mmap, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(323, os.O_CLOEXEC)
m = mmap.mmap(-1, 8 << 20)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
api = ctypes.create_string_buffer(struct.pack('QQQ', 0xaa, 0, 0))
reg = ctypes.create_string_buffer(struct.pack('QQQQ', at, 8 << 20, 1, 0))
ok = fd >= 0 and libc.ioctl(fd, ctypes.c_ulong(0xc018aa3f), api) == 0 and libc.ioctl(fd, ctypes.c_ulong(0xc020aa00), reg) == 0
print(at if ok else 'errno %d' % ctypes.get_errno(), flush=True)
sys.stdin.read()
";

#[test]
fn memory_under_userfaultfd_is_nobody_s() {
    let _one = alone();
    let mut walker = need!(walker());
    let mut python = Command::new(need!(footing::program("python3", "python3")));
    python.args(["-c", REGISTER]);
    let registered = Trouble::of(python);
    let (maps, _, eligible) = walk(&mut walker, registered.key());
    assert!(flags(&maps, registered.base).has(VmaFlags::UFFD));
    assert!(!eligible.iter().any(|r| r.contains(registered.base)));
}

#[test]
fn memory_that_its_owner_bound_to_nodes_is_not_to_be_moved() {
    let _one = alone();
    let mut walker = need!(walker());
    // A kernel without NUMA has no mbind.
    let owner = need!(Owner::start(8, 0));
    let stat = fs::read(format!("/proc/{}/stat", owner.pid())).expect("it lives");
    let proc = ProcKey { pid: owner.pid(), start: start_ticks(&stat).expect("a start time") };
    let (maps, _, eligible) = walk(&mut walker, proc);
    assert!(flags(&maps, owner.bound).has(VmaFlags::POLICY) && !flags(&maps, owner.free).has(VmaFlags::POLICY));
    assert_eq!(maps.vmas.iter().filter(|v| v.flags.has(VmaFlags::POLICY)).count(), 1);
    // It may be paged out all the same.
    assert!([owner.bound, owner.free].iter().all(|at| eligible.iter().any(|r| r.contains(*at))));
}

#[test]
fn merged_pages_count_as_shared() {
    let _one = alone();
    let mut walker = need!(walker());
    let _pages = need!(Set::to("/sys/kernel/mm/ksm/pages_to_scan", "20000"));
    let merging = Trouble::start("merge", 8);
    let merged = || -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/ksm_merging_pages", merging.child.id())).expect("a kernel with KSM");
        text.trim().parse().expect("a number")
    };
    {
        let _run = need!(Set::to("/sys/kernel/mm/ksm/run", "1"));
        for _ in 0..2000 {
            if merged() >= 2000 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    assert!(merged() >= 2000, "{} of 2048 pages merged", merged());
    let (_, pages, eligible) = walk(&mut walker, merging.key());
    assert!(pages.0 >= 2048 && eligible.iter().any(|r| r.contains(merging.base)), "{pages}");
    let outcome = arm(merging.key(), vec![merging.region(2048)]);
    assert!(matches!(&outcome.end, End::Partial(why) if why.contains("mapped more than once")), "{outcome}");
    let missed: Pages = outcome.missed.iter().map(AddrRange::pages).sum();
    assert!(missed.0 >= 2000 && outcome.done.pages.0 + missed.0 == 2048, "{outcome}, {missed} missed");
}

#[test]
fn mappings_that_come_and_go_spoil_no_walk() {
    let _one = alone();
    let mut walker = need!(walker());
    let churning = Trouble::start("churn", 8);
    for _ in 0..50 {
        let (maps, pages, _) = walk(&mut walker, churning.key());
        assert!(pages.0 >= 2048 && maps.vmas.is_sorted_by(|a, b| a.end <= b.start), "{pages}");
    }
    let outcome = arm(churning.key(), vec![churning.region(2048)]);
    assert_eq!((&outcome.end, outcome.done.pages), (&End::Done, Pages(2048)), "{outcome}");
}

#[test]
fn a_fork_storm_is_counted_and_nothing_hangs() {
    let _one = alone();
    need!(walker());
    let memtier = need!(binary("memtier"));
    let dir = memtier_tests::scratch();
    let storm = Trouble::start("forks", 50);
    let run = memtier_tests::daemon::Run { pid: Some(storm.child.id()), config: "", options: &[], record: false, cpu: None };
    let daemon = memtier_tests::daemon::Daemon::start(&memtier, dir.path(), &run).expect("it comes up in a storm");
    let told = || daemon.metric("memtier_records_total", "source=\"procs\"").expect("it answers in a storm");
    let lost = || daemon.metric("memtier_lost_total", "source=\"procs\"").expect("it answers in a storm");
    let (first, mut now) = (told(), 0.0);
    for _ in 0..1000 {
        now = told() + lost();
        if now - first > 2000.0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(now - first > 2000.0, "{} records of forks, execs and exits", now - first);
    drop(storm);
    daemon.end().expect("it ends well");
}
