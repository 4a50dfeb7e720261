//! The eyes on this kernel: load, attach, trigger, count; the walker against pagemap. Root, BPF and the object.
#![cfg(feature = "host")]

use memtier::observe::Observer as _;
use memtier::observe::bpf::{Eyes, Options};
use memtier::observe::walker::{WalkError, Walker};
use memtier::sys::files::start_ticks;
use memtier::sys::memory::{Advice, pidfd_open, process_madvise};
use memtier::sys::region::Region;
use memtier::vocab::{
    AddrRange, BLOCK_BYTES, BlockSample, Event, FaultKind, KernelEvent, Leaf, PAGE_BYTES, PageChunk, ProcKey, Sample, Source,
    VmaFlags, VmaKind,
};
use memtier_tests::hog::{Fill, Hog};
use memtier_tests::zram::Zram;
use memtier_tests::{footing, need};
use procfs::process::{MMPermissions, MMapPath, PageInfo, Process};
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One at a time: each counts what it causes itself.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn options() -> Result<Options, String> {
    Ok(Options { object: Some(footing::host()?), ..Options::default() })
}

fn walker() -> Result<Walker, String> {
    let mut eyes = Eyes::open(&options()?);
    match eyes.take_walker() {
        Some(walker) => Ok(walker),
        None => Err(eyes.families()[&Source::Walker].clone().expect_err("no walker")),
    }
}

fn key(pid: u32) -> ProcKey {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).expect("the process lives");
    ProcKey { pid, start: start_ticks(&stat).expect("stat has 22 fields") }
}

fn scan(walker: &mut Walker, proc: ProcKey) -> Vec<PageChunk> {
    let mut chunks = Vec::new();
    walker.scan(proc, &mut |chunk| chunks.push(chunk)).expect("the process lives");
    chunks
}

fn blocks(chunks: Vec<PageChunk>) -> BTreeMap<u64, BlockSample> {
    chunks.into_iter().flat_map(|c| c.blocks).map(|b| (b.block.start(), b)).collect()
}

/// (present, swapped) of each page of the hog, by procfs.
fn truth(hog: &Hog) -> Vec<(bool, bool)> {
    let mut map = Process::new(hog.pid().cast_signed()).and_then(|p| p.pagemap()).expect("pagemap opens");
    let first = (hog.base / PAGE_BYTES) as usize;
    let pages = map.get_range_info(first..first + hog.pages as usize).expect("pagemap reads");
    (pages.into_iter())
        .map(|page| match page {
            PageInfo::MemoryPage(p) => (p.bits() >> 63 == 1, false),
            PageInfo::SwapPage(_) => (false, true),
        })
        .collect()
}

/// (present, swapped, accessed) of each page of the hog, by the walker.
fn seen(hog: &Hog, blocks: &BTreeMap<u64, BlockSample>) -> Vec<(bool, bool, bool)> {
    (0..hog.pages)
        .map(|page| match blocks.get(&(hog.addr(page) & !(BLOCK_BYTES - 1))) {
            Some(b) => {
                let page = (page % 512) as usize;
                (b.present.get(page), b.swapped.get(page), b.accessed.get(page))
            }
            None => (false, false, false),
        })
        .collect()
}

fn advise(hog: &Hog, pages: std::ops::Range<u64>, advice: Advice) {
    let process = pidfd_open(hog.pid()).expect("the hog lives");
    let range = AddrRange { start: hog.addr(pages.start), end: hog.addr(pages.end) };
    assert_eq!(process_madvise(process.as_fd(), &[range], advice).expect("advised"), range.end - range.start);
}

/// The walker agrees with `truth`, or somebody moved pages between the two looks: then it must agree soon.
fn agrees(walker: &mut Walker, hog: &Hog) -> bool {
    (0..5).any(|_| {
        let before = truth(hog);
        let seen = seen(hog, &blocks(scan(walker, key(hog.pid()))));
        let seen: Vec<_> = seen.into_iter().map(|(present, swapped, _)| (present, swapped)).collect();
        seen == before && truth(hog) == before
    })
}

