//! The shell's parsers on a tree of files that stands for a host, with names and numbers that mean harm.
#![cfg(feature = "host")]

use memtier::observe::cgroup::{CgroupSensor, Hierarchy, Version};
use memtier::observe::maps::{self, Tmpfs};
use memtier::observe::proc::{self, ProcObserver};
use memtier::observe::standin::StandIn;
use memtier::observe::{Observer, Sensor, Watched, host, nodes, probe, psi::PsiObserver};
use memtier::sys::files::{ReadError, Root, field, number_list, start_ticks, unescape};
use memtier::sys::psi::Stall;
use memtier::vocab::{
    Answer, Bits, Bytes, CpuId, Event, Fact, KernelEvent, Leaf, Need, NodeId, PageChunk, Pages, Pressure, PressureKind, ProcKey,
    ProcSample, Sample, SchedClass, Source, Span, SwapBacking, VmaFlags, VmaKind,
};
use procfs::FromRead as _;
use procfs::process::MountInfos;
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::time::Duration;

fn tree() -> Root {
    Root::at(memtier_tests::root().join("tests/fixtures"))
}

fn hierarchy() -> Hierarchy {
    Hierarchy::find(&tree()).expect("mountinfo reads").expect("a hierarchy is mounted")
}

fn v2() -> Hierarchy {
    let mounts = "41 31 0:38 / /cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    Hierarchy::among(&MountInfos::from_read(mounts.as_bytes()).expect("mountinfo")).expect("cgroup2 is mounted")
}

fn process(pid: u32) -> Result<ProcSample, ReadError> {
    proc::sample(&tree(), Some(&hierarchy()), pid)
}

#[test]
fn a_process_whose_name_looks_like_fields() {
    let sample = process(101).expect("reads");
    let cgroup_id = hierarchy().id(&tree(), "/web:1/a b");
    assert_ne!(cgroup_id.0, 0);
    assert_eq!(
        sample,
        ProcSample {
            proc: ProcKey { pid: 101, start: 4242 },
            parent: 1,
            comm: ") R 1 (a b) (".into(),
            // A tree of plain files has no links.
            exe: String::new(),
            uid: 33,
            cgroup: "/web:1/a b".into(),
            cgroup_id,
            threads: 3,
            rss: Bytes::from_kib(200_000),
            rss_anon: Bytes::from_kib(150_000),
            rss_file: Bytes::from_kib(49_000),
            swapped: Bytes::from_kib(12_000),
            locked: Bytes::from_kib(128),
            oom_score_adj: -1000,
            class: SchedClass::RealTime,
            kernel_thread: false,
            io_flusher: true,
            minor_faults: 11,
            major_faults: 3,
            cpu_ticks: 42,
            waited: Span(9_000_000_123),
            cpus_allowed: [0, 1, 2, 3, 70].into_iter().collect(),
            mems_allowed: [0, 2].into_iter().collect(),
            mempolicy: "interleave:0,2".into(),
        }
    );
}

/// A real process, of a program that has a space in its name and is not there any more.
#[test]
fn the_program_of_a_process_is_what_it_was_started_from() {
    let scratch = memtier_tests::scratch();
    let program = scratch.path().join("my app");
    fs::copy("/bin/sleep", &program).expect("a copy");
    let mut child = std::process::Command::new(&program).arg("60").spawn().expect("it starts");
    fs::remove_file(&program).expect("its file goes");
    let sample = proc::sample(&Root::host(), None, child.id());
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    let sample = sample.expect("reads");
    assert_eq!((sample.comm, sample.exe), ("my app".to_owned(), format!("{} (deleted)", program.display())));
}

#[test]
fn kernel_threads_latin_1_and_cut_text() {
    let thread = process(2).expect("reads");
    assert!(thread.kernel_thread && thread.exe.is_empty() && thread.rss == Bytes::ZERO);
    let latin = process(105).expect("a name that is not UTF-8 hides nothing");
    assert_eq!((latin.comm.as_str(), latin.class), ("caf\u{fffd}", SchedClass::Deadline));
    assert!(matches!(process(103), Err(ReadError::Text { .. })));
    assert!(process(104).is_err_and(|e| e.is_gone()));
}

