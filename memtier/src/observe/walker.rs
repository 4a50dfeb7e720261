//! Walks the page tables of any process: accessed, present, dirty, swapped and node of every page, without a lock and
//! without touching the process.
//!
//! The BPF side (memtier-ebpf/src/pages.rs) copies last-level tables as they are, a chunk per read(2); decode.rs turns them
//! into samples while they are still in cache. The walker is not believed before it has proved itself on memory of our own.
//!
//! Deliberately absent: clearing accessed bits (a hand does that), more than one walk at a time (`&mut self`: the programs
//! have one set of tables), and huge address spaces in one go: a walk holds nothing between chunks.

use super::bpf::decode::{Decoder, Malformed};
use super::bpf::feed::{Chunk, Feed, Machine, Status};
use super::bpf::{Object, host_nodes};
use crate::sys::bpf::{iterate_task, open_iterator};
use crate::sys::files::start_ticks;
use crate::sys::pagemap::{Entry, PageMap};
use crate::sys::region::Region;
use crate::vocab::{
    AddrRange, BLOCK_BYTES, BlockSample, MapsSample, PAGE_BYTES, PageChunk, Pages, ProcKey, Source, Vma, VmaFlags, VmaKind,
};
use memtier_common::{Calibration, TICK_NS, VmaRecord, vma_has};
use std::fs::File;
use std::io::{self, Read as _};
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Which frame belongs to which node is looked up again this often: memory comes and goes.
pub(super) const RENEW: Duration = Duration::from_secs(60);

/// A walk that broke off, or never began.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// Exited, or its pid now belongs to another process.
    #[error("{0} is gone")]
    Gone(ProcKey),
    /// A kernel thread, or exiting.
    #[error("{0} has no memory of its own")]
    NoMemory(ProcKey),
    /// It called exec, or exited, between two chunks.
    #[error("{0} replaced its address space during the walk")]
    Replaced(ProcKey),
    #[error("{0}: {1}")]
    Malformed(ProcKey, Malformed),
    #[error("{call} for {proc}: {source}")]
    Call { call: &'static str, proc: ProcKey, source: io::Error },
}

/// What one walk took and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    pub pages: Pages,
    pub swapped: Pages,
    pub blocks: u64,
    pub chunks: u64,
    /// Tables that could not be read: they changed under the walk. Their blocks are missing from the sample.
    pub unreadable: u64,
    pub kernel_ns: u64,
    pub kernel_ns_max: u64,
}

/// The page walker, proved and ready.
pub struct Walker {
    feed: Feed,
    vmas: OwnedFd,
    decoder: Decoder,
    machine: Machine,
    walks: u64,
    /// When it last looked up which frame belongs to which node.
    renewed: Instant,
}

impl std::fmt::Debug for Walker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walker").field("walks", &self.walks).field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Machine {
    #[cfg(target_arch = "x86_64")]
    fn here() -> Result<Self, String> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").map_err(|e| format!("/proc/cpuinfo: {e}"))?;
        Self::parse(&cpuinfo).ok_or_else(|| "/proc/cpuinfo does not tell the size of physical addresses".to_owned())
    }
    #[cfg(not(target_arch = "x86_64"))]
    fn here() -> Result<Self, String> {
        Err(format!("the page walker knows the page tables of x86-64 only, this is {}", std::env::consts::ARCH))
    }

    /// "flags : ... la57 ..." is there only when the kernel uses five levels; "address sizes : 46 bits physical" already
    /// lacks the bit that marks encrypted memory.
    #[cfg(any(target_arch = "x86_64", test))]
    fn parse(cpuinfo: &str) -> Option<Self> {
        let value = |key: &str| cpuinfo.lines().find_map(|l| l.strip_prefix(key)?.trim_start().strip_prefix(':'));
        let bits: u32 = value("address sizes")?.trim().split(' ').next()?.parse().ok()?;
        let five = value("flags").is_some_and(|f| f.split(' ').any(|f| f == "la57"));
        let frame_mask = (1u64.checked_shl(bits)?.wrapping_sub(1)) & 0x000f_ffff_ffff_f000;
        Some(Self { levels: if five { 5 } else { 4 }, frame_mask })
    }
}

