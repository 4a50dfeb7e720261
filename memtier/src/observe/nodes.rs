//! The NUMA nodes now: memory, CPUs, distances, and how much their CPUs idle between two samples.
//!
//! Deliberately absent: what of it is enough for anybody. It tells; compat/numad reckons.

use super::host::node_ids;
use crate::compat::numad::{Look, NodeReading};
use crate::sys::files::{ReadError, Root, field, number_list};
use crate::vocab::{Bytes, CpuId, NodeId, Span};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// Looks twice, so far apart, and once at what does not need two looks.
pub fn look(root: &Root, apart: Duration) -> Result<Look, ReadError> {
    let began = Instant::now();
    let before = idle_ticks(root)?;
    thread::sleep(apart);
    let elapsed = Span(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let after = idle_ticks(root)?;
    let nodes = node_ids(root)?.into_iter().filter_map(|node| reading(root, node).transpose());
    let mut nodes: Vec<NodeReading> = nodes.collect::<Result<_, _>>()?;
    let count = nodes.len();
    // With a column for a node that went away meanwhile the others are in wrong places.
    nodes.iter_mut().filter(|node| node.distances.len() != count).for_each(|node| node.distances.clear());
    let smt_width = smt_width(root, &after)?;
    Ok(Look { nodes, idle: [before, after], elapsed, smt_width })
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

/// Hardware threads of the first CPU's core; 1 where the kernel does not tell.
fn smt_width(root: &Root, online: &BTreeMap<CpuId, u64>) -> Result<u64, ReadError> {
    let Some((first, _)) = online.first_key_value() else { return Ok(1) };
    let path = format!("/sys/devices/system/cpu/cpu{}/topology/thread_siblings", first.0);
    let text = match root.text(&path) {
        Err(e) if e.is_gone() => return Ok(1),
        text => text?,
    };
    // Words of 32 bits in hex.
    let words: Option<Vec<u32>> = text.trim().split(',').map(|word| u32::from_str_radix(word, 16).ok()).collect();
    let words = words.ok_or_else(|| root.nonsense(&path, format_args!("{:?} is no mask", text.trim())))?;
    Ok(words.into_iter().map(|w| u64::from(w.count_ones())).sum())
}
