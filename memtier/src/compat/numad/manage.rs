//! numad's loop: who is worth moving, when, and where to. One round looks at all candidates and moves one process at most.
//!
//! Deliberately absent: reading /proc and binding. Both are asked of a `Host`, so that rounds are the same in a table.

use super::choice::{Wish, choose};
use super::moves::{Move, moves};
use super::options::Options;
use super::table::{Allowed, Entry, Table};
use super::tenant::vcpus;
use super::{Mode, Node, Request, Spread, Tenant, lines};
use crate::vocab::{CpuId, NodeId, Span};
use std::collections::BTreeSet;

/// Hundredths after a bind in which a process is left alone, and one whose interleaving is kept.
const SETTLE: i64 = 300 * 100;
const INTERLEAVED: i64 = 1800 * 100;
/// Hundredths of a CPU that evening out must gain.
const GAIN: i64 = 50;

/// What a round is made of.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// Hundredths of a second, on a clock that never goes back.
    pub at: i64,
    pub nodes: &'a [Node],
    /// All that live, or those of `Manager::wanted`.
    pub tenants: Vec<Tenant>,
}

/// Where a process shall run, and with its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub pid: u32,
    pub start: u64,
    /// Ascending, never empty.
    pub nodes: Vec<NodeId>,
    pub cpus: Vec<CpuId>,
    /// In this order.
    pub moves: Vec<Move>,
}

/// A bind that took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    pub unmoved_pages: u64,
    pub took: Span,
}

/// Carries out binds.
pub trait Binder {
    /// `Err` in words: nothing was bound, or the process is gone.
    fn bind(&mut self, bind: &Bind) -> Result<Bound, String>;
}

/// What a round asks for on its way, and whom it tells. Nothing is told of a process that is gone.
pub trait Host: Binder {
    fn allowed(&mut self, pid: u32) -> Option<Allowed>;
    fn spread(&mut self, pid: u32) -> Option<Spread>;
    fn command_line(&mut self, pid: u32) -> Option<Vec<u8>>;
    /// A line of the log: 5 is said by default, 6 with -v, 7 with -d.
    fn say(&mut self, level: i64, line: String);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The process that was moved.
    pub moved: Option<u32>,
    /// Seconds until the next round.
    pub wait: u64,
}

/// The loop's memory.
#[derive(Clone, Debug, Default)]
pub struct Manager {
    pub options: Options,
    table: Table,
    /// How many processes were known after the round before.
    known: usize,
}

impl Manager {
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// The processes that the next sample must tell of; `None` for all.
    #[must_use]
    pub fn wanted(&self) -> Option<BTreeSet<u32>> {
        (!self.options.scan_all).then(|| self.options.included.iter().copied().chain(self.table.pids()).collect())
    }

    pub fn round(&mut self, sample: Sample<'_>, host: &mut impl Host) -> Round {
        let Sample { at, nodes, tenants } = sample;
        let (mode, interval) = (self.options.measure.mode, self.options.interval);
        host.say(6, lines::seen(nodes));
        host.say(6, format!("Processes: {}", tenants.len()));
        self.table.fold(at, tenants, &mut self.options);
        let grew = self.table.len() > self.known;
        self.known = self.table.len();
        // On one node everything is where it should be.
        let none = Round { moved: None, wait: interval.max };
        if nodes.len() < 2 {
            return none;
        }
        if grew {
            return Round { moved: None, wait: interval.min / 2 };
        }
        let mut candidates = self.table.candidates();
        candidates.retain(|pid| self.table.entry(*pid).is_some_and(|entry| first_sight(entry, at, nodes, host)));
        let candidates = self.table.order(candidates, mode);
        let (mut used, mut told) = (0u64, format!("Candidates: {}", candidates.len()));
        for entry in candidates.iter().filter_map(|pid| self.table.entry(*pid).cloned()) {
            told = told + "\n" + &lines::candidate(at, &entry);
            used = used.saturating_add(entry.cpus_used);
        }
        if !candidates.is_empty() {
            host.say(6, told);
        }
        let enough = used <= nodes.iter().map(|n| n.cpus_total).fold(0, u64::saturating_add);
        for pid in candidates {
            let Some(entry) = self.table.entry(pid) else { continue };
            let turn = Turn { options: &self.options, at, nodes, enough };
            if turn.of(entry, host) {
                return Round { moved: Some(pid), wait: interval.min };
            }
        }
        none
    }
}

/// What is let be where it may be is taken to be there. False for a process that is gone.
fn first_sight(entry: &mut Entry, at: i64, nodes: &[Node], host: &mut impl Host) -> bool {
    if entry.nodes.is_empty() {
        let Some(allowed) = host.allowed(entry.seen.pid) else { return false };
        let known = |node: &NodeId| nodes.iter().any(|n| n.node == *node);
        entry.nodes = allowed.nodes.iter().copied().filter(known).collect();
        entry.limits = allowed;
        if entry.nodes.len() < nodes.len() {
            entry.bound_at = Some(at - INTERLEAVED);
        }
    }
    true
}

