//! The host's memory, swap areas and paging counters.

use super::{Sensor, nodes};
use crate::sys::files::{ReadError, Root, field, unescape};
use crate::vocab::{Bytes, Event, HostSample, NodeId, Pages, Sample, Source, SwapBacking, SwapSample};
use procfs::{Meminfo, VmStat};

/// Reads a `HostSample`, and where there is more than one node a `NodesSample`.
#[derive(Debug)]
pub struct HostSensor {
    pub root: Root,
}

impl Sensor for HostSensor {
    fn source(&self) -> Source {
        Source::Host
    }
    fn read(&mut self) -> Result<Vec<Event>, ReadError> {
        let nodes = nodes::sample(&self.root)?;
        let host = Event::Sample(Sample::Host(Box::new(sample(&self.root)?)));
        Ok([host].into_iter().chain(nodes.map(|nodes| Event::Sample(Sample::Nodes(nodes)))).collect())
    }
}

pub fn sample(root: &Root) -> Result<HostSample, ReadError> {
    let memory: Meminfo = root.parse("/proc/meminfo")?;
    let VmStat(counters) = root.parse("/proc/vmstat")?;
    let count = |key: &str| counters.get(key).map_or(0, |n| n.max(&0).unsigned_abs());
    let sum = |what: &str| Pages(["kswapd", "direct", "khugepaged"].iter().map(|by| count(&format!("{what}_{by}"))).sum());
    let refault = |kind: &str| Pages(count(&format!("workingset_refault_{kind}")));
    Ok(HostSample {
        total: Bytes(memory.mem_total),
        free: Bytes(memory.mem_free),
        available: Bytes(memory.mem_available.unwrap_or(memory.mem_free)),
        swap_total: Bytes(memory.swap_total),
        swap_free: Bytes(memory.swap_free),
        swaps: swaps(root)?,
        zswap_enabled: root.text("/sys/module/zswap/parameters/enabled").is_ok_and(|t| t.trim() == "Y"),
        swapped_in: Pages(count("pswpin")),
        swapped_out: Pages(count("pswpout")),
        scanned: sum("pgscan"),
        scanned_anon: counters.get("pgscan_anon").map(|n| Pages(n.max(&0).unsigned_abs())),
        stolen: sum("pgsteal"),
        refault_anon: refault("anon"),
        // One counter for both before Linux 5.9, when anonymous memory had no refaults.
        refault_file: Pages(refault("file").0.max(count("workingset_refault"))),
        major_faults: count("pgmajfault"),
        node_free: node_free(root)?,
    })
}

/// Swap areas that are on.
pub fn swaps(root: &Root) -> Result<Vec<SwapSample>, ReadError> {
    let text = root.text("/proc/swaps")?;
    let mut swaps = Vec::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let parsed = (|| {
            let [path, kind, size, used, priority] = fields[..] else { return None };
            let size = size.parse().map(Bytes::from_kib).ok()?;
            let used = used.parse().map(Bytes::from_kib).ok()?;
            Some((unescape(path).into_owned(), kind, size, used, priority.parse().ok()?))
        })();
        let Some((path, kind, size, used, priority)) = parsed else {
            return Err(root.nonsense("/proc/swaps", format_args!("cannot read {line:?}")));
        };
        let mut swap = SwapSample { path, size, used, priority, ..SwapSample::default() };
        if kind == "file" {
            swap.backing = SwapBacking::File;
        } else if let Some(name) = swap.path.strip_prefix("/dev/").filter(|n| n.starts_with("zram")) {
            swap.backing = SwapBacking::Zram;
            let path = format!("/sys/block/{name}/mm_stat");
            let numbers: Vec<u64> = root.text(&path)?.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
            // orig_data_size compr_data_size mem_used_total mem_limit ...
            let [stored, _, cost, limit, ..] = numbers[..] else {
                return Err(root.nonsense(path, "fewer than four numbers"));
            };
            (swap.stored, swap.cost, swap.limit) = (Bytes(stored), Bytes(cost), Bytes(limit));
        }
        swaps.push(swap);
    }
    Ok(swaps)
}

fn node_free(root: &Root) -> Result<Vec<(NodeId, Bytes)>, ReadError> {
    let mut free = Vec::new();
    for id in node_ids(root)? {
        let path = format!("/sys/devices/system/node/node{}/meminfo", id.0);
        let text = match root.text(&path) {
            Err(e) if e.is_gone() && !root.exists(format!("/sys/devices/system/node/node{}", id.0)) => continue,
            text => text?,
        };
        match field(&text, &format!("Node {} MemFree", id.0)) {
            Some(kib) => free.push((id, Bytes::from_kib(kib))),
            None => return Err(root.nonsense(path, "no MemFree")),
        }
    }
    Ok(free)
}

/// Nodes that are there, by number, which may be sparse. None on kernels without NUMA.
pub fn node_ids(root: &Root) -> Result<Vec<NodeId>, ReadError> {
    let names = match root.list("/sys/devices/system/node") {
        Err(e) if e.is_gone() => return Ok(Vec::new()),
        names => names?,
    };
    let mut ids: Vec<NodeId> = names.iter().filter_map(|n| Some(NodeId(n.strip_prefix("node")?.parse().ok()?))).collect();
    ids.sort_unstable();
    Ok(ids)
}
