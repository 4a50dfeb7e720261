//! The hands on real processes and a real swap area. Root; the swap is on a zram device that each test makes and removes.
#![cfg(feature = "host")]

use memmap2::MmapMut;
use memtier::act::{Actuator as _, Hands, Kernel};
use memtier::config;
use memtier::observe::cgroup::Hierarchy;
use memtier::observe::maps::{self, Mapping, Tmpfs};
use memtier::observe::standin::StandIn;
use memtier::observe::{Sensor as _, host::HostSensor, proc};
use memtier::sys::clock::boottime;
use memtier::sys::files::Root;
use memtier::sys::page_idle::{BITMAP, Bitmap};
use memtier::vocab::{
    Action, AddrRange, Bytes, Charge, End, Event, Guard, Outcome, Pages, Permil, PolicyId, ProcKey, ProcSample, Reason, Rule,
    Sample, Span, Step, StepId,
};
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::zram::Zram;
use memtier_tests::{footing, need};
use procfs::process::{PageInfo, Process};
use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;

/// One swap area at a time, so that each test finds its pages in its own.
static SWAP: Mutex<()> = Mutex::new(());

fn ground(mib: u64) -> Result<Zram, String> {
    footing::memory(mib * 4)?;
    Zram::start(mib)
}

fn sample(pid: u32) -> ProcSample {
    let root = Root::host();
    let hierarchy = Hierarchy::find(&root).expect("mountinfo reads");
    proc::sample(&root, hierarchy.as_ref(), pid).expect("the hog lives")
}

fn key(hog: &Hog) -> ProcKey {
    sample(hog.pid()).proc
}

fn range(hog: &Hog, first: u64, pages: u64) -> AddrRange {
    AddrRange { start: hog.addr(first), end: hog.addr(first + pages) }
}

fn step(action: Action, guards: Vec<Guard>) -> Step {
    Step {
        id: StepId { decision: 1, index: 0 },
        action,
        guards,
        expires: boottime().after(Span::from_secs(60)),
        charge: Charge::default(),
        by: PolicyId::Autocold,
        reason: Reason { rule: Rule::AutocoldIdle, evidence: Vec::new(), note: String::new() },
    }
}

fn apply(action: Action, guards: Vec<Guard>) -> Outcome {
    Hands::new(&config::Arm::default()).apply(&step(action, guards))
}

/// Present and swapped pages, by `procfs` and not by our own reader.
fn pages(hog: &Hog, first: u64, pages: u64) -> (u64, u64) {
    let process = Process::new(hog.pid() as i32).expect("the hog lives");
    let mut pagemap = process.pagemap().expect("root reads pagemap");
    let first = (hog.addr(first) >> 12) as usize;
    let infos = pagemap.get_range_info(first..first + pages as usize).expect("reads");
    infos.iter().fold((0, 0), |(present, swapped), info| match info {
        PageInfo::MemoryPage(page) => (present + u64::from(page.contains(procfs::process::MemoryPageFlags::PRESENT)), swapped),
        PageInfo::SwapPage(_) => (present, swapped + 1),
    })
}

/// The mapping that holds the hog's region.
fn mapping(hog: &Hog) -> Mapping {
    let root = Root::host();
    let all = maps::mappings(&root, &Tmpfs::find(&root).expect("reads"), hog.pid()).expect("smaps reads");
    *all.iter().find(|m| m.vma.start <= hog.base && hog.base < m.vma.end).expect("the region is mapped")
}

fn huge_kib(hog: &Hog) -> u64 {
    let text = Root::host().text(format!("/proc/{}/smaps_rollup", hog.pid())).expect("reads");
    memtier::sys::files::field(&text, "AnonHugePages").expect("a kernel with huge pages")
}

