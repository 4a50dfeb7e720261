//! What this host is and can do, learned by looking and trying, never from a version number.
//!
//! Facts that only loading a BPF object can tell (the walker, tracepoints, fentry) come from observe/bpf as an argument.

use super::host::swaps;
use super::psi::{MEMORY, WINDOW_US};
use super::topology;
use crate::sys;
use crate::sys::files::{ReadError, Root, field, number_list};
use crate::sys::memory::{self, Advice};
use crate::sys::page_idle::{BITMAP, Bitmap};
use crate::sys::pagemap::{PageMap, page_of};
use crate::vocab::{AddrRange, Answer, Bytes, CpuId, Fact, HostFacts, Need, NodeFacts, PAGE_BYTES, SwapBacking, is_slow};
use procfs::process::MountInfos;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;

const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_NICE: u32 = 23;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

fn fact(answer: Answer, how: impl Into<String>, remedy: &str) -> Fact {
    Fact { answer, how: how.into(), remedy: remedy.into() }
}
fn yes(how: impl Into<String>) -> Fact {
    fact(Answer::Yes, how, "")
}
fn no(how: impl Into<String>, remedy: &str) -> Fact {
    fact(Answer::No, how, remedy)
}
fn unknown(how: impl Into<String>, remedy: &str) -> Fact {
    fact(Answer::Unknown, how, remedy)
}