#[test]
fn start_time_survives_any_name() {
    let stat = fs::read(tree().path("/proc/101/stat")).expect("fixture");
    assert_eq!(start_ticks(&stat), Some(4242));
    assert_eq!(start_ticks(b"1 (x) S 1"), None);
    assert_eq!(start_ticks(b""), None);
}

#[tokio::test]
async fn one_bad_process_hides_no_other() {
    let (mut procs, asks) = ProcObserver::new(tree(), Some(hierarchy()), None);
    assert_eq!(procs.next().await, Event::Sight { source: Source::Procs });
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match procs.next().await {
            Event::Sample(Sample::Proc(sample)) => seen.push(sample.proc.pid),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [2, 101, 105]);
    // Asked for: one reused pid, one that is gone.
    let (old, now) = (ProcKey { pid: 101, start: 1 }, ProcKey { pid: 101, start: 4242 });
    let gone = ProcKey { pid: 104, start: 9 };
    asks.refresh([old, gone]);
    assert_eq!(procs.next().await, Event::Kernel(KernelEvent::Exit { proc: old }));
    assert!(matches!(procs.next().await, Event::Sample(Sample::Proc(s)) if s.proc == now));
    assert_eq!(procs.next().await, Event::Kernel(KernelEvent::Exit { proc: gone }));
    // A storm: who exited before the look is not looked at; the others are answered by one sweep, and no ghost stays.
    asks.refresh([old]);
    asks.forget(old);
    let storm = |start| ProcKey { pid: 4_000_000, start };
    asks.refresh((0..5000).map(storm));
    for start in 0..5000 {
        assert_eq!(procs.next().await, Event::Kernel(KernelEvent::Exit { proc: storm(start) }));
    }
    assert!(matches!(procs.next().await, Event::Sample(Sample::Proc(s)) if s.proc.pid == 2));
}

#[tokio::test]
async fn a_source_that_cannot_read_is_blind_once() {
    let scratch = memtier_tests::scratch();
    let root = Root::at(scratch.path());
    let mut psi = PsiObserver::new(root.clone(), None, Watched::default(), Duration::from_millis(1), 500);
    assert!(!psi.has_trigger());
    let Event::Blind { source: Source::Psi, why } = psi.next().await else { panic!("blind") };
    assert!(why.contains("/proc/pressure/memory"), "{why}");
    let files = tree().path("/proc/pressure");
    fs::create_dir_all(root.path("/proc/pressure")).expect("scratch");
    for name in ["cpu", "io", "memory"] {
        fs::copy(files.join(name), root.path(format!("/proc/pressure/{name}"))).expect("scratch");
    }
    assert_eq!(psi.next().await, Event::Sight { source: Source::Psi });
    let Event::Sample(Sample::Pressure(memory)) = psi.next().await else { panic!("pressure") };
    assert_eq!(
        memory,
        Pressure {
            kind: PressureKind::Memory,
            cgroup: String::new(),
            some_avg10: 123,
            some_avg60: 45,
            full_avg10: 99,
            some_total_us: 123_456,
            full_total_us: 777,
            triggered: false
        }
    );
}

#[test]
fn pressure_text() {
    let cpu = Stall::parse(&tree().text("/proc/pressure/cpu").expect("fixture")).expect("no full line is no error");
    assert_eq!((cpu.some_avg10, cpu.full_avg10), (123, 0));
    let io = Stall::parse(&tree().text("/proc/pressure/io").expect("fixture")).expect("parses");
    assert_eq!(io.full_avg10, 10_000);
    for bad in ["", "some", "some ", "some avg10=x avg60=0 avg300=0 total=0", "full avg10=0.00 avg60=0.00 avg300=0.00 total=0"] {
        assert_eq!(Stall::parse(bad), None, "{bad:?}");
    }
}