fn failed(call: &'static str, proc: ProcKey) -> impl FnOnce(io::Error) -> WalkError {
    move |source| match source.raw_os_error() {
        Some(libc::ESRCH) => WalkError::Gone(proc),
        _ => WalkError::Call { call, proc, source },
    }
}

fn key_of_self() -> Result<ProcKey, String> {
    let stat = std::fs::read("/proc/self/stat").map_err(|e| format!("/proc/self/stat: {e}"))?;
    let start = start_ticks(&stat).ok_or("/proc/self/stat does not tell the start time")?;
    Ok(ProcKey { pid: std::process::id(), start })
}

impl Walker {
    /// Loads the walker, finds the direct map, and proves both. The error is the sentence to show.
    pub fn open(object: &mut Object) -> Result<Self, String> {
        let machine = Machine::here()?;
        if let Some(why) = object.lacking.get(&Source::Walker) {
            return Err(why.clone());
        }
        let direct_map = calibrate(object)?;
        let nodes = host_nodes();
        let mut walker = Self {
            feed: Feed::open(object, machine, direct_map, nodes.memory_end())?,
            vmas: object.iterator("vmas", "task_vma")?,
            decoder: Decoder::new(nodes, machine.frame_mask),
            machine,
            walks: 0,
            renewed: Instant::now(),
        };
        walker.prove()?;
        Ok(walker)
    }

    /// The next walk reads no table at this physical address or above it, whatever the entries say.
    pub fn bound(&self, memory_end: u64) {
        self.feed.bound(memory_end);
    }

    /// Runs the walk program over `range` chunk by chunk.
    fn chunks(
        &mut self,
        proc: ProcKey,
        range: AddrRange,
        stats: &mut ScanStats,
        each: &mut dyn FnMut(&Decoder, &Chunk<'_>) -> Result<(), Malformed>,
    ) -> Result<(), WalkError> {
        let inside = AddrRange { start: range.start, end: range.end.min(self.machine.user_end()) };
        let mut walk = self.feed.begin(proc, inside).map_err(failed("beginning a walk", proc))?;
        loop {
            let mut chunk = self.feed.next(&mut walk).map_err(failed("walking", proc))?;
            match chunk.status {
                Status::Walked => {}
                Status::Gone => return Err(WalkError::Gone(proc)),
                Status::NoMemory => return Err(WalkError::NoMemory(proc)),
                Status::Replaced => return Err(WalkError::Replaced(proc)),
            }
            if chunk.last {
                chunk.range.end = range.end;
            }
            stats.chunks += 1;
            stats.unreadable += chunk.unreadable;
            stats.kernel_ns += chunk.kernel_ns;
            stats.kernel_ns_max = stats.kernel_ns_max.max(chunk.kernel_ns);
            each(&self.decoder, &chunk).map_err(|e| WalkError::Malformed(proc, e))?;
            if chunk.last {
                return Ok(());
            }
        }
    }

    /// Walks a whole process.
    pub fn scan(&mut self, proc: ProcKey, sink: &mut dyn FnMut(PageChunk)) -> Result<ScanStats, WalkError> {
        self.scan_range(proc, AddrRange::EVERYTHING, sink)
    }

    /// Walks part of a process. The sink gets every chunk, the last one marked, before this returns.
    pub fn scan_range(&mut self, proc: ProcKey, range: AddrRange, sink: &mut dyn FnMut(PageChunk)) -> Result<ScanStats, WalkError> {
        self.walks += 1;
        let scan = self.walks;
        let mut stats = ScanStats::default();
        let (mut pages, mut swapped, mut count) = (0, 0, 0);
        self.chunks(proc, range, &mut stats, &mut |decoder, chunk| {
            let AddrRange { mut start, end } = chunk.range;
            let mut blocks: Vec<BlockSample> = Vec::with_capacity(chunk.records().len());
            for record in chunk.records() {
                start = decoder.record(record, start, end, &mut blocks)?;
            }
            for block in &blocks {
                pages += u64::from(block.present.count());
                swapped += u64::from(block.swapped.count());
            }
            count += blocks.len() as u64;
            sink(PageChunk { proc, scan, range: chunk.range, blocks, last: chunk.last });
            Ok(())
        })?;
        // A table that cannot be read may lie in memory that was added: the next walk knows it.
        if stats.unreadable > 0 || self.renewed.elapsed() > RENEW {
            self.renewed = Instant::now();
            let nodes = host_nodes();
            self.bound(nodes.memory_end());
            self.decoder = Decoder::new(nodes, self.machine.frame_mask);
        }
        (stats.pages, stats.swapped, stats.blocks) = (Pages(pages), Pages(swapped), count);
        Ok(stats)
    }
}

fn truth(region: &Region) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    PageMap::new(File::open("/proc/self/pagemap")?)?.entries(region.range(), &mut entries)?;
    Ok(entries)
}

