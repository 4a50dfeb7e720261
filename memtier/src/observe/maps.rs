//! The mappings of a process from /proc/PID/smaps, where the kernel's VMA iterator is not to be had. smaps and not maps,
//! because only smaps tells what is locked, PFN-mapped, huge or registered with userfaultfd; it costs a walk of the page
//! tables.
//!
//! Parsed here: `procfs` gives up on a path that is not UTF-8 and panics on a mapped file named "/SYSV".

use crate::sys::files::{ReadError, Root};
use crate::vocab::{AddrRange, Bytes, MapsSample, ProcKey, Vma, VmaFlags, VmaKind};
use procfs::process::MountInfos;
use std::collections::BTreeSet;

/// One mapping, with what smaps counts in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    pub vma: Vma,
    pub resident: Bytes,
    pub swapped: Bytes,
    /// Resident bytes whose accessed bit is set.
    pub referenced: Bytes,
}

/// Device numbers ("0:25") of mounted tmpfs, whose files are shared memory.
#[derive(Clone, Debug, Default)]
pub struct Tmpfs(BTreeSet<(u32, u32)>);

impl Tmpfs {
    pub fn find(root: &Root) -> Result<Self, ReadError> {
        let mounts: MountInfos = root.parse("/proc/self/mountinfo")?;
        let device = |text: &str| {
            let (major, minor) = text.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        Ok(Self(mounts.iter().filter(|m| m.fs_type == "tmpfs").filter_map(|m| device(&m.majmin)).collect()))
    }
}

/// All mappings, ascending.
pub fn mappings(root: &Root, tmpfs: &Tmpfs, pid: u32) -> Result<Vec<Mapping>, ReadError> {
    let path = format!("/proc/{pid}/smaps");
    parse(&root.text(&path)?, tmpfs).ok_or_else(|| root.nonsense(path, "a line makes no sense"))
}

/// Marks the mappings whose owner said on which nodes they lie, by /proc/PID/numa_maps: on a host of several nodes that is worth
/// another walk of the page tables. A policy of the whole process it tells of each mapping that has none.
pub fn mark_policies(root: &Root, pid: u32, mappings: &mut [Mapping]) -> Result<(), ReadError> {
    let text = match root.text(format!("/proc/{pid}/numa_maps")) {
        // A kernel without NUMA, or nobody who may look.
        Err(e) if e.is_gone() || e.is_denied() => return Ok(()),
        text => text?,
    };
    for line in text.lines() {
        let mut words = line.split(' ');
        let start = words.next().and_then(|start| u64::from_str_radix(start, 16).ok());
        let said = words.next().is_some_and(|policy| !["default", "local"].contains(&policy));
        if let Some(start) = start.filter(|_| said)
            && let Ok(at) = mappings.binary_search_by_key(&start, |mapping| mapping.vma.start)
        {
            mappings[at].vma.flags = mappings[at].vma.flags.with(VmaFlags::POLICY);
        }
    }
    Ok(())
}

#[must_use]
pub fn as_sample(proc: ProcKey, mappings: &[Mapping]) -> MapsSample {
    MapsSample { proc, vmas: mappings.iter().map(|m| m.vma).collect() }
}

#[must_use]
pub fn parse(text: &str, tmpfs: &Tmpfs) -> Option<Vec<Mapping>> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        // Attributes begin with a capital, addresses are lower-case hexadecimal.
        if !line.starts_with(|c: char| c.is_ascii_uppercase()) {
            all.push(Mapping { vma: head(line, tmpfs)?, ..Mapping::default() });
            continue;
        }
        let (mapping, (key, value)) = (all.last_mut()?, line.split_once(':')?);
        let size = || Some(Bytes::from_kib(value.trim().strip_suffix("kB")?.trim_end().parse().ok()?));
        match key {
            "Rss" => mapping.resident = size()?,
            "Swap" => mapping.swapped = size()?,
            "Referenced" => mapping.referenced = size()?,
            "VmFlags" => value.split_ascii_whitespace().for_each(|flag| apply(&mut mapping.vma, flag)),
            _ => {}
        }
    }
    Some(all)
}

/// "start-end perms offset major:minor inode   path"
fn head(line: &str, tmpfs: &Tmpfs) -> Option<Vma> {
    let mut parts = line.splitn(6, ' ');
    let (start, end) = parts.next()?.split_once('-')?;
    let range = AddrRange { start: u64::from_str_radix(start, 16).ok()?, end: u64::from_str_radix(end, 16).ok()? };
    let perms = parts.next()?;
    let _offset = parts.next()?;
    let (major, minor) = parts.next()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode: u64 = parts.next()?.parse().ok()?;
    let path = parts.next().unwrap_or_default().trim_start();
    if range.start >= range.end {
        return None;
    }
    let mut flags = VmaFlags::default();
    if perms.contains('w') {
        flags = flags.with(VmaFlags::WRITE);
    }
    if perms.contains('x') {
        flags = flags.with(VmaFlags::EXEC);
    }
    // Only a file has an inode number: no path chosen by somebody can pass for anonymous memory.
    let kind = match (inode != 0, perms.contains('s')) {
        (false, _) if ["[vdso]", "[vsyscall]", "[uprobes]"].contains(&path) || path.starts_with("[vvar") => VmaKind::Special,
        (false, true) => VmaKind::Shmem,
        (false, false) => VmaKind::Anon,
        (true, true) if tmpfs.0.contains(&device) || unnamed_shmem(path) => VmaKind::Shmem,
        (true, true) => VmaKind::SharedFile,
        (true, false) => VmaKind::File,
    };
    Some(Vma { start: range.start, end: range.end, kind, flags })
}

/// Files of the kernel's own tmpfs, which is mounted nowhere.
fn unnamed_shmem(path: &str) -> bool {
    ["/memfd:", "/SYSV", "/dev/zero (deleted)", "[anon_shmem:"].iter().any(|prefix| path.starts_with(prefix))
}

fn apply(vma: &mut Vma, flag: &str) {
    let bit = match flag {
        "lo" => VmaFlags::LOCKED,
        "io" | "pf" => {
            vma.kind = VmaKind::Special;
            VmaFlags::IO
        }
        "ht" => {
            vma.kind = VmaKind::Hugetlb;
            return;
        }
        "hg" => VmaFlags::HUGE,
        "nh" => VmaFlags::NOHUGE,
        // Missing, write-protect and minor mode.
        "um" | "uw" | "ui" => VmaFlags::UFFD,
        _ => return,
    };
    vma.flags = vma.flags.with(bit);
}
