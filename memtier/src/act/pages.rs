//! Steps on a process's pages: page out, deactivate, arm.
//!
//! Cost (docs/hands.md has the figures): per slice one vector call per 1024 ranges and two reads of pagemap per 16,384
//! pages. The slice bounds how long mmap() and munmap() in the target can wait: advice holds its mmap_lock throughout.
//! Marking pages idle takes no lock of the target, and one write per run of frames.

use super::ground::{Coming, Ground, Stop, end, guards};
use super::pace::Pace;
use super::snapshot::{Snapshot, portions, whole_folios};
use super::{Actuator, Kernel, Reins};
use crate::config;
use crate::plan::calls::{COLD_SLICE, PAGE_OUT_CALL, PAGE_OUT_SLICE};
use crate::sys::files::Root;
use crate::sys::memory::{Advice, MOST_RANGES};
use crate::sys::page_idle::{self, Bitmap, Words};
use crate::sys::pagemap::Entry;
use crate::vocab::{Action, AddrRange, Amount, BLOCK_BYTES, Bytes, End, Guard, Outcome, PAGE_BYTES, Pages, Span, Step};
use std::io;

/// What this hand asks of the kernel beside what all do.
pub trait Calls: Ground {
    fn advise(&mut self, ranges: &[AddrRange], advice: Advice) -> io::Result<u64>;
    fn has_swap_pages(&self) -> bool;
    fn swap_pages(&mut self, addresses: &[u64]) -> io::Result<()>;
    fn has_page_idle(&self) -> bool;
    /// Marks frames idle; returns how many of the words were taken.
    fn mark_idle(&mut self, words: &Words) -> io::Result<usize>;
}

/// CPU time that one call may take: it holds the target's mmap_lock throughout.
const HOLD: Span = Span(600_000);

/// A call costs more than fewer pages do where pages cost little: calls that became smaller because pages seem dear would make
/// them dearer still.
const COLD_LEAST: Pages = Pages(256);

/// What a page costs by what is said of it. A swap area that compresses better is several times as slow.
#[derive(Clone, Copy, Debug)]
struct Paces {
    cold: Pace,
    page_out: Pace,
}

impl Paces {
    const GUESS: Self = Self { cold: Pace::guess(110, HOLD).at_least(COLD_LEAST), page_out: Pace::guess(4_600, HOLD) };

    const fn of(&mut self, advice: Advice) -> &mut Pace {
        match advice {
            Advice::Cold => &mut self.cold,
            Advice::PageOut => &mut self.page_out,
        }
    }
}

/// Carries out page-outs, deactivations and arming.
#[derive(Debug)]
pub struct Hands<C: Calls = Kernel> {
    calls: C,
    reins: Reins,
    paces: Paces,
}

impl Hands {
    #[must_use]
    pub fn new(arm: &config::Arm) -> Self {
        Self::with(Kernel::with(Bitmap::open(&Root::host(), true).ok()), arm)
    }
}

impl<C: Calls> Hands<C> {
    pub fn with(calls: C, arm: &config::Arm) -> Self {
        Self { calls, reins: Reins::new(arm), paces: Paces::GUESS }
    }
    #[must_use]
    pub fn reins(&self) -> Reins {
        self.reins.clone()
    }
}

impl<C: Calls> Actuator for Hands<C> {
    fn apply(&mut self, step: &Step) -> Outcome {
        let Self { calls, reins, paces } = self;
        Work { calls, step, reins, paces, tally: Tally::default() }.run()
    }
}

/// Pages of a step, by what became of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Gone to swap, or cleared.
    done: u64,
    absent: u64,
    shared: u64,
    stayed: u64,
    uncut: u64,
    beyond: u64,
    /// Refused by the kernel: ranges and the errno of each.
    refused: Vec<(AddrRange, i32)>,
    /// Where bits are to be cleared, and the part of it where none is left to clear; both ascend.
    to_clear: Vec<AddrRange>,
    cleared: Vec<AddrRange>,
}

/// What a step takes to do.
#[derive(Clone, Copy)]
enum Means {
    PageOut,
    Advise,
    MarkIdle,
}

struct Work<'a, C> {
    calls: &'a mut C,
    step: &'a Step,
    reins: &'a Reins,
    paces: &'a mut Paces,
    tally: Tally,
}

