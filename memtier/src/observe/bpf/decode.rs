//! Raw page tables to samples: a block of 512 entries becomes four bitmaps and the nodes of its pages.
//!
//! The entries of x86-64, as the kernel's pgtable_types.h and pgtable_64.h lay them out:
//! - present: bit 0, or bit 8 (PROT_NONE and NUMA hinting; the frame number is then inverted). Special entries (bit 9: zero
//!   page, vvar, device memory) map no memory that could move: they read as absent;
//! - accessed: bit 5; dirty: bit 6, or bit 58, where the kernel keeps the dirty bit of a write-protected page;
//! - not present and not zero: a swap or migration entry, unless its type (bits 59 to 63) is 31, a marker (guard pages,
//!   userfaultfd write protection), which holds no page.
//!
//! Bit planes are taken from 64 entries at a time. The AND and the OR of all of them answer most planes at once (every page
//! present, none dirty); only a plane that differs between the pages is gathered bit by bit. Three instances of the same code
//! on vectors of 8 entries. Measured on a Xeon with AVX-512, entries in L2, ns per page (young = all pages alike, mixed =
//! accessed bits differ): portable 0.9 / 1.3, AVX2 0.3 / 0.5, AVX-512 0.2 / 0.3.
//!
//! Total: any bytes decode to something or to an error. Deliberately absent: PFNs in what comes out.

use crate::vocab::{BLOCK_BYTES, BLOCK_PAGES, Bits, BlockId, BlockSample, Leaf, NodeId, NodeRun, PAGE_BYTES};
use memtier_common::{BlockHead, block_form};
use std::mem::offset_of;

const ACCESSED: u32 = 5;
const DIRTY: u32 = 6;
const HUGE: u32 = 7;
const PROT_NONE: u32 = 8;
const SPECIAL: u32 = 9;
const SAVED_DIRTY: u32 = 58;
const MARKER: u64 = 31 << 59;
/// Last-level table as bytes.
pub const TABLE_BYTES: usize = BLOCK_PAGES * 8;

/// Where pages lie, by frame number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// (first frame, frame after the last, node), ascending, disjoint.
    ranges: Vec<(u64, u64, NodeId)>,
}

impl Nodes {
    /// Joins neighbours of one node; later ranges give way where ranges overlap.
    #[must_use]
    pub fn new(mut ranges: Vec<(u64, u64, NodeId)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u64, u64, NodeId)> = Vec::new();
        for (first, end, node) in ranges {
            match joined.last_mut() {
                Some((_, last, at)) if *at == node && first <= *last => *last = end.max(*last),
                Some((_, last, _)) if first < *last => {
                    let first = *last;
                    if first < end {
                        joined.push((first, end, node));
                    }
                }
                _ => joined.push((first, end, node)),
            }
        }
        Self { ranges: joined }
    }

    /// End of physical memory; of all addresses where nothing is known of it.
    #[must_use]
    pub fn memory_end(&self) -> u64 {
        self.ranges.last().map_or(u64::MAX, |range| range.1.saturating_mul(PAGE_BYTES))
    }

    /// The only node there is.
    fn only(&self) -> Option<NodeId> {
        let first = self.ranges.first().map_or(NodeId::default(), |r| r.2);
        self.ranges.iter().all(|r| r.2 == first).then_some(first)
    }

    /// The node of a frame and the range of frames around it that share it; a frame in no range counts for node 0.
    fn around(&self, frame: u64) -> (u64, u64, NodeId) {
        let after = self.ranges.partition_point(|r| r.0 <= frame);
        match after.checked_sub(1).and_then(|i| self.ranges.get(i)) {
            Some(&range) if frame < range.1 => range,
            before => {
                let next = self.ranges.get(after).map_or(u64::MAX, |r| r.0);
                (before.map_or(0, |r| r.1), next, NodeId::default())
            }
        }
    }
}

/// One slot as the walker filled it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub head: &'a [u8; size_of::<BlockHead>()],
    pub table: &'a [u8; TABLE_BYTES],
}

