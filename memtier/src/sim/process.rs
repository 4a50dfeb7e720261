//! A simulated process: mappings, what it does with them, and the state of every page.

use super::rng::{Purpose, Rng};
use crate::vocab::{
    AddrRange, BLOCK_BYTES, BLOCK_PAGES, Bits, BlockId, BlockSample, Bytes, CgroupId, Leaf, NodeId, PAGE_BYTES, PAGE_SHIFT, Pages,
    Permil, ProcKey, SchedClass, Span, Time, Vma, VmaFlags, VmaKind,
};
use std::collections::BTreeMap;

/// How a region is used, second by second. All of it is touched once when it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    Idle,
    /// The first `pages` pages are touched every second.
    Hot {
        pages: u64,
    },
    /// `touches` random pages a second; page i with a weight of about 1 / (i + 1).
    Zipf {
        touches: u64,
    },
    /// `pages` pages a second in address order, round and round.
    Sweep {
        pages: u64,
    },
    /// `pages` pages touched every second; each `every` the window moves on by its own size.
    Moving {
        pages: u64,
        every: Span,
    },
    /// Mapped but not filled: `pages` new pages a second until the end of the region, each touched once.
    Growing {
        pages: u64,
    },
    /// `touches` even random pages a second.
    Random {
        touches: u64,
    },
}

/// One mapping to be.
#[derive(Clone, Copy, Debug)]
pub struct RegionSpec {
    pub pages: u64,
    pub pattern: Pattern,
    /// What a page of it costs in zram.
    pub cost: Permil,
    pub writes: bool,
    /// Whole blocks are mapped by huge leaves.
    pub huge: bool,
    pub kind: VmaKind,
    pub flags: VmaFlags,
    /// No page of it moves to another node.
    pub pinned: bool,
    /// Threads (first, end) that touch it, by turns: their faults are told. None: nobody is told whose it is.
    pub threads: Option<(u32, u32)>,
}

impl Default for RegionSpec {
    fn default() -> Self {
        Self {
            pages: 0,
            pattern: Pattern::Idle,
            cost: Permil(400),
            writes: false,
            huge: false,
            kind: VmaKind::Anon,
            flags: VmaFlags::WRITE,
            pinned: false,
            threads: None,
        }
    }
}

impl RegionSpec {
    #[must_use]
    pub fn new(pages: u64, pattern: Pattern) -> Self {
        Self { pages, pattern, ..Self::default() }
    }
}

/// One process to be.
#[derive(Clone, Debug)]
pub struct ProcSpec {
    pub comm: &'static str,
    pub cgroup: &'static str,
    pub uid: u32,
    pub class: SchedClass,
    pub oom_score_adj: i32,
    pub locked: Bytes,
    pub regions: Vec<RegionSpec>,
    pub threads: u32,
    /// What each thread runs of a second.
    pub busy: Permil,
    /// CPUs that somebody bound it to; empty for all.
    pub cpus: Vec<u32>,
}

impl ProcSpec {
    #[must_use]
    pub fn new(comm: &'static str, regions: Vec<RegionSpec>) -> Self {
        Self {
            comm,
            cgroup: "/",
            uid: 1000,
            class: SchedClass::Normal,
            oom_score_adj: 0,
            locked: Bytes::ZERO,
            regions,
            threads: 1,
            busy: Permil(200),
            cpus: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    pub accessed: Bits,
    pub present: Bits,
    pub dirty: Bits,
    pub swapped: Bits,
    pub huge: bool,
    /// None before it was first looked at.
    pub node: Option<usize>,
    /// Truth that no observer has: touched in this truth window, and in the one before.
    recent: [Bits; 2],
}

#[derive(Clone, Debug)]
pub(super) struct Region {
    pub spec: RegionSpec,
    pub range: AddrRange,
    rng: Rng,
    cursor: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub key: ProcKey,
    pub parent: u32,
    pub spec: ProcSpec,
    pub cgroup: CgroupId,
    pub regions: Vec<Region>,
    pub blocks: BTreeMap<u64, Block>,
    pub resident: Pages,
    pub swapped: Pages,
    /// Memory that its swapped pages cost.
    pub cost: Bytes,
    pub minor: u64,
    pub major: u64,
    /// Hardly gets CPU, and touches nothing.
    pub starved: bool,
    pub ran_ns: u64,
    pub waited_ns: u64,
    /// CPUs that it may run on; empty for all.
    pub cpus: Vec<u32>,
    /// The same of threads that were bound on their own.
    pub apart: BTreeMap<u32, Vec<u32>>,
    /// First touches since they were last told: thread and block.
    pub faults: Vec<(u32, u64)>,
    born: Time,
    next: u64,
}

/// What touches did.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    pub filled: u64,
    /// Page numbers that came back from swap.
    pub refaulted: Vec<u64>,
}

/// Pages that went out.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone {
    pub pages: Vec<u64>,
    pub splits: u64,
}