#[test]
fn walker_agrees_with_pagemap_twice() {
    let _alone = alone();
    let mut walker = need!(walker());
    let hog = Hog::start(64, Fill::Half).expect("a hog");
    assert!(agrees(&mut walker, &hog));
    assert!(agrees(&mut walker, &hog));
    let (one, other) = (scan(&mut walker, key(hog.pid())), scan(&mut walker, key(hog.pid())));
    for chunks in [&one, &other] {
        assert_eq!(
            (chunks[0].range.start, chunks.last().map(|c| (c.last, c.range.end))),
            (0, Some((true, AddrRange::EVERYTHING.end)))
        );
        assert!(chunks.windows(2).all(|two| two[0].range.end == two[1].range.start && !two[0].last && two[0].scan == two[1].scan));
        let all: Vec<_> = chunks.iter().flat_map(|c| c.blocks.iter().map(|b| (c.range, b.block.start()))).collect();
        assert!(all.windows(2).all(|two| two[0].1 < two[1].1));
        assert!(all.iter().all(|(range, start)| start + BLOCK_BYTES > range.start && *start < range.end));
    }
    assert!(one[0].scan < other[0].scan);
}

#[test]
fn walker_tells_touched_pages() {
    let _alone = alone();
    let mut walker = need!(walker());
    let mut hog = Hog::start(32, Fill::Half).expect("a hog");
    advise(&hog, 0..hog.pages, Advice::Cold);
    let touched = 1000..3000;
    hog.read(touched.clone()).expect("the hog reads");
    let seen = seen(&hog, &blocks(scan(&mut walker, key(hog.pid()))));
    let wrong = seen.iter().enumerate().filter(|(page, s)| s.2 && !touched.contains(&(*page as u64))).count();
    let right = seen.iter().enumerate().filter(|(page, s)| s.2 && touched.contains(&(*page as u64))).count();
    // A page that somebody else holds at that moment is not cleared, and the machine's own DAMON may have cleared some.
    assert!(wrong < 128, "{wrong} of {}", hog.pages - 2000);
    assert!(right > 1800, "{right} of 2000");
}

#[test]
fn huge_pages_are_leaves() {
    let _alone = alone();
    let mut walker = need!(walker());
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    need!(if enabled.contains("[never]") || enabled.is_empty() { Err("huge pages are off") } else { Ok(()) });
    let mut region = Region::anonymous(8 * BLOCK_BYTES as usize, BLOCK_BYTES as usize).expect("memory");
    region.advise(libc::MADV_HUGEPAGE).expect("advised");
    for page in 0..region.pages() {
        region.write(page, 0, 1);
    }
    let us = key(std::process::id());
    let blocks: Vec<_> =
        blocks(scan(&mut walker, us)).range(region.range().start..region.range().end).map(|(_, b)| b.clone()).collect();
    let leaves: Vec<_> = blocks.iter().filter(|b| b.leaf == Leaf::Pmd).collect();
    assert_eq!(blocks.len(), 8);
    assert!(!leaves.is_empty(), "no huge page: {enabled}");
    assert!(leaves.iter().all(|b| b.present.count() == 512 && b.dirty.count() == 512 && matches!(b.accessed.count(), 0 | 512)));
    let vmas = walker.maps(us).expect("we live").vmas;
    let vma =
        vmas.iter().find(|v| v.start <= region.range().start && region.range().end <= v.end).expect("the region is a mapping");
    assert!(
        vma.kind == VmaKind::Anon
            && vma.flags.has(VmaFlags::HUGE)
            && vma.flags.has(VmaFlags::WRITE)
            && !vma.flags.has(VmaFlags::LOCKED)
    );
}