/// Where the kernel maps physical page 0: it is told where a page of ours lies and what stands in it.
fn calibrate(object: &mut Object) -> Result<u64, String> {
    let say = |what: &'static str| move |e: io::Error| format!("finding the direct map: {what}: {e}");
    let mut page = Region::anonymous(4096, 4096).map_err(say("mmap"))?;
    let stamp = |salt: u64| page.range().start.wrapping_mul(salt) ^ u64::from(std::process::id()) << 32 ^ salt;
    let magic = [stamp(0x9e37_79b9_7f4a_7c15), stamp(0xd1b5_4a32_d192_ed03)];
    page.write(0, 0, magic[0]);
    page.write(0, 1, magic[1]);
    page.lock().map_err(say("mlock"))?;
    let Some(frame) = truth(&page).map_err(say("/proc/self/pagemap"))?.first().and_then(|e| e.frame()) else {
        return Err("finding the direct map: /proc/self/pagemap hides frame numbers (needs CAP_SYS_ADMIN)".to_owned());
    };
    let asked = object.mapped("CALIBRATION", size_of::<Calibration>())?;
    let set = |offset: usize, value: u64| asked.word(offset).store(value, Relaxed);
    set(offset_of!(Calibration, physical), frame * PAGE_BYTES);
    set(offset_of!(Calibration, magic), magic[0]);
    set(offset_of!(Calibration, magic) + 8, magic[1]);
    // 64 TiB: with five levels the map is randomised over more, but never by more than physical memory leaves free.
    set(offset_of!(Calibration, most_steps), 1 << 16);
    let program = object.iterator("calibrate", "task")?;
    let link = iterate_task(program.as_fd(), std::process::id()).map_err(say("linking the iterator"))?;
    open_iterator(link.as_fd()).and_then(|mut file| file.read(&mut [0; 8])).map_err(say("running the iterator"))?;
    match asked.word(offset_of!(Calibration, direct_map)).load(Relaxed) {
        0 => Err(format!("the direct map was not found: frame {frame:#x} stands nowhere below our page tables")),
        base => Ok(base),
    }
}

/// One page as the walker sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    present: bool,
    accessed: bool,
    dirty: bool,
    frame: u64,
}

/// Why a proof failed, and whether another try makes sense.
enum Doubt {
    /// Somebody else changes accessed bits or moves pages meanwhile (DAMON, compaction), or the CPU looked ahead.
    Perhaps(String),
    Surely(String),
}