const FIRST: u64 = 0x5500_0000_0000;

impl Process {
    pub(super) fn new(seed: u64, now: Time, key: ProcKey, parent: u32, cgroup: CgroupId, spec: &ProcSpec) -> Self {
        let mut p = Self {
            key,
            parent,
            spec: spec.clone(),
            cgroup,
            regions: Vec::new(),
            blocks: BTreeMap::new(),
            resident: Pages::ZERO,
            swapped: Pages::ZERO,
            cost: Bytes::ZERO,
            minor: 0,
            major: 0,
            starved: false,
            ran_ns: 0,
            waited_ns: 0,
            cpus: spec.cpus.clone(),
            apart: BTreeMap::new(),
            faults: Vec::new(),
            born: now,
            next: FIRST,
        };
        for region in &spec.regions {
            p.map(seed, *region);
        }
        p
    }

    /// Maps a region after the last one, one page past a block border so that blocks are shared and cut.
    fn map(&mut self, seed: u64, spec: RegionSpec) {
        let start = if spec.huge { self.next.next_multiple_of(BLOCK_BYTES) } else { self.next + PAGE_BYTES };
        let range = AddrRange { start, end: start + spec.pages * PAGE_BYTES };
        self.next = range.end;
        let item = u64::from(self.key.pid) << 32 ^ self.key.start << 8 ^ self.regions.len() as u64;
        self.regions.push(Region { spec, range, rng: Rng::of(seed, Purpose::Access, item), cursor: 0 });
        if spec.huge {
            for block in range.start / BLOCK_BYTES..range.end / BLOCK_BYTES {
                self.blocks.entry(block).or_default().huge = true;
            }
        }
        let fill = if matches!(spec.pattern, Pattern::Growing { .. }) { 0 } else { spec.pages };
        self.touch(self.regions.len() - 1, 0, fill, true);
    }

    /// Touches `count` pages of a region from page `first` of it.
    fn touch(&mut self, region: usize, first: u64, count: u64, write: bool) -> Touched {
        let Region { spec, range, .. } = &self.regions[region];
        let count = count.min(spec.pages.saturating_sub(first));
        let start = (range.start >> PAGE_SHIFT) + first;
        let per_page = Pages(1).bytes().scale(spec.cost.0, 1000);
        let mut out = Touched::default();
        for (id, mask) in masks(start, start + count) {
            let b = self.blocks.entry(id).or_default();
            let mask = if b.huge { Bits::ALL } else { mask };
            let back = mask.and(&b.swapped);
            let fresh = mask.and_not(&b.present).and_not(&b.swapped);
            out.filled += u64::from(fresh.count());
            if let Some((first, end)) = spec.threads.filter(|_| !fresh.is_empty()) {
                // Two of them by turns: none has a block for itself where there are several.
                let turn = |n: u64| first + ((id + n) % u64::from(end - first).max(1)) as u32;
                self.faults.extend([(turn(0), id), (turn(1), id)]);
            }
            out.refaulted.extend(back.iter().map(|i| id * BLOCK_PAGES as u64 + i as u64));
            b.swapped = b.swapped.and_not(&mask);
            b.present = b.present.or(&mask);
            b.accessed = b.accessed.or(&mask);
            b.recent[0] = b.recent[0].or(&mask);
            if write {
                b.dirty = b.dirty.or(&mask);
            }
        }
        let back = out.refaulted.len() as u64;
        self.resident.0 += out.filled + back;
        self.swapped.0 -= back;
        self.cost = self.cost.saturating_sub(Bytes(per_page.0 * back));
        self.minor += out.filled;
        self.major += back;
        out
    }

    /// The number of a thread; the first is the main one.
    pub(super) const fn tid(&self, thread: u32) -> u32 {
        self.key.pid.wrapping_add(thread * 100_000)
    }

    /// Where a thread may run; nowhere in particular if that is empty.
    pub(super) fn cpus_of(&self, thread: u32) -> &[u32] {
        self.apart.get(&thread).unwrap_or(&self.cpus)
    }