#[test]
fn swapped_pages_and_refaults_are_told() {
    let _alone = alone();
    let options = need!(options());
    let zram = need!(footing::memory(512).and_then(|()| Zram::start(128)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut eyes = Eyes::open(&options);
        let mut walker = eyes.take_walker().expect("a walker");
        let mut hog = Hog::start(32, Fill::Half).expect("a hog");
        let (us, it) = (key(std::process::id()), key(hog.pid()));
        advise(&hog, 0..4096, Advice::PageOut);
        assert!(agrees(&mut walker, &hog));
        let swapped = seen(&hog, &blocks(scan(&mut walker, it))).iter().filter(|s| s.1).count() as u64;
        assert!(swapped > 3000, "only {swapped} of 4096 pages went out");
        hog.read(0..4096).expect("the hog reads");
        let (mut written, mut majors, mut reported, mut own_cgroup) = (0, 0, 0, 0);
        periods(&mut eyes, 3, |event| match event {
            Event::Sample(Sample::Reclaim(counts)) => {
                written += counts.swap_writes.iter().filter(|w| w.0 == us).map(|w| w.1.0).sum::<u64>();
                majors += counts.major_faults.iter().filter(|m| m.0 == it).map(|m| m.1).sum::<u64>();
                own_cgroup += counts.reclaimed.iter().map(|r| r.1.0).sum::<u64>();
            }
            Event::Kernel(KernelEvent::Fault { proc, tid, addr, kind: FaultKind::Major, period }) if *proc == it => {
                assert_eq!(*tid, it.pid, "the hog has one thread");
                assert!((hog.base..hog.addr(hog.pages)).contains(addr), "{addr:x}");
                reported += period;
            }
            _ => {}
        })
        .await;
        assert!(written >= swapped, "{written} writes of {swapped} swapped pages");
        // Pages that memtier takes out are no pressure on their cgroup.
        assert!(own_cgroup < written, "{own_cgroup} of {written}");
        assert!(majors > 0 && majors <= swapped, "{majors} major faults on {swapped} pages");
        assert!(reported > 0 && reported <= majors, "{reported} of {majors}");
        assert!(hog.intact().expect("the hog reads"));
    });
    zram.stop().expect("the swap area goes away");
}

#[test]
fn a_process_that_ends_during_a_walk_is_an_error() {
    let _alone = alone();
    let mut walker = need!(walker());
    need!(footing::memory(1024));
    let mut hog = Some(Hog::start(600, Fill::Half).expect("a hog"));
    let proc = key(hog.as_ref().map_or(0, Hog::pid));
    let mut chunks = 0;
    let walked = walker.scan(proc, &mut |_| {
        chunks += 1;
        // Killed and waited for.
        drop(hog.take());
    });
    assert!(
        matches!(walked, Err(WalkError::Gone(_) | WalkError::NoMemory(_) | WalkError::Replaced(_))),
        "{walked:?} after {chunks} chunks"
    );
    assert!(matches!(walker.scan(proc, &mut |_| {}), Err(WalkError::Gone(_))));
    assert!(matches!(walker.maps(proc), Err(WalkError::Gone(_))));
}

#[test]
fn strangers_and_kernel_threads_are_not_walked() {
    let _alone = alone();
    let mut walker = need!(walker());
    let us = key(std::process::id());
    let stranger = ProcKey { start: us.start + 1, ..us };
    assert!(matches!(walker.scan(stranger, &mut |_| panic!("a chunk of a stranger")), Err(WalkError::Gone(_))));
    assert!(matches!(walker.maps(stranger), Err(WalkError::Gone(_))));
    assert!(matches!(walker.scan(key(2), &mut |_| panic!("a chunk of kthreadd")), Err(WalkError::NoMemory(_))));
    assert!(matches!(walker.maps(key(2)), Err(WalkError::NoMemory(_))));
    let all = walker.scan(us, &mut |_| {}).expect("we live");
    assert!(all.pages.0 > 0 && all.chunks > 0);
}

#[test]
fn mappings_agree_with_proc() {
    let _alone = alone();
    let mut walker = need!(walker());
    let hog = Hog::start(4, Fill::Half).expect("a hog");
    let told = walker.maps(key(hog.pid())).expect("the hog lives").vmas;
    let maps = Process::new(hog.pid().cast_signed()).and_then(|p| p.maps()).expect("maps read");
    // The gate page is no mapping of the process.
    let maps: Vec<_> = maps.into_iter().filter(|m| m.pathname != MMapPath::Vsyscall).collect();
    assert_eq!(told.iter().map(|v| (v.start, v.end)).collect::<Vec<_>>(), maps.iter().map(|m| m.address).collect::<Vec<_>>());
    for (vma, map) in told.iter().zip(&maps) {
        assert_eq!(vma.flags.has(VmaFlags::WRITE), map.perms.contains(MMPermissions::WRITE), "{map:?}");
        assert_eq!(vma.flags.has(VmaFlags::EXEC), map.perms.contains(MMPermissions::EXECUTE), "{map:?}");
        let kind = match &map.pathname {
            MMapPath::Path(_) => VmaKind::File,
            MMapPath::Heap | MMapPath::Stack | MMapPath::Anonymous => VmaKind::Anon,
            _ => VmaKind::Special,
        };
        assert_eq!(vma.kind, kind, "{map:?}");
    }
}