impl Walker {
    /// Compares what the walker sees with what is known to be true, on memory of our own. Others may clear accessed bits or
    /// move pages while we look: such a difference, and only such, is looked at again.
    pub fn prove(&mut self) -> Result<(), String> {
        const TRIES: u32 = 8;
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.prove_once().and_then(|()| self.prove_file()) {
                Ok(()) => return Ok(()),
                Err(Doubt::Surely(why)) => return Err(format!("the walker failed its self-test: {why}")),
                Err(Doubt::Perhaps(why)) => last = why,
            }
        }
        Err(format!("the walker failed its self-test {TRIES} times: {last}"))
    }

    /// Anonymous memory: every third page written, all bits cleared, every ninth page read, one page made inaccessible.
    fn prove_once(&mut self) -> Result<(), Doubt> {
        let call = |what: &'static str| move |e: io::Error| Doubt::Surely(format!("{what}: {e}"));
        let mut region = Region::anonymous(2 * BLOCK_BYTES as usize, BLOCK_BYTES as usize).map_err(call("mmap"))?;
        region.advise(libc::MADV_NOHUGEPAGE).map_err(call("MADV_NOHUGEPAGE"))?;
        let touched = |page: usize| page.is_multiple_of(3);
        let read = |page: usize| page.is_multiple_of(9);
        for page in (0..region.pages()).filter(|&p| touched(p)) {
            region.write(page, 0, page as u64);
        }
        region.advise(libc::MADV_COLD).map_err(call("MADV_COLD"))?;
        for page in (0..region.pages()).filter(|&p| read(p)) {
            if region.read(page) != page as u64 {
                return Err(Doubt::Surely("our own memory changed".to_owned()));
            }
        }
        let forbidden = 9;
        region.forbid(forbidden, true).map_err(call("mprotect"))?;
        let seen = self.look(&region);
        let truth = truth(&region).map_err(call("/proc/self/pagemap"));
        region.forbid(forbidden, false).map_err(call("mprotect"))?;
        for (page, (seen, truth)) in seen?.into_iter().zip(truth?).enumerate() {
            let said = |what: &str| format!("page {page} of our own memory {what} ({seen:?}, pagemap {:#x})", truth.0);
            if seen.present != touched(page) && truth.present() == touched(page) {
                return Err(Doubt::Surely(said("has another state than the walker says")));
            }
            if seen.present && !seen.dirty {
                return Err(Doubt::Surely(said("was written but reads clean")));
            }
            if seen.present != touched(page) || (read(page) && !seen.accessed) {
                return Err(Doubt::Perhaps(said("was touched but does not read so")));
            }
            // Seen once, of a page that the loop above passes over: a CPU that looks ahead may set the bit.
            if seen.accessed && !read(page) {
                return Err(Doubt::Perhaps(said("was not touched but reads accessed")));
            }
            if seen.present && Some(seen.frame) != truth.frame() {
                return Err(Doubt::Perhaps(said("lies in another frame")));
            }
        }
        Ok(())
    }

    /// A file that we only read: mapped pages are clean.
    fn prove_file(&mut self) -> Result<(), Doubt> {
        let call = |what: &'static str| move |e: io::Error| Doubt::Surely(format!("{what}: {e}"));
        let file = nix::sys::memfd::memfd_create(c"memtier-proof", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        let file = File::from(file.map_err(|e| Doubt::Surely(format!("memfd_create: {e}")))?);
        file.write_all_at(&[1; 16384], 0).map_err(call("writing a memfd"))?;
        let region = Region::of_file(file.as_fd(), 16384).map_err(call("mmap"))?;
        let _ = region.read(0);
        match self.look(&region)?.first() {
            Some(Seen { dirty: true, .. }) => Err(Doubt::Surely("a page that was only read reads dirty".to_owned())),
            Some(Seen { present: true, .. }) => Ok(()),
            _ => Err(Doubt::Perhaps("a mapped page of a file reads absent".to_owned())),
        }
    }

    fn look(&mut self, region: &Region) -> Result<Vec<Seen>, Doubt> {
        let range = region.range();
        let mut seen = vec![Seen::default(); region.pages()];
        let proc = key_of_self().map_err(Doubt::Surely)?;
        let walked = self.chunks(proc, range, &mut ScanStats::default(), &mut |decoder, chunk| {
            let mut start = range.start;
            for record in chunk.records() {
                let mut blocks = Vec::new();
                start = decoder.record(record, start, range.end, &mut blocks)?;
                let Some(block) = blocks.first() else { continue };
                for (page, entry) in record.table.as_chunks::<8>().0.iter().enumerate() {
                    let addr = block.block.start() + page as u64 * PAGE_BYTES;
                    if let Some(slot) = addr.checked_sub(range.start).and_then(|at| seen.get_mut((at / PAGE_BYTES) as usize)) {
                        *slot = Seen {
                            present: block.present.get(page),
                            accessed: block.accessed.get(page),
                            dirty: block.dirty.get(page),
                            frame: decoder.frame(u64::from_le_bytes(*entry)),
                        };
                    }
                }
            }
            Ok(())
        });
        walked.map(|()| seen).map_err(|e| Doubt::Surely(e.to_string()))
    }

    /// All mappings of a process. Takes its mmap_lock for reading, a few hundred mappings at a time.
    pub fn maps(&mut self, proc: ProcKey) -> Result<MapsSample, WalkError> {
        let link = iterate_task(self.vmas.as_fd(), proc.pid).map_err(failed("linking the mappings", proc))?;
        let mut file = open_iterator(link.as_fd()).map_err(failed("opening the mappings", proc))?;
        let mut bytes = vec![0; size_of::<VmaRecord>() * 1024];
        let mut vmas: Vec<Vma> = Vec::new();
        loop {
            let length = file.read(&mut bytes).map_err(failed("reading the mappings", proc))?;
            let (records, _) = bytes.get(..length).unwrap_or_default().as_chunks::<{ size_of::<VmaRecord>() }>();
            for record in records {
                let vma = vma(record, proc).ok_or(WalkError::Gone(proc))?;
                // With a task filter, kernels up to 6.18 at least never end: they tell the last mapping again and again.
                if vmas.last().is_some_and(|last| vma.start < last.end) {
                    return Ok(MapsSample { proc, vmas });
                }
                vmas.push(vma);
            }
            if records.is_empty() {
                if vmas.is_empty() {
                    // Nobody there, or nothing there: a walk of nothing tells which.
                    let nothing = AddrRange::default();
                    return self
                        .chunks(proc, nothing, &mut ScanStats::default(), &mut |_, _| Ok(()))
                        .and(Err(WalkError::NoMemory(proc)));
                }
                return Ok(MapsSample { proc, vmas });
            }
        }
    }
}

