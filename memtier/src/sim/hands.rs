//! The simulated host's hands: each step begins a moment after it was planned and ends in exactly one outcome.

use super::nodes::Moved;
use super::rng::{Purpose, Rng};
use super::world::{Happening, World};
use crate::config::Config;
use crate::plan::calls::calls;
use crate::vocab::{
    Action, AddrRange, Amount, BLOCK_BYTES, BLOCK_PAGES, Bytes, End, Event, Fault, Guard, MapsSample, Outcome, PageChunk, Pages,
    Permil, ProcKey, Sample, ServerId, Source, Span, Step, SwapBacking, Time,
};

/// The daemon that would run on this host.
pub(super) const OWN: ProcKey = ProcKey { pid: 900, start: 1 };
/// Blocks in one chunk of a walk: few, so that small processes too are walked in several chunks.
const CHUNK_BLOCKS: u64 = 8;

const EBUSY: i32 = 16;
const ESRCH: i32 = 3;

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    step: Step,
    began: Time,
    scan: u64,
    /// Where the next chunk starts.
    at: u64,
    seen: u64,
    lost: u64,
    dies: bool,
}

impl World {
    pub(super) fn begin(&mut self, step: Step) {
        let now = self.now;
        if now > step.expires {
            return self.outcome(&step, now, Amount::default(), End::Expired);
        }
        if let Some(guard) = step.guards.iter().find(|g| !self.holds(g)) {
            let guard = guard.clone();
            return self.outcome(&step, now, Amount::default(), End::Skipped(guard));
        }
        let proc = step.action.proc();
        let mut rng = Rng::of(self.seed, Purpose::Step, !step.id.decision ^ u64::from(step.id.index));
        if let Some(server) = step.action.server() {
            let busy = rng.chance(self.faults.busy);
            return self.at_server(&step, server, busy);
        }
        if !self.lives(proc) {
            return self.outcome(&step, now, Amount::default(), failed(&step, ESRCH, "No such process"));
        }
        if rng.chance(self.faults.busy) {
            return self.outcome(&step, now, Amount::default(), failed(&step, EBUSY, "Device or resource busy"));
        }
        let half = rng.chance(self.faults.partial);
        match &step.action {
            Action::Scan { .. } => self.begin_walk(step, rng.chance(self.faults.exit_mid_scan)),
            Action::Arm { ranges, .. } | Action::Deactivate { ranges, .. } => {
                let ranges = if half { first_half(ranges) } else { ranges.clone() };
                let p = self.procs.get_mut(&proc.pid).expect("lives() was true");
                let pages = Pages(p.arm(&ranges));
                self.finish(&step, now, pages, half);
            }
            Action::PageOut { ranges, .. } => {
                let ranges = if half { first_half(ranges) } else { ranges.clone() };
                let pages = self.page_out(proc, &ranges);
                self.finish(&step, now, pages, half);
            }
            Action::Bind { proc: _, cpus, whom } => {
                let cpus: Vec<u32> = cpus.iter().map(|cpu| cpu.0).collect();
                let members = whom.cgroup().map_or(std::slice::from_ref(&proc), |group| &group.members);
                let mut threads = 0;
                for member in members.iter().filter(|member| self.lives(**member)).map(|member| member.pid).collect::<Vec<_>>() {
                    let p = self.procs.get_mut(&member).expect("lives() was true");
                    let meant: Vec<u32> = (0..p.spec.threads).filter(|&thread| whom.tids().contains(&p.tid(thread))).collect();
                    if whom.tids().is_empty() {
                        threads += u64::from(p.spec.threads);
                        p.apart.clear();
                        p.cpus.clone_from(&cpus);
                    } else {
                        threads += meant.len() as u64;
                        p.apart.extend(meant.into_iter().map(|thread| (thread, cpus.clone())));
                    }
                }
                self.placed(&step, Moved { pages: threads, elsewhere: threads, missed: Vec::new() });
            }
            Action::MovePages { to, ranges, .. } => {
                let part = if half { first_half(ranges) } else { ranges.clone() };
                let mut moved = self.move_to(proc, &part, &[], *to, kept(&step));
                let done = part.last().map_or(0, |range| range.end);
                let rest = ranges.iter().map(|r| AddrRange { start: r.start.max(done), end: r.end });
                moved.missed.extend(rest.filter(|r| r.start < r.end));
                self.placed(&step, moved);
            }
            Action::Migrate { from, to, .. } => {
                let moved = self.move_to(proc, &[AddrRange::EVERYTHING], from, *to, kept(&step));
                self.placed(&step, moved);
            }
            Action::MoveSlabPage { server, .. }
            | Action::SetMover { server, .. }
            | Action::SetWatch { server, .. }
            | Action::SetFree { server, .. } => self.at_server(&step, *server, false),
        }
    }

