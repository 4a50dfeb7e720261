//! Moving pages to a node: slice by slice, each looked at, guarded, moved in calls of bounded size, and what the kernel does not
//! say it moved looked at again.
//!
//! A folio moves whole, so that it is named once, by its first page; no folio is moved that reaches out of what was asked for.
//! A call that the kernel breaks off (one page of a batch did not move) goes on behind what was tried; nothing is tried
//! twice. Of a page that it puts down as being on the node that is so (mm/migrate.c, move_pages_and_store_status); of the others the look
//! afterwards tells.

use super::Reins;
use super::ground::{Coming, Stop, guards};
use super::pages::slices;
use super::place::{MOVE, Placing, Sum, counted, fault, refusal};
use super::snapshot::{Snapshot, whole_folios};
use crate::plan::calls::{MOVE_CALL, MOVE_SLICE};
use crate::sys::numa::UNTOLD;
use crate::sys::pagemap::Entry;
use crate::vocab::{AddrRange, BLOCK_BYTES, NodeId, PAGE_BYTES, Pages, Step};
use std::io;

pub(super) struct Moves<'a, C> {
    calls: &'a mut C,
    reins: &'a Reins,
    step: &'a Step,
    tally: Tally,
}

/// Present pages that move together.
#[derive(Clone, Copy, Debug)]
struct Folio {
    first: u64,
    pages: u64,
    shared: bool,
}

/// Pages by what became of them.
#[derive(Debug, Default)]
struct Tally {
    moved: u64,
    /// Found on other nodes.
    elsewhere: u64,
    there: u64,
    absent: u64,
    /// Present, and the kernel does not tell where.
    untold: u64,
    shared: u64,
    busy: u64,
    unmapped: u64,
    no_room: u64,
    uncut: u64,
    /// Of slices that were looked at and not moved.
    left: u64,
}

impl<'a, C: Placing> Moves<'a, C> {
    pub fn new(calls: &'a mut C, reins: &'a Reins, step: &'a Step) -> Self {
        Self { calls, reins, step, tally: Tally::default() }
    }

    pub fn run(mut self, to: NodeId, ranges: &[AddrRange], sum: &mut Sum) -> Result<(), Stop> {
        let ended = self.all(to, ranges, &mut sum.missed);
        let Tally { moved, elsewhere, untold, uncut, .. } = self.tally;
        (sum.done, sum.asked) = (moved, elsewhere);
        sum.whole = moved == elsewhere && untold == 0 && uncut == 0;
        sum.shortfall = self.tally.shortfall(to);
        ended
    }

    fn all(&mut self, to: NodeId, ranges: &[AddrRange], missed: &mut Vec<AddrRange>) -> Result<(), Stop> {
        let guest = self.calls.runs_guest().map_err(|e| self.fault("read of /proc/PID/fd", e))?;
        let slices = slices(ranges, if guest { BLOCK_BYTES } else { MOVE_SLICE.0 });
        for (i, ranges) in slices.iter().enumerate() {
            if i > 0 {
                self.calls.pause(self.reins.pause());
            }
            if let Err((stop, reached)) = self.slice(to, ranges) {
                let rest = slices[i..].iter().flatten();
                missed.extend(rest.filter(|r| r.end > reached).map(|r| AddrRange { start: r.start.max(reached), ..*r }));
                return Err(stop);
            }
        }
        Ok(())
    }

    /// A slice; if it is stopped, with the address up to which pages were tried.
    fn slice(&mut self, to: NodeId, ranges: &[AddrRange]) -> Result<(), (Stop, u64)> {
        if self.reins.stopped() {
            return Err((Stop::Braked, 0));
        }
        let folios = self.look(ranges, to).map_err(|stop| (stop, 0))?;
        let pages = pages(&folios);
        if pages == 0 {
            return Ok(());
        }
        self.tally.left += pages;
        guards(self.calls, self.step, Coming { node: Pages(pages).bytes(), ..Coming::default() }).map_err(|stop| (stop, 0))?;
        self.portions(&folios, to)
    }