/// Hands every event of `count` whole periods to `each`.
async fn periods(eyes: &mut Eyes, count: usize, mut each: impl FnMut(&Event)) {
    let mut drains = 0;
    while drains < count {
        let event = tokio::time::timeout(Duration::from_secs(60), eyes.next()).await.expect("a drain every second");
        // The tallies are told last.
        drains += usize::from(matches!(event, Event::Sample(Sample::Reclaim(_))));
        each(&event);
    }
}

fn spawn(count: usize) -> Vec<u32> {
    let mut pids = Vec::new();
    for _ in 0..count {
        let mut child = Command::new("/bin/true").spawn().expect("true runs");
        pids.push(child.id());
        child.wait().expect("true ends");
    }
    pids
}

#[test]
fn every_fork_exec_and_exit_is_told_once() {
    let _alone = alone();
    let options = need!(options());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut eyes = Eyes::open(&options);
        let us = key(std::process::id());
        let pids = spawn(200);
        let mut told: BTreeMap<ProcKey, [u32; 3]> = BTreeMap::new();
        periods(&mut eyes, 2, |event| match event {
            Event::Kernel(KernelEvent::Fork { parent, child }) if *parent == us => told.entry(*child).or_default()[0] += 1,
            Event::Kernel(KernelEvent::Exec { proc }) => told.entry(*proc).or_default()[1] += 1,
            Event::Kernel(KernelEvent::Exit { proc }) => told.entry(*proc).or_default()[2] += 1,
            Event::Lost { source: Source::Procs, count } => panic!("{count} lost"),
            _ => {}
        })
        .await;
        for pid in pids {
            let ours: Vec<_> = told.iter().filter(|(proc, _)| proc.pid == pid).map(|(_, counts)| *counts).collect();
            assert_eq!(ours, [[1, 1, 1]], "pid {pid}");
        }
    });
}

#[test]
fn losses_are_counted_exactly() {
    let _alone = alone();
    let options = need!(options());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // Room for 102 records each.
        let mut eyes = Eyes::open(&Options { events_bytes: Some(4096), run_times: true, ..options });
        let costs = eyes.costs();
        // Each run of these programs is one record.
        let runs = || costs.programs().iter().filter(|p| p.name.ends_with("_fault")).map(|p| p.stats.runs).sum::<u64>();
        spawn(200);
        // Nobody reads the rings: after what finds room all is lost.
        let full = runs();
        while runs() < full + 160 {
            let mut fresh = Region::anonymous(BLOCK_BYTES as usize, 4096).expect("memory");
            (0..fresh.pages()).for_each(|page| fresh.write(page, 0, 1));
        }
        let (mut told, mut lost, mut lost_procs) = (0, 0, 0);
        for _ in 0..30 {
            let before = runs();
            periods(&mut eyes, 2, |event| match event {
                Event::Kernel(KernelEvent::Fault { .. }) => told += 1,
                Event::Lost { source: Source::Faults, count } => lost += count,
                Event::Lost { source: Source::Procs, count } => lost_procs += count,
                _ => {}
            })
            .await;
            // Only when nobody faulted meanwhile do the two sides speak of the same records.
            if runs() == before {
                assert_eq!(told + lost, before, "{told} told, {lost} lost");
                assert!(lost >= 50 && lost_procs >= 400, "{lost} and {lost_procs} lost");
                return;
            }
        }
        assert!(told + lost <= runs() && lost_procs >= 400, "{told} told, {lost} and {lost_procs} lost of {}", runs());
    });
}