    /// A step about a server; the look that follows comes before the outcome.
    fn at_server(&mut self, step: &Step, server: ServerId, busy: bool) {
        let now = self.now;
        let Some(cache) = self.caches.get_mut(usize::from(server.0)) else {
            return self.outcome(step, now, Amount::default(), failed(step, ESRCH, "no such server"));
        };
        let done = match &step.action {
            Action::MoveSlabPage { .. } | Action::SetMover { .. } | Action::SetFree { .. } if busy => {
                Err("BUSY currently processing reassign request")
            }
            Action::MoveSlabPage { from, to, .. } => cache.reassign(*from, *to),
            Action::SetMover { mode, .. } => {
                cache.automove = *mode;
                Ok(())
            }
            Action::SetWatch { on, .. } => {
                cache.watched = *on;
                Ok(())
            }
            // It takes the order and does not heed it.
            Action::SetFree { .. } => Ok(()),
            Action::Scan { .. }
            | Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. }
            | Action::MovePages { .. }
            | Action::Migrate { .. } => Err("it is not about a server"),
        };
        if let Action::SetWatch { on, .. } = step.action {
            self.set_watch(server.0, on);
        }
        self.look_at(server.0);
        let pages = Pages(u64::from(done.is_ok()));
        let amount = Amount { pages, asked: Pages(1), syscalls: 0, cpu_ns: 0 };
        let end = done.map_or_else(|said| failed(step, 0, said), |()| End::Done);
        self.outcome(step, now, amount, end);
    }

    fn finish(&mut self, step: &Step, began: Time, pages: Pages, half: bool) {
        let asked = step.action.pages();
        let syscalls = calls(&step.action, &Config::default());
        let done = Amount { pages, asked, syscalls, cpu_ns: asked.0 * 100 };
        let end = match (half, pages < asked) {
            (true, _) => End::Partial("interrupted".into()),
            (false, true) => End::Partial("some pages stayed".into()),
            (false, false) => End::Done,
        };
        self.outcome(step, began, done, end);
    }

    fn placed(&mut self, step: &Step, Moved { pages, elsewhere, missed }: Moved) {
        let syscalls = calls(&step.action, &Config::default());
        let done = Amount { pages: Pages(pages), asked: Pages(elsewhere), syscalls, cpu_ns: pages * 1000 };
        let end = if pages < elsewhere || !missed.is_empty() { End::Partial("some stayed".into()) } else { End::Done };
        self.ended(step, self.now, done, end, missed);
    }

    fn page_out(&mut self, proc: ProcKey, ranges: &[AddrRange]) -> Pages {
        let cgroup = self.procs[&proc.pid].cgroup;
        let (room, bytes) = self.swap_room(cgroup);
        let p = self.procs.get_mut(&proc.pid).expect("lives() was true");
        let gone = p.page_out(ranges, room, bytes);
        let pages = Pages(gone.pages.len() as u64);
        self.truth.splits += gone.splits;
        self.counters.swapped_out += pages.0;
        *self.written.entry(OWN).or_default() += pages.0;
        let free = self.swap_free();
        self.truth.took(self.now, &self.procs[&proc.pid], &gone.pages, free);
        if self.swap.is_some_and(|s| s.backing != SwapBacking::Zram) {
            self.io_stall.this_tick_us += 2 * pages.0;
        }
        pages
    }

    fn begin_walk(&mut self, step: Step, dies: bool) {
        let proc = step.action.proc();
        if self.blind.contains_key(&Source::Walker) {
            return self.outcome(&step, self.now, Amount::default(), failed(&step, EBUSY, "the walker is blind"));
        }
        let vmas = self.procs[&proc.pid].maps();
        self.tell(Event::Sample(Sample::Maps(MapsSample { proc, vmas })));
        self.walks += 1;
        let walk = Walk { began: self.now, scan: self.walks, at: 0, seen: 0, lost: 0, dies, step };
        self.push(self.now.after(Self::CHUNK_TAKES), Happening::Walk(Box::new(walk)));
    }

    /// One chunk of a walk.
    pub(super) fn walk(&mut self, mut walk: Walk) {
        let proc = walk.step.action.proc();
        if walk.dies && walk.at > 0 {
            self.exit(proc);
        }
        if !self.lives(proc) || self.blind.contains_key(&Source::Walker) {
            let done = Amount { pages: Pages(walk.seen), asked: Pages(walk.seen), syscalls: 1, cpu_ns: walk.seen * 3 };
            let end = failed(&walk.step, ESRCH, "No such process");
            return self.outcome(&walk.step, walk.began, done, end);
        }
        let p = &self.procs[&proc.pid];
        let ids: Vec<u64> = p.blocks.range(walk.at..).take(CHUNK_BLOCKS as usize).map(|(&b, _)| b).collect();
        let onward = ids.last().and_then(|&b| p.blocks.range(b + 1..).next()).map(|(&b, _)| b);
        let end = onward.map_or(AddrRange::EVERYTHING.end, |b| b * BLOCK_BYTES);
        let blocks: Vec<_> = ids.iter().filter_map(|&b| p.look(b)).collect();
        walk.seen += blocks.len() as u64 * BLOCK_PAGES as u64;
        let range = AddrRange { start: walk.at * BLOCK_BYTES, end };
        let chunk = PageChunk { proc, scan: walk.scan, range, blocks, last: onward.is_none() };
        walk.lost += u64::from(!self.tell(Event::Sample(Sample::Pages(chunk))));
        if let Some(at) = onward {
            walk.at = at;
            return self.push(self.now.after(Self::CHUNK_TAKES), Happening::Walk(Box::new(walk)));
        }
        let done = Amount { pages: Pages(walk.seen), asked: Pages(walk.seen), syscalls: 1, cpu_ns: walk.seen * 3 };
        let end = if walk.lost == 0 { End::Done } else { End::Partial(format!("{} chunks lost", walk.lost)) };
        self.outcome(&walk.step, walk.began, done, end);
    }

    fn outcome(&mut self, step: &Step, began: Time, done: Amount, end: End) {
        self.ended(step, began, done, end, Vec::new());
    }

    fn ended(&mut self, step: &Step, began: Time, done: Amount, end: End, missed: Vec<AddrRange>) {
        self.truth.ended(&end);
        let mut rng = Rng::of(self.seed, Purpose::Step, step.id.decision << 32 ^ u64::from(step.id.index) << 8 ^ 1);
        let late = if rng.chance(self.faults.late) { Span::from_millis(1000 + rng.below(60_000)) } else { Span::from_millis(1) };
        let ended = self.now.after(late);
        self.push(ended, Happening::Tell(Event::Outcome(Outcome { step: step.id, began, ended, done, end, missed })));
    }

    fn lives(&self, proc: ProcKey) -> bool {
        self.procs.get(&proc.pid).is_some_and(|p| p.key == proc)
    }

    pub(super) fn swap_free(&self) -> Permil {
        Permil::of(self.swap_size().saturating_sub(self.swapped()).0, self.swap_size().0)
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Alive(proc) => self.lives(*proc),
            Guard::SwapFree { least } => self.swap_free() >= *least,
            Guard::Calm { most_avg10 } => self.memory_stall.avg10() <= *most_avg10,
            Guard::NodeFree { node, least } => self.free_on(*node).is_some_and(|(free, _)| free >= *least),
            Guard::SameLife { server, life } => {
                let cache = self.caches.get(usize::from(server.0));
                cache.is_some_and(|cache| cache.server("").life == *life)
            }
            Guard::DryRun => false,
        }
    }
}

/// What a move must leave free on its node.
fn kept(step: &Step) -> Bytes {
    let least = |guard: &Guard| if let Guard::NodeFree { least, .. } = guard { Some(*least) } else { None };
    step.guards.iter().filter_map(least).max().unwrap_or(Bytes::ZERO)
}

fn failed(step: &Step, errno: i32, message: &str) -> End {
    End::Failed(Fault { call: step.action.verb().into(), on: step.action.proc().to_string(), errno, message: message.into() })
}

/// About the first half of the pages, cut where a block ends, as the kernel does not stop inside a huge leaf.
fn first_half(ranges: &[AddrRange]) -> Vec<AddrRange> {
    let mut left = ranges.iter().map(AddrRange::pages).sum::<Pages>().0 / 2;
    let mut out = Vec::new();
    for r in ranges {
        let take = r.pages().0.min(left);
        left -= take;
        if take > 0 {
            let end = r.start + Bytes(take << crate::vocab::PAGE_SHIFT).0;
            let end = if end < r.end { end / BLOCK_BYTES * BLOCK_BYTES } else { end };
            out.extend((r.start < end).then_some(AddrRange { start: r.start, end }));
        }
    }
    out
}