#[test]
fn the_host() {
    let host = host::sample(&tree()).expect("reads");
    assert_eq!((host.total, host.available), (Bytes::from_kib(8_000_000), Bytes::from_kib(5_000_000)));
    assert_eq!((host.scanned, host.stolen), (Pages(111), Pages(88)));
    assert_eq!(
        (host.swapped_in, host.swapped_out, host.refault_anon, host.refault_file),
        (Pages(10), Pages(20), Pages(7), Pages(9))
    );
    assert!(host.zswap_enabled);
    assert_eq!(host.node_free, [(NodeId(0), Bytes::from_kib(700_000)), (NodeId(2), Bytes::from_kib(300_000))]);
    let [file, zram] = &host.swaps[..] else { panic!("{:?}", host.swaps) };
    assert_eq!((file.path.as_str(), file.backing, file.priority), ("/swap file (deleted)", SwapBacking::File, -2));
    assert_eq!(
        (zram.backing, zram.stored, zram.cost, zram.limit),
        (SwapBacking::Zram, Bytes(614_400), Bytes(262_144), Bytes(1_048_576))
    );
}

#[test]
fn cgroups_of_both_versions() {
    let v1 = hierarchy();
    assert_eq!((v1.version, v1.mount.as_path()), (Version::V1, Path::new("/cgroup/mem ory")));
    let one = v1.sample(&tree(), "/web:1/a b").expect("reads");
    assert_eq!((one.usage, one.limit, one.swap_limit), (Bytes(209_715_200), Bytes::MAX, Bytes(1 << 30)));
    assert_eq!((one.anon, one.file, one.swap_usage), (Bytes(153_600_000), Bytes(50_176_000), Bytes(12_288_000)));
    let v2 = v2();
    assert_eq!(v2.path_in("3:cpu:/no\n0::/a/b\n"), Some("/a/b"));
    let two = v2.sample(&tree(), "/a/b").expect("reads");
    // Its own limits are "max"; the parent allows 100 MiB, and has 5 MiB of swap left.
    assert_eq!((two.limit, two.swap_usage, two.swap_limit), (Bytes(100 << 20), Bytes(5 << 20), Bytes(10 << 20)));
    assert_eq!((two.anon, two.scanned, two.refault_file), (Bytes(70_000_000), Pages(55), Pages(8)));
    let top = v2.sample(&tree(), "/").expect("the root has neither usage nor limits");
    assert_eq!((top.usage, top.limit, top.swap_limit), (Bytes::ZERO, Bytes::MAX, Bytes::MAX));
}

#[test]
fn a_cgroup_path_cannot_leave_its_mount() {
    for path in ["/../../proc/101", "/a/../../..", "relative"] {
        assert_eq!(v2().dir(path), None, "{path}");
    }
}

#[test]
fn cgroups_that_are_gone_are_passed_over() {
    let watched = Watched::default();
    watched.set(vec!["/gone".into(), "/../out".into(), "/a/b".into()]);
    let mut sensor = CgroupSensor { root: tree(), hierarchy: v2(), watched };
    let events = sensor.read().expect("reads");
    assert!(matches!(&events[..], [Event::Sample(Sample::Cgroup(one))] if one.path == "/a/b"), "{events:?}");
}

#[test]
fn mappings_by_kind() {
    let tmpfs = Tmpfs::find(&tree()).expect("mountinfo reads");
    let all = maps::mappings(&tree(), &tmpfs, 101).expect("smaps reads");
    let kinds: Vec<VmaKind> = all.iter().map(|m| m.vma.kind).collect();
    use VmaKind::{Anon, File, Hugetlb, Shmem, Special};
    // A file that calls itself [heap] stays a file.
    assert_eq!(kinds, [File, Anon, Anon, Shmem, File, Shmem, Hugetlb, Special, Special]);
    let flags = |i: usize, flag| all[i].vma.flags.has(flag);
    assert!(flags(0, VmaFlags::EXEC) && !flags(0, VmaFlags::WRITE));
    assert!(flags(2, VmaFlags::LOCKED) && flags(2, VmaFlags::HUGE) && flags(4, VmaFlags::UFFD) && flags(7, VmaFlags::IO));
    assert_eq!((all[1].resident, all[1].swapped, all[1].referenced), (Bytes::from_kib(64), Bytes::from_kib(12), Bytes::ZERO));
}