#[test]
fn pages_go_out_and_come_back() {
    let _one = SWAP.lock();
    let _zram = need!(ground(256));
    let mut hog = Hog::start(64, Fill::Half).expect("starts");
    let proc = key(&hog);
    let ranges = vec![range(&hog, 0, 8192), range(&hog, 12288, 4096)];
    let guards = vec![Guard::Alive(proc), Guard::SwapFree { least: Permil(200) }];
    let outcome = apply(Action::PageOut { proc, ranges }, guards);
    assert_eq!((&outcome.end, outcome.done.pages, outcome.done.asked), (&End::Done, Pages(12288), Pages(12288)));
    let Outcome { done, .. } = outcome;
    eprintln!("page-out: {} ns of CPU a page, {} system calls", done.cpu_ns / done.pages.0, done.syscalls);
    assert_eq!(pages(&hog, 0, 16384), (4096, 12288));
    assert_eq!(sample(hog.pid()).swapped, Bytes::from_kib(12288 * 4));
    let Ok(host) = HostSensor { root: Root::host() }.read() else { panic!("reads") };
    let Some(Event::Sample(Sample::Host(host))) = host.first() else { panic!("{host:?}") };
    let zram = host.swaps.iter().max_by_key(|s| s.priority).expect("on");
    assert!(zram.stored >= Bytes::from_mib(48) && zram.cost < zram.stored, "{zram:?}");
    assert!(hog.intact().expect("answers"), "paging out and in changed memory");
    assert_eq!(pages(&hog, 0, 16384), (16384, 0));
}

#[test]
fn what_cannot_go_is_named_and_the_rest_goes() {
    let _one = SWAP.lock();
    let _zram = need!(ground(64));
    let hog = Hog::start(8, Fill::Noise).expect("starts");
    let proc = key(&hog);
    let root = Root::host();
    let all = maps::mappings(&root, &Tmpfs::find(&root).expect("reads"), hog.pid()).expect("smaps reads");
    let special = all.iter().find(|m| m.vma.flags.has(memtier::vocab::VmaFlags::IO)).expect("every process has [vvar]").vma;
    let special = AddrRange { start: special.start, end: special.end };
    let before = all.windows(2).find(|pair| pair[0].vma.end < pair[1].vma.start).expect("address space has holes")[0].vma.end;
    let hole = AddrRange { start: before, end: before + 4096 };
    let outcome =
        apply(Action::PageOut { proc, ranges: vec![range(&hog, 0, 1000), special, hole, range(&hog, 1000, 1048)] }, vec![]);
    assert_eq!(outcome.done.pages, Pages(2048));
    let End::Partial(why) = &outcome.end else { panic!("{}", outcome.end) };
    assert!(why.contains(&format!("{special} refused: locked, hugetlb or device memory in it")), "{why}");
    assert!(why.contains(&format!("{hole} refused: an unmapped hole in it")), "{why}");
    assert_eq!(pages(&hog, 0, 2048), (0, 2048));
}

#[test]
fn a_full_swap_takes_what_it_can() {
    let _one = SWAP.lock();
    let _zram = need!(ground(16));
    let hog = Hog::start(64, Fill::Half).expect("starts");
    let proc = key(&hog);
    let outcome = apply(Action::PageOut { proc, ranges: vec![range(&hog, 0, 16384)] }, vec![]);
    let (present, swapped) = pages(&hog, 0, 16384);
    assert_eq!((outcome.done.pages, present + swapped), (Pages(swapped), 16384));
    assert!(swapped < 4096 && matches!(&outcome.end, End::Partial(why) if why.contains("stayed in memory")), "{}", outcome.end);
    // The reserve holds what is left.
    let guard = Guard::SwapFree { least: Permil(500) };
    assert_eq!(apply(Action::PageOut { proc, ranges: vec![range(&hog, 0, 16384)] }, vec![guard.clone()]).end, End::Skipped(guard));
}

