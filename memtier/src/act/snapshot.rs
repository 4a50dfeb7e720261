//! What pagemap says about a set of ranges at one moment, and where those ranges would cut a large folio.

use super::Ground;
use crate::plan::calls::{BRIDGE, RANGE_COST};
use crate::sys::pagemap::Entry;
use crate::vocab::{AddrRange, BLOCK_BYTES, PAGE_BYTES};
use std::io;

/// Entries of all pages of some ranges, and of the page on either side of every edge inside a block.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// (address of the first page, entries), ascending, not overlapping.
    runs: Vec<(u64, Vec<Entry>)>,
}

impl Snapshot {
    /// `ranges` ascend and do not overlap.
    pub fn take(calls: &mut impl Ground, ranges: &[AddrRange]) -> io::Result<Self> {
        let mut spans: Vec<AddrRange> = Vec::new();
        for range in ranges {
            let start = if range.start.is_multiple_of(BLOCK_BYTES) { range.start } else { range.start - PAGE_BYTES };
            let end = if range.end.is_multiple_of(BLOCK_BYTES) { range.end } else { range.end.saturating_add(PAGE_BYTES) };
            match spans.last_mut() {
                Some(last) if start <= last.end + BRIDGE.bytes().0 => last.end = last.end.max(end),
                _ => spans.push(AddrRange { start, end }),
            }
        }
        let mut runs = Vec::with_capacity(spans.len());
        for span in spans {
            let mut entries = Vec::with_capacity((span.pages().0) as usize);
            calls.entries(span, &mut entries)?;
            runs.push((span.start, entries));
        }
        Ok(Self { runs })
    }

    /// Entries of a range that was asked for.
    pub fn pages(&self, range: AddrRange) -> &[Entry] {
        let run = self.runs.partition_point(|(start, _)| *start <= range.start);
        let Some((start, entries)) = run.checked_sub(1).map(|i| &self.runs[i]) else { return &[] };
        let index = |addr: u64| ((addr - start) / PAGE_BYTES) as usize;
        entries.get(index(range.start)..index(range.end)).unwrap_or_default()
    }

    /// The frames of the pages of `ranges` that nobody else maps, ascending; `None` where the kernel hides them.
    pub fn frames(&self, ranges: &[AddrRange]) -> Option<Vec<u64>> {
        let present = ranges.iter().flat_map(|range| self.pages(*range)).filter(|entry| entry.present() && entry.exclusive());
        let mut frames = present.map(|entry| entry.frame()).collect::<Option<Vec<u64>>>()?;
        frames.sort_unstable();
        Some(frames)
    }

    fn page(&self, addr: u64) -> Entry {
        self.pages(AddrRange { start: addr, end: addr + PAGE_BYTES }).first().copied().unwrap_or_default()
    }

    /// No folio reaches over `addr`.
    fn whole_at(&self, calls: &mut impl Ground, addr: u64) -> io::Result<bool> {
        match self.doubt(addr) {
            Doubt::None => Ok(true),
            Doubt::Hidden => Ok(false),
            Doubt::At(frame) => Ok(calls.flags(frame, 1)?.first().is_some_and(|f| !f.tail())),
        }
    }

    /// The frame at `addr` if the page before it may belong to the same folio. A folio lies on consecutive frames and
    /// never crosses a block boundary; a frame that the kernel hides could belong to anything.
    fn doubt(&self, addr: u64) -> Doubt {
        if addr.is_multiple_of(BLOCK_BYTES) {
            return Doubt::None;
        }
        let (before, here) = (self.page(addr - PAGE_BYTES), self.page(addr));
        if !before.present() || !here.present() {
            return Doubt::None;
        }
        match (before.frame(), here.frame()) {
            (Some(a), Some(b)) if a + 1 == b => Doubt::At(b),
            (Some(_), Some(_)) => Doubt::None,
            (None, _) | (_, None) => Doubt::Hidden,
        }
    }
}

/// Cuts ranges into what one call takes: `most` bytes, and less where they are many. A folio is never cut, so that a call
/// may exceed `most` by up to a block.
pub fn portions(calls: &mut impl Ground, seen: &Snapshot, ranges: &[AddrRange], most: u64) -> io::Result<Vec<Vec<AddrRange>>> {
    let (mut portions, mut portion, mut room) = (Vec::new(), Vec::new(), most);
    for range in ranges {
        let mut start = range.start;
        while start < range.end {
            let mut end = start.saturating_add(room).min(range.end);
            if end < range.end && !seen.whole_at(calls, end)? {
                end = (end / BLOCK_BYTES + 1).saturating_mul(BLOCK_BYTES).min(range.end);
            }
            portion.push(AddrRange { start, end });
            room = room.saturating_sub(end - start + RANGE_COST.bytes().0);
            start = end;
            if room < PAGE_BYTES {
                portions.push(std::mem::take(&mut portion));
                room = most;
            }
        }
    }
    if !portion.is_empty() {
        portions.push(portion);
    }
    Ok(portions)
}

enum Doubt {
    None,
    At(u64),
    Hidden,
}

/// The part of `range` that cuts no large folio: advice on a part of one would split it. One flag says whether an edge
/// cuts anything; where it does, more say how far the folio reaches.
pub fn whole_folios(calls: &mut impl Ground, seen: &Snapshot, range: AddrRange) -> io::Result<AddrRange> {
    let block_end = (range.start / BLOCK_BYTES + 1) * BLOCK_BYTES;
    let block_start = (range.end - 1) / BLOCK_BYTES * BLOCK_BYTES;
    let mut cut = |at: u64| Ok::<_, io::Error>(if seen.whole_at(calls, at)? { Doubt::None } else { seen.doubt(at) });
    let (at_start, at_end) = (cut(range.start)?, cut(range.end)?);
    let start = match at_start {
        Doubt::None => range.start,
        Doubt::Hidden => block_end,
        Doubt::At(frame) => {
            let most = (block_end.min(range.end) - range.start) / PAGE_BYTES;
            let tails = calls.flags(frame, most as usize)?.iter().take_while(|f| f.tail()).count() as u64;
            range.start + tails * PAGE_BYTES
        }
    };
    let end = match at_end {
        Doubt::None => range.end,
        Doubt::Hidden => block_start,
        Doubt::At(frame) => {
            let back = (range.end - block_start) / PAGE_BYTES;
            let flags = calls.flags(frame.saturating_sub(back), back as usize)?;
            let head = flags.iter().rev().position(|f| !f.tail()).map_or(back, |pages| pages as u64 + 1);
            range.end - head * PAGE_BYTES
        }
    };
    Ok(AddrRange { start, end: end.max(start) })
}
