//! /proc/PID/numa_maps: on which nodes the memory of a process lies.

use super::Mode;
use crate::vocab::{Bytes, NodeId};
use std::collections::BTreeMap;

/// What the original reads of a line at once; the rest is another line to it.
const PIECE: usize = 1023;

/// The memory of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// MiB by node; nodes that hold none are not in it. Less than one is 0, and to the original none.
    pub mb: BTreeMap<NodeId, u64>,
    /// Somebody asked for a mapping to be interleaved.
    pub interleaved: bool,
}

/// How large the kernel's pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizes {
    pub base: Bytes,
    /// Hugepagesize of /proc/meminfo: the only other size that the original knows.
    pub huge: Bytes,
}

impl Spread {
    #[must_use]
    pub fn of(numa_maps: &str, sizes: PageSizes, mode: Mode) -> Self {
        let (mut bytes, mut interleaved) = (BTreeMap::new(), false);
        let mut fold = |line: &str| {
            let mapping = Mapping::of(line, sizes, mode);
            interleaved |= mapping.interleaved;
            for (node, pages) in mapping.pages {
                let sum: &mut u64 = bytes.entry(node).or_default();
                *sum = sum.saturating_add(pages.saturating_mul(mapping.size.0));
            }
        };
        for line in numa_maps.lines() {
            match mode {
                Mode::Repaired => fold(line),
                Mode::Compat => line.as_bytes().chunks(PIECE).for_each(|piece| fold(&String::from_utf8_lossy(piece))),
            }
        }
        let held = |(node, bytes): (NodeId, u64)| {
            let mb = bytes >> 20;
            (bytes > 0 && (mb > 0 || mode == Mode::Repaired)).then_some((node, mb))
        };
        let mb = bytes.into_iter().filter_map(held).collect();
        Self { mb, interleaved }
    }

    #[must_use]
    pub fn on(&self, node: NodeId) -> u64 {
        self.mb.get(&node).copied().unwrap_or(0)
    }
}

/// One line, or a piece of one.
struct Mapping {
    pages: Vec<(NodeId, u64)>,
    /// What a page of it is.
    size: Bytes,
    interleaved: bool,
}

impl Mapping {
    fn of(line: &str, sizes: PageSizes, mode: Mode) -> Self {
        let (mut pages, mut size, mut interleaved, mut told) = (Vec::new(), sizes.base, false, None);
        for word in line.split_ascii_whitespace() {
            interleaved |= word.starts_with("interleave");
            if word == "huge" {
                size = sizes.huge;
            }
            told = word.strip_prefix("kernelpagesize_kB=").and_then(|kib| kib.parse().ok()).map(Bytes::from_kib).or(told);
            pages.extend(word.strip_prefix('N').and_then(|word| {
                let (node, pages) = word.split_once('=')?;
                Some((NodeId(node.parse().ok()?), pages.parse().ok()?))
            }));
        }
        // The kernel says it of every mapping that has pages, since 2013.
        let size = told.filter(|_| mode == Mode::Repaired).unwrap_or(size);
        Self { pages, size, interleaved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PageSizes = PageSizes { base: Bytes(4096), huge: Bytes(2 << 20) };

    fn on(text: &str, mode: Mode) -> Vec<(u16, u64)> {
        Spread::of(text, SIZES, mode).mb.into_iter().map(|(node, mb)| (node.0, mb)).collect()
    }

    #[test]
    fn pages_by_node() {
        let text = "00400000 default file=/usr/bin/hog mapped=5 N0=5 kernelpagesize_kB=4\n\
                    7f00 default anon=1024 dirty=1024 N0=512 N1=512 kernelpagesize_kB=4\n\
                    7f01 interleave:0-1 anon=512 N1=507 N70=256 kernelpagesize_kB=4\n\
                    7f02 default N5=0\n";
        for mode in [Mode::Compat, Mode::Repaired] {
            assert_eq!(on(text, mode), [(0, 2), (1, 3), (70, 1)], "{mode:?}");
            assert!(Spread::of(text, SIZES, mode).interleaved);
        }
        assert_eq!(Spread::of("", SIZES, Mode::Repaired), Spread::default());
        assert_eq!((on("7f N3=1", Mode::Repaired), on("7f N3=1", Mode::Compat)), (vec![(3, 0)], vec![]));
        assert!(Spread::of("7f00 weighted interleave:0-1 anon=1 N0=1", SIZES, Mode::Repaired).interleaved);
    }

    #[test]
    fn every_size_of_huge_pages() {
        let text = "7f00 default file=/anon_hugepage huge anon=3 N0=3 kernelpagesize_kB=2048\n\
                    7f01 default file=/anon_hugepage huge anon=1 N1=1 kernelpagesize_kB=1048576\n";
        assert_eq!(on(text, Mode::Repaired), [(0, 6), (1, 1024)]);
        // One size is all the original knows.
        assert_eq!(on(text, Mode::Compat), [(0, 6), (1, 2)]);
        // A kernel that does not tell.
        assert_eq!(on("7f00 default huge anon=3 N0=3\n", Mode::Repaired), [(0, 6)]);
    }

    #[test]
    fn lines_of_any_length() {
        // The original reads the name in two pieces, and no longer knows of the second what `huge` said in the first.
        let line = format!("7f00 default file=/{} huge anon=100 ", "x".repeat(980));
        let line = format!("{line}{}N0=100 kernelpagesize_kB=2048\n", "dirty=1 ".repeat(4));
        assert_eq!(on(&line, Mode::Repaired), [(0, 200)]);
        assert_eq!(on(&line, Mode::Compat), []);
        // A number cut in two.
        let line = format!("7f00 default file=/{} N0=51200\n", "x".repeat(1023 - 24));
        assert_eq!(on(&line, Mode::Repaired), [(0, 200)]);
        assert!(on(&line, Mode::Compat).iter().all(|(_, mb)| *mb < 200));
        // Any bytes.
        let _ = on(&"\u{20ac}".repeat(1000), Mode::Compat);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(.{0,40}(N[0-9]{1,6}=[0-9]{0,22}|interleave|huge|kernelpagesize_kB=[0-9]{0,22}|\n)){0,9}") {
            for mode in [Mode::Compat, Mode::Repaired] {
                let _ = Spread::of(&text, SIZES, mode);
            }
        }
    }
}