#[test]
fn arming_clears_what_it_says_and_touches_nothing_else() {
    need!(footing::root());
    let mut hog = Hog::start(64, Fill::Half).expect("starts");
    let proc = key(&hog);
    assert!(mapping(&hog).referenced >= Bytes::from_mib(64));
    let outcome = apply(Action::Arm { proc, ranges: vec![range(&hog, 0, 16384)] }, vec![Guard::Alive(proc)]);
    assert_eq!((&outcome.end, outcome.done.pages), (&End::Done, Pages(16384)));
    eprintln!("arm: {} ns of CPU a page, {} system calls", outcome.done.cpu_ns / 16384, outcome.done.syscalls);
    // Calls are made smaller where pages cost more (an emulated guest), but never as small as sixteen pages for one here.
    assert!(outcome.done.syscalls < 16384 / 16, "{}", outcome.done.syscalls);
    let armed = mapping(&hog).referenced;
    hog.read(100..612).expect("answers");
    assert_eq!(mapping(&hog).referenced.saturating_sub(armed), Bytes::from_kib(512 * 4));
    assert_eq!(pages(&hog, 0, 16384), (16384, 0));
}

/// Arms over a file in place of the kernel's bitmap (no kernel here has one), which shows what would be asked of it, not
/// what it would do. Checks that the marks are the frames of the ranges.
fn arm_by_bitmap(proc: ProcKey, ranges: &[AddrRange]) -> Outcome {
    let scratch = memtier_tests::scratch();
    let root = Root::at(scratch.path());
    fs::create_dir_all(root.path(BITMAP).parent().expect("below the root")).expect("scratch");
    let arm = step(Action::Arm { proc, ranges: ranges.to_vec() }, vec![Guard::Alive(proc)]);
    // The kernel moves pages to make room for huge ones: such a try shows nothing.
    for _ in 0..50 {
        fs::File::create(root.path(BITMAP)).and_then(|file| file.set_len(1 << 20)).expect("a sparse file");
        let kernel = Kernel::with(Some(Bitmap::open(&root, true).expect("opens")));
        let before = frames(proc.pid, ranges);
        let outcome = Hands::with(kernel, &config::Arm::default()).apply(&arm);
        if frames(proc.pid, ranges) == before {
            let marked = marked(&fs::read(root.path(BITMAP)).expect("reads"));
            assert!(marked == before, "{} frames, {} marked, {} of them", before.len(), marked.len(), (&marked & &before).len());
            return outcome;
        }
    }
    panic!("the kernel does not leave these pages alone");
}

/// The frames of present pages, by `procfs`.
fn frames(pid: u32, ranges: &[AddrRange]) -> BTreeSet<u64> {
    let mut pagemap = Process::new(pid as i32).and_then(|p| p.pagemap()).expect("root reads pagemap");
    let mut infos = |r: &AddrRange| pagemap.get_range_info((r.start >> 12) as usize..(r.end >> 12) as usize).expect("reads");
    let frame = |info: PageInfo| match info {
        PageInfo::MemoryPage(page) => Some(page.get_page_frame_number().0),
        PageInfo::SwapPage(_) => None,
    };
    ranges.iter().flat_map(&mut infos).filter_map(frame).collect()
}

/// Frames whose bit is set.
fn marked(bitmap: &[u8]) -> BTreeSet<u64> {
    let words = bitmap.as_chunks::<8>().0.iter().map(|bytes| u64::from_ne_bytes(*bytes));
    words.zip(0..).flat_map(|(word, at)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)).collect()
}

#[test]
fn exactly_the_frames_asked_for_are_marked() {
    need!(footing::root());
    for hog in [Hog::start(64, Fill::Half), Hog::huge(64, Fill::Half)] {
        let hog = hog.expect("starts");
        // One slice: a file loses what a later write of the same word leaves out, where the kernel only adds marks.
        let outcome = arm_by_bitmap(key(&hog), &[range(&hog, 0, 4096), range(&hog, 8192, 4096)]);
        assert_eq!((outcome.end, outcome.done.pages, outcome.missed), (End::Done, Pages(8192), vec![]));
        eprintln!("arm by bitmap: {} system calls for 8192 pages", outcome.done.syscalls);
        assert_eq!(pages(&hog, 0, 16384), (16384, 0));
    }
}