/// vm_flags (include/linux/mm.h).
mod vm {
    pub const WRITE: u64 = 0x2;
    pub const EXEC: u64 = 0x4;
    pub const SHARED: u64 = 0x8;
    pub const PFNMAP: u64 = 0x400;
    pub const LOCKED: u64 = 0x2000;
    pub const IO: u64 = 0x4000;
    pub const HUGETLB: u64 = 0x40_0000;
    pub const HUGEPAGE: u64 = 0x2000_0000;
    pub const NOHUGEPAGE: u64 = 0x4000_0000;
}
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// None where the record is of another process.
fn vma(record: &[u8; size_of::<VmaRecord>()], proc: ProcKey) -> Option<Vma> {
    let (words, _) = record.as_chunks::<8>();
    let field = |offset: usize| u64::from_ne_bytes(words[offset / 8]);
    if field(offset_of!(VmaRecord, start_ns)) / TICK_NS != proc.start {
        return None;
    }
    let flags = field(offset_of!(VmaRecord, flags));
    let has = |bit: u64| field(offset_of!(VmaRecord, has)) & bit != 0;
    let kind = match field(offset_of!(VmaRecord, fs_magic)) {
        _ if flags & vm::HUGETLB != 0 => VmaKind::Hugetlb,
        _ if flags & (vm::IO | vm::PFNMAP) != 0 => VmaKind::Special,
        _ if !has(vma_has::FILE) && has(vma_has::OPS) => VmaKind::Special,
        _ if !has(vma_has::FILE) => VmaKind::Anon,
        _ if flags & vm::SHARED == 0 => VmaKind::File,
        TMPFS_MAGIC => VmaKind::Shmem,
        _ => VmaKind::SharedFile,
    };
    let told = [
        (flags & vm::WRITE != 0, VmaFlags::WRITE),
        (flags & vm::EXEC != 0, VmaFlags::EXEC),
        (flags & vm::LOCKED != 0, VmaFlags::LOCKED),
        (flags & (vm::IO | vm::PFNMAP) != 0, VmaFlags::IO),
        (flags & vm::HUGEPAGE != 0, VmaFlags::HUGE),
        (flags & vm::NOHUGEPAGE != 0, VmaFlags::NOHUGE),
        (has(vma_has::UFFD), VmaFlags::UFFD),
        (has(vma_has::POLICY), VmaFlags::POLICY),
    ];
    let flags = told.iter().filter(|t| t.0).fold(VmaFlags::default(), |all, t| all.with(t.1));
    Some(Vma { start: field(offset_of!(VmaRecord, from)), end: field(offset_of!(VmaRecord, to)), kind, flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_cpuinfo() {
        let text =
            "processor\t: 0\nflags\t\t: fpu la57 avx\naddress sizes\t: 46 bits physical, 57 bits virtual\n\nprocessor\t: 1\n";
        assert_eq!(Machine::parse(text), Some(Machine { levels: 5, frame_mask: 0x3fff_ffff_f000 }));
        assert_eq!(Machine::parse(&text.replace("la57 ", "")).map(|m| (m.levels, m.user_end())), Some((4, 1 << 47)));
        assert_eq!(Machine::parse(&text.replace("address", "cache")), None);
        assert_eq!(Machine::parse(&text.replace("46", "640")), None);
    }

    #[test]
    fn mappings_are_told_apart() {
        let proc = ProcKey { pid: 1, start: 7 };
        let decode = |flags: u64, has: u64, magic: u64| {
            let words = [79_999_999, 4096, 8192, flags, has, magic].map(u64::to_ne_bytes);
            vma(words.as_flattened().first_chunk().expect("six words"), proc).map(|v| (v.kind, v.flags))
        };
        let none = VmaFlags::default();
        assert_eq!(decode(vm::WRITE, 0, 0), Some((VmaKind::Anon, VmaFlags::WRITE)));
        assert_eq!(decode(0, vma_has::OPS, 0), Some((VmaKind::Special, none)));
        assert_eq!(decode(vm::PFNMAP, 0, 0), Some((VmaKind::Special, VmaFlags::IO)));
        assert_eq!(decode(0, vma_has::FILE, TMPFS_MAGIC), Some((VmaKind::File, none)));
        assert_eq!(decode(vm::SHARED, vma_has::FILE, TMPFS_MAGIC), Some((VmaKind::Shmem, none)));
        assert_eq!(decode(vm::SHARED | vm::LOCKED, vma_has::FILE, 1), Some((VmaKind::SharedFile, VmaFlags::LOCKED)));
        assert_eq!(decode(vm::HUGETLB, vma_has::FILE, 1), Some((VmaKind::Hugetlb, none)));
        assert_eq!(decode(0, vma_has::UFFD, 0), Some((VmaKind::Anon, VmaFlags::UFFD)));
        assert_eq!(decode(0, vma_has::POLICY, 0), Some((VmaKind::Anon, VmaFlags::POLICY)));
        assert!(vma(&[0; 48], proc).is_none());
    }
}
