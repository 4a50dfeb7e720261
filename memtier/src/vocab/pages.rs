//! Page samples: what one walk of the page tables saw, 2 MiB at a time. No PFNs: a trace must not tell physical addresses.

use super::{NodeId, Pages, ProcKey};
use serde::{Deserialize, Serialize};
use std::fmt;

pub const PAGE_SHIFT: u32 = 12;
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// Base pages in a block: one last-level page table, one PMD, 2 MiB.
pub const BLOCK_PAGES: usize = 512;
pub const BLOCK_BYTES: u64 = BLOCK_PAGES as u64 * PAGE_BYTES;

/// One bit per base page of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bits(pub [u64; 8]);

impl Bits {
    pub const NONE: Self = Self([0; 8]);
    pub const ALL: Self = Self([u64::MAX; 8]);

    /// The pages of one quarter of a block, 0 to 3.
    #[must_use]
    pub const fn quarter(quarter: u8) -> Self {
        let mut bits = Self::NONE;
        let first = (quarter % 4) as usize * 2;
        (bits.0[first], bits.0[first + 1]) = (u64::MAX, u64::MAX);
        bits
    }
    #[must_use]
    pub const fn get(&self, page: usize) -> bool {
        self.0[page / 64] >> (page % 64) & 1 == 1
    }
    pub const fn set(&mut self, page: usize) {
        self.0[page / 64] |= 1 << (page % 64);
    }
    pub const fn clear(&mut self, page: usize) {
        self.0[page / 64] &= !(1 << (page % 64));
    }
    #[must_use]
    pub fn count(&self) -> u32 {
        // Most blocks are full, and the oldest processors that we are built for count bit by bit.
        if *self == Self::ALL {
            return BLOCK_PAGES as u32;
        }
        self.0.iter().map(|w| w.count_ones()).sum()
    }
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 8]
    }
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|w| self.0[w] & other.0[w]))
    }
    #[must_use]
    pub fn and_not(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|w| self.0[w] & !other.0[w]))
    }
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|w| self.0[w] | other.0[w]))
    }
    /// Set positions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(w, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    w * 64 + bit
                })
            })
        })
    }
}

/// A 2 MiB block of virtual addresses, by number (address / 2 MiB).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockId(pub u64);

impl BlockId {
    #[must_use]
    pub const fn of(addr: u64) -> Self {
        Self(addr / BLOCK_BYTES)
    }
    #[must_use]
    pub const fn start(self) -> u64 {
        self.0 * BLOCK_BYTES
    }
}

/// Half-open range of virtual addresses, page aligned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AddrRange {
    pub start: u64,
    pub end: u64,
}

impl AddrRange {
    pub const EVERYTHING: Self = Self { start: 0, end: !(PAGE_BYTES - 1) };

    #[must_use]
    pub const fn pages(&self) -> Pages {
        Pages(self.end.saturating_sub(self.start) >> PAGE_SHIFT)
    }
    #[must_use]
    pub const fn contains(&self, addr: u64) -> bool {
        self.start <= addr && addr < self.end
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start, self.end)
    }
}

/// What maps the block: 512 base pages, or one huge leaf with one accessed bit for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leaf {
    #[default]
    Base,
    /// 2 MiB: transparent or hugetlb. The bitmaps are all ones or all zero.
    Pmd,
    /// A 2 MiB slice of a 1 GiB hugetlb page; its accessed bit is shared by 512 blocks.
    Pud,
}

/// `pages` present pages in a row (holes between them do not end a run) that lie on `node`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRun {
    pub pages: u16,
    pub node: NodeId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSample {
    pub block: BlockId,
    pub leaf: Leaf,
    pub accessed: Bits,
    pub present: Bits,
    pub dirty: Bits,
    /// Not present, but the entry holds a swap slot (or a migration entry).
    pub swapped: Bits,
    /// The node of every present page, where one node holds them all.
    pub node: NodeId,
    /// Only where present pages lie on more than one node.
    pub mixed: Option<Box<[NodeRun]>>,
}

/// Part of one walk. Blocks ascend; a block inside `range` that is not listed maps nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageChunk {
    pub proc: ProcKey,
    /// Number of the walk; chunks of one walk share it and arrive in address order.
    pub scan: u64,
    pub range: AddrRange,
    #[serde(with = "packed")]
    pub blocks: Vec<BlockSample>,
    /// Last chunk of this walk.
    pub last: bool,
}

