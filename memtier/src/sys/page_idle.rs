//! /sys/kernel/mm/page_idle/bitmap: one bit per frame, set while nobody touched the page since it was marked.

use super::files::Root;
use super::pagemap::words;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

pub const BITMAP: &str = "/sys/kernel/mm/page_idle/bitmap";
const WORD_BITS: u64 = 64;
const WORD_BYTES: u64 = 8;
/// Words of one write: sysfs takes a page at a time and says nothing of the rest.
const MOST_WORDS: usize = 512;
/// A write goes on over so many words that mark nothing: the kernel looks at each of their bits, which takes it about as long
/// as another call would.
const BRIDGE: usize = 4;

/// The open bitmap.
///
/// The kernel (mm/page_idle.c) heeds the first frame of a folio, which speaks for all of it, and passes over what is on no
/// LRU list: the zero page, hugetlb, device memory, a page that is just being moved. Marking clears the accessed bit in
/// every mapping of the page, without a TLB flush, and keeps what it cleared (PG_young) for reclaim. Asking a marked page
/// clears it once more, so nobody can look whether a mark was taken without losing accesses.
///
/// | errno | meaning |
/// | --- | --- |
/// | ENOENT | no CONFIG_IDLE_PAGE_TRACKING (open) |
/// | EACCES, EROFS | not root; a read-only sysfs (open) |
/// | ENXIO | the first word lies behind the end of memory (write; a read comes back empty) |
/// | EINVAL | not whole words |
#[derive(Debug)]
pub struct Bitmap(File);

/// Neighbouring words of the bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub first: u64,
    pub bits: Vec<u64>,
}

impl Words {
    /// The first frame of word number `at` of these.
    #[must_use]
    pub const fn frame(&self, at: usize) -> u64 {
        (self.first + at as u64) * WORD_BITS
    }
}

/// The words that hold these frames and no others, in few writes. `frames` ascend; one may come twice.
pub fn gather(frames: impl IntoIterator<Item = u64>) -> Vec<Words> {
    let mut all: Vec<Words> = Vec::new();
    for frame in frames {
        let (word, bit) = (frame / WORD_BITS, 1 << (frame % WORD_BITS));
        match all.last_mut().map(|words| ((word - words.first) as usize, &mut words.bits)) {
            Some((at, bits)) if at < MOST_WORDS && at <= bits.len() + BRIDGE => {
                bits.resize(bits.len().max(at + 1), 0);
                bits[at] |= bit;
            }
            Some(_) | None => all.push(Words { first: word, bits: vec![bit] }),
        }
    }
    all
}

impl Bitmap {
    /// Opening it changes nothing.
    pub fn open(root: &Root, write: bool) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(write).open(root.path(BITMAP))?))
    }

    /// Which of `count` frames (no more than a page of words holds) from `frame` on are idle; of a folio only the first tells.
    /// Where the bitmap ends, and in a last word that memory does not fill, no frame is.
    pub fn idle(&self, frame: u64, count: usize) -> io::Result<Vec<bool>> {
        let first = frame / WORD_BITS;
        let last = (frame + count as u64).div_ceil(WORD_BITS);
        let mut bytes = vec![0; ((last - first) * WORD_BYTES) as usize];
        self.0.read_at(&mut bytes, first * WORD_BYTES)?;
        let bits = words(&bytes).flat_map(|word| (0..WORD_BITS).map(move |bit| word >> bit & 1 == 1));
        Ok(bits.skip((frame % WORD_BITS) as usize).take(count).collect())
    }

    /// Marks pages idle in one write. Returns the number of words that were taken: fewer than given where memory ends. A last
    /// word that memory does not fill is obeyed, and yet not counted.
    pub fn mark(&self, words: &Words) -> io::Result<usize> {
        let bytes: Vec<u8> = words.bits.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(self.0.write_at(&bytes, words.first * WORD_BYTES)? / WORD_BYTES as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Words hold the frames given and no others, no write begins or ends in vain, and no two could have been one.
        #[test]
        fn words_hold_exactly_the_frames(frames in proptest::collection::vec(0u64..100_000, 0..300), dense in 0u64..40_000) {
            let frames: Vec<u64> = frames.into_iter().chain(50_000..50_000 + dense).collect::<BTreeSet<_>>().into_iter().collect();
            let writes = gather(frames.iter().copied());
            let bits = |w: &Words| {
                let words: Vec<(u64, u64)> = w.bits.iter().enumerate().map(|(at, word)| (w.frame(at), *word)).collect();
                words.into_iter().flat_map(|(frame, word)| (0..64).filter(move |b| word >> b & 1 == 1).map(move |b| frame + b))
            };
            prop_assert_eq!(writes.iter().flat_map(bits).collect::<Vec<_>>(), frames);
            let marks = |w: &Words| w.bits.len() <= MOST_WORDS && w.bits.first() != Some(&0) && w.bits.last() != Some(&0);
            prop_assert!(writes.iter().all(marks));
            let apart = |pair: &[Words]| {
                let (from, gap) = (pair[1].first - pair[0].first, pair[1].frame(0) - pair[0].frame(pair[0].bits.len()));
                from >= MOST_WORDS as u64 || gap > BRIDGE as u64 * WORD_BITS
            };
            prop_assert!(writes.windows(2).all(apart));
        }
    }

    #[test]
    fn a_file_ends_like_memory_does() {
        let scratch = tempfile::tempdir().expect("a directory");
        let root = Root::at(scratch.path());
        assert!(Bitmap::open(&root, true).is_err());
        std::fs::create_dir_all(root.path(BITMAP).parent().expect("below the root")).expect("scratch");
        std::fs::write(root.path(BITMAP), [0; 16]).expect("scratch");
        let bitmap = Bitmap::open(&root, true).expect("opens");
        for words in gather([3, 66, 67, 127]) {
            assert_eq!(bitmap.mark(&words).expect("writes"), words.bits.len());
        }
        let idle = bitmap.idle(60, 72).expect("reads");
        let set: Vec<usize> = (60..).zip(idle).filter_map(|(frame, idle)| idle.then_some(frame)).collect();
        assert_eq!(set, [66, 67, 127]);
        assert!(bitmap.idle(200, 2).expect("reads nothing").iter().all(|idle| !idle));
    }
}
