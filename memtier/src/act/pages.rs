//! Steps on a process's pages: page out, deactivate, arm.
//!
//! Cost (docs/hands.md has the figures): per slice one vector call per 1024 ranges and two reads of pagemap per 16,384
//! pages. The slice bounds how long mmap() and munmap() in the target can wait: advice holds its mmap_lock throughout.

use super::snapshot::{Snapshot, portions, whole_folios};
use super::{Actuator, Kernel};
use crate::config;
use crate::plan::calls::{COLD_SLICE, PAGE_OUT_CALL, PAGE_OUT_SLICE};
use crate::sys::memory::{Advice, MOST_RANGES};
use crate::sys::pagemap::{Entry, Flags};
use crate::vocab::{
    Action, AddrRange, Amount, BLOCK_BYTES, Bytes, End, Fault, Guard, Outcome, PAGE_BYTES, Pages, Permil, ProcKey, Span, Step, Time,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What the hands ask of the kernel; tests put a table of answers here.
pub trait Calls {
    /// Takes hold of a process; all calls below are about it. `false`: it is gone, or its pid is another process's.
    fn attach(&mut self, proc: ProcKey) -> io::Result<bool>;
    fn release(&mut self);
    fn advise(&mut self, ranges: &[AddrRange], advice: Advice) -> io::Result<u64>;
    fn has_swap_pages(&self) -> bool;
    fn swap_pages(&mut self, addresses: &[u64]) -> io::Result<()>;
    /// Appends one entry per page.
    fn entries(&mut self, range: AddrRange, out: &mut Vec<Entry>) -> io::Result<()>;
    fn flags(&mut self, frame: u64, count: usize) -> io::Result<Vec<Flags>>;
    /// Free swap, all swap.
    fn swap(&mut self) -> io::Result<(Bytes, Bytes)>;
    /// Memory pressure "some" avg10 of the host, hundredths of a percent.
    fn pressure(&mut self) -> io::Result<u32>;
    fn now(&self) -> Time;
    /// CPU time of this thread.
    fn cpu_ns(&self) -> u64;
    /// System calls made so far.
    fn made(&self) -> u64;
    fn pause(&mut self, time: Duration);
}

/// Steers the hands from outside of their thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Reins(Arc<Held>);

#[derive(Debug)]
struct Held {
    stop: AtomicBool,
    slice: AtomicU64,
    pause_us: AtomicU64,
}

impl Reins {
    fn new(arm: &config::Arm) -> Self {
        let reins = Self(Arc::new(Held { stop: false.into(), slice: 0.into(), pause_us: 0.into() }));
        reins.tune(arm);
        reins
    }
    /// Stops the step under way at its next slice, and every later one, until released: for pause and shutdown.
    pub fn stop(&self, on: bool) {
        self.0.stop.store(on, Ordering::Relaxed);
    }
    /// Takes new knobs from the next slice on.
    pub fn tune(&self, arm: &config::Arm) {
        self.0.slice.store(Bytes::from_mib(arm.slice_mib).0, Ordering::Relaxed);
        self.0.pause_us.store(arm.pause_us, Ordering::Relaxed);
    }
    fn stopped(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }
    fn slice(&self) -> u64 {
        self.0.slice.load(Ordering::Relaxed)
    }
    fn pause(&self) -> Duration {
        Duration::from_micros(self.0.pause_us.load(Ordering::Relaxed))
    }
}

/// CPU time that one call may take: it holds the target's mmap_lock throughout.
const HOLD: Span = Span(600_000);
/// Calls smaller than this say more about calling than about pages.
const TELLING: Pages = Pages(16);

/// What a page costs in a call, in ns of CPU time: guessed at first (docs/hands.md), then learned from the calls. A swap
/// area that compresses better is several times as slow.
#[derive(Clone, Copy, Debug)]
struct Pace {
    cold: u64,
    page_out: u64,
}

impl Pace {
    const GUESS: Self = Self { cold: 110, page_out: 4_600 };

    const fn of(&mut self, advice: Advice) -> &mut u64 {
        match advice {
            Advice::Cold => &mut self.cold,
            Advice::PageOut => &mut self.page_out,
        }
    }

    fn note(&mut self, advice: Advice, pages: Pages, took: u64) {
        if pages >= TELLING {
            let usual = self.of(advice);
            *usual = (3 * *usual + took / pages.0) / 4;
        }
    }

    /// Bytes that one call may take, `most` or less.
    fn room(&mut self, advice: Advice, most: Bytes) -> Bytes {
        most.min(Pages(HOLD.0 / (*self.of(advice)).max(1)).max(TELLING).bytes())
    }
}

/// Carries out page-outs, deactivations and arming.
#[derive(Debug)]
pub struct Hands<C: Calls = Kernel> {
    calls: C,
    reins: Reins,
    pace: Pace,
}

impl Hands {
    #[must_use]
    pub fn new(arm: &config::Arm) -> Self {
        Self::with(Kernel::default(), arm)
    }
}

impl<C: Calls> Hands<C> {
    pub fn with(calls: C, arm: &config::Arm) -> Self {
        Self { calls, reins: Reins::new(arm), pace: Pace::GUESS }
    }
    #[must_use]
    pub fn reins(&self) -> Reins {
        self.reins.clone()
    }
}

impl<C: Calls> Actuator for Hands<C> {
    fn apply(&mut self, step: &Step) -> Outcome {
        let Self { calls, reins, pace } = self;
        Work { calls, step, reins, pace, tally: Tally::default() }.run()
    }
}

/// Why a step ended before its last slice.
enum Stop {
    Skip(Guard),
    Braked,
    Fault(&'static str, io::Error),
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
    /// Refused by the kernel: ranges and the errno of each.
    refused: Vec<(AddrRange, i32)>,
    /// Where no bit was cleared.
    missed: Vec<AddrRange>,
}

struct Work<'a, C> {
    calls: &'a mut C,
    step: &'a Step,
    reins: &'a Reins,
    pace: &'a mut Pace,
    tally: Tally,
}

impl<C: Calls> Work<'_, C> {
    fn run(mut self) -> Outcome {
        let (began, cpu, made) = (self.calls.now(), self.calls.cpu_ns(), self.calls.made());
        let end = if began > self.step.expires {
            End::Expired
        } else {
            let stop = self.carry_out().err();
            self.end(stop)
        };
        self.calls.release();
        let done = Amount {
            pages: Pages(self.tally.done),
            asked: self.step.action.pages(),
            syscalls: self.calls.made() - made,
            cpu_ns: self.calls.cpu_ns() - cpu,
        };
        let mut missed = std::mem::take(&mut self.tally.missed);
        missed.sort_unstable();
        Outcome { step: self.step.id, began, ended: self.calls.now(), done, end, missed }
    }

    fn carry_out(&mut self) -> Result<(), Stop> {
        let (advice, slice) = match &self.step.action {
            Action::Scan { .. } => return Err(Stop::Fault("scan by the hands", io::Error::from(io::ErrorKind::Unsupported))),
            Action::Arm { .. } | Action::Deactivate { .. } => (Advice::Cold, COLD_SLICE),
            Action::PageOut { .. } => (Advice::PageOut, PAGE_OUT_SLICE),
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
        for (i, ranges) in slices.iter().enumerate() {
            if i > 0 {
                self.calls.pause(self.reins.pause());
            }
            let done = if self.reins.stopped() { Err(Stop::Braked) } else { self.guards(ranges) };
            if let Err(stop) = done.and_then(|()| self.slice(ranges, advice)) {
                if advice == Advice::Cold {
                    self.tally.missed.extend(slices[i..].iter().flatten());
                }
                return Err(stop);
            }
        }
        Ok(())
    }

    /// Looks again at what must hold, with this slice counted as if it went.
    fn guards(&mut self, ranges: &[AddrRange]) -> Result<(), Stop> {
        for guard in &self.step.guards {
            let holds = match guard {
                // The handles go stale with the process: every later call then says ESRCH.
                Guard::Alive(proc) => *proc == self.step.action.proc(),
                Guard::SwapFree { least } => {
                    let (free, total) = self.calls.swap().map_err(|e| Stop::Fault("read of /proc/meminfo", e))?;
                    let slice: Pages = ranges.iter().map(AddrRange::pages).sum();
                    total > Bytes::ZERO && Permil::of(free.saturating_sub(slice.bytes()).0, total.0) >= *least
                }
                Guard::Calm { most_avg10 } => {
                    self.calls.pressure().map_err(|e| Stop::Fault("read of /proc/pressure/memory", e))? <= *most_avg10
                }
                Guard::DryRun => false,
            };
            if !holds {
                return Err(Stop::Skip(guard.clone()));
            }
        }
        Ok(())
    }

    fn slice(&mut self, ranges: &[AddrRange], advice: Advice) -> Result<(), Stop> {
        let before = Snapshot::take(self.calls, ranges).map_err(|e| Stop::Fault("read of pagemap", e))?;
        let mut whole = Vec::with_capacity(ranges.len());
        for &range in ranges {
            let part = whole_folios(self.calls, &before, range).map_err(|e| Stop::Fault("read of /proc/kpageflags", e))?;
            self.tally.uncut += range.pages().0 - part.pages().0;
            if part.start < part.end {
                whole.push(part);
            }
            if advice == Advice::Cold {
                let (start, end) = (part.start.min(range.end), part.end.max(part.start));
                let edges = [AddrRange { start: range.start, end: start }, AddrRange { start: end, end: range.end }];
                self.tally.missed.extend(edges.iter().filter(|edge| edge.start < edge.end));
            }
        }
        match advice {
            Advice::Cold => {
                let refused = self.tally.refused.len();
                let stop = self.advise(&whole, &before, advice, Bytes(self.reins.slice())).err();
                let refused = self.tally.refused[refused..].to_vec();
                self.tally.missed.extend(refused.iter().map(|(bad, _)| *bad));
                let asked = whole.iter().filter(|r| !refused.iter().any(|(bad, _)| bad == *r));
                // After a stop nobody knows which ranges of the vector were done: count none.
                if stop.is_none() {
                    asked.for_each(|range| self.tally.cleared(*range, before.pages(*range)));
                }
                stop.map_or(Ok(()), Err)
            }
            Advice::PageOut => {
                let stop = if self.calls.has_swap_pages() {
                    self.swap_pages(&whole, &before)
                } else {
                    self.advise(&whole, &before, advice, PAGE_OUT_CALL)
                };
                // Whatever ended it, what moved, moved.
                let after = Snapshot::take(self.calls, &whole).map_err(|e| Stop::Fault("read of pagemap", e));
                if let Ok(after) = &after {
                    for range in &whole {
                        for (was, is) in before.pages(*range).iter().zip(after.pages(*range)) {
                            self.tally.page_out(*was, *is);
                        }
                    }
                }
                stop.and(after.map(drop))
            }
        }
    }

    /// One call after the other with a pause between: each holds the target's mmap_lock, and without the pause the next
    /// one takes it before whoever waits for it.
    fn advise(&mut self, ranges: &[AddrRange], before: &Snapshot, advice: Advice, most: Bytes) -> Result<(), Stop> {
        let room = self.pace.room(advice, most).0;
        let portions = portions(self.calls, before, ranges, room).map_err(|e| Stop::Fault("read of /proc/kpageflags", e))?;
        for (i, portion) in portions.iter().enumerate() {
            if i > 0 {
                self.calls.pause(self.reins.pause());
            }
            let cpu = self.calls.cpu_ns();
            self.call(portion, advice)?;
            self.pace.note(advice, portion.iter().map(AddrRange::pages).sum(), self.calls.cpu_ns() - cpu);
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

    fn end(&self, stop: Option<Stop>) -> End {
        let asked = self.step.action.pages().0;
        let why = match stop {
            None if self.tally.done == asked => return End::Done,
            None => return End::Partial(self.tally.shortfall()),
            Some(Stop::Skip(guard)) if self.tally.done == 0 => return End::Skipped(guard),
            Some(Stop::Skip(guard)) => format!("stopped: {guard}"),
            Some(Stop::Braked) => "stopped: paused or shutting down".into(),
            Some(Stop::Fault(call, e)) => {
                let fault = Fault {
                    call: call.into(),
                    on: self.step.action.proc().to_string(),
                    errno: e.raw_os_error().unwrap_or(0),
                    message: message(&e),
                };
                if self.tally.done == 0 {
                    return End::Failed(fault);
                }
                fault.to_string()
            }
        };
        let shortfall = self.tally.shortfall();
        End::Partial(if shortfall.is_empty() { why } else { format!("{why}; before that {shortfall}") })
    }
}

impl Tally {
    /// The kernel passes over pages that are mapped more than once, and says nothing.
    fn cleared(&mut self, range: AddrRange, before: &[Entry]) {
        let mut shared: Option<AddrRange> = None;
        for (place, entry) in before.iter().enumerate() {
            match (entry.present(), entry.exclusive()) {
                (true, true) => self.done += 1,
                (false, _) => self.absent += 1,
                (true, false) => {
                    self.shared += 1;
                    let start = range.start + place as u64 * PAGE_BYTES;
                    match &mut shared {
                        Some(run) if run.end == start => run.end += PAGE_BYTES,
                        run => self.missed.extend(run.replace(AddrRange { start, end: start + PAGE_BYTES })),
                    }
                }
            }
        }
        self.missed.extend(shared);
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
        let Self { done: _, absent, shared, stayed, uncut, refused, missed: _ } = self;
        let mut parts: Vec<String> = Vec::new();
        for (pages, what) in [
            (absent, "were not in memory"),
            (shared, "are mapped more than once"),
            (stayed, "stayed in memory (busy, just touched, shared, or no room in swap)"),
            (uncut, "belong to huge pages that reach beyond the range"),
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

/// The kernel's words without the number that std appends: `Fault` has a field for it.
fn message(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().into(),
        None => e.to_string(),
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