    /// CPU time of a second of one thread. Whoever wants to run gets a little.
    pub(super) const fn runs_ns(&self) -> u64 {
        if self.starved { 1_000_000 } else { self.spec.busy.0 * 1_000_000 }
    }

    /// One second of life.
    pub(super) fn live(&mut self, now: Time) -> Touched {
        let mut all = Touched::default();
        self.ran_ns += self.runs_ns() * u64::from(self.spec.threads);
        if self.starved {
            self.waited_ns += super::world::TICK.0 - self.runs_ns();
            return all;
        }
        for i in 0..self.regions.len() {
            let (pages, writes, pattern) = (self.regions[i].spec.pages, self.regions[i].spec.writes, self.regions[i].spec.pattern);
            let mut spans = Vec::new();
            let r = &mut self.regions[i];
            match pattern {
                Pattern::Idle => {}
                Pattern::Hot { pages } => spans.push((0, pages)),
                Pattern::Zipf { touches } => {
                    spans.extend((0..touches).map(|_| (zipf(&mut r.rng, pages), 1)));
                }
                Pattern::Random { touches } => spans.extend((0..touches).map(|_| (r.rng.below(pages), 1))),
                Pattern::Sweep { pages: n } => {
                    spans.push((r.cursor, n));
                    if r.cursor + n > pages {
                        spans.push((0, r.cursor + n - pages));
                    }
                    r.cursor = (r.cursor + n) % pages;
                }
                Pattern::Moving { pages: n, every } => {
                    let window = now.since(self.born).0 / every.0.max(1);
                    spans.push((window * n % pages, n));
                }
                Pattern::Growing { pages: n } => {
                    spans.push((r.cursor, n));
                    r.cursor = (r.cursor + n).min(pages);
                }
            }
            for (first, count) in spans {
                let one = self.touch(i, first, count, writes);
                all.filled += one.filled;
                all.refaulted.extend(one.refaulted);
            }
        }
        all
    }

    /// Clears the accessed bits of the present pages in the ranges; pages looked at.
    pub(super) fn arm(&mut self, ranges: &[AddrRange]) -> u64 {
        let mut seen = 0;
        for range in ranges {
            for (id, mask) in masks(range.start >> PAGE_SHIFT, range.end >> PAGE_SHIFT) {
                if let Some(b) = self.blocks.get_mut(&id) {
                    let mask = if b.huge { Bits::ALL } else { mask };
                    seen += u64::from(b.present.and(&mask).count());
                    b.accessed = b.accessed.and_not(&mask);
                }
            }
        }
        seen
    }

    /// Moves present pages of the ranges to swap, at most `room` pages and `bytes` of cost, skipping what cannot be swapped.
    pub(super) fn page_out(&mut self, ranges: &[AddrRange], mut room: u64, mut bytes: Bytes) -> Gone {
        let mut gone = Gone::default();
        for r in 0..self.regions.len() {
            let Region { spec, range: own, .. } = &self.regions[r];
            if !matches!(spec.kind, VmaKind::Anon) || spec.flags.has(VmaFlags::LOCKED) || spec.flags.has(VmaFlags::IO) {
                continue;
            }
            let (own, per_page) = (*own, Pages(1).bytes().scale(spec.cost.0, 1000));
            for range in ranges {
                let (start, end) = (range.start.max(own.start), range.end.min(own.end));
                for (id, mask) in masks(start >> PAGE_SHIFT, end >> PAGE_SHIFT) {
                    let Some(b) = self.blocks.get_mut(&id) else { continue };
                    let mut out = b.present.and(&mask);
                    let fits = bytes.0.checked_div(per_page.0).map_or(room, |affordable| room.min(affordable));
                    if b.huge && fits < BLOCK_PAGES as u64 {
                        continue;
                    }
                    for page in out.iter().skip(fits as usize).collect::<Vec<_>>() {
                        out.clear(page);
                    }
                    if out.is_empty() {
                        continue;
                    }
                    gone.splits += u64::from(b.huge && out != Bits::ALL);
                    b.huge = false;
                    b.present = b.present.and_not(&out);
                    b.accessed = b.accessed.and_not(&out);
                    b.dirty = b.dirty.and_not(&out);
                    b.swapped = b.swapped.or(&out);
                    let n = u64::from(out.count());
                    room -= n;
                    bytes = bytes.saturating_sub(Bytes(per_page.0 * n));
                    self.resident.0 -= n;
                    self.swapped.0 += n;
                    self.cost.0 += per_page.0 * n;
                    gone.pages.extend(out.iter().map(|i| id * BLOCK_PAGES as u64 + i as u64));
                }
            }
        }
        gone
    }

