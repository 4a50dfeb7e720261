//! Page samples without the walker: no BTF, lockdown, another architecture. The same samples, coarser, and said so.
//!
//! Where the kernel has the page_idle bitmap, each page tells whether it was touched since the last walk (the walk itself
//! marks pages idle, which misleads no reclaim). Elsewhere smaps tells it only per mapping: then every present page of a
//! mapping in which anything was touched counts as touched, so that nothing warm is ever taken for cold.
//! What is present and what is swapped is exact in both cases. Deliberately absent: dirty bits, which neither tells.

use super::host::node_ids;
use super::maps::{self, Mapping, Tmpfs};
use super::walker::RENEW;
use crate::sys::files::{ReadError, Root, start_ticks};
use crate::sys::page_idle::{self, Bitmap};
use crate::sys::pagemap::{Entry, FrameFlags, PageMap};
use crate::vocab::{
    AddrRange, BLOCK_BYTES, BLOCK_PAGES, Bits, BlockId, BlockSample, Event, Leaf, NodeId, NodeRun, PAGE_BYTES, PAGE_SHIFT,
    PageChunk, Pages, ProcKey, Sample, VmaKind,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::time::Instant;

/// Blocks per chunk: 256 MiB.
const CHUNK_BLOCKS: usize = 128;

/// How touched pages are told.
#[derive(Debug)]
enum Means {
    /// The bitmap, and whether we may mark pages idle in it.
    PageIdle {
        bitmap: Bitmap,
        mark: bool,
    },
    Smaps,
}

/// What one walk came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub present: Pages,
    pub accessed: Pages,
    pub blocks: u64,
    pub chunks: u64,
}

#[derive(Debug)]
pub struct StandIn {
    root: Root,
    means: Means,
    /// Absent without CAP_SYS_ADMIN.
    frames: Option<FrameFlags>,
    nodes: Nodes,
    /// When these were looked up.
    renewed: Instant,
    scans: u64,
}

impl StandIn {
    /// `mark`: walks may mark pages idle, which is the page_idle form of arming.
    pub fn new(root: Root, mark: bool) -> Result<Self, ReadError> {
        let means = Bitmap::open(&root, mark).map_or(Means::Smaps, |bitmap| Means::PageIdle { bitmap, mark });
        let frames = File::open(root.path("/proc/kpageflags")).ok().map(FrameFlags);
        let nodes = Nodes::find(&root)?;
        Ok(Self { root, means, frames, nodes, renewed: Instant::now(), scans: 0 })
    }

    /// The sentence that goes with everything this source tells.
    #[must_use]
    pub const fn note(&self) -> &'static str {
        match self.means {
            Means::PageIdle { mark: true, .. } => "page_idle bitmap: touched since the last walk, per page; no dirty bits",
            Means::PageIdle { mark: false, .. } => "page_idle bitmap, read only: pages tell nothing until somebody marks them idle",
            Means::Smaps => "smaps: touched or not is known per mapping only; one touched page makes its whole mapping warm",
        }
    }

    /// Walks a process: its mappings, then its pages in address order. Ends with an error if the process goes meanwhile.
    pub fn scan(&mut self, proc: ProcKey, sink: &mut dyn FnMut(Event)) -> Result<Stats, ReadError> {
        let path = |name: &str| self.root.path(format!("/proc/{}/{name}", proc.pid));
        let at = |name: &str, source| ReadError::Io { path: path(name), source };
        let mut pagemap = File::open(path("pagemap")).and_then(PageMap::new).map_err(|e| at("pagemap", e))?;
        let mut mappings = maps::mappings(&self.root, &Tmpfs::find(&self.root)?, proc.pid)?;
        if self.nodes.several() {
            maps::mark_policies(&self.root, proc.pid, &mut mappings)?;
        }
        // pagemap was opened before this: if the process is the right one, so is what was opened.
        if start_ticks(&self.root.bytes(format!("/proc/{}/stat", proc.pid))?) != Some(proc.start) {
            return Err(at("stat", io::Error::from_raw_os_error(libc::ESRCH)));
        }
        sink(Event::Sample(Sample::Maps(maps::as_sample(proc, &mappings))));
        if self.renewed.elapsed() > RENEW {
            (self.nodes, self.renewed) = (Nodes::find(&self.root)?, Instant::now());
        }
        self.scans += 1;
        let (mut stats, mut blocks, mut from) = (Stats::default(), Vec::with_capacity(CHUNK_BLOCKS), 0);
        let mut send = |blocks: Vec<BlockSample>, range: AddrRange, last: bool, stats: &mut Stats| {
            stats.chunks += 1;
            sink(Event::Sample(Sample::Pages(PageChunk { proc, scan: self.scans, range, blocks, last })));
        };
        let mut pieces = mappings.iter().flat_map(pieces).peekable();
        while let Some(&Piece { block, .. }) = pieces.peek() {
            let mut sample = Block { entries: [Entry::default(); BLOCK_PAGES], warm: Bits::NONE };
            while let Some(piece) = pieces.next_if(|p| p.block == block) {
                let mut entries = Vec::with_capacity(BLOCK_PAGES);
                pagemap.entries(piece.range, &mut entries).map_err(|e| at("pagemap", e))?;
                sample.put(&piece, &entries);
            }
            let seen = self.means.block(block, &sample, self.frames.as_ref(), &self.nodes);
            let Some(seen) = seen.map_err(|source| ReadError::Io { path: self.root.path(page_idle::BITMAP), source })? else {
                continue;
            };
            stats.blocks += 1;
            stats.present.0 += u64::from(seen.present.count());
            stats.accessed.0 += u64::from(seen.accessed.count());
            blocks.push(seen);
            if blocks.len() == CHUNK_BLOCKS {
                let end = block.start() + BLOCK_BYTES;
                send(std::mem::take(&mut blocks), AddrRange { start: from, end }, false, &mut stats);
                from = end;
            }
        }
        send(blocks, AddrRange { start: from, end: AddrRange::EVERYTHING.end }, true, &mut stats);
        Ok(stats)
    }
}

