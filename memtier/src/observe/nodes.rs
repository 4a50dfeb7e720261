//! The NUMA nodes now: memory, CPUs, distances, and how much their CPUs idle between two samples.
//!
//! Deliberately absent: what of it is enough for anybody. It tells; compat/numad and policies reckon.

use super::host::node_ids;
use super::topology;
use crate::compat::numad::{Look, NodeReading};
use crate::sys::files::{ReadError, Root, field, number_list};
use crate::vocab::{Bytes, CpuId, NodeId, NodeSample, NodesSample, Span};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// How long the CPUs have idled, and when that was.
#[derive(Clone, Debug)]
pub struct Idle {
    pub at: Instant,
    pub ticks: BTreeMap<CpuId, u64>,
}

pub fn idle(root: &Root) -> Result<Idle, ReadError> {
    Ok(Idle { at: Instant::now(), ticks: idle_ticks(root)? })
}

/// Looks twice, so far apart, and once at what does not need two looks.
pub fn look(root: &Root, apart: Duration) -> Result<Look, ReadError> {
    let before = idle(root)?;
    thread::sleep(apart);
    Ok(look_since(root, &before)?.0)
}

/// What there is now, and how the CPUs idled since an earlier look at them; with what the next one may start from.
pub fn look_since(root: &Root, before: &Idle) -> Result<(Look, Idle), ReadError> {
    let after = idle(root)?;
    let elapsed = Span(u64::try_from(after.at.duration_since(before.at).as_nanos()).unwrap_or(u64::MAX));
    let nodes = node_ids(root)?.into_iter().filter_map(|node| reading(root, node).transpose());
    let mut nodes: Vec<NodeReading> = nodes.collect::<Result<_, _>>()?;
    let count = nodes.len();
    // With a column for a node that went away meanwhile the others are in wrong places.
    nodes.iter_mut().filter(|node| node.distances.len() != count).for_each(|node| node.distances.clear());
    let smt_width = after.ticks.first_key_value().map_or(Ok(1), |(first, _)| topology::smt_width(root, *first))?;
    Ok((Look { nodes, idle: [before.ticks.clone(), after.ticks.clone()], elapsed, smt_width }, after))
}

/// USER_HZ is 100 wherever /proc tells it.
pub const TICK: Span = Span::from_millis(10);

/// All nodes now, where there is more than one.
pub fn sample(root: &Root) -> Result<Option<NodesSample>, ReadError> {
    let ids = node_ids(root)?;
    if ids.len() < 2 {
        return Ok(None);
    }
    let idle = idle_ticks(root)?;
    let mut nodes = Vec::with_capacity(ids.len());
    for id in ids {
        if let Some(NodeReading { node, total, free, inactive_file, cpus, distances: _ }) = reading(root, id)? {
            let online: Vec<u64> = cpus.iter().filter_map(|cpu| idle.get(cpu).copied()).collect();
            let (idle, cpus) = (Span(online.iter().sum::<u64>().saturating_mul(TICK.0)), online.len() as u32);
            nodes.push(NodeSample { node, total, free, inactive_file, idle, cpus });
        }
    }
    Ok(Some(NodesSample { nodes }))
}

/// Ticks that each online CPU has spent idle, waiting for no disk.
pub fn idle_ticks(root: &Root) -> Result<BTreeMap<CpuId, u64>, ReadError> {
    let path = "/proc/stat";
    let text = root.text(path)?;
    let cpus = text.lines().filter_map(|line| {
        let mut fields = line.strip_prefix("cpu")?.split_ascii_whitespace();
        // The first line is of all CPUs and names none.
        line.as_bytes().get(3)?.is_ascii_digit().then(|| {
            // user nice system idle ...
            let parsed = fields.next().and_then(|cpu| Some((CpuId(cpu.parse().ok()?), fields.nth(3)?.parse().ok()?)));
            parsed.ok_or_else(|| root.nonsense(path, format_args!("cannot read {line:?}")))
        })
    });
    cpus.collect()
}

/// `None` for a node that went away meanwhile.
fn reading(root: &Root, node: NodeId) -> Result<Option<NodeReading>, ReadError> {
    let dir = format!("/sys/devices/system/node/node{}", node.0);
    let read = || -> Result<NodeReading, ReadError> {
        let path = format!("{dir}/cpulist");
        let list = root.text(&path)?;
        let cpus = number_list(&list).ok_or_else(|| root.nonsense(&path, format_args!("{:?} is no list", list.trim())))?;
        let path = format!("{dir}/meminfo");
        let text = root.text(&path)?;
        let memory = |key: &str| field(&text, &format!("Node {} {key}", node.0)).map(Bytes::from_kib);
        let needed = |key: &str| memory(key).ok_or_else(|| root.nonsense(&path, format_args!("no {key}")));
        Ok(NodeReading {
            node,
            total: needed("MemTotal")?,
            free: needed("MemFree")?,
            inactive_file: memory("Inactive(file)").unwrap_or(Bytes::ZERO),
            cpus: cpus.into_iter().map(CpuId).collect(),
            distances: distances(root, &dir)?,
        })
    };
    match read() {
        Err(e) if e.is_gone() && !root.exists(&dir) => Ok(None),
        read => read.map(Some),
    }
}

/// One number for each node that is online, in the order of their numbers; none where the kernel tells none.
fn distances(root: &Root, dir: &str) -> Result<Vec<u16>, ReadError> {
    let path = format!("{dir}/distance");
    let text = match root.text(&path) {
        Err(e) if e.is_gone() => {
            tracing::warn!("{e}: 10 is assumed to itself, 20 to every other node");
            return Ok(Vec::new());
        }
        text => text?,
    };
    let numbers = text
        .split_ascii_whitespace()
        .map(|word| word.parse().map_err(|_| root.nonsense(&path, format_args!("{word:?} is no distance"))));
    numbers.collect()
}