impl<C: Calls> Work<'_, C> {
    fn run(mut self) -> Outcome {
        let (began, cpu, made) = (self.calls.now(), self.calls.cpu_ns(), self.calls.made());
        let end = if began > self.step.expires {
            End::Expired
        } else {
            let stop = self.carry_out().err();
            let whole = self.tally.done == self.step.action.pages().0;
            end(self.step, stop, self.tally.done, whole, self.tally.shortfall())
        };
        self.calls.release();
        let done = Amount {
            pages: Pages(self.tally.done),
            asked: self.step.action.pages(),
            syscalls: self.calls.made() - made,
            cpu_ns: self.calls.cpu_ns() - cpu,
        };
        let missed = less(&self.tally.to_clear, &self.tally.cleared);
        Outcome { step: self.step.id, began, ended: self.calls.now(), done, end, missed }
    }

    fn carry_out(&mut self) -> Result<(), Stop> {
        let (means, slice) = match &self.step.action {
            Action::Scan { .. } => return Err(Stop::Fault("scan by the hands", io::Error::from(io::ErrorKind::Unsupported))),
            Action::Arm { .. } if self.calls.has_page_idle() => (Means::MarkIdle, COLD_SLICE),
            Action::Arm { .. } | Action::Deactivate { .. } => (Means::Advise, COLD_SLICE),
            Action::PageOut { .. } => (Means::PageOut, PAGE_OUT_SLICE),
            Action::Bind { .. }
            | Action::MovePages { .. }
            | Action::Migrate { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetWatch { .. }
            | Action::SetFree { .. } => {
                return Err(Stop::Fault("placing by the hands", io::Error::from(io::ErrorKind::Unsupported)));
            }
        };
        // A dry run does not even look at the process.
        if self.step.guards.contains(&Guard::DryRun) {
            return Err(Stop::Skip(Guard::DryRun));
        }
        let proc = self.step.action.proc();
        if !self.calls.attach(proc).map_err(|e| Stop::Fault("open", e))? {
            return Err(Stop::Skip(Guard::Alive(proc)));
        }
        let slices = slices(self.step.action.ranges(), slice.0);
        match means {
            Means::MarkIdle | Means::Advise => self.tally.to_clear = slices.concat(),
            Means::PageOut => {}
        }
        for (i, ranges) in slices.iter().enumerate() {
            if i > 0 {
                self.calls.pause(self.reins.pause());
            }
            if self.reins.stopped() {
                return Err(Stop::Braked);
            }
            let swap = ranges.iter().map(AddrRange::pages).sum::<Pages>().bytes();
            guards(self.calls, self.step, Coming { swap, ..Coming::default() })?;
            self.slice(ranges, means)?;
        }
        Ok(())
    }

    fn slice(&mut self, ranges: &[AddrRange], means: Means) -> Result<(), Stop> {
        let before = Snapshot::take(self.calls, ranges).map_err(|e| Stop::Fault("read of pagemap", e))?;
        let mut whole = Vec::with_capacity(ranges.len());
        for &range in ranges {
            let part = whole_folios(self.calls, &before, range).map_err(|e| Stop::Fault("read of /proc/kpageflags", e))?;
            self.tally.uncut += range.pages().0 - part.pages().0;
            if part.start < part.end {
                whole.push(part);
            }
        }
        match means {
            Means::PageOut => self.page_out(&whole, &before),
            Means::Advise => self.cold(&whole, &before),
            Means::MarkIdle => match before.frames(&whole) {
                Some(frames) => self.mark_idle(&whole, &before, frames),
                None => self.cold(&whole, &before),
            },
        }
    }

    fn cold(&mut self, ranges: &[AddrRange], before: &Snapshot) -> Result<(), Stop> {
        let refused = self.tally.refused.len();
        // After a stop nobody knows which ranges of the vector were done: none is counted.
        self.advise(ranges, before, Advice::Cold, Bytes(self.reins.slice()))?;
        let refused: Vec<AddrRange> = self.tally.refused[refused..].iter().map(|(range, _)| *range).collect();
        for range in less(ranges, &refused) {
            // The kernel passes over pages that are mapped more than once, and says nothing.
            let shared = self.tally.cleared(range, before.pages(range), Entry::exclusive);
            self.tally.shared += shared;
        }
        Ok(())
    }

    /// Clears by frame, in locked mappings too. Of a page that others map, their bits would go as well, and with them what the
    /// model is to learn of those: it is left alone, as advice does. A frame that became another's since the look loses
    /// nothing but a bit, which reclaim remembers.
    fn mark_idle(&mut self, ranges: &[AddrRange], before: &Snapshot, frames: Vec<u64>) -> Result<(), Stop> {
        let (marked, stop) = self.mark_all(frames);
        for range in ranges {
            let pages = before.pages(*range);
            let was_marked = |entry: Entry| entry.exclusive() && entry.frame().is_some_and(|frame| frame < marked);
            let passed = self.tally.cleared(*range, pages, was_marked);
            let shared = pages.iter().filter(|entry| entry.present() && !entry.exclusive()).count() as u64;
            self.tally.shared += shared;
            self.tally.beyond += if stop.is_ok() { passed - shared } else { 0 };
        }
        stop
    }

    /// Returns the frame below which all were marked: frames ascend, and so do the words. Where the bitmap ends no later
    /// word is taken either.
    fn mark_all(&mut self, frames: Vec<u64>) -> (u64, Result<(), Stop>) {
        for words in page_idle::gather(frames) {
            match self.calls.mark_idle(&words) {
                Ok(taken) if taken == words.bits.len() => {}
                Ok(taken) => return (words.frame(taken), Ok(())),
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return (words.frame(0), Ok(())),
                Err(e) => return (words.frame(0), Err(Stop::Fault("write to the page_idle bitmap", e))),
            }
        }
        (u64::MAX, Ok(()))
    }

    fn page_out(&mut self, ranges: &[AddrRange], before: &Snapshot) -> Result<(), Stop> {
        let stop = if self.calls.has_swap_pages() {
            self.swap_pages(ranges, before)
        } else {
            self.advise(ranges, before, Advice::PageOut, PAGE_OUT_CALL)
        };
        // Whatever ended it, what moved, moved.
        let after = Snapshot::take(self.calls, ranges).map_err(|e| Stop::Fault("read of pagemap", e));
        if let Ok(after) = &after {
            for range in ranges {
                for (was, is) in before.pages(*range).iter().zip(after.pages(*range)) {
                    self.tally.page_out(*was, *is);
                }
            }
        }
        stop.and(after.map(drop))
    }

    /// One call after the other with a pause between: each holds the target's mmap_lock, and without the pause the next
    /// one takes it before whoever waits for it.
    fn advise(&mut self, ranges: &[AddrRange], before: &Snapshot, advice: Advice, most: Bytes) -> Result<(), Stop> {
        let room = self.paces.of(advice).room(most).0;
        let portions = portions(self.calls, before, ranges, room).map_err(|e| Stop::Fault("read of /proc/kpageflags", e))?;
        for (i, portion) in portions.iter().enumerate() {
            if i > 0 {
                self.calls.pause(self.reins.pause());
            }
            let cpu = self.calls.cpu_ns();
            self.call(portion, advice)?;
            self.paces.of(advice).note(portion.iter().map(AddrRange::pages).sum(), self.calls.cpu_ns() - cpu);
        }
        Ok(())
    }

    /// A range that the kernel refuses ends its vector: it is noted and the rest goes on.
    fn call(&mut self, ranges: &[AddrRange], advice: Advice) -> Result<(), Stop> {
        let mut rest = ranges;
        while !rest.is_empty() {
            let vector = &rest[..rest.len().min(MOST_RANGES)];
            match self.calls.advise(vector, advice) {
                Ok(bytes) => {
                    let mut left = bytes;
                    let whole = vector.iter().take_while(|r| {
                        let len = r.end - r.start;
                        let fits = left >= len;
                        left = left.saturating_sub(len);
                        fits
                    });
                    // The range that stopped the vector goes first in the next one, which brings its errno.
                    let whole = whole.count();
                    rest = &rest[whole..];
                    if whole == 0 {
                        self.tally.refused.push((rest[0], 0));
                        rest = &rest[1..];
                    }
                }
                Err(e) => match e.raw_os_error() {
                    Some(errno @ (libc::EINVAL | libc::ENOMEM)) => {
                        self.tally.refused.push((rest[0], errno));
                        rest = &rest[1..];
                    }
                    _ => return Err(Stop::Fault(advice.name(), e)),
                },
            }
        }
        Ok(())
    }

    fn swap_pages(&mut self, ranges: &[AddrRange], before: &Snapshot) -> Result<(), Stop> {
        let present = |range: &AddrRange| {
            let (start, pages) = (range.start, before.pages(*range).iter().enumerate());
            pages.filter(|(_, e)| e.present()).map(move |(i, _)| start + i as u64 * PAGE_BYTES).collect::<Vec<_>>()
        };
        let addresses: Vec<u64> = ranges.iter().flat_map(present).collect();
        self.calls.swap_pages(&addresses).map_err(|e| Stop::Fault("write to swap_pages", e))
    }
}