/// What the walker wrote cannot be a block of the range that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record that is no block ({0})")]
pub struct Malformed(&'static str);

/// Eight entries at a time.
trait Lanes: Copy {
    /// # Safety
    /// The CPU has the instructions of this instance.
    unsafe fn load(entries: &[u8; 64]) -> Self;
    /// # Safety
    /// As `load`.
    unsafe fn and(self, other: Self) -> Self;
    /// # Safety
    /// As `load`.
    unsafe fn or(self, other: Self) -> Self;
    /// One bit of each entry.
    ///
    /// # Safety
    /// As `load`.
    unsafe fn bit(self, bit: u32) -> u8;
    /// Which entries are not zero.
    ///
    /// # Safety
    /// As `load`.
    unsafe fn filled(self) -> u8;
    /// # Safety
    /// As `load`.
    unsafe fn store(self) -> [u64; 8];
}

impl Lanes for [u64; 8] {
    #[inline(always)]
    unsafe fn load(entries: &[u8; 64]) -> Self {
        let (words, _) = entries.as_chunks::<8>();
        std::array::from_fn(|i| u64::from_le_bytes(words[i]))
    }
    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] & other[i])
    }
    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] | other[i])
    }
    #[inline(always)]
    unsafe fn bit(self, bit: u32) -> u8 {
        (0..8).fold(0, |acc, i| acc | ((self[i] >> bit & 1) as u8) << i)
    }
    #[inline(always)]
    unsafe fn filled(self) -> u8 {
        (0..8).fold(0, |acc, i| acc | u8::from(self[i] != 0) << i)
    }
    #[inline(always)]
    unsafe fn store(self) -> [u64; 8] {
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    #![expect(clippy::multiple_unsafe_ops_per_block, reason = "one SAFETY line stands for one instruction sequence")]
    use super::Lanes;
    use std::arch::x86_64::{
        __m256i, __m512i, _mm_cvtsi32_si128, _mm256_and_si256, _mm256_castsi256_pd, _mm256_cmpeq_epi64, _mm256_loadu_si256,
        _mm256_movemask_pd, _mm256_or_si256, _mm256_setzero_si256, _mm256_sll_epi64, _mm512_and_si512, _mm512_loadu_si512,
        _mm512_or_si512, _mm512_set1_epi64, _mm512_test_epi64_mask,
    };

    #[derive(Clone, Copy)]
    pub struct Avx2(__m256i, __m256i);
    #[derive(Clone, Copy)]
    pub struct Avx512(__m512i);

    impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn load(entries: &[u8; 64]) -> Self {
            let at = entries.as_ptr().cast::<__m256i>();
            // SAFETY: two unaligned loads of 32 bytes inside 64; the caller vouches for the CPU.
            unsafe { Self(_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))) }
        }
        #[inline(always)]
        unsafe fn and(self, other: Self) -> Self {
            // SAFETY: registers only; the caller vouches for the CPU.
            unsafe { Self(_mm256_and_si256(self.0, other.0), _mm256_and_si256(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn or(self, other: Self) -> Self {
            // SAFETY: registers only; the caller vouches for the CPU.
            unsafe { Self(_mm256_or_si256(self.0, other.0), _mm256_or_si256(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn bit(self, bit: u32) -> u8 {
            // SAFETY: registers only; the caller vouches for the CPU.
            unsafe {
                let left = _mm_cvtsi32_si128(63 - bit.cast_signed());
                let sign = |v| _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_sll_epi64(v, left)));
                (sign(self.0) | sign(self.1) << 4) as u8
            }
        }
        #[inline(always)]
        unsafe fn filled(self) -> u8 {
            // SAFETY: registers only; the caller vouches for the CPU.
            unsafe {
                let empty = |v| _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(v, _mm256_setzero_si256())));
                !((empty(self.0) | empty(self.1) << 4) as u8)
            }
        }
        #[inline(always)]
        unsafe fn store(self) -> [u64; 8] {
            // SAFETY: both are eight words without padding.
            unsafe { std::mem::transmute(self) }
        }
    }

    impl Lanes for Avx512 {
        #[inline(always)]
        unsafe fn load(entries: &[u8; 64]) -> Self {
            // SAFETY: an unaligned load of 64 bytes; the caller vouches for the CPU.
            unsafe { Self(_mm512_loadu_si512(entries.as_ptr().cast())) }
        }
        #[inline(always)]
        unsafe fn and(self, other: Self) -> Self {
            // SAFETY: registers only; the caller vouches for the CPU.
            unsafe { Self(_mm512_and_si512(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn or(self, other: Self) -> Self {
            // SAFETY: registers only; the caller vouches for the CPU.
            unsafe { Self(_mm512_or_si512(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn bit(self, bit: u32) -> u8 {
            // SAFETY: registers only; the caller vouches for the CPU.
            unsafe { _mm512_test_epi64_mask(self.0, _mm512_set1_epi64(1 << bit)) }
        }
        #[inline(always)]
        unsafe fn filled(self) -> u8 {
            // SAFETY: registers only; the caller vouches for the CPU.
            unsafe { _mm512_test_epi64_mask(self.0, self.0) }
        }
        #[inline(always)]
        unsafe fn store(self) -> [u64; 8] {
            // SAFETY: both are eight words without padding.
            unsafe { std::mem::transmute(self) }
        }
    }
}

/// The bitmaps of one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planes {
    pub accessed: Bits,
    pub present: Bits,
    pub dirty: Bits,
    pub swapped: Bits,
}

/// # Safety
/// The CPU has the instructions of `L`.
#[inline(always)]
unsafe fn planes<L: Lanes>(table: &[u8; TABLE_BYTES]) -> Planes {
    let mut planes = Planes::default();
    let (groups, _) = table.as_chunks::<64>();
    let (words, _) = groups.as_chunks::<8>();
    for (w, groups) in words.iter().enumerate() {
        // SAFETY: passed on from the caller.
        let lanes: [L; 8] = std::array::from_fn(|g| unsafe { L::load(&groups[g]) });
        // SAFETY: passed on from the caller.
        let fold = |f: unsafe fn(L, L) -> L| lanes[1..].iter().fold(lanes[0], |a, &b| unsafe { f(a, b) });
        // SAFETY: passed on from the caller.
        let any = unsafe { fold(L::or).store() }.into_iter().fold(0, |a, b| a | b);
        if any == 0 {
            continue;
        }
        // SAFETY: passed on from the caller.
        let all = unsafe { fold(L::and).store() }.into_iter().fold(u64::MAX, |a, b| a & b);
        let plane = |bit: u32| {
            if any >> bit & 1 == 0 {
                0
            } else if all >> bit & 1 == 1 {
                u64::MAX
            } else {
                // SAFETY: passed on from the caller.
                u64::from_le_bytes(std::array::from_fn(|g| unsafe { lanes[g].bit(bit) }))
            }
        };
        let mapped = plane(0) | plane(PROT_NONE);
        if mapped != 0 {
            let present = mapped & !plane(SPECIAL);
            planes.present.0[w] = present;
            planes.accessed.0[w] = present & plane(ACCESSED);
            planes.dirty.0[w] = present & (plane(DIRTY) | plane(SAVED_DIRTY));
        }
        if mapped != u64::MAX {
            // SAFETY: passed on from the caller.
            let filled = u64::from_le_bytes(std::array::from_fn(|g| unsafe { lanes[g].filled() }));
            let marker = if any & MARKER == MARKER { (59..64).fold(u64::MAX, |acc, bit| acc & plane(bit)) } else { 0 };
            planes.swapped.0[w] = filled & !mapped & !marker;
        }
    }
    planes
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn planes_avx2(table: &[u8; TABLE_BYTES]) -> Planes {
    // SAFETY: the attribute states what this instance needs.
    unsafe { planes::<wide::Avx2>(table) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn planes_avx512(table: &[u8; TABLE_BYTES]) -> Planes {
    // SAFETY: the attribute states what this instance needs.
    unsafe { planes::<wide::Avx512>(table) }
}

/// Which instance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Width {
    /// Those that this CPU can run, the fastest last.
    fn available() -> Vec<Self> {
        vec![
            Self::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512,
        ]
        .into_iter()
        .filter(|width| match width {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => std::arch::is_x86_feature_detected!("avx512f"),
        })
        .collect()
    }

    fn planes(self, table: &[u8; TABLE_BYTES]) -> Planes {
        match self {
            // SAFETY: plain integers need nothing of the CPU.
            Self::Portable => unsafe { planes::<[u64; 8]>(table) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only made where the CPU has it (`available`).
            Self::Avx2 => unsafe { planes_avx2(table) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only made where the CPU has it (`available`).
            Self::Avx512 => unsafe { planes_avx512(table) },
        }
    }
}

/// Turns records into samples.
#[derive(Clone, Debug)]
pub struct Decoder {
    width: Width,
    nodes: Nodes,
    only_node: Option<NodeId>,
    /// Bits of an entry that hold a physical address.
    frame_mask: u64,
}

impl Decoder {
    #[must_use]
    pub fn new(nodes: Nodes, frame_mask: u64) -> Self {
        let width = Width::available().pop().unwrap_or(Width::Portable);
        Self { width, only_node: nodes.only(), nodes, frame_mask }
    }

    /// Bitmaps of one last-level table.
    #[must_use]
    pub fn planes(&self, table: &[u8; TABLE_BYTES]) -> Planes {
        self.width.planes(table)
    }

    /// Appends the blocks of one record, which must lie at or after `from` and before `until`; the address after it.
    pub fn record(&self, record: Record<'_>, from: u64, until: u64, to: &mut Vec<BlockSample>) -> Result<u64, Malformed> {
        let field = |at: usize| u64::from_le_bytes(record.head.as_chunks::<8>().0[at / 8]);
        let addr = field(offset_of!(BlockHead, addr));
        let entry = field(offset_of!(BlockHead, entry));
        let form = field(offset_of!(BlockHead, form));
        let blocks = field(offset_of!(BlockHead, blocks));
        if addr % BLOCK_BYTES != 0 || addr < from & !(BLOCK_BYTES - 1) {
            return Err(Malformed("out of order"));
        }
        let most = if form == block_form::PUD_LEAF { 512 } else { 1 };
        if blocks == 0 || blocks > most {
            return Err(Malformed("wrong count of blocks"));
        }
        let end =
            addr.checked_add(blocks * BLOCK_BYTES).filter(|&end| end - BLOCK_BYTES < until).ok_or(Malformed("past the end"))?;
        let block = BlockId::of(addr);
        match form {
            block_form::TABLE => self.table(block, record.table, to),
            block_form::PMD_LEAF => to.extend(self.leaf(block, entry, Leaf::Pmd)),
            block_form::PUD_LEAF => to.extend((0..blocks).filter_map(|i| self.leaf(BlockId(block.0 + i), entry, Leaf::Pud))),
            _ => return Err(Malformed("unknown form")),
        }
        Ok(end)
    }

    fn table(&self, block: BlockId, table: &[u8; TABLE_BYTES], to: &mut Vec<BlockSample>) {
        let Planes { accessed, present, dirty, swapped } = self.planes(table);
        if present.is_empty() && swapped.is_empty() {
            return;
        }
        let (node, mixed) = match self.only_node {
            Some(node) => (node, None),
            None => self.nodes_of(table, &present),
        };
        to.push(BlockSample { block, leaf: Leaf::Base, accessed, present, dirty, swapped, node, mixed });
    }

    fn nodes_of(&self, table: &[u8; TABLE_BYTES], present: &Bits) -> (NodeId, Option<Box<[NodeRun]>>) {
        let (entries, _) = table.as_chunks::<8>();
        let mut runs: Vec<NodeRun> = Vec::new();
        let mut here = (0, 0, NodeId::default());
        for page in present.iter() {
            let frame = self.frame(u64::from_le_bytes(entries[page]));
            if frame < here.0 || frame >= here.1 {
                here = self.nodes.around(frame);
            }
            match runs.last_mut() {
                Some(run) if run.node == here.2 => run.pages += 1,
                _ => runs.push(NodeRun { pages: 1, node: here.2 }),
            }
        }
        match runs.as_slice() {
            [] => (NodeId::default(), None),
            [one] => (one.node, None),
            [first, ..] => (first.node, Some(runs.into_boxed_slice())),
        }
    }

    /// A huge leaf, whole; or a huge page that is just being moved.
    fn leaf(&self, block: BlockId, entry: u64, leaf: Leaf) -> Option<BlockSample> {
        let bit = |b: u32| entry >> b & 1 == 1;
        let bits = |yes: bool| if yes { Bits::ALL } else { Bits::NONE };
        // While a huge page is split its entry keeps only the leaf bit.
        let mapped = bit(0) || bit(HUGE) || bit(PROT_NONE);
        let present = mapped && !bit(SPECIAL);
        let swapped = !mapped && entry != 0;
        (present || swapped).then(|| {
            // Below the leaf's own bits: attributes, among them the cache mode in the lowest address bit.
            let shift = if leaf == Leaf::Pud { 18 } else { 9 };
            let node = match self.only_node {
                Some(node) => node,
                None if present => self.nodes.around(self.frame(entry) >> shift << shift).2,
                None => NodeId::default(),
            };
            BlockSample {
                block,
                leaf,
                accessed: bits(present && bit(ACCESSED)),
                present: bits(present),
                dirty: bits(present && (bit(DIRTY) || bit(SAVED_DIRTY))),
                swapped: bits(swapped),
                node,
                mixed: None,
            }
        })
    }

    /// Frame number; inverted in PROT_NONE entries (the kernel's answer to L1TF).
    #[must_use]
    pub fn frame(&self, entry: u64) -> u64 {
        (if entry & 1 == 0 { !entry } else { entry } & self.frame_mask) >> 12
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAMES: u64 = 0x000f_ffff_ffff_f000;

    /// One entry at a time, by the words of the module doc.
    fn slowly(table: &[u8; TABLE_BYTES]) -> Planes {
        let mut planes = Planes::default();
        for (page, entry) in table.as_chunks::<8>().0.iter().enumerate() {
            let e = u64::from_le_bytes(*entry);
            if e & 0x101 != 0 {
                if e & 0x200 == 0 {
                    planes.present.set(page);
                    if e & 0x20 != 0 {
                        planes.accessed.set(page);
                    }
                    if e & (0x40 | 1 << 58) != 0 {
                        planes.dirty.set(page);
                    }
                }
            } else if e != 0 && e >> 59 != 31 {
                planes.swapped.set(page);
            }
        }
        planes
    }

    fn entry() -> impl Strategy<Value = u64> {
        prop_oneof![
            2 => Just(0),
            4 => any::<u64>().prop_map(|e| 0x8000_0000_0000_0001 | e & 0x000f_ffff_ffff_f060),
            1 => any::<u64>().prop_map(|e| e & !1 | 0x100),
            1 => any::<u64>().prop_map(|e| e & !0x101),
            1 => any::<u64>().prop_map(|e| MARKER | e & !0x101),
            1 => any::<u64>(),
        ]
    }

    /// Runs of like entries, so that whole groups agree, and single ones, so that they do not.
    fn table() -> impl Strategy<Value = Box<[u8; TABLE_BYTES]>> {
        proptest::collection::vec((entry(), 1usize..200), 1..60).prop_map(|runs| {
            let mut table = Box::new([0; TABLE_BYTES]);
            let entries = runs.into_iter().flat_map(|(e, n)| std::iter::repeat_n(e, n)).cycle();
            for (to, e) in table.as_chunks_mut::<8>().0.iter_mut().zip(entries) {
                *to = e.to_le_bytes();
            }
            table
        })
    }

    fn head(addr: u64, entry: u64, form: u64, blocks: u64) -> [u8; 32] {
        let words = [addr, entry, form, blocks].map(u64::to_le_bytes);
        *words.as_flattened().first_chunk().expect("four words")
    }
    const EMPTY: [u8; TABLE_BYTES] = [0; TABLE_BYTES];

    proptest! {
        #[test]
        fn every_width_agrees(table in table()) {
            for width in Width::available() {
                prop_assert_eq!(width.planes(&table), slowly(&table), "{:?}", width);
            }
        }

        #[test]
        fn any_bytes_decode(noise: [u8; 32], table in table(), form in 0u64..4, blocks in 0u64..600, addr: u64, from: u64, until: u64) {
            let decoder = Decoder::new(Nodes::new(vec![(0, 9, NodeId(0)), (9, 99, NodeId(1))]), FRAMES);
            let mut to = Vec::new();
            for head in [noise, head(addr & !(BLOCK_BYTES - 1), addr, form, blocks)] {
                let _ = decoder.record(Record { head: &head, table: &table }, from, until, &mut to);
            }
            prop_assert!(to.iter().all(|b| b.accessed.and_not(&b.present).is_empty() && b.swapped.and(&b.present).is_empty()));
        }

        #[test]
        fn runs_count_every_present_page(table in table(), split in 0u64..1 << 40) {
            let decoder = Decoder::new(Nodes::new(vec![(0, split, NodeId(0)), (split, u64::MAX, NodeId(1))]), FRAMES);
            let mut to = Vec::new();
            let end = decoder.record(Record { head: &head(0, 1, block_form::TABLE, 1), table: &table }, 0, BLOCK_BYTES, &mut to);
            prop_assert_eq!(end, Ok(BLOCK_BYTES));
            for block in &to {
                let frames = block.present.iter().map(|p| decoder.frame(u64::from_le_bytes(table.as_chunks::<8>().0[p])));
                let nodes: Vec<u16> = frames.map(|f| u16::from(f >= split)).collect();
                let told: Vec<u16> = match &block.mixed {
                    Some(runs) => runs.iter().flat_map(|r| std::iter::repeat_n(r.node.0, usize::from(r.pages))).collect(),
                    None => vec![block.node.0; block.present.count() as usize],
                };
                prop_assert_eq!(nodes, told);
            }
        }
    }

    #[test]
    fn huge_leaves_are_whole() {
        let decoder = Decoder::new(Nodes::new(vec![(0, 1 << 18, NodeId(0)), (1 << 18, 1 << 20, NodeId(3))]), FRAMES);
        let mut to = Vec::new();
        let entry = (1 << 30) | 1 << 12 | 0xa1 | 1 << HUGE;
        let (pmd, pud) = (head(BLOCK_BYTES, entry, block_form::PMD_LEAF, 1), head(1 << 30, entry, block_form::PUD_LEAF, 512));
        let mut decode = |head, from| decoder.record(Record { head, table: &EMPTY }, from, u64::MAX, &mut to);
        assert_eq!(decode(&pmd, 0), Ok(2 * BLOCK_BYTES));
        assert_eq!(decode(&pud, 2 * BLOCK_BYTES), Ok(2 << 30));
        assert_eq!(to.len(), 513);
        for block in &to {
            assert_eq!((block.accessed, block.present, block.dirty, block.node), (Bits::ALL, Bits::ALL, Bits::NONE, NodeId(3)));
        }
        assert_eq!((to[0].leaf, to[512].leaf, to[512].block.0), (Leaf::Pmd, Leaf::Pud, 1023));
    }

    #[test]
    fn records_out_of_place_are_refused() {
        let decoder = Decoder::new(Nodes::default(), FRAMES);
        let bad = [
            (3, 1, 1),
            (0, 1, 1),
            (BLOCK_BYTES * 9, 1, 1),
            (BLOCK_BYTES, 1, 2),
            (BLOCK_BYTES, 2, 0),
            (BLOCK_BYTES, 3, 1),
            (u64::MAX - 5, 1, 1),
        ];
        for (addr, form, blocks) in bad {
            let record = Record { head: &head(addr, 1, form, blocks), table: &EMPTY };
            assert!(decoder.record(record, BLOCK_BYTES, BLOCK_BYTES * 9, &mut Vec::new()).is_err(), "{addr} {form} {blocks}");
        }
    }

    #[test]
    fn overlapping_nodes_are_cut() {
        let nodes = Nodes::new(vec![(0, 10, NodeId(0)), (5, 8, NodeId(1)), (10, 20, NodeId(0)), (15, 30, NodeId(1))]);
        assert_eq!((nodes.memory_end(), Nodes::new(Vec::new()).memory_end()), (30 * PAGE_BYTES, u64::MAX));
        assert_eq!(nodes.around(6).2, NodeId(0));
        assert_eq!(nodes.around(19), (0, 20, NodeId(0)));
        assert_eq!(nodes.around(25), (20, 30, NodeId(1)));
        assert_eq!(nodes.around(99), (30, u64::MAX, NodeId(0)));
    }
}
