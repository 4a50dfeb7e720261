//! Which nodes: numad's magnitudes, centre and walk, for something that does not run yet or that shall move.

use super::{Mode, Node, Request};
use crate::vocab::NodeId;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// What stays free on every node.
const RESERVE_MB: u64 = 100;
/// What the kernel says of a node that nobody measured: include/linux/topology.h.
const LOCAL_DISTANCE: u16 = 10;
const REMOTE_DISTANCE: u16 = 20;

/// The answer and how it came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Ascending, never empty.
    pub nodes: Vec<NodeId>,
    /// The node from which the others were reached.
    pub centre: NodeId,
    /// Each node that could have been the centre.
    pub scores: Vec<Score>,
    /// Over how many nodes each score goes: the fewest that are large enough.
    pub scored_over: usize,
    /// In the order in which they were taken.
    pub taken: Vec<Taken>,
    /// More CPUs are asked for than are free anywhere: nodes count with all they have, as if the busy ones came free in time.
    pub assumed_enough_cpus: bool,
    /// Part of the request that no node could give.
    pub lacking: Request,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    pub node: NodeId,
    /// What the request would find there, memory times CPUs.
    pub magnitude: u64,
    /// The sum of magnitude / distance^2 from here.
    pub score: u64,
}

/// A node of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub node: NodeId,
    /// From the centre.
    pub distance: u16,
    /// What was still lacking before.
    pub lacked: Request,
    pub why: Why,
}

/// Why a node was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    Memory,
    Cpus,
    MemoryAndCpus,
    /// Fewer nodes are too small for the request, whatever is free.
    Size,
    /// What was taken so far cannot run anything: it has no CPU, or no memory.
    Runs,
    /// Nothing was asked for, and an answer names a node.
    Nothing,
}

/// No node can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplaceable {
    #[error("the kernel lists no NUMA nodes")]
    NoNodes,
    #[error("no node has a CPU that is online and not reserved")]
    NoCpus,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub request: Request,
    /// Count nodes with all their CPUs, whatever is asked for.
    pub assume_enough_cpus: bool,
    /// What the target utilisation leaves of a CPU, in percent; half of it may be lacking.
    pub slack_percent: u64,
}

impl From<Request> for Wish {
    /// Something that does not run yet.
    fn from(request: Request) -> Self {
        Self { request, assume_enough_cpus: false, slack_percent: 0 }
    }
}

impl Wish {
    /// CPUs that may be lacking on a host with nodes like this one.
    const fn flex(&self, node: &Node) -> u64 {
        self.slack_percent.saturating_mul(node.cpus_total) / 200
    }
}

pub fn choose(nodes: &[Node], wish: impl Into<Wish>, mode: Mode) -> Result<Choice, Unplaceable> {
    if nodes.is_empty() {
        return Err(Unplaceable::NoNodes);
    }
    let host = Host::new(nodes, wish.into());
    match mode {
        Mode::Repaired => repaired(&host).ok_or(Unplaceable::NoCpus),
        Mode::Compat => compat(&host).ok_or(Unplaceable::NoNodes),
    }
}

/// The nodes as this request sees them.
struct Host<'a> {
    nodes: &'a [Node],
    wish: Wish,
    /// By node.
    magnitudes: Vec<u64>,
}

/// The best centre and the nodes in the order in which they are reached from it, as indices.
struct Centre {
    at: usize,
    chain: Vec<usize>,
    scores: Vec<Score>,
}

impl<'a> Host<'a> {
    fn new(nodes: &'a [Node], wish: Wish) -> Self {
        Self { nodes, wish, magnitudes: nodes.iter().map(|node| magnitude(node, wish.request)).collect() }
    }

    /// What must be found with this node as the centre.
    fn needed(&self, centre: usize) -> Request {
        let Request { cpus, mb } = self.wish.request;
        Request { cpus: cpus.saturating_sub(self.wish.flex(&self.nodes[centre])), mb }
    }

    /// The kernel's own defaults stand for what it does not tell; no distance is nought.
    fn distance(&self, from: usize, to: usize) -> u16 {
        let unmeasured = if from == to { LOCAL_DISTANCE } else { REMOTE_DISTANCE };
        self.nodes[from].distances.get(to).copied().filter(|d| *d > 0).unwrap_or(unmeasured)
    }