    /// The folios of a slice that lie elsewhere and may move; the others are counted.
    fn look(&mut self, ranges: &[AddrRange], to: NodeId) -> Result<Vec<Folio>, Stop> {
        let seen = Snapshot::take(self.calls, ranges).map_err(|e| self.fault("read of pagemap", e))?;
        let mut folios = Vec::new();
        for &range in ranges {
            let whole = whole_folios(self.calls, &seen, range).map_err(|e| self.fault("read of /proc/kpageflags", e))?;
            self.tally.uncut += range.pages().0 - whole.pages().0;
            if whole.start < whole.end {
                self.folios(whole, seen.pages(whole), &mut folios).map_err(|e| self.fault("read of /proc/kpageflags", e))?;
            }
        }
        if folios.is_empty() {
            return Ok(folios);
        }
        let nodes = self.calls.nodes(&firsts(&folios)).map_err(|e| self.refused(e, to))?;
        let mut wanted = Vec::with_capacity(folios.len());
        for (folio, node) in folios.into_iter().zip(nodes) {
            match node {
                node if node == i32::from(to.0) => self.tally.there += folio.pages,
                0.. => {
                    self.tally.elsewhere += folio.pages;
                    if folio.shared {
                        self.tally.shared += folio.pages;
                    } else {
                        wanted.push(folio);
                    }
                }
                // Linux 6.1 to 6.5 say so of a page that waits for its hint fault, and would not move it either.
                node if node == -libc::ENOENT => self.tally.untold += folio.pages,
                _ => self.tally.unmapped += folio.pages,
            }
        }
        Ok(wanted)
    }

    /// Sorts present pages into folios. Pages on consecutive frames may be one; where the kernel hides frames each page
    /// stands for itself, and those that moved with another are told by the look afterwards.
    fn folios(&mut self, range: AddrRange, entries: &[Entry], out: &mut Vec<Folio>) -> io::Result<()> {
        let mut at = 0;
        while at < entries.len() {
            if !entries[at].present() {
                self.tally.absent += 1;
                at += 1;
                continue;
            }
            let run = entries[at..].windows(2).take_while(|pair| follows(pair[0], pair[1])).count() + 1;
            let tails: Vec<bool> = match entries[at].frame() {
                Some(frame) if run > 1 => self.calls.flags(frame, run)?.iter().map(|flags| flags.tail()).collect(),
                Some(_) | None => vec![false; run],
            };
            for (i, tail) in tails.into_iter().enumerate() {
                match out.last_mut() {
                    // A tail whose head is not here (unmapped, or a huge page of 1 GiB) stands for the rest of its folio.
                    Some(folio) if tail && i > 0 => folio.pages += 1,
                    Some(_) | None => {
                        let first = range.start + (at + i) as u64 * PAGE_BYTES;
                        out.push(Folio { first, pages: 1, shared: !entries[at + i].exclusive() });
                    }
                }
            }
            at += run;
        }
        Ok(())
    }

    fn portions(&mut self, folios: &[Folio], to: NodeId) -> Result<(), (Stop, u64)> {
        let mut rest = folios;
        while let Some(next) = rest.first() {
            if rest.len() < folios.len() {
                self.calls.pause(self.reins.pause());
                if self.reins.stopped() {
                    return Err((Stop::Braked, next.first));
                }
            }
            let (mut room, mut take) = (MOVE_CALL.pages().0, 0);
            while take < rest.len() && (take == 0 || room >= rest[take].pages) {
                room = room.saturating_sub(rest[take].pages);
                take += 1;
            }
            let (portion, later) = rest.split_at(take);
            self.portion(portion, to).map_err(|stop| (stop, next.first))?;
            rest = later;
        }
        Ok(())
    }