impl Tally {
    /// Notes where no bit is left to clear; returns how many present pages were passed over.
    fn cleared(&mut self, range: AddrRange, before: &[Entry], done: impl Fn(Entry) -> bool) -> u64 {
        let (mut passed, mut start) = (0, range.start);
        let pages = (range.start..range.end).step_by(PAGE_BYTES as usize);
        for (page, entry) in pages.zip(before) {
            match (entry.present(), done(*entry)) {
                (true, true) => self.done += 1,
                (false, _) => self.absent += 1,
                (true, false) => {
                    passed += 1;
                    self.cleared.push(AddrRange { start, end: page });
                    start = page + PAGE_BYTES;
                }
            }
        }
        self.cleared.push(AddrRange { start, end: range.end });
        passed
    }

    pub(super) fn page_out(&mut self, was: Entry, is: Entry) {
        match (was.present(), is.present()) {
            // A page that is gone without a swap entry was unmapped by its owner, unless it is a file's.
            (true, false) if is.swapped() || was.file() => self.done += 1,
            (true, false) | (false, _) => self.absent += 1,
            (true, true) => self.stayed += 1,
        }
    }

    /// Says which pages were asked for and not done; empty when all were.
    pub(super) fn shortfall(&self) -> String {
        let Self { done: _, absent, shared, stayed, uncut, beyond, refused, to_clear: _, cleared: _ } = self;
        let mut parts: Vec<String> = Vec::new();
        for (pages, what) in [
            (absent, "were not in memory"),
            (shared, "are mapped more than once"),
            (stayed, "stayed in memory (busy, just touched, shared, or no room in swap)"),
            (uncut, "belong to huge pages that reach beyond the range"),
            (beyond, "lie where the page_idle bitmap ends"),
        ] {
            if *pages > 0 {
                parts.push(format!("{pages} pages {what}"));
            }
        }
        for (range, errno) in refused.iter().take(3) {
            parts.push(format!("{range} refused: {}", refusal(*errno)));
        }
        if let Some(more) = refused.len().checked_sub(3).filter(|n| *n > 0) {
            parts.push(format!("{more} more ranges refused"));
        }
        parts.join(", ")
    }
}