#[test]
fn locked_pages_are_refused_to_advice_and_marked_by_frame() {
    need!(footing::root());
    let mut memory = MmapMut::map_anon(64 << 12).expect("maps");
    memory.fill(1);
    memory.lock().expect("root may lock");
    let start = memory.as_ptr() as u64;
    let all = AddrRange { start, end: start + memory.len() as u64 };
    let proc = sample(std::process::id()).proc;
    let advised = apply(Action::Arm { proc, ranges: vec![all] }, vec![]);
    assert_eq!((advised.done.pages, advised.missed), (Pages(0), vec![all]));
    let outcome = arm_by_bitmap(proc, &[all]);
    assert_eq!((outcome.end, outcome.done.pages, outcome.missed), (End::Done, Pages(64), vec![]));
}

#[test]
fn huge_pages_are_never_split() {
    need!(footing::root());
    let hog = Hog::huge(64, Fill::Half).expect("starts");
    let proc = key(&hog);
    let huge = huge_kib(&hog);
    assert!(huge >= 32 << 10, "the kernel gives huge pages to who asks: {huge} kB");
    let cut = apply(Action::Deactivate { proc, ranges: vec![range(&hog, 100, 200), range(&hog, 700, 1000)] }, vec![]);
    assert!(matches!(&cut.end, End::Partial(why) if why.contains("belong to huge pages")), "{}", cut.end);
    assert_eq!(cut.done.pages, Pages(512));
    let whole = apply(Action::Arm { proc, ranges: vec![range(&hog, 0, 8192)] }, vec![]);
    assert_eq!((&whole.end, whole.done.pages), (&End::Done, Pages(8192)));
    assert_eq!(huge_kib(&hog), huge);
}

#[test]
fn a_process_that_is_gone() {
    need!(footing::root());
    let hog = Hog::start(8, Fill::Untouched).expect("starts");
    let (proc, range) = (key(&hog), range(&hog, 0, 2048));
    let reused = ProcKey { start: proc.start + 1, ..proc };
    assert_eq!(apply(Action::Arm { proc: reused, ranges: vec![range] }, vec![]).end, End::Skipped(Guard::Alive(reused)));
    drop(hog);
    assert_eq!(apply(Action::Arm { proc, ranges: vec![range] }, vec![]).end, End::Skipped(Guard::Alive(proc)));
}

#[test]
fn a_process_killed_under_the_hand_costs_one_outcome() {
    need!(footing::root());
    let hog = Hog::start(256, Fill::Half).expect("starts");
    let (proc, all) = (key(&hog), range(&hog, 0, 65536));
    let job = step(Action::Arm { proc, ranges: vec![all] }, vec![Guard::Alive(proc)]);
    let hand = std::thread::spawn(move || {
        Hands::new(&config::Arm { pause_us: 20_000, slice_mib: 2, ..config::Arm::default() }).apply(&job)
    });
    drop(hog);
    let outcome = hand.join().expect("no panic");
    match outcome.end {
        End::Partial(why) => assert!(why.contains("No such process"), "{why}"),
        End::Failed(fault) => assert_eq!(fault.errno, libc::ESRCH),
        End::Skipped(guard) => assert_eq!(guard, Guard::Alive(proc)),
        End::Done | End::Expired => panic!("128 slices with pauses outlived the process"),
    }
}

#[test]
fn smaps_stands_in_and_counts_exactly() {
    let _one = SWAP.lock();
    let _zram = need!(ground(64));
    let hog = Hog::start(32, Fill::Half).expect("starts");
    let proc = key(&hog);
    let out = apply(Action::PageOut { proc, ranges: vec![range(&hog, 1024, 600)] }, vec![]);
    assert_eq!(out.done.pages, Pages(600));
    let mut standin = StandIn::new(Root::host(), false).expect("opens");
    let (mut present, mut swapped, mut ends) = (0, 0, 0);
    let region = range(&hog, 0, 8192);
    standin
        .scan(proc, &mut |event| {
            let Event::Sample(Sample::Pages(chunk)) = event else { return };
            ends += u32::from(chunk.last);
            for block in chunk.blocks.iter().filter(|b| region.contains(b.block.start())) {
                present += u64::from(block.present.count());
                swapped += u64::from(block.swapped.count());
            }
        })
        .expect("walks");
    assert_eq!((present, swapped, ends), (8192 - 600, 600, 1));
}