/// Blocks as one byte string in binary formats (docs/trace-format.md), as a list in JSON.
///
/// Per block: varint block-number delta, one byte leaf | node form << 2, one byte with two bits per bitmap
/// (0 none set, 1 all set, 2 eight little-endian words follow), the words, then the node (varint) or the runs.
mod packed {
    use super::{Bits, BlockId, BlockSample, Leaf, NodeId, NodeRun};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(blocks: &[BlockSample], s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            return blocks.serialize(s);
        }
        let mut out = Vec::with_capacity(blocks.len() * 80);
        let mut previous = 0;
        for BlockSample { block, leaf, accessed, present, dirty, swapped, node, mixed } in blocks {
            varint(&mut out, block.0.wrapping_sub(previous));
            previous = block.0;
            let leaf = match leaf {
                Leaf::Base => 0u8,
                Leaf::Pmd => 1,
                Leaf::Pud => 2,
            };
            out.push(leaf | u8::from(mixed.is_some()) << 2);
            let maps = [accessed, present, dirty, swapped];
            let form = |b: &Bits| {
                if b.is_empty() {
                    0u8
                } else if *b == Bits::ALL {
                    1
                } else {
                    2
                }
            };
            out.push(maps.iter().enumerate().fold(0, |acc, (i, b)| acc | form(b) << (2 * i)));
            for b in maps.iter().filter(|b| form(b) == 2) {
                out.extend(b.0.iter().flat_map(|w| w.to_le_bytes()));
            }
            match mixed {
                None => varint(&mut out, u64::from(node.0)),
                Some(runs) => {
                    varint(&mut out, runs.len() as u64);
                    for NodeRun { pages, node } in runs {
                        varint(&mut out, u64::from(*pages));
                        varint(&mut out, u64::from(node.0));
                    }
                }
            }
        }
        s.serialize_bytes(&out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<BlockSample>, D::Error> {
        if d.is_human_readable() {
            return Vec::deserialize(d);
        }
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Vec<BlockSample>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("packed blocks")
            }
            fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<Self::Value, E> {
                unpack(v).ok_or_else(|| E::custom("packed blocks are cut short or not canonical"))
            }
        }
        d.deserialize_bytes(Visitor).map_err(D::Error::custom)
    }

    fn varint(out: &mut Vec<u8>, mut v: u64) {
        while v >= 0x80 {
            out.push(v as u8 | 0x80);
            v >>= 7;
        }
        out.push(v as u8);
    }

    pub(super) fn unpack(bytes: &[u8]) -> Option<Vec<BlockSample>> {
        let mut at = bytes;
        let mut blocks = Vec::new();
        let mut previous = 0u64;
        while !at.is_empty() {
            let block = previous.wrapping_add(take_varint(&mut at)?);
            previous = block;
            let [kind, forms] = take(&mut at)?;
            let leaf = match kind & 3 {
                0 => Leaf::Base,
                1 => Leaf::Pmd,
                2 => Leaf::Pud,
                _ => return None,
            };
            let mut maps = [Bits::NONE; 4];
            for (i, map) in maps.iter_mut().enumerate() {
                match forms >> (2 * i) & 3 {
                    0 => {}
                    1 => *map = Bits::ALL,
                    2 => {
                        for word in &mut map.0 {
                            *word = u64::from_le_bytes(take(&mut at)?);
                        }
                    }
                    _ => return None,
                }
            }
            let (mut node, mut mixed) = (NodeId::default(), None);
            let first = take_varint(&mut at)?;
            if kind >> 2 & 1 == 0 {
                node = NodeId(u16::try_from(first).ok()?);
            } else {
                let runs = (0..first.min(super::BLOCK_PAGES as u64))
                    .map(|_| {
                        let pages = u16::try_from(take_varint(&mut at)?).ok()?;
                        Some(NodeRun { pages, node: NodeId(u16::try_from(take_varint(&mut at)?).ok()?) })
                    })
                    .collect::<Option<Box<[_]>>>()?;
                mixed = Some(runs);
            }
            let [accessed, present, dirty, swapped] = maps;
            blocks.push(BlockSample { block: BlockId(block), leaf, accessed, present, dirty, swapped, node, mixed });
        }
        Some(blocks)
    }

    fn take<const N: usize>(at: &mut &[u8]) -> Option<[u8; N]> {
        let (head, tail) = at.split_first_chunk::<N>()?;
        *at = tail;
        Some(*head)
    }

    fn take_varint(at: &mut &[u8]) -> Option<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = take(at)?;
            v |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(v);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits() -> impl Strategy<Value = Bits> {
        prop_oneof![Just(Bits::NONE), Just(Bits::ALL), any::<[u64; 8]>().prop_map(Bits)]
    }

    prop_compose! {
        fn sample()(block in 0u64..1 << 36, leaf in prop_oneof![Just(Leaf::Base), Just(Leaf::Pmd), Just(Leaf::Pud)],
                    maps in [bits(), bits(), bits(), bits()], node in 0u16..300,
                    runs in prop::option::of(prop::collection::vec((1u16..=512, 0u16..300), 1..5))) -> BlockSample {
            let [accessed, present, dirty, swapped] = maps;
            let mixed: Option<Box<[NodeRun]>> =
                runs.map(|r| r.into_iter().map(|(pages, node)| NodeRun { pages, node: NodeId(node) }).collect());
            let node = if mixed.is_some() { NodeId::default() } else { NodeId(node) };
            BlockSample { block: BlockId(block), leaf, accessed, present, dirty, swapped, node, mixed }
        }
    }

    proptest! {
        #[test]
        fn packed_blocks_survive_the_trip(blocks in prop::collection::vec(sample(), 0..20)) {
            let chunk = PageChunk { proc: ProcKey { pid: 7, start: 9 }, scan: 3, range: AddrRange::EVERYTHING, blocks, last: true };
            let cbor = minicbor_serde::to_vec(&chunk).unwrap();
            prop_assert_eq!(&minicbor_serde::from_slice::<PageChunk>(&cbor).unwrap(), &chunk);
            let json = serde_json::to_string(&chunk).unwrap();
            prop_assert_eq!(serde_json::from_str::<PageChunk>(&json).unwrap(), chunk);
        }

        #[test]
        fn unpacking_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = packed::unpack(&bytes);
        }
    }

    #[test]
    fn bits_iterate_in_order_and_know_their_neighbours() {
        let mut b = Bits::NONE;
        for page in [0, 63, 64, 511] {
            b.set(page);
        }
        assert_eq!(b.iter().collect::<Vec<_>>(), [0, 63, 64, 511]);
        b.clear(63);
        assert_eq!((b.count(), b.get(63), b.get(64)), (3, false, true));
        assert_eq!(Bits::ALL.and_not(&b).count(), 509);
    }
}