    /// All nodes by distance, the larger magnitude first among the equally far. With `last`, those it names come after all
    /// others.
    fn chain(&self, from: usize, last: impl Fn(&Node) -> bool) -> Vec<usize> {
        let mut chain: Vec<usize> = (0..self.nodes.len()).collect();
        chain.sort_by_key(|&to| (last(&self.nodes[to]), self.distance(from, to), Reverse(self.magnitudes[to])));
        chain
    }

    fn score(&self, from: usize, chain: &[usize]) -> Score {
        let part = |&to: &usize| self.magnitudes[to] / u64::from(self.distance(from, to)).pow(2);
        let score = chain.iter().map(part).fold(0, u64::saturating_add);
        Score { node: self.nodes[from].node, magnitude: self.magnitudes[from], score }
    }

    /// The best of these chains, each with where it starts; the first of several that are as good.
    fn best(&self, chains: Vec<(usize, Vec<usize>)>, scored_over: usize) -> Option<Centre> {
        let scores: Vec<Score> = chains.iter().map(|(from, chain)| self.score(*from, &chain[..scored_over])).collect();
        let (best, _) = scores.iter().enumerate().min_by_key(|(_, s)| Reverse(s.score))?;
        let (at, chain) = chains.into_iter().nth(best)?;
        Some(Centre { at, chain, scores })
    }

    fn take(&self, centre: usize, at: usize, lacked: Request, why: Why) -> Taken {
        Taken { node: self.nodes[at].node, distance: self.distance(centre, at), lacked, why }
    }

    fn answer(&self, centre: Centre, scored_over: usize, taken: Vec<Taken>, assumed: bool, lacking: Request) -> Choice {
        let mut nodes: Vec<NodeId> = taken.iter().map(|t| t.node).collect();
        nodes.sort_unstable();
        let Centre { at, chain: _, scores } = centre;
        Choice { nodes, centre: self.nodes[at].node, scores, scored_over, taken, assumed_enough_cpus: assumed, lacking }
    }
}

/// What is asked for weighs more than what lies beside it, CPUs more than memory. A hundredth of a CPU is always there.
fn magnitude(node: &Node, request: Request) -> u64 {
    let weighed = |free: u64, wanted: u64, needed: u64, excess: u64| {
        free.min(wanted).saturating_mul(needed).saturating_add(free.saturating_sub(wanted).saturating_mul(excess))
    };
    let (mb, cpus) = (mb_free(node), cpus_free(node).max(1));
    weighed(mb, request.mb, 10, 4).saturating_mul(weighed(cpus, request.cpus, 6, 1))
}

fn mb_free(node: &Node) -> u64 {
    node.mb_free.min(node.mb_total)
}

fn cpus_free(node: &Node) -> u64 {
    node.cpus_free.min(node.cpus_total)
}

/// Nodes of any size; those without CPUs lend their memory when the others have none left, and nothing else.
fn repaired(host: &Host<'_>) -> Option<Choice> {
    let Host { nodes, wish: Wish { request, .. }, .. } = host;
    let with_cpus: Vec<usize> = (0..nodes.len()).filter(|&n| nodes[n].has_cpus()).collect();
    // A node that has both, if there is one.
    let whole: Vec<usize> = with_cpus.iter().copied().filter(|&n| nodes[n].has_memory()).collect();
    let centres = if whole.is_empty() { &with_cpus } else { &whole };
    let chains: Vec<(usize, Vec<usize>)> = centres.iter().map(|&from| (from, host.chain(from, |n| !n.has_cpus()))).collect();
    let reach = |(from, chain): &(usize, Vec<usize>)| large_enough(nodes, chain, host.needed(*from));
    let scored_over = chains.iter().map(reach).min().unwrap_or(0);
    // From another centre as many nodes are too small.
    let chains = chains.into_iter().filter(|chain| reach(chain) == scored_over).collect();
    let centre = host.best(chains, scored_over)?;
    let assumed =
        host.wish.assume_enough_cpus || request.cpus > with_cpus.iter().map(|&n| cpus_free(&nodes[n])).fold(0, u64::saturating_add);
    let gives = |at: usize| Request {
        cpus: if assumed { nodes[at].cpus_total } else { cpus_free(&nodes[at]) },
        mb: mb_free(&nodes[at]).saturating_sub(RESERVE_MB),
    };
    let (mut taken, mut lacking) = (Vec::new(), host.needed(centre.at));
    for &at in &centre.chain {
        let Request { cpus, mb } = gives(at);
        // One that gives nothing of what is lacking would only be in the way.
        if let Some(why) = why(cpus.min(lacking.cpus), mb.min(lacking.mb)) {
            taken.push(host.take(centre.at, at, lacking, why));
            lacking = Request { cpus: lacking.cpus.saturating_sub(cpus), mb: lacking.mb.saturating_sub(mb) };
        }
    }
    let has = |what: fn(&Node) -> bool| taken.iter().any(|t| nodes.iter().any(|n| n.node == t.node && what(n)));
    if !has(Node::has_cpus) || !whole.is_empty() && !has(Node::has_memory) {
        let why = if *request == Request::default() { Why::Nothing } else { Why::Runs };
        taken.push(host.take(centre.at, centre.at, lacking, why));
    }
    Some(host.answer(centre, scored_over, taken, assumed, lacking))
}