/// The part of one mapping in one block.
struct Piece {
    block: BlockId,
    range: AddrRange,
    /// Something in the mapping was touched.
    warm: bool,
}

/// A mapping that holds nothing is not read: reserved address space can be terabytes.
fn pieces(mapping: &Mapping) -> impl Iterator<Item = Piece> + use<> {
    let Mapping { vma, resident, swapped, referenced } = *mapping;
    let holds = vma.kind != VmaKind::Special && (resident.0 > 0 || swapped.0 > 0);
    let blocks = if holds { BlockId::of(vma.start).0..BlockId::of(vma.end - 1).0 + 1 } else { 0..0 };
    blocks.map(BlockId).map(move |block| {
        let range = AddrRange { start: vma.start.max(block.start()), end: vma.end.min(block.start() + BLOCK_BYTES) };
        Piece { block, range, warm: referenced.0 > 0 }
    })
}

/// What was read of one block.
struct Block {
    entries: [Entry; BLOCK_PAGES],
    warm: Bits,
}

impl Block {
    fn put(&mut self, piece: &Piece, entries: &[Entry]) {
        let first = ((piece.range.start - piece.block.start()) >> PAGE_SHIFT) as usize;
        for (page, entry) in (first..BLOCK_PAGES).zip(entries) {
            self.entries[page] = *entry;
            if piece.warm && entry.present() {
                self.warm.set(page);
            }
        }
    }

    fn bits(&self, what: impl Fn(Entry) -> bool) -> Bits {
        let mut bits = Bits::NONE;
        self.entries.iter().enumerate().filter(|(_, e)| what(**e)).for_each(|(page, _)| bits.set(page));
        bits
    }

    /// (first page, frames) of every stretch of pages on consecutive frames.
    fn runs(&self) -> Vec<(usize, u64, usize)> {
        let mut runs: Vec<(usize, u64, usize)> = Vec::new();
        for (page, frame) in self.entries.iter().enumerate().filter_map(|(page, e)| Some((page, e.frame()?))) {
            match runs.last_mut() {
                Some((first, start, count)) if *first + *count == page && *start + *count as u64 == frame => *count += 1,
                _ => runs.push((page, frame, 1)),
            }
        }
        runs
    }
}