#[test]
fn cpu_time_is_told_of_those_who_switch_and_those_who_do_not() {
    let _alone = alone();
    let options = need!(options());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut eyes = Eyes::open(&options);
        let spin = std::thread::spawn(|| {
            let began = memtier::sys::clock::thread_cpu();
            while memtier::sys::clock::thread_cpu() - began < 1_500_000_000 {}
            (nix::unistd::gettid().as_raw().cast_unsigned(), memtier::sys::clock::thread_cpu() - began)
        });
        let us = key(std::process::id());
        let mut by_tid: BTreeMap<u32, u64> = BTreeMap::new();
        let mut ended = None;
        let mut after = 0;
        // Two more periods after the thread has ended: its last time is told.
        while after < 2 {
            periods(&mut eyes, 1, |event| {
                if let Event::Sample(Sample::Sched(sample)) = event {
                    assert!(sample.period_ns > 0);
                    for time in sample.times.iter().filter(|t| t.proc == us) {
                        *by_tid.entry(time.tid).or_default() += time.runtime_ns;
                    }
                }
            })
            .await;
            after += u32::from(spin.is_finished());
            ended = spin.is_finished().then_some(());
        }
        assert!(ended.is_some());
        let (tid, spent) = spin.join().expect("the thread spins");
        let told = by_tid.get(&tid).copied().unwrap_or_default();
        // The kernel leaves interrupts out of a thread's time, the probe does not.
        assert!(told >= spent * 95 / 100 && told <= spent * 3 / 2, "{told} ns told of {spent}");
    });
}

/// Entries that point behind the end of memory name no table; and memory that is added later is walked after all.
#[test]
fn no_table_is_read_behind_the_end_of_memory() {
    let _alone = alone();
    let mut walker = need!(walker());
    let us = key(std::process::id());
    walker.bound(0);
    let none = walker.scan(us, &mut |chunk| assert!(chunk.blocks.is_empty())).expect("we live");
    assert!(none.unreadable > 0, "{none:?}");
    let all = walker.scan(us, &mut |_| {}).expect("we live");
    assert!(all.unreadable == 0 && all.blocks > 0, "{all:?}");
}

/// Looked at only: the machine's DAMON is the machine's.
#[test]
fn damon_of_physical_memory_is_left_alone() {
    let _alone = alone();
    let options = need!(options());
    // Guests have none.
    if !damon_watches("paddr") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut eyes = Eyes::open(&Options { run_times: true, ..options });
        let costs = eyes.costs();
        let cost =
            || costs.programs().into_iter().find(|p| p.name == "damon_region").map_or((0, 0), |p| (p.stats.runs, p.stats.run_ns));
        for _ in 0..20 {
            periods(&mut eyes, 1, |event| match event {
                Event::Kernel(KernelEvent::Region { proc, .. }) if !damon_watches("vaddr") => panic!("a region of {}", proc.pid),
                Event::Lost { source: Source::Damon, count } => panic!("{count} lost"),
                _ => {}
            })
            .await;
            if cost().0 > 0 {
                break;
            }
        }
        let (runs, ns) = cost();
        // Its settings are the machine's: an aggregation may take longer than this.
        println!("{runs} regions, {} ns each", ns / runs.max(1));
    });
}

fn damon_watches(what: &str) -> bool {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let kdamonds = std::fs::read_dir("/sys/kernel/mm/damon/admin/kdamonds").into_iter().flatten().flatten();
    kdamonds
        .map(|entry| entry.path())
        .any(|dir| read(dir.join("state")).trim() == "on" && read(dir.join("contexts/0/operations")).trim() == what)
}

/// What a probe costs the verifier is its cost at load and its distance from the kernel's limit. `cargo xtask bless` writes
/// the baseline; kernels differ in how they count, so a quarter more passes.
#[test]
fn the_verifier_works_no_harder_than_it_did() {
    let _alone = alone();
    let programs = Eyes::open(&need!(options())).costs().programs();
    assert!(!programs.is_empty());
    let path = memtier_tests::root().join("tests/fixtures/bpf/verified.txt");
    let now: BTreeMap<&str, u32> = programs.iter().map(|p| (p.name.as_str(), p.stats.verified)).collect();
    if std::env::var_os("MEMTIER_BLESS").is_some_and(|v| v == "1") {
        let lines: String = now.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        std::fs::write(&path, lines).expect("the baseline can be written");
        return;
    }
    let text = std::fs::read_to_string(&path).expect("the baseline is there");
    let was: BTreeMap<&str, u32> =
        text.lines().map(|l| l.split_once(' ').and_then(|(name, n)| Some((name, n.parse().ok()?))).expect("NAME COUNT")).collect();
    for (name, count) in now {
        let Some(before) = was.get(name) else { panic!("{name} has no baseline: cargo xtask bless") };
        assert!(
            count > 0 && count <= before + before / 4,
            "{name}: {count} instructions verified, {before} before: cargo xtask bless"
        );
    }
}
