//! What the host's nodes are: CPUs, memory, distances, what the firmware says of their speed, memory tiers, SMT width. Looked
//! at once, for facts; what changes from second to second is in nodes.rs.
//!
//! A node that goes away while it is read is left out.

use super::host::node_ids;
use crate::sys::files::{ReadError, Root, field, number_list};
use crate::vocab::{Bytes, CpuId, NodeFacts, NodeId};
use std::collections::{BTreeMap, BTreeSet};

const NODES: &str = "/sys/devices/system/node";
const TIERS: &str = "/sys/devices/virtual/memory_tiering";

/// Nodes with their numbers as the kernel gives them, which may be sparse; a node may have no CPU, or no memory.
pub fn nodes(root: &Root) -> Result<Vec<NodeFacts>, ReadError> {
    let (ids, tiers, isolated) = (node_ids(root)?, tiers(root)?, isolated(root)?);
    let looked = ids.iter().filter_map(|&id| match node(root, id, &ids) {
        Err(e) if e.is_gone() && !root.exists(format!("{NODES}/node{}", id.0)) => None,
        node => Some(node),
    });
    let whole = |node: NodeFacts| {
        let isolated = node.cpus.iter().copied().filter(|cpu| isolated.contains(cpu)).collect();
        NodeFacts { tier: tiers.get(&node.id).copied(), isolated, ..node }
    };
    looked.map(|node| node.map(whole)).collect()
}

/// CPUs that the scheduler gives to nobody who was not put there. Kernels before 4.2 do not tell.
pub fn isolated(root: &Root) -> Result<BTreeSet<CpuId>, ReadError> {
    let path = "/sys/devices/system/cpu/isolated";
    let list = match root.text(path) {
        Err(e) if e.is_gone() => return Ok(BTreeSet::new()),
        list => list?,
    };
    let numbers = number_list(&list).ok_or_else(|| root.nonsense(path, list.trim()))?;
    Ok(numbers.into_iter().map(CpuId).collect())
}

fn node(root: &Root, id: NodeId, ids: &[NodeId]) -> Result<NodeFacts, ReadError> {
    let dir = format!("{NODES}/node{}", id.0);
    let list = root.text(format!("{dir}/cpulist"))?;
    let cpus = number_list(&list).ok_or_else(|| root.nonsense(format!("{dir}/cpulist"), list.trim()))?;
    let meminfo = root.text(format!("{dir}/meminfo"))?;
    let total = field(&meminfo, &format!("Node {} MemTotal", id.0)).map_or(Bytes::ZERO, Bytes::from_kib);
    // One number per node that is online, in the order of their ids.
    let text = match root.text(format!("{dir}/distance")) {
        Err(e) if e.is_gone() => String::new(),
        text => text?,
    };
    let distances: Vec<u16> = text.split_ascii_whitespace().map_while(|d| d.parse().ok()).collect();
    // With a column for a node that went away meanwhile the others are in wrong places.
    let whole = distances.len() == ids.len();
    let distances = ids.iter().copied().zip(distances).filter(|(other, _)| whole && *other != id).collect();
    Ok(NodeFacts {
        id,
        total,
        cpus: cpus.into_iter().map(CpuId).collect(),
        distances,
        bandwidth_mb_s: nearest(root, &dir, "read_bandwidth"),
        latency_ns: nearest(root, &dir, "read_latency"),
        tier: None,
        isolated: Vec::new(),
    })
}

/// What the HMAT says of the nearest initiators: CPUs (access1), or on kernels before 5.13 of any kind (access0). Zero is
/// what the kernel shows for what the firmware left out.
fn nearest(root: &Root, dir: &str, what: &str) -> Option<u64> {
    let read = |access: &str| root.number(format!("{dir}/{access}/initiators/{what}")).ok();
    read("access1").or_else(|| read("access0")).filter(|&value| value > 0)
}

/// The tier of each node that has one. Kernels before 6.1 have no tiers, and so do those that never made any.
fn tiers(root: &Root) -> Result<BTreeMap<NodeId, u16>, ReadError> {
    let names = match root.list(TIERS) {
        Err(e) if e.is_gone() => return Ok(BTreeMap::new()),
        names => names?,
    };
    let mut tiers = BTreeMap::new();
    for name in names {
        let Some(tier) = name.strip_prefix("memory_tier").and_then(|tier| tier.parse().ok()) else { continue };
        let path = format!("{TIERS}/{name}/nodelist");
        let list = match root.text(&path) {
            // The last node of a tier takes it along.
            Err(e) if e.is_gone() => continue,
            list => list?,
        };
        let nodes = number_list(&list).ok_or_else(|| root.nonsense(&path, format_args!("{:?} is no list", list.trim())))?;
        tiers.extend(nodes.into_iter().filter_map(|node| Some((NodeId(u16::try_from(node).ok()?), tier))));
    }
    Ok(tiers)
}

/// Hardware threads of that CPU's core; 1 where the kernel does not tell.
pub fn smt_width(root: &Root, cpu: CpuId) -> Result<u64, ReadError> {
    let path = format!("/sys/devices/system/cpu/cpu{}/topology/thread_siblings", cpu.0);
    let text = match root.text(&path) {
        Err(e) if e.is_gone() => return Ok(1),
        text => text?,
    };
    // Words of 32 bits in hex.
    let words: Option<Vec<u32>> = text.trim().split(',').map(|word| u32::from_str_radix(word, 16).ok()).collect();
    let words = words.ok_or_else(|| root.nonsense(&path, format_args!("{:?} is no mask", text.trim())))?;
    Ok(words.into_iter().map(|w| u64::from(w.count_ones())).sum())
}
