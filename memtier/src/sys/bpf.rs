//! bpf(2) where aya has no call for it: iterators over one task, mapped maps, batched drains, running a program on a CPU,
//! run-time statistics.
//!
//! Errors are the errno as it comes: EPERM no CAP_BPF or locked down, EINVAL the kernel lacks the feature, ESRCH no such
//! task, ENOENT the map is empty, EAGAIN an iterator has more to say.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

const PROG_TEST_RUN: libc::c_long = 10;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_LOOKUP_AND_DELETE_BATCH: libc::c_long = 25;
const LINK_CREATE: libc::c_long = 28;
const ITER_CREATE: libc::c_long = 33;
const TRACE_ITER: u32 = 28;
const TEST_RUN_ON_CPU: u32 = 1;

/// Calls bpf(2) with an attribute block of whole words.
fn bpf<const N: usize>(command: libc::c_long, attr: &mut [u64; N]) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most the size it is told, which is the block's.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two 32-bit fields of an attribute block, in the order in which they stand there.
fn pair(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Links an iterator program to one task: the main thread of the process `pid`.
pub fn iterate_task(program: BorrowedFd<'_>, pid: u32) -> io::Result<OwnedFd> {
    // union bpf_iter_link_info { struct { u32 tid, pid, pid_fd; } task; }
    let info = [pair(pid, 0), 0u64];
    let mut attr = [pair(raw(program), 0), pair(TRACE_ITER, 0), info.as_ptr().expose_provenance() as u64, pair(16, 0), 0, 0];
    owned(bpf(LINK_CREATE, &mut attr)?)
}

/// Opens a linked iterator: each read(2) runs it.
pub fn open_iterator(link: BorrowedFd<'_>) -> io::Result<File> {
    owned(bpf(ITER_CREATE, &mut [pair(raw(link), 0)])?).map(File::from)
}

/// Runs a raw tracepoint program once on one CPU, in an interrupt there. ENXIO: the CPU is offline.
pub fn run_on_cpu(program: BorrowedFd<'_>, cpu: u32) -> io::Result<()> {
    let mut attr = [pair(raw(program), 0), 0, 0, 0, 0, 0, 0, 0, pair(TEST_RUN_ON_CPU, cpu), 0];
    bpf(PROG_TEST_RUN, &mut attr).map(drop)
}

/// Empties a hash map of at most `most` entries: its keys and values, side by side.
pub fn take_all(map: BorrowedFd<'_>, key_bytes: usize, value_bytes: usize, most: u32) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut keys, mut values) = (vec![0u8; key_bytes * most as usize], vec![0u8; value_bytes * most as usize]);
    let mut place = 0u64;
    let address = |bytes: &mut Vec<u8>| bytes.as_mut_ptr().expose_provenance() as u64;
    let mut attr =
        [0, (&raw mut place).expose_provenance() as u64, address(&mut keys), address(&mut values), pair(most, raw(map)), 0, 0];
    match bpf(MAP_LOOKUP_AND_DELETE_BATCH, &mut attr) {
        // The whole map came at once: its end was reached.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
        Err(e) => return Err(e),
        Ok(_) => {}
    }
    let count = (attr[4].to_ne_bytes().first_chunk().map_or(0, |b| u32::from_ne_bytes(*b)) as usize).min(most as usize);
    keys.truncate(count * key_bytes);
    values.truncate(count * value_bytes);
    Ok((keys, values))
}

/// What the kernel says about a loaded program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramStats {
    /// Run time and runs while kernel.bpf_stats_enabled was set.
    pub run_ns: u64,
    pub runs: u64,
    /// Runs that the kernel left out because the program was already running on that CPU.
    pub missed: u64,
    /// Instructions that the verifier looked at.
    pub verified: u32,
}

pub fn program_stats(program: BorrowedFd<'_>) -> io::Result<ProgramStats> {
    // struct bpf_prog_info: run_time_ns, run_cnt, recursion_misses are words 24 to 26, then verified_insns.
    let mut info = [0u64; 29];
    let mut attr = [pair(raw(program), size_of_val(&info) as u32), info.as_mut_ptr().expose_provenance() as u64];
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let verified = info[27].to_ne_bytes().first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
    Ok(ProgramStats { run_ns: info[24], runs: info[25], missed: info[26], verified })
}

/// Waits until every BPF program that runs now has ended: an RCU grace period.
pub fn wait_for_programs() -> io::Result<()> {
    const GLOBAL: i32 = 1;
    // SAFETY: no memory is passed.
    match unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A map made with BPF_F_MMAPABLE, mapped.
#[derive(Debug)]
pub struct MappedMap {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread.
unsafe impl Send for MappedMap {}

impl MappedMap {
    /// Maps the first `len` bytes of a map, rounded up to whole pages.
    pub fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let len = len.next_multiple_of(4096);
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        match NonNull::new(at.cast::<u8>()) {
            Some(at) if at.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { at, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The word at byte `offset`: programs may change it at any time.
    ///
    /// # Panics
    /// When the word does not lie inside the map.
    #[must_use]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.len, "word {offset} of a map of {} bytes", self.len);
        // SAFETY: inside the mapping, as just asserted.
        let at = unsafe { self.at.add(offset) };
        // SAFETY: aligned, alive as long as self, and every access from Rust is atomic.
        unsafe { at.cast::<AtomicU64>().as_ref() }
    }

    /// All bytes.
    ///
    /// # Safety
    /// No program may write to the map while the slice lives.
    #[must_use]
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` bytes long; the caller keeps programs away from it.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl Drop for MappedMap {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}