#[test]
fn facts_of_a_host_that_is_a_tree() {
    let learned = vec![(Need::Walker, Fact { answer: Answer::No, how: "tried".into(), remedy: String::new() })];
    let facts = probe::facts(&tree(), learned);
    assert_eq!((facts.kernel.as_str(), facts.cpus, facts.memory), ("6.1.0-fixture", 5, Bytes::from_kib(8_000_000)));
    let [near, far] = &facts.nodes[..] else { panic!("{:?}", facts.nodes) };
    assert_eq!((near.cpus.len(), near.cpus[4], &near.distances[..]), (5, CpuId(8), &[(NodeId(2), 21)][..]));
    assert_eq!((far.id, far.cpus.len(), far.total), (NodeId(2), 0, Bytes::from_kib(2_000_000)));
    let answer = |need| facts.facts[&need].answer.clone();
    for need in [Need::Pmu, Need::Psi, Need::Swap, Need::CgroupV1Memory, Need::CgroupV2Memory, Need::ManyNodes] {
        assert_eq!(answer(need), Answer::Yes, "{need}");
    }
    for need in [Need::NumaBalancing, Need::Mglru, Need::ReclaimEvents] {
        assert_eq!(answer(need), Answer::Yes, "{need}");
    }
    for need in [
        Need::Root,
        Need::Bpf,
        Need::Btf,
        Need::Walker,
        Need::MigrateEvents,
        Need::PageIdle,
        Need::SwapPages,
        Need::Kprobes,
        Need::FaultSamples,
    ] {
        assert_eq!(answer(need), Answer::No, "{need}");
    }
    for need in [Need::ProcessMadvise, Need::PagemapScan, Need::SoftDirty, Need::DamonVaddr, Need::SchedEvents] {
        assert_eq!(answer(need), Answer::Unknown, "{need}");
    }
    assert!(facts.facts[&Need::Bpf].how.contains("confidentiality"));
    assert_eq!(facts.facts[&Need::Walker].how, "tried");
    assert_eq!(probe::facts(&Root::at("/nowhere"), vec![]).facts.len(), facts.facts.len());
}

/// Two nodes with CPUs and one without, whose numbers are sparse and reach beyond 63.
fn nodes_tree() -> Root {
    Root::at(memtier_tests::root().join("tests/fixtures/nodes"))
}

#[test]
fn nodes_as_facts() {
    let facts = probe::facts(&nodes_tree(), vec![]);
    let [near, lent, far] = &facts.nodes[..] else { panic!("{:?}", facts.nodes) };
    assert_eq!((near.id, near.latency_ns, near.bandwidth_mb_s, near.tier), (NodeId(0), Some(80), Some(20_000), Some(4)));
    // CPUs are told before other initiators; zero is what the firmware left out.
    assert_eq!((lent.id, lent.latency_ns, lent.bandwidth_mb_s, lent.tier), (NodeId(2), Some(250), None, Some(22)));
    assert_eq!((far.id, far.latency_ns, far.tier, far.distances.len()), (NodeId(70), None, Some(4), 0));
    assert_eq!(near.distances, [(NodeId(2), 14), (NodeId(70), 21)]);
}