/// What an errno of advice says about the range (sys::memory has the table).
fn refusal(errno: i32) -> &'static str {
    match errno {
        0 => "advised short without a reason",
        libc::ENOMEM => "an unmapped hole in it",
        _ => "locked, hugetlb or device memory in it",
    }
}

/// Cuts ranges into slices of at most `most` bytes (at least one block), and only at block boundaries, so that no huge
/// page is cut. Unaligned, empty and overlapping ranges are brought into order first.
pub(super) fn slices(ranges: &[AddrRange], most: u64) -> Vec<Vec<AddrRange>> {
    let mut sorted: Vec<AddrRange> =
        ranges.iter().map(|r| AddrRange { start: r.start.next_multiple_of(PAGE_BYTES), end: r.end & !(PAGE_BYTES - 1) }).collect();
    sorted.sort_unstable();
    let most = most.max(BLOCK_BYTES);
    let (mut slices, mut slice, mut room, mut floor) = (Vec::new(), Vec::new(), most, 0);
    for range in sorted {
        let mut start = range.start.max(floor);
        while start < range.end {
            let reach = start.saturating_add(room);
            let end = if reach >= range.end { range.end } else { reach & !(BLOCK_BYTES - 1) };
            if end <= start {
                // No whole block fits into what is left of this slice.
                slices.push(std::mem::take(&mut slice));
                room = most;
                continue;
            }
            slice.push(AddrRange { start, end });
            room -= end - start;
            start = end;
        }
        floor = floor.max(range.end);
    }
    if !slice.is_empty() {
        slices.push(slice);
    }
    slices
}

/// What of `all` is not in `part`; both ascend, and no two ranges of one overlap.
fn less(all: &[AddrRange], part: &[AddrRange]) -> Vec<AddrRange> {
    let mut part = part.iter().filter(|range| range.start < range.end).peekable();
    let mut left = Vec::new();
    for range in all {
        let mut start = range.start;
        while let Some(cut) = part.next_if(|cut| cut.start < range.end) {
            left.push(AddrRange { start, end: cut.start });
            start = cut.end;
        }
        left.push(AddrRange { start, end: range.end });
    }
    left.retain(|range| range.start < range.end);
    left
}