/// Facts of the host below `root`. `learned` wins over what files alone can tell.
pub fn facts(root: &Root, learned: Vec<(Need, Fact)>) -> HostFacts {
    let nodes = topology::nodes(root);
    let mut facts: BTreeMap<Need, Fact> = asked(root, &nodes).into_iter().collect();
    facts.extend(learned);
    let memory = root.text("/proc/meminfo").ok().and_then(|t| field(&t, "MemTotal")).map_or(Bytes::ZERO, Bytes::from_kib);
    let online = root.text("/sys/devices/system/cpu/online").ok().and_then(|t| number_list(&t));
    HostFacts {
        kernel: root.text("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
        arch: std::env::consts::ARCH.into(),
        page_bytes: procfs::page_size(),
        memory,
        cpus: online.as_ref().map_or(0, |cpus| cpus.len() as u32),
        smt_width: online.as_ref().and_then(|cpus| smt_width(root, cpus)).unwrap_or(0),
        nodes: nodes.unwrap_or_default(),
        facts,
        swap_written_today: Bytes::ZERO,
        own_pid: std::process::id(),
    }
}

/// What of these facts may be different after a while: nodes and CPUs come and go, and NUMA balancing is a switch.
pub fn renewed(root: &Root, facts: &HostFacts) -> HostFacts {
    let nodes = topology::nodes(root);
    let mut answers = facts.facts.clone();
    answers.extend(of_nodes(root, &nodes));
    let online = root.text("/sys/devices/system/cpu/online").ok().and_then(|t| number_list(&t));
    HostFacts {
        cpus: online.as_ref().map_or(facts.cpus, |cpus| cpus.len() as u32),
        smt_width: online.as_ref().and_then(|cpus| smt_width(root, cpus)).unwrap_or(facts.smt_width),
        nodes: nodes.unwrap_or_else(|_| facts.nodes.clone()),
        facts: answers,
        ..facts.clone()
    }
}

fn smt_width(root: &Root, online: &[u32]) -> Option<u32> {
    let width = topology::smt_width(root, CpuId(*online.first()?)).ok()?;
    u32::try_from(width).ok()
}

fn of_nodes(root: &Root, nodes: &Result<Vec<NodeFacts>, ReadError>) -> [(Need, Fact); 3] {
    [(Need::ManyNodes, many_nodes(nodes)), (Need::SlowNodes, slow_nodes(nodes)), (Need::NumaBalancing, numa_balancing(root))]
}

fn asked(root: &Root, nodes: &Result<Vec<NodeFacts>, ReadError>) -> Vec<(Need, Fact)> {
    let caps = Caps::read(root);
    let walker = "needs BPF, BTF and the BPF object; proved when the daemon or doctor loads it";
    let rest = vec![
        (Need::Root, caps.root()),
        (Need::Bpf, bpf(root, &caps)),
        (Need::Btf, btf(root)),
        (Need::BpfObject, unknown("not looked for", "")),
        (Need::Walker, unknown(walker, "")),
        (Need::SchedEvents, unknown("shows when the BPF object is loaded", "")),
        (Need::ReclaimEvents, tracepoint(root, "vmscan/mm_vmscan_lru_shrink_inactive")),
        (Need::MigrateEvents, tracepoint(root, "migrate/mm_migrate_pages")),
        (Need::FaultSamples, fault_samples(root, &caps)),
        (Need::DamonEvents, tracepoint(root, "damon/damon_aggregated")),
        (Need::Fentry, unknown("not tried: no probe of ours uses it", "")),
        (Need::Kprobes, event_source(root, "kprobe", "dynamic probes")),
        (Need::Pmu, pmu(root)),
        (Need::Psi, psi(root)),
        (Need::ProcessMadvise, process_madvise(root, &caps)),
        (Need::IdlePages, module_file(root, "/proc/self/idle_pages", "etmem_scan")),
        (Need::SwapPages, module_file(root, "/proc/self/swap_pages", "etmem_swap")),
        (Need::PageIdle, page_idle(root, &caps)),
        (Need::DamonVaddr, damon_vaddr(root)),
        (Need::PagemapScan, pagemap_scan(root)),
        (Need::SoftDirty, soft_dirty(root)),
        (Need::Swap, swap(root)),
        (Need::CgroupV1Memory, cgroup_v1(root)),
        (Need::CgroupV2Memory, cgroup_v2(root)),
        (Need::Mglru, mglru(root)),
    ];
    rest.into_iter().chain(of_nodes(root, nodes)).collect()
}

/// An answer for a file that could not be read: absent is "no", forbidden is "unknown".
fn unread(e: &ReadError, absent: &str, remedy: &str) -> Fact {
    if e.is_gone() {
        no(format!("{e}: {absent}"), remedy)
    } else if e.is_denied() {
        unknown(e.to_string(), "run as root")
    } else {
        unknown(e.to_string(), "")
    }
}

/// Effective capabilities, and whether they count outside of a user namespace.
struct Caps {
    effective: Result<u64, String>,
    initial_namespace: bool,
}

impl Caps {
    fn read(root: &Root) -> Self {
        let effective = root.text("/proc/self/status").map_err(|e| e.to_string()).and_then(|text| {
            let hex = text.lines().find_map(|l| l.strip_prefix("CapEff:")).ok_or("no CapEff in /proc/self/status")?;
            u64::from_str_radix(hex.trim(), 16).map_err(|e| format!("CapEff in /proc/self/status: {e}"))
        });
        // The initial namespace maps every uid to itself. Without user namespaces there is no such file.
        let map = root.text("/proc/self/uid_map");
        let initial_namespace = map.map_or(true, |t| t.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
        Self { effective, initial_namespace }
    }

    fn has(&self, cap: u32) -> bool {
        self.initial_namespace && self.effective.as_ref().is_ok_and(|caps| caps >> cap & 1 == 1)
    }

    fn shown(&self) -> String {
        match &self.effective {
            Ok(caps) => {
                format!("CapEff {caps:#x} in the {} user namespace", if self.initial_namespace { "initial" } else { "own" })
            }
            Err(why) => why.clone(),
        }
    }

    fn root(&self) -> Fact {
        match (&self.effective, self.has(CAP_SYS_ADMIN)) {
            (_, true) => yes(self.shown()),
            (Ok(_), false) => no(format!("{}: no CAP_SYS_ADMIN", self.shown()), "run as root on the host itself"),
            (Err(why), false) => unknown(why, ""),
        }
    }
}

fn bpf(root: &Root, caps: &Caps) -> Fact {
    // Absent without the lockdown LSM: then nothing is locked down.
    let lockdown = root.text("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return no("/sys/kernel/security/lockdown: confidentiality", "boot with lockdown=integrity or none");
    }
    if caps.has(CAP_SYS_ADMIN) || caps.has(CAP_BPF) && caps.has(CAP_PERFMON) {
        return yes(format!("{}, no lockdown of confidentiality", caps.shown()));
    }
    no(format!("{}: neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON", caps.shown()), "run as root")
}

fn btf(root: &Root) -> Fact {
    let path = "/sys/kernel/btf/vmlinux";
    match root.path(path).metadata() {
        Ok(file) => yes(format!("{path}: {}", Bytes(file.len()))),
        Err(e) => no(format!("{path}: {e}"), "a kernel built with CONFIG_DEBUG_INFO_BTF"),
    }
}

fn tracepoint(root: &Root, name: &str) -> Fact {
    for tracefs in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        let events = format!("{tracefs}/events");
        match root.list(&events) {
            Ok(_) if root.exists(format!("{events}/{name}")) => return yes(format!("{events}/{name}")),
            Ok(_) => return no(format!("no {events}/{name}"), "a kernel built with that tracepoint"),
            Err(e) if e.is_gone() => {}
            Err(e) => return unread(&e, "", ""),
        }
    }
    unknown("tracefs is not mounted", "mount -t tracefs tracefs /sys/kernel/tracing")
}

fn event_source(root: &Root, name: &str, what: &str) -> Fact {
    let path = format!("/sys/bus/event_source/devices/{name}");
    if root.exists(&path) { yes(format!("{path}: {what}")) } else { no(format!("no {path}"), "") }
}

/// Samples of all processes take a privilege, or a host that lets everybody.
fn fault_samples(root: &Root, caps: &Caps) -> Fact {
    let source = event_source(root, "software", "software perf events, page faults among them");
    if source.answer != Answer::Yes || caps.has(CAP_SYS_ADMIN) || caps.has(CAP_PERFMON) {
        return source;
    }
    let path = "/proc/sys/kernel/perf_event_paranoid";
    match root.text(path) {
        Ok(text) if text.trim().parse::<i64>().is_ok_and(|level| level <= 0) => source,
        Ok(text) => no(format!("{path}: {}, and {}: no CAP_PERFMON", text.trim(), caps.shown()), "run as root"),
        Err(e) => unread(&e, "no perf events", ""),
    }
}

/// Whether PEBS or IBS is there; nothing uses it yet.
fn pmu(root: &Root) -> Fact {
    let dir = "/sys/bus/event_source/devices";
    match root.list(dir) {
        Ok(names) => match names.iter().find(|n| *n == "ibs_op" || root.exists(format!("{dir}/{n}/events/mem-loads"))) {
            Some(name) => yes(format!("{dir}/{name} samples memory accesses (not used yet)")),
            None => no(
                format!("{dir}: {}; neither ibs_op nor a mem-loads event", names.join(" ")),
                "bare metal, or a vPMU with PEBS or IBS",
            ),
        },
        Err(e) => unread(&e, "no perf events", ""),
    }
}

/// Reading is enough to brake; a trigger brakes at once. One is tried, and goes away with its file.
fn psi(root: &Root) -> Fact {
    let text = match root.text(MEMORY) {
        Ok(text) => text,
        Err(e) => return unread(&e, "no pressure stall information", "boot with psi=1"),
    };
    let now = text.lines().next().unwrap_or_default();
    if !root.is_host() {
        return yes(format!("{MEMORY}: {now}"));
    }
    match sys::psi::trigger(root, MEMORY, WINDOW_US / 20, WINDOW_US) {
        Ok(_) => yes(format!("{MEMORY}: {now}; a trigger was tried")),
        Err(e) => yes(format!("{MEMORY}: {now}; read once a period, for no trigger can be set: {e}")),
    }
}

/// Tries both calls on a page of our own.
fn process_madvise(root: &Root, caps: &Caps) -> Fact {
    if !root.is_host() {
        return unknown("not a running host", "");
    }
    let page = vec![1u8; 2 * PAGE_BYTES as usize];
    let start = (page.as_ptr() as u64).next_multiple_of(PAGE_BYTES);
    let range = AddrRange { start, end: start + PAGE_BYTES };
    let tried = memory::pidfd_open(std::process::id()).map_err(|e| format!("pidfd_open: {e}")).and_then(|pidfd| {
        [Advice::Cold, Advice::PageOut].into_iter().try_for_each(|advice| {
            memory::process_madvise(pidfd.as_fd(), &[range], advice).map(drop).map_err(|e| format!("{}: {e}", advice.name()))
        })
    });
    match tried {
        Err(why) => no(why, "Linux 5.10 or later with CONFIG_ADVISE_SYSCALLS"),
        Ok(()) if caps.has(CAP_SYS_NICE) => yes("both advices tried on a page of our own"),
        Ok(()) => no(format!("works on ourselves, but {}: no CAP_SYS_NICE for others", caps.shown()), "run as root"),
    }
}

fn module_file(root: &Root, path: &str, module: &str) -> Fact {
    if root.exists(path) {
        yes(format!("{path} is there"))
    } else {
        no(format!("no {path}"), &format!("on openEuler: modprobe {module}"))
    }
}

/// Opened for writing as the hands do it, which changes nothing. Pages are found in it by their frames.
fn page_idle(root: &Root, caps: &Caps) -> Fact {
    match Bitmap::open(root, true) {
        Ok(_) if caps.has(CAP_SYS_ADMIN) => yes(format!("{BITMAP} opens for writing")),
        Ok(_) => no(format!("{BITMAP} opens, but {}: no CAP_SYS_ADMIN to see frame numbers", caps.shown()), "run as root"),
        Err(source) => {
            let e = ReadError::Io { path: root.path(BITMAP), source };
            unread(&e, "no idle page tracking", "a kernel built with CONFIG_IDLE_PAGE_TRACKING")
        }
    }
}

/// The operations that DAMON offers show only inside a context, and making one would change the host.
fn damon_vaddr(root: &Root) -> Fact {
    let admin = "/sys/kernel/mm/damon/admin/kdamonds";
    let first = format!("{admin}/0/contexts/0/avail_operations");
    match (root.text(&first), root.text(format!("{admin}/nr_kdamonds"))) {
        (Ok(ops), _) if ops.split_ascii_whitespace().any(|o| o == "vaddr") => {
            yes(format!("{first}: {}", ops.trim().replace('\n', " ")))
        }
        (Ok(ops), _) => no(format!("{first}: {}", ops.trim().replace('\n', " ")), "a kernel built with CONFIG_DAMON_VADDR"),
        (Err(_), Ok(_)) => unknown(format!("{admin} is there, but without a context it does not list its operations"), ""),
        (Err(_), Err(e)) => unread(&e, "no DAMON", "a kernel built with CONFIG_DAMON_SYSFS and CONFIG_DAMON_VADDR"),
    }
}

fn pagemap_scan(root: &Root) -> Fact {
    if !root.is_host() {
        return unknown("not a running host", "");
    }
    let here = 0u8;
    match File::open("/proc/self/pagemap").and_then(|file| memory::pagemap_scan_known(&file, &raw const here as u64)) {
        Ok(()) => yes("ioctl tried on a page of our own"),
        Err(e) => no(format!("ioctl on /proc/self/pagemap: {e}"), "Linux 6.7 or later"),
    }
}

/// A page that was just written must read as soft-dirty, if the kernel tracks that at all.
fn soft_dirty(root: &Root) -> Fact {
    if !root.is_host() {
        return unknown("not a running host", "");
    }
    let written = Box::new(std::process::id());
    let mut entries = Vec::new();
    let read =
        File::open("/proc/self/pagemap").and_then(|f| PageMap::new(f)?.entries(page_of(&raw const *written as u64), &mut entries));
    match (read, &entries[..]) {
        (Ok(_), [page]) if page.soft_dirty() => yes("bit 55 of pagemap is set on a page just written"),
        (Ok(_), _) => no("bit 55 of pagemap is clear on a page just written", ""),
        (Err(e), _) => unknown(format!("/proc/self/pagemap: {e}"), ""),
    }
}

fn swap(root: &Root) -> Fact {
    match swaps(root) {
        Ok(areas) if areas.is_empty() => {
            no("/proc/swaps: none", "add a zram or other swap area (cargo xtask demo makes one for itself)")
        }
        Ok(areas) => {
            let kind = |b| match b {
                SwapBacking::Disk => "disk",
                SwapBacking::File => "file",
                SwapBacking::Zram => "zram",
            };
            let each: Vec<String> = areas.iter().map(|s| format!("{} ({}, {})", s.path, kind(s.backing), s.size)).collect();
            yes(format!("/proc/swaps: {}", each.join(", ")))
        }
        Err(e) => unread(&e, "no swap in this kernel", ""),
    }
}

fn mounts(root: &Root) -> Result<MountInfos, Fact> {
    root.parse("/proc/self/mountinfo").map_err(|e| unread(&e, "", ""))
}

fn cgroup_v1(root: &Root) -> Fact {
    match mounts(root) {
        Err(fact) => fact,
        Ok(mounts) => match mounts.iter().find(|m| m.fs_type == "cgroup" && m.super_options.contains_key("memory")) {
            Some(m) => yes(format!("mounted on {}", m.mount_point.display())),
            None => no("/proc/self/mountinfo: no version 1 memory controller", ""),
        },
    }
}

fn cgroup_v2(root: &Root) -> Fact {
    match mounts(root) {
        Err(fact) => fact,
        Ok(mounts) => match mounts.iter().find(|m| m.fs_type == "cgroup2") {
            None => no("/proc/self/mountinfo: no version 2 hierarchy", ""),
            Some(m) => {
                let path = m.mount_point.join("cgroup.controllers");
                match root.text(&path) {
                    Ok(text) if text.split_ascii_whitespace().any(|c| c == "memory") => {
                        yes(format!("{}: {}", path.display(), text.trim()))
                    }
                    Ok(text) => no(
                        format!("{}: {:?}, no memory controller", path.display(), text.trim()),
                        "boot with systemd.unified_cgroup_hierarchy=1",
                    ),
                    Err(e) => unread(&e, "no version 2 hierarchy", ""),
                }
            }
        },
    }
}

fn many_nodes(nodes: &Result<Vec<NodeFacts>, ReadError>) -> Fact {
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(e) => return unread(e, "", ""),
    };
    let with_memory = nodes.iter().filter(|n| n.total > Bytes::ZERO).count();
    let how = format!("/sys/devices/system/node: nodes {}, with memory {with_memory}", nodes.len());
    if with_memory > 1 { yes(how) } else { no(how, "") }
}

fn slow_nodes(nodes: &Result<Vec<NodeFacts>, ReadError>) -> Fact {
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(e) => return unread(e, "", ""),
    };
    let slow: Vec<String> = nodes.iter().filter(|node| is_slow(nodes, node)).map(|node| node.id.0.to_string()).collect();
    if slow.is_empty() { no("no node is slower than those with CPUs", "") } else { yes(format!("slow nodes: {}", slow.join(", "))) }
}

fn numa_balancing(root: &Root) -> Fact {
    let path = "/proc/sys/kernel/numa_balancing";
    match root.number(path) {
        Ok(0) => no(format!("{path}: 0"), ""),
        Ok(mode) => yes(format!("{path}: {mode}")),
        Err(e) => unread(&e, "not in this kernel", ""),
    }
}

fn mglru(root: &Root) -> Fact {
    let path = "/sys/kernel/mm/lru_gen/enabled";
    match root.text(path) {
        Ok(text) if text.trim().trim_start_matches("0x").trim_start_matches('0').is_empty() => {
            no(format!("{path}: {}", text.trim()), "")
        }
        Ok(text) => yes(format!("{path}: {}", text.trim())),
        Err(e) => unread(&e, "classic LRU", ""),
    }
}