#[test]
fn nodes_now() {
    let nodes = nodes::sample(&nodes_tree()).expect("reads").expect("there are three").nodes;
    let told: Vec<(u16, u64, u64)> = nodes.iter().map(|n| (n.node.0, n.free.0 >> 20, n.idle.as_millis())).collect();
    assert_eq!(told[0], (0, 8192, 21_000));
    // Idle time is counted per CPU, and there are none.
    assert_eq!((told[1].0, told[1].2), (2, 0));
    assert_eq!(told[2].0, 70);
    let scratch = memtier_tests::scratch();
    let root = Root::at(scratch.path());
    assert_eq!(nodes::sample(&root).expect("no NUMA is no error"), None);
    // A node that went away between the listing and the look.
    let dir = |id| root.path(format!("/sys/devices/system/node/node{id}"));
    for id in [0, 1] {
        fs::create_dir_all(dir(id)).expect("scratch");
        fs::write(dir(id).join("cpulist"), "0\n").expect("scratch");
        fs::write(dir(id).join("distance"), "10 20\n").expect("scratch");
        let meminfo = format!("Node {id} MemTotal: 8 kB\nNode {id} MemFree: 4 kB\n");
        fs::write(dir(id).join("meminfo"), meminfo).expect("scratch");
    }
    fs::create_dir_all(root.path("/proc")).expect("scratch");
    fs::write(root.path("/proc/stat"), "cpu  1 1 1 7 0\ncpu0 1 1 1 7 0\n").expect("scratch");
    // What an isolated CPU idles is nobody's.
    fs::create_dir_all(root.path("/sys/devices/system/cpu")).expect("scratch");
    let idle_with = |isolated: &str| {
        fs::write(root.path("/sys/devices/system/cpu/isolated"), isolated).expect("scratch");
        let facts = probe::facts(&root, vec![]).nodes;
        let sample = nodes::sample(&root).expect("reads").expect("two");
        (facts[0].shared_cpus().count(), sample.nodes[0].idle.as_millis())
    };
    assert_eq!((idle_with("0\n"), idle_with("\n")), ((0, 0), (1, 70)));
    let ids = |root: &Root| nodes::sample(root).map(|s| s.expect("two").nodes.iter().map(|n| n.node.0).collect::<Vec<_>>());
    assert_eq!(ids(&root).expect("reads"), [0, 1]);
    // Still listed, and not to be read: a link that leads nowhere.
    fs::remove_dir_all(dir(1)).expect("scratch");
    std::os::unix::fs::symlink("/nowhere/at/all", dir(1)).expect("scratch");
    assert_eq!(ids(&root).expect("reads"), [0]);
}

