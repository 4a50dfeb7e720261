//! The system calls that the hands make, on the real kernel.

use super::{Calls, Cgroups, Ground, Placing};
use crate::sys::affinity::{self, CpuMask};
use crate::sys::cgroup::{Hierarchy, Version};
use crate::sys::clock;
use crate::sys::files::{Root, field, start_ticks};
use crate::sys::memory::{self, Advice};
use crate::sys::numa;
use crate::sys::page_idle::{Bitmap, Words};
use crate::sys::pagemap::{Entry, Flags, FrameFlags, PageMap};
use crate::sys::psi::Stall;
use crate::sys::tasks::{Task, Tasks, gone};
use crate::vocab::{AddrRange, Bytes, Group, NodeId, Pages, ProcKey, Time};
use nix::fcntl::OFlag;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lines of one write to swap_pages: what etmem writes at a time.
const SWAP_LINES: usize = 200;

/// The kernel of this host.
#[derive(Debug, Default)]
pub struct Kernel {
    meminfo: Option<File>,
    pressure: Option<File>,
    frames: Option<FrameFlags>,
    /// Where the kernel tracks idle pages and we may mark them.
    bitmap: Option<Bitmap>,
    held: Option<Held>,
    /// Once it was asked for.
    keeps_masks: Option<bool>,
    calls: u64,
}

/// Handles that all mean one process and go stale with it.
#[derive(Debug)]
struct Held {
    tasks: Tasks,
    /// Absent before Linux 5.3.
    pidfd: Option<OwnedFd>,
    pagemap: PageMap,
    /// Only on openEuler.
    swap_pages: Option<File>,
}

impl Kernel {
    #[must_use]
    pub fn with(bitmap: Option<Bitmap>) -> Self {
        Self { bitmap, ..Self::default() }
    }

    /// Reads a small file of /proc through a descriptor that stays open.
    fn reread(file: &mut Option<File>, path: &str, calls: &mut u64) -> io::Result<String> {
        let file = match file {
            Some(file) => file,
            None => {
                *calls += 1;
                file.insert(File::open(path)?)
            }
        };
        let mut bytes = vec![0; 4096];
        let got = file.read_at(&mut bytes, 0)?;
        *calls += 1;
        Ok(String::from_utf8_lossy(&bytes[..got]).into_owned())
    }

    fn hold(&mut self, proc: ProcKey) -> io::Result<Option<Held>> {
        // The directory stays with the process it was opened for; everything is opened through it.
        let Some(mut tasks) = Tasks::of(proc)? else { return Ok(None) };
        let pidfd = match memory::pidfd_open(proc.pid) {
            Ok(fd) => Some(fd),
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => None,
            Err(e) => return Err(e),
        };
        // The pidfd was taken before this look: if the directory still shows the process, both mean the same.
        if !tasks.there()? {
            return Ok(None);
        }
        self.calls += 1;
        let pagemap = PageMap::new(tasks.open("pagemap", OFlag::O_RDONLY)?)?;
        let swap_pages = match tasks.open("swap_pages", OFlag::O_WRONLY) {
            Ok(file) => Some(file),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
            Err(e) => return Err(e),
        };
        Ok(Some(Held { tasks, pidfd, pagemap, swap_pages }))
    }