impl Means {
    /// `None` for a block that holds nothing.
    fn block(&self, block: BlockId, read: &Block, frames: Option<&FrameFlags>, nodes: &Nodes) -> io::Result<Option<BlockSample>> {
        let (present, swapped) = (read.bits(Entry::present), read.bits(|e| e.swapped() && !e.present()));
        if present.is_empty() && swapped.is_empty() {
            return Ok(None);
        }
        let runs = read.runs();
        let mut accessed = match self {
            Self::Smaps => read.warm,
            Self::PageIdle { bitmap, mark } => {
                let mut accessed = present;
                for (page, frame, count) in &runs {
                    let idle = idle(bitmap, frames, *frame, *count, *mark)?;
                    idle.iter().enumerate().filter(|(_, idle)| **idle).for_each(|(i, _)| accessed.clear(page + i));
                }
                accessed
            }
        };
        let mut leaf = Leaf::Base;
        // One huge page lies on consecutive frames, whatever else does.
        if let ([(0, frame, BLOCK_PAGES)], Some(frames)) = (&runs[..], frames)
            && frame % BLOCK_PAGES as u64 == 0
            && frames.read(*frame, 1)?[0].huge()
        {
            leaf = Leaf::Pmd;
            accessed = if accessed.is_empty() { Bits::NONE } else { Bits::ALL };
        }
        let (node, mixed) = nodes.of(&runs);
        Ok(Some(BlockSample { block, leaf, accessed, present, dirty: Bits::NONE, swapped, node, mixed }))
    }
}

/// Which of `count` frames are idle; a page inside a folio shares the bit of the folio's first frame. With `mark`, all of
/// them are idle from now on.
fn idle(bitmap: &Bitmap, frames: Option<&FrameFlags>, frame: u64, count: usize, mark: bool) -> io::Result<Vec<bool>> {
    let bits = bitmap.idle(frame, count)?;
    let tails = match frames {
        Some(frames) => frames.read(frame, count)?.iter().map(|f| f.tail()).collect(),
        None => vec![false; count],
    };
    let mut idle = Vec::with_capacity(count);
    for (bit, tail) in bits.into_iter().zip(tails) {
        idle.push(match (tail, idle.last()) {
            (true, Some(&before)) => before,
            // The folio begins outside of this run: not known to be idle.
            (true, None) => false,
            (false, _) => bit,
        });
    }
    if mark {
        for words in page_idle::gather(frame..frame + count as u64) {
            // What is not taken stays touched: too warm, never too cold.
            bitmap.mark(&words)?;
        }
    }
    Ok(idle)
}

/// Which node each frame lies on, from the memory blocks of sysfs.
#[derive(Debug, Default)]
struct Nodes {
    /// Frames per memory block; 0 where the host has one node or tells nothing.
    block_frames: u64,
    of_block: BTreeMap<u64, NodeId>,
    only: NodeId,
}

impl Nodes {
    fn find(root: &Root) -> Result<Self, ReadError> {
        let ids = node_ids(root)?;
        let only = ids.first().copied().unwrap_or_default();
        let size = root.text("/sys/devices/system/memory/block_size_bytes");
        let (true, Ok(size)) = (ids.len() > 1, size) else { return Ok(Self { only, ..Self::default() }) };
        let block_frames = u64::from_str_radix(size.trim(), 16).unwrap_or_default() / PAGE_BYTES;
        let mut of_block = BTreeMap::new();
        for id in ids {
            let names = root.list(format!("/sys/devices/system/node/node{}", id.0))?;
            of_block.extend(names.iter().filter_map(|n| Some((n.strip_prefix("memory")?.parse().ok()?, id))));
        }
        Ok(Self { block_frames, of_block, only })
    }

    const fn several(&self) -> bool {
        self.block_frames > 0
    }

    fn of(&self, runs: &[(usize, u64, usize)]) -> (NodeId, Option<Box<[NodeRun]>>) {
        let node = |frame: u64| match frame.checked_div(self.block_frames) {
            Some(block) => self.of_block.get(&block).copied().unwrap_or(self.only),
            None => self.only,
        };
        let mut on: Vec<NodeRun> = Vec::new();
        for (_, first, count) in runs {
            for frame in *first..first + *count as u64 {
                match on.last_mut() {
                    Some(run) if run.node == node(frame) => run.pages += 1,
                    _ => on.push(NodeRun { pages: 1, node: node(frame) }),
                }
            }
        }
        match &on[..] {
            [] => (self.only, None),
            [run] => (run.node, None),
            _ => (self.only, Some(on.into())),
        }
    }
}