    /// The kernel's own second-chance pass over one block: what was not accessed is a victim, what was loses its bit.
    pub(super) fn second_chance(&mut self, block: u64) -> Vec<AddrRange> {
        let Some(b) = self.blocks.get_mut(&block) else { return Vec::new() };
        let victims = b.present.and_not(&b.accessed);
        b.accessed = Bits::NONE;
        super::world::runs(victims.iter(), block)
    }

    pub(super) fn maps(&self) -> Vec<Vma> {
        let vma = |r: &Region| Vma { start: r.range.start, end: r.range.end, kind: r.spec.kind, flags: r.spec.flags };
        self.regions.iter().map(vma).collect()
    }

    /// What a walker sees of one block.
    pub(super) fn look(&self, block: u64) -> Option<BlockSample> {
        let b = self.blocks.get(&block)?;
        let node = NodeId(b.node.unwrap_or(0) as u16);
        let some = !(b.present.is_empty() && b.swapped.is_empty());
        some.then_some(BlockSample {
            block: BlockId(block),
            leaf: if b.huge { Leaf::Pmd } else { Leaf::Base },
            accessed: b.accessed,
            present: b.present,
            dirty: b.dirty,
            swapped: b.swapped,
            node,
            mixed: None,
        })
    }

    /// Truth: resident pages that were not touched in this truth window and the one before.
    pub(super) fn untouched(&self) -> Pages {
        let of = |b: &Block| u64::from(b.present.or(&b.swapped).and_not(&b.recent[0].or(&b.recent[1])).count());
        Pages(self.blocks.values().map(of).sum())
    }

    pub(super) fn turn_truth_window(&mut self) {
        for b in self.blocks.values_mut() {
            b.recent = [Bits::NONE, b.recent[0]];
        }
    }
}

/// Pages `start..end` (numbers) as one mask per block.
fn masks(start: u64, end: u64) -> impl Iterator<Item = (u64, Bits)> {
    const N: u64 = BLOCK_PAGES as u64;
    let blocks = if start < end { start / N..(end - 1) / N + 1 } else { 0..0 };
    blocks.map(move |id| {
        let (low, high) = (start.max(id * N) - id * N, end.min((id + 1) * N) - id * N);
        let word = |w: u64| {
            let (from, to) = (low.clamp(w * 64, w * 64 + 64) - w * 64, high.clamp(w * 64, w * 64 + 64) - w * 64);
            let below = |n: u64| if n == 64 { u64::MAX } else { (1 << n) - 1 };
            below(to) & !below(from)
        };
        (id, Bits(std::array::from_fn(|w| word(w as u64))))
    })
}

/// Rank with a weight of about 1 / (rank + 1): an even draw of the octave, then an even draw within it.
fn zipf(rng: &mut Rng, n: u64) -> u64 {
    let octaves = u64::from(64 - n.leading_zeros());
    let low = (1 << rng.below(octaves)) - 1;
    (low + rng.below(low + 1)).min(n.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cover_exactly_the_pages() {
        for (start, end) in [(0, 512), (5, 6), (63, 65), (500, 1030), (512, 512), (7, 3)] {
            let got: Vec<u64> =
                masks(start, end).flat_map(|(b, m)| m.iter().map(move |i| b * 512 + i as u64).collect::<Vec<_>>()).collect();
            assert_eq!(got, (start..end).collect::<Vec<_>>());
        }
    }

    #[test]
    fn pages_are_conserved() {
        let spec = ProcSpec::new("a", vec![RegionSpec::new(3000, Pattern::Zipf { touches: 50 })]);
        let mut p = Process::new(1, Time(0), ProcKey { pid: 1, start: 1 }, 0, CgroupId(1), &spec);
        for second in 0..50 {
            let gone = p.page_out(&[AddrRange { start: FIRST, end: FIRST + second * 300_000 / 4096 * 4096 }], 100, Bytes::MAX);
            assert!(gone.pages.len() <= 100);
            p.live(Time(second));
            assert_eq!(p.resident.0 + p.swapped.0, 3000);
            assert_eq!(p.cost, Bytes(p.swapped.0 * Pages(1).bytes().scale(400, 1000).0));
        }
        assert!(p.major > 0 && p.swapped.0 > 0);
    }
}