/// One round's look at its candidates.
struct Turn<'a> {
    options: &'a Options,
    at: i64,
    nodes: &'a [Node],
    /// All CPUs together are enough for all candidates.
    enough: bool,
}

impl Turn<'_> {
    /// True if it was moved.
    fn of(&self, entry: &mut Entry, host: &mut impl Host) -> bool {
        let pid = entry.seen.pid;
        let ago = entry.bound_ago(self.at, self.mode());
        if entry.interleaved && ago.is_some_and(|ago| ago < INTERLEAVED) {
            host.say(7, format!("Skipping evaluation of PID {pid} because of interleaved memory."));
            return false;
        }
        let failed_ago = entry.failed_at.map(|failed| self.at - failed);
        if self.mode() == Mode::Repaired && failed_ago.is_some_and(|ago| ago < SETTLE) {
            host.say(7, format!("Skipping evaluation of PID {pid} because it could not be moved."));
            return false;
        }
        let request = self.request(entry, host);
        if ago.is_some_and(|ago| ago < SETTLE) {
            if !self.evens_out(entry, request) {
                host.say(7, format!("Skipping evaluation of PID {pid} because done too recently."));
                return false;
            }
            host.say(7, format!("Bypassing delay for {pid} because it looks like it can do better."));
        }
        self.pick(entry, request, host).is_some_and(|bind| self.bind(entry, &bind, host))
    }

    fn mode(&self) -> Mode {
        self.options.measure.mode
    }

    /// The original takes every node to have what the first one has.
    fn a_node_has(&self, what: fn(&Node) -> u64) -> u64 {
        match self.mode() {
            Mode::Repaired => self.nodes.iter().map(what).max().unwrap_or(0),
            Mode::Compat => self.nodes.first().map_or(0, what),
        }
    }

    fn request(&self, entry: &Entry, host: &mut impl Host) -> Request {
        let Tenant { pid, threads, mb_size, mb_used, .. } = entry.seen;
        let node_mb = self.a_node_has(|n| n.mb_total);
        // What fills a node is to be given what it may yet fill.
        let mb = if mb_size > node_mb && mb_used * 5 / 4 > node_mb { mb_size } else { mb_used };
        let threads = if entry.seen.is_guest(self.mode()) {
            let most = self.nodes.iter().map(|n| n.cpus.len() as u64).sum();
            host.command_line(pid).and_then(|line| vcpus(&line, most, self.mode())).map_or(threads, |vcpus| threads.min(vcpus))
        } else {
            threads
        };
        let utilization = self.options.utilization.max(1);
        Request {
            cpus: (entry.cpus_used.saturating_mul(100) / utilization).min(threads.saturating_mul(100)),
            mb: mb.saturating_mul(100) / utilization.min(100),
        }
    }

    /// Whether a process bound just now had better move all the same: it is on the tightest node, fits on one, and the nodes
    /// would be more alike if it went to the one with most room.
    fn evens_out(&self, entry: &Entry, request: Request) -> bool {
        let cpus = Extremes::of(self.nodes, |n| n.cpus_free);
        let mbs = Extremes::of(self.nodes, |n| n.mb_free);
        let sits_on = |node: NodeId| entry.nodes.contains(&node);
        let fits = request.cpus <= self.a_node_has(|n| n.cpus_total) && request.mb <= self.a_node_has(|n| n.mb_total);
        fits && (sits_on(cpus.tightest) || sits_on(mbs.tightest))
            && cpus.evened(entry.cpus_used) < cpus.apart() - GAIN
            && mbs.evened(entry.seen.mb_used) < mbs.apart()
    }

    fn pick(&self, entry: &mut Entry, request: Request, host: &mut impl Host) -> Option<Bind> {
        let Tenant { pid, start, .. } = entry.seen;
        host.say(7, lines::asked(i64::from(pid), request));
        let spread = host.spread(pid)?;
        if spread.interleaved && self.options.keep_interleaved {
            (entry.interleaved, entry.bound_at) = (true, Some(self.at));
            return None;
        }
        entry.interleaved = false;
        let mut nodes = self.without(entry, &spread);
        if self.mode() == Mode::Repaired {
            let allowed = host.allowed(pid)?;
            limits(entry, allowed);
            nodes.iter_mut().for_each(|node| confine(node, &entry.limits));
        }
        let slack_percent = 100u64.saturating_sub(self.options.utilization);
        let wish = Wish { request, assume_enough_cpus: self.enough, slack_percent };
        let choice = match choose(&nodes, wish, self.mode()) {
            Ok(choice) => choice,
            Err(why) => {
                host.say(7, format!("No nodes for PID {pid}: {why}"));
                return None;
            }
        };
        let outside = spread.mb.iter().filter(|(node, _)| !choice.nodes.contains(node)).map(|(_, mb)| mb).sum::<u64>();
        let nonlocal = 100 * outside / entry.seen.mb_used.max(1);
        if nonlocal <= 100 - self.options.locality && entry.bound_at.is_some() && entry.nodes == choice.nodes {
            entry.bound_at = Some(self.at);
            return None;
        }
        host.say(5, lines::advised_process(entry, &choice.nodes));
        let targets = nodes.iter().filter(|n| choice.nodes.contains(&n.node));
        let mut cpus: Vec<CpuId> = targets.flat_map(|n| n.cpus.iter().copied()).collect();
        cpus.sort_unstable();
        if self.mode() == Mode::Compat {
            entry.nodes.clone_from(&choice.nodes);
        }
        Some(Bind { pid, start, cpus, moves: moves(&spread, &choice.nodes), nodes: choice.nodes })
    }

    /// The nodes as they would be without this process.
    fn without(&self, entry: &Entry, spread: &Spread) -> Vec<Node> {
        let own = |node: &Node| entry.nodes.contains(&node.node);
        let free: u64 = self.nodes.iter().filter(|n| own(n)).map(|n| n.cpus_free).sum();
        let average = (entry.cpus_used + free).checked_div(entry.nodes.len() as u64).unwrap_or(0);
        let node = |node: &Node| {
            let mb = spread.on(node.node);
            let (freed, cpus_free) = match entry.bound_at {
                None => (mb * 17 / 16, node.cpus_free + entry.cpus_used.saturating_mul(mb) / entry.seen.mb_used.max(1)),
                Some(_) if own(node) => (mb * 5 / 4, average),
                Some(_) => (mb * 5 / 4, node.cpus_free),
            };
            let (mb_free, cpus_free) = ((node.mb_free + freed).min(node.mb_total), cpus_free.min(node.cpus_total));
            Node { mb_free, cpus_free, ..node.clone() }
        };
        self.nodes.iter().map(node).collect()
    }

    fn bind(&self, entry: &mut Entry, bind: &Bind, host: &mut impl Host) -> bool {
        let Bound { unmoved_pages, took } = match host.bind(bind) {
            Ok(bound) => bound,
            Err(why) => {
                host.say(5, format!("PID {} could not be moved: {why}", bind.pid));
                // To look at all its memory each round would be for nothing: it will not be possible so soon.
                entry.failed_at = Some(self.at);
                return false;
            }
        };
        if unmoved_pages > 2 {
            host.say(5, format!("Tried to move PID {}, but {unmoved_pages} pages would not move.", bind.pid));
        }
        let hundredths = i64::try_from(took.0 / 10_000_000).unwrap_or(i64::MAX);
        host.say(5, lines::moved(bind, hundredths));
        entry.failed_at = None;
        entry.nodes.clone_from(&bind.nodes);
        entry.ours = Some(bind.cpus.iter().copied().collect());
        entry.bound_at = Some(self.at.saturating_add(hundredths));
        true
    }
}