const fn why(cpus: u64, mb: u64) -> Option<Why> {
    match (cpus > 0, mb > 0) {
        (false, false) => None,
        (true, false) => Some(Why::Cpus),
        (false, true) => Some(Why::Memory),
        (true, true) => Some(Why::MemoryAndCpus),
    }
}

/// How many nodes of a chain hold the request if they are empty; as many as could help if none do.
fn large_enough(nodes: &[Node], chain: &[usize], request: Request) -> usize {
    let reach = |wanted: u64, of: fn(&Node) -> u64| {
        let (mut sum, mut helpful) = (0u64, 0);
        for (i, &at) in chain.iter().enumerate() {
            if sum >= wanted {
                break;
            }
            if of(&nodes[at]) > 0 {
                helpful = i + 1;
            }
            sum = sum.saturating_add(of(&nodes[at]));
        }
        helpful
    };
    reach(request.mb, |n| n.mb_total).max(reach(request.cpus, |n| n.cpus_total))
}

/// The original, defects and all: every node has the size of the first one; a node with less than the reserve adds to what is
/// lacking; nodes without CPUs are nodes like all others.
fn compat(host: &Host<'_>) -> Option<Choice> {
    let Host { nodes, wish: wish @ Wish { request, .. }, .. } = host;
    let flex = wish.flex(nodes.first()?);
    let fewest = fewest_of_first(nodes.first()?, host.needed(0)).min(nodes.len());
    let chains = (0..nodes.len()).map(|from| (from, host.chain(from, |_| false))).collect();
    let centre = host.best(chains, fewest)?;
    let assumed = wish.assume_enough_cpus || request.cpus > nodes.iter().map(|n| cpus_free(n).max(1)).fold(0, u64::saturating_add);
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (mut cpus, mut mb) = (signed(request.cpus), signed(request.mb));
    let still = |cpus: i64, mb: i64| Request { cpus: cpus.max(0).unsigned_abs(), mb: mb.max(0).unsigned_abs() };
    let mut taken = Vec::new();
    for &at in &centre.chain {
        let node = &nodes[at];
        let wants_cpus = cpus > signed(flex) && !assumed;
        let Some(why) = why(wants_cpus.into(), (mb > 0).into()).or((taken.len() < fewest).then_some(Why::Size)) else { break };
        taken.push(host.take(centre.at, at, still(cpus, mb), why));
        let spare = signed(mb_free(node)) - signed(RESERVE_MB);
        mb = if spare >= mb { 0 } else { mb.saturating_sub(spare) };
        cpus = cpus.saturating_sub(signed(cpus_free(node).max(1))).max(0);
        // "All nodes" has none without memory in it.
        let all = |n: &Node| !n.has_memory() || taken.iter().any(|t| t.node == n.node);
        if node.has_memory() && nodes.iter().all(all) {
            break;
        }
    }
    if taken.is_empty() {
        taken.push(host.take(centre.at, 0, Request::default(), Why::Nothing));
    }
    Some(host.answer(centre, fewest, taken, assumed, still(if assumed { 0 } else { cpus }, mb)))
}

/// A first node without CPUs (or memory) makes that part of the request count for nothing: the original divides by nought and
/// makes of the infinity the least int.
fn fewest_of_first(first: &Node, request: Request) -> usize {
    let nodes = |wanted: u64, each: u64| if each == 0 { 0 } else { wanted.div_ceil(each) };
    let fewest = nodes(request.mb, first.mb_total).max(nodes(request.cpus, first.cpus_total));
    usize::try_from(fewest).unwrap_or(usize::MAX)
}
