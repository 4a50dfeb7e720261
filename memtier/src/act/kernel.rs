//! The system calls that the hands make, on the real kernel.

use super::Calls;
use crate::sys::clock;
use crate::sys::files::{field, start_ticks};
use crate::sys::memory::{self, Advice};
use crate::sys::page_idle::{Bitmap, Words};
use crate::sys::pagemap::{Entry, Flags, FrameFlags, PageMap};
use crate::sys::psi::Stall;
use crate::vocab::{AddrRange, Bytes, ProcKey, Time};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
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
    calls: u64,
}

/// Handles that all mean one process and go stale with it.
#[derive(Debug)]
struct Held {
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

    fn open(&mut self, dir: &File, name: &str, how: OFlag) -> io::Result<File> {
        self.calls += 1;
        Ok(File::from(openat(dir.as_fd(), name, how | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    fn hold(&mut self, proc: ProcKey) -> io::Result<Option<Held>> {
        // The directory stays with the process it was opened for; everything is opened through it.
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let dir = OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/{}", proc.pid))?;
        let pidfd = match memory::pidfd_open(proc.pid) {
            Ok(fd) => Some(fd),
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => None,
            Err(e) => return Err(e),
        };
        let mut stat = Vec::new();
        self.open(&dir, "stat", OFlag::O_RDONLY)?.read_to_end(&mut stat)?;
        self.calls += 4;
        // Both handles were taken before this read: if it shows the right process, both mean the right process.
        if start_ticks(&stat) != Some(proc.start) {
            return Ok(None);
        }
        let pagemap = PageMap::new(self.open(&dir, "pagemap", OFlag::O_RDONLY)?)?;
        let swap_pages = match self.open(&dir, "swap_pages", OFlag::O_WRONLY) {
            Ok(file) => Some(file),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
            Err(e) => return Err(e),
        };
        Ok(Some(Held { pidfd, pagemap, swap_pages }))
    }

    fn held(held: &mut Option<Held>) -> io::Result<&mut Held> {
        held.as_mut().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
    }
}

impl Calls for Kernel {
    fn attach(&mut self, proc: ProcKey) -> io::Result<bool> {
        self.held = None;
        self.held = match self.hold(proc) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => None,
            held => held?,
        };
        Ok(self.held.is_some())
    }

    fn release(&mut self) {
        self.held = None;
    }

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

    fn now(&self) -> Time {
        clock::boottime()
    }
    fn cpu_ns(&self) -> u64 {
        clock::thread_cpu()
    }
    fn made(&self) -> u64 {
        self.calls
    }
    fn pause(&mut self, time: Duration) {
        self.calls += 1;
        std::thread::sleep(time);
    }
}