/// Takes in how far others let it: where it runs on the CPUs that we gave it, as far as they did before.
fn limits(entry: &mut Entry, allowed: Allowed) {
    if entry.ours.as_ref() == Some(&allowed.cpus) {
        entry.limits.nodes = allowed.nodes;
    } else {
        entry.ours = None;
        entry.limits = allowed;
    }
}

/// Takes from a node what a process may not use of it.
fn confine(node: &mut Node, Allowed { nodes, cpus }: &Allowed) {
    let all = node.cpus.len() as u64;
    node.cpus.retain(|cpu| cpus.contains(cpu));
    let part = |of: u64| (of * node.cpus.len() as u64).checked_div(all).unwrap_or(0);
    (node.cpus_total, node.cpus_free) = (part(node.cpus_total), part(node.cpus_free));
    if !nodes.contains(&node.node) {
        (node.mb_total, node.mb_free) = (0, 0);
    }
}

/// Where least and most is free.
struct Extremes {
    tightest: NodeId,
    min: i64,
    max: i64,
    average: i64,
}

impl Extremes {
    /// Of two nodes at least.
    fn of(nodes: &[Node], free: fn(&Node) -> u64) -> Self {
        let values: Vec<i64> = nodes.iter().map(|n| i64::try_from(free(n)).unwrap_or(i64::MAX)).collect();
        let tightest = nodes.iter().min_by_key(|n| free(n)).map_or(NodeId(0), |n| n.node);
        let (min, max) = (values.iter().copied().min().unwrap_or(0), values.iter().copied().max().unwrap_or(0));
        let average = values.iter().sum::<i64>() / i64::try_from(values.len()).unwrap_or(i64::MAX).max(1);
        Self { tightest, min, max, average }
    }
    const fn apart(&self) -> i64 {
        self.max - self.min
    }
    /// How far from the average both would be if so much went from the tightest to the freest.
    fn evened(&self, used: u64) -> i64 {
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        (self.min.saturating_add(used) - self.average).abs() + (self.max.saturating_sub(used) - self.average).abs()
    }
}