    /// For calls that take a pid and no handle: it was the process's own a moment ago.
    fn pid(&mut self) -> io::Result<u32> {
        let tasks = &mut Self::held(&mut self.held)?.tasks;
        if tasks.has_memory()? { Ok(tasks.proc().pid) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    fn held(held: &mut Option<Held>) -> io::Result<&mut Held> {
        held.as_mut().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
    }
}

impl Ground for Kernel {
    fn attach(&mut self, proc: ProcKey) -> io::Result<bool> {
        self.release();
        self.held = match self.hold(proc) {
            Err(e) if gone(&e) => None,
            held => held?,
        };
        Ok(self.held.is_some())
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.calls += held.tasks.calls();
        }
    }

    fn entries(&mut self, range: AddrRange, out: &mut Vec<Entry>) -> io::Result<()> {
        self.calls += Self::held(&mut self.held)?.pagemap.entries(range, out)?;
        Ok(())
    }

    fn flags(&mut self, frame: u64, count: usize) -> io::Result<Vec<Flags>> {
        let frames = match &self.frames {
            Some(frames) => frames,
            None => self.frames.insert(FrameFlags(File::open("/proc/kpageflags")?)),
        };
        self.calls += 1;
        frames.read(frame, count)
    }

    fn swap(&mut self) -> io::Result<(Bytes, Bytes)> {
        let text = Self::reread(&mut self.meminfo, "/proc/meminfo", &mut self.calls)?;
        let size = |key| field(&text, key).map(Bytes::from_kib).ok_or_else(|| io::Error::other(format!("no {key}")));
        Ok((size("SwapFree")?, size("SwapTotal")?))
    }

    /// A kernel without pressure accounting knows none: the brake has nothing to go by there, and `doctor` says so.
    fn pressure(&mut self) -> io::Result<u32> {
        match Self::reread(&mut self.pressure, "/proc/pressure/memory", &mut self.calls) {
            Ok(text) => Ok(Stall::parse(&text).ok_or_else(|| io::Error::other("no \"some\" line"))?.some_avg10),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(0),
            Err(e) => Err(e),
        }
    }

    fn node_free(&mut self, node: NodeId) -> io::Result<Bytes> {
        self.calls += 3;
        let text = std::fs::read_to_string(format!("/sys/devices/system/node/node{}/meminfo", node.0))?;
        // "Node 0 MemFree:  1024 kB"
        let free = text.lines().filter_map(|line| line.splitn(3, ' ').nth(2)).find_map(|line| field(line, "MemFree"));
        free.map(Bytes::from_kib).ok_or_else(|| io::Error::other("no MemFree"))
    }

    fn now(&self) -> Time {
        clock::boottime()
    }
    fn cpu_ns(&self) -> u64 {
        clock::thread_cpu()
    }
    fn made(&self) -> u64 {
        self.calls + self.held.as_ref().map_or(0, |held| held.tasks.calls())
    }
    fn pause(&mut self, time: Duration) {
        self.calls += 1;
        std::thread::sleep(time);
    }
}

impl Calls for Kernel {
    fn advise(&mut self, ranges: &[AddrRange], advice: Advice) -> io::Result<u64> {
        self.calls += 1;
        match &Self::held(&mut self.held)?.pidfd {
            Some(pidfd) => memory::process_madvise(pidfd.as_fd(), ranges, advice),
            None => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    fn has_swap_pages(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.swap_pages.is_some())
    }

    fn swap_pages(&mut self, addresses: &[u64]) -> io::Result<()> {
        let Some(file) = &mut Self::held(&mut self.held)?.swap_pages else {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        };
        for lines in addresses.chunks(SWAP_LINES) {
            let text: String = lines.iter().map(|a| format!("{a:#x}\n")).collect();
            self.calls += 1;
            file.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    fn has_page_idle(&self) -> bool {
        self.bitmap.is_some()
    }

    fn mark_idle(&mut self, words: &Words) -> io::Result<usize> {
        self.calls += 1;
        match &self.bitmap {
            Some(bitmap) => bitmap.mark(words),
            None => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }
}

impl Placing for Kernel {
    fn has_memory(&mut self) -> io::Result<bool> {
        Self::held(&mut self.held)?.tasks.has_memory()
    }
    fn runs_guest(&mut self) -> io::Result<bool> {
        Self::held(&mut self.held)?.tasks.has_open("anon_inode:kvm-vm")
    }
    fn ancestors(&mut self) -> io::Result<Vec<ProcKey>> {
        Self::held(&mut self.held)?.tasks.ancestors()
    }
    fn tasks(&mut self) -> io::Result<Vec<Task>> {
        Self::held(&mut self.held)?.tasks.all()
    }
    fn rebind(&mut self, task: &Task, cpus: &CpuMask) -> io::Result<bool> {
        Self::held(&mut self.held)?.tasks.rebind(task, cpus)
    }

    fn online(&mut self) -> io::Result<CpuMask> {
        self.calls += 3;
        affinity::online()
    }

    fn nodes(&mut self, pages: &[u64]) -> io::Result<Vec<i32>> {
        self.calls += 1;
        numa::move_pages(self.pid()?, pages, None)
    }

    fn move_pages(&mut self, pages: &[u64], to: NodeId) -> io::Result<Vec<i32>> {
        self.calls += 1;
        numa::move_pages(self.pid()?, pages, Some(to.0))
    }

    fn migrate(&mut self, from: &[NodeId], to: NodeId) -> io::Result<u64> {
        self.calls += 1;
        numa::migrate_pages(self.pid()?, from, to)
    }

    fn by_node(&mut self) -> io::Result<BTreeMap<NodeId, Pages>> {
        let mut text = String::new();
        Self::held(&mut self.held)?.tasks.open("numa_maps", OFlag::O_RDONLY)?.read_to_string(&mut text)?;
        // It comes a page of text at a time.
        self.calls += 1 + (text.len() / 4096) as u64;
        Ok(numa::by_node(&text))
    }
}

impl Cgroups for Kernel {
    fn cgroup(&mut self, group: &Group) -> io::Result<Option<PathBuf>> {
        self.calls += 4;
        let root = Root::host();
        let found = Hierarchy::find(&root).map_err(io::Error::other)?.filter(|hierarchy| hierarchy.version == Version::V2);
        let same = found.filter(|hierarchy| hierarchy.id(&root, &group.path) == group.id);
        Ok(same.and_then(|hierarchy| hierarchy.dir(&group.path)))
    }
    fn cgroup_file(&mut self, path: &Path) -> io::Result<Option<String>> {
        self.calls += 4;
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }
    fn cgroups_below(&mut self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.calls += 4;
        let mut below = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            below.extend(entry.file_type()?.is_dir().then(|| entry.path()));
        }
        below.sort_unstable();
        Ok(below)
    }
    fn family(&mut self, pid: u32) -> io::Result<Option<(Vec<ProcKey>, Vec<Task>)>> {
        self.calls += 4;
        let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
            Err(e) if gone(&e) => return Ok(None),
            stat => stat?,
        };
        let Some(proc) = start_ticks(&stat).map(|start| ProcKey { pid, start }) else { return Ok(None) };
        let Some(mut tasks) = Tasks::of(proc)? else { return Ok(None) };
        let family = tasks.ancestors().and_then(|line| Ok(([vec![proc], line].concat(), tasks.all()?)));
        self.calls += tasks.calls();
        family.map(Some)
    }
    /// By the type in which such kernels hand a mask on.
    fn keeps_masks(&mut self) -> bool {
        const NAME: &[u8] = b"\0affinity_context\0";
        let look = || std::fs::read("/sys/kernel/btf/vmlinux").is_ok_and(|types| types.windows(NAME.len()).any(|at| at == NAME));
        *self.keeps_masks.get_or_insert_with(look)
    }
}