/// A process of one mapping of two blocks, made of files: block 0 is one huge page, block 1 holds a page on each node, a
/// swapped page and nothing else.
fn idle_tree(dir: &Path) -> Root {
    let root = Root::at(dir);
    let put = |path: &str, bytes: &[u8]| {
        let path = root.path(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("scratch");
        fs::write(path, bytes).expect("scratch");
    };
    let words = |words: &[u64]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
    let base = 4u64 << 20;
    put("/proc/7/stat", b"7 (x) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0");
    let smaps =
        format!("{base:08x}-{:08x} rw-p 00000000 00:00 0 \nRss: 2056 kB\nSwap: 4 kB\nReferenced: 0 kB\nVmFlags: rd wr\n", base * 2);
    put("/proc/7/smaps", smaps.as_bytes());
    put("/proc/self/mountinfo", b"");
    for name in ["node0/memory0/state", "node3/memory1/state"] {
        put(&format!("/sys/devices/system/node/{name}"), b"online\n");
    }
    put("/sys/devices/system/memory/block_size_bytes", b"400000\n");
    let present = |frame: u64| 1 << 63 | frame;
    let mut pages: Vec<u64> = (512..1024).map(present).collect();
    pages.extend([present(1030), 0, 1 << 62, present(1023 + 512)]);
    let mut pagemap = vec![0; (base >> 12) as usize];
    pagemap.extend(pages);
    pagemap.resize(((base * 2) >> 12) as usize, 0);
    put("/proc/7/pagemap", &words(&pagemap));
    let flags: Vec<u64> =
        (0..2048u64).map(|f| if (512..1024).contains(&f) { 1 << 22 | u64::from(f != 512) << 16 } else { 0 }).collect();
    put("/proc/kpageflags", &words(&flags));
    // Idle: the tails of the huge page, which say nothing, and frame 1030.
    let mut idle = vec![0u64; 32];
    (8..16).for_each(|word| idle[word] = !0);
    idle[8] = !1;
    idle[16] |= 1 << 6;
    put("/sys/kernel/mm/page_idle/bitmap", &words(&idle));
    root
}

#[test]
fn page_idle_is_there_for_who_may_write_it_and_see_frames() {
    let scratch = memtier_tests::scratch();
    let root = idle_tree(scratch.path());
    let fact = || probe::facts(&root, vec![]).facts.remove(&Need::PageIdle).expect("probed");
    let status = root.path("/proc/self/status");
    fs::write(&status, "CapEff:\t0000000000200000\n").expect("scratch");
    assert_eq!(fact().answer, Answer::Yes);
    fs::write(&status, "CapEff:\t0000000000000000\n").expect("scratch");
    assert!(fact().answer == Answer::No && fact().how.contains("no CAP_SYS_ADMIN"), "{:?}", fact());
    fs::remove_file(root.path("/sys/kernel/mm/page_idle/bitmap")).expect("scratch");
    assert!(fact().answer == Answer::No && fact().remedy.contains("CONFIG_IDLE_PAGE_TRACKING"), "{:?}", fact());
}

#[test]
fn page_idle_stands_in() {
    let scratch = memtier_tests::scratch();
    let root = idle_tree(scratch.path());
    let mut standin = StandIn::new(root.clone(), true).expect("opens");
    let proc = ProcKey { pid: 7, start: 70 };
    let scan = |standin: &mut StandIn| {
        let mut events = Vec::new();
        let stats = standin.scan(proc, &mut |event| events.push(event)).expect("walks");
        let [Event::Sample(Sample::Maps(maps)), Event::Sample(Sample::Pages(chunk))] = &events[..] else { panic!("{events:?}") };
        assert_eq!((maps.vmas.len(), chunk.last, chunk.range.start), (1, true, 0));
        (stats, chunk.clone(), maps.vmas[0].flags.has(VmaFlags::POLICY))
    };
    let (stats, PageChunk { blocks, .. }, theirs) = scan(&mut standin);
    assert!(!theirs, "a kernel without NUMA has no numa_maps");
    let [huge, base] = &blocks[..] else { panic!("{blocks:?}") };
    // Only the bit of the first frame counts for a huge page.
    assert_eq!((huge.leaf, huge.accessed, huge.node, &huge.mixed), (Leaf::Pmd, Bits::ALL, NodeId(0), &None));
    assert_eq!(base.present.iter().collect::<Vec<_>>(), [0, 3]);
    assert_eq!((base.accessed.iter().collect::<Vec<_>>(), base.swapped.iter().collect::<Vec<_>>()), (vec![3], vec![2]));
    assert_eq!((base.node, &base.mixed), (NodeId(3), &None));
    assert_eq!((stats.present, stats.accessed, stats.blocks), (Pages(514), Pages(513), 2));
    // The walk marked them: nothing was touched since. The kernel would have kept the bits of other frames.
    let numa_maps = root.path("/proc/7/numa_maps");
    for (policy, said) in [("default", false), ("local", false), ("prefer (many):0,3", true), ("bind=static:3", true)] {
        fs::write(&numa_maps, format!("{:x} {policy} anon=514 N0=513 N3=1 kernelpagesize_kB=4\n", 4u64 << 20)).expect("scratch");
        let (stats, _, theirs) = scan(&mut standin);
        assert_eq!((stats.accessed, theirs), (Pages(0), said), "{policy}");
    }
    let other = ProcKey { start: 71, ..proc };
    assert!(standin.scan(other, &mut |_| panic!("says nothing")).is_err_and(|e| e.is_gone()));
}

proptest! {
    /// Text that no kernel writes is refused or read, never a panic.
    #[test]
    fn no_text_breaks_a_parser(text in "(some|full|VmFlags:|Rss:|[0-9a-f]{1,8}-|\\\\[0-7]{0,3}|/SYSV| |\n|[0-9,-]{1,9}|kB|\\PC)*") {
        let _ = maps::parse(&text, &Tmpfs::default());
        let _ = Stall::parse(&text);
        let _ = number_list(&text);
        let _ = unescape(&text);
        let _ = field(&text, "Rss");
        let _ = start_ticks(text.as_bytes());
        let _ = v2().path_in(&text);
        let _ = v2().dir(&text);
    }
}