    /// Moves some folios and counts what came of each.
    fn portion(&mut self, folios: &[Folio], to: NodeId) -> Result<(), Stop> {
        let (mut said, mut stop) = (Vec::with_capacity(folios.len()), None);
        while said.len() < folios.len() && stop.is_none() {
            match self.calls.move_pages(&firsts(&folios[said.len()..]), to) {
                Ok(status) => said.extend_from_slice(&status[..tried(&status)]),
                Err(e) => stop = Some(e),
            }
        }
        // Of what a call refuses as a whole it says nothing.
        let no_room = stop.as_ref().is_some_and(|e| e.raw_os_error() == Some(libc::ENOMEM));
        let said = |at: usize| said.get(at).copied().or(no_room.then_some(-libc::ENOMEM));
        let (sure, doubtful): (Vec<usize>, _) = (0..folios.len()).partition(|&at| said(at) == Some(to.0.into()));
        let moved = sure.into_iter().map(|at| folios[at].pages).sum::<u64>();
        (self.tally.moved, self.tally.left) = (self.tally.moved + moved, self.tally.left - moved);
        if !doubtful.is_empty() {
            // Whatever ended it, what moved, moved.
            let asked: Vec<u64> = doubtful.iter().map(|&at| folios[at].first).collect();
            let nodes = match self.calls.nodes(&asked) {
                Ok(nodes) => nodes,
                Err(e) => return Err(self.refused(stop.unwrap_or(e), to)),
            };
            for (at, node) in doubtful.into_iter().zip(nodes) {
                self.tally.settle(folios[at].pages, said(at), node, to);
            }
        }
        match stop {
            None => Ok(()),
            Some(e) => Err(self.refused(e, to)),
        }
    }

    fn refused(&self, e: io::Error, to: NodeId) -> Stop {
        refusal(MOVE, e, self.step.action.proc(), to)
    }

    fn fault(&mut self, call: &'static str, e: io::Error) -> Stop {
        fault(self.calls, self.step.action.proc(), call, e)
    }
}

impl Tally {
    /// One folio after a call that did not say it moved: what the call said of it, if it got to it, and where it is now.
    fn settle(&mut self, pages: u64, said: Option<i32>, node: i32, to: NodeId) {
        let what = match said.map(i32::wrapping_neg) {
            _ if node == i32::from(to.0) => &mut self.moved,
            _ if node == -libc::ENOENT => &mut self.absent,
            _ if node < 0 => &mut self.unmapped,
            None => return,
            Some(libc::EACCES) => &mut self.shared,
            Some(libc::ENOMEM) => &mut self.no_room,
            Some(libc::ENOENT) => &mut self.absent,
            Some(libc::EFAULT) => &mut self.unmapped,
            // EBUSY; and a page of a batch of which the kernel says only that not all of it moved.
            Some(_) => &mut self.busy,
        };
        *what += pages;
        self.left -= pages;
    }

    fn shortfall(&self, to: NodeId) -> String {
        let Self { moved: _, elsewhere: _, there, absent, untold, shared, busy, unmapped, no_room, uncut, left } = *self;
        counted(
            "pages",
            [
                (there, format!("were on {to} already")),
                (absent, "were not in memory".into()),
                (untold, "wait for a NUMA hint fault, and this kernel neither tells where they are nor moves them".into()),
                (shared, "are mapped more than once".into()),
                (busy, "stayed (pinned or busy)".into()),
                (unmapped, "are none to be moved (unmapped, or the zero page)".into()),
                (no_room, format!("stayed: no room on {to}")),
                (uncut, "belong to huge pages that reach beyond the range".into()),
                (left, "were not tried".into()),
            ],
        )
    }
}

fn firsts(folios: &[Folio]) -> Vec<u64> {
    folios.iter().map(|folio| folio.first).collect()
}

fn pages(folios: &[Folio]) -> u64 {
    folios.iter().map(|folio| folio.pages).sum()
}

/// On the next frame, so that both may be of one folio.
fn follows(a: Entry, b: Entry) -> bool {
    b.present() && matches!((a.frame(), b.frame()), (Some(a), Some(b)) if a + 1 == b)
}

/// How many pages of a call were tried. The kernel moves them in batches that end where it refuses a page at once, and says
/// so of that page; when a batch does not move whole, it says nothing of it and breaks off (mm/migrate.c, do_pages_move).
fn tried(status: &[i32]) -> usize {
    let untold = status.iter().position(|said| *said == UNTOLD);
    let told = untold.and_then(|first| status[first..].iter().position(|said| *said != UNTOLD).map(|more| first + more));
    match (untold, told) {
        (Some(_), Some(refused)) => refused + 1,
        (Some(_), None) | (None, _) => status.len(),
    }
}
