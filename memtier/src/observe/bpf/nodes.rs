//! Which frames belong to which NUMA node, from the memory blocks in sysfs, or the zones where memory cannot be hotplugged.

use super::decode::Nodes;
use crate::vocab::NodeId;
use std::fs;
use std::path::Path;

/// Frames per node as the kernel shows them; empty (one node) where it shows nothing.
#[must_use]
pub fn of_host() -> Nodes {
    let blocks = memory_blocks(Path::new("/sys/devices/system"));
    let ranges = if blocks.is_empty() { zones(&fs::read_to_string("/proc/zoneinfo").unwrap_or_default()) } else { blocks };
    Nodes::new(ranges)
}

fn numbered(dir: &Path, prefix: &str) -> Vec<(u64, std::path::PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| Some((e.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?, e.path()))).collect()
}

fn memory_blocks(system: &Path) -> Vec<(u64, u64, NodeId)> {
    let size = fs::read_to_string(system.join("memory/block_size_bytes")).ok();
    let Some(size) = size.and_then(|s| u64::from_str_radix(s.trim(), 16).ok()) else { return Vec::new() };
    let frames = size >> 12;
    let nodes = numbered(&system.join("node"), "node").into_iter();
    nodes
        .filter_map(|(node, dir)| Some((NodeId(u16::try_from(node).ok()?), dir)))
        .flat_map(|(node, dir)| numbered(&dir, "memory").into_iter().map(move |(block, _)| (block, node)))
        .filter_map(|(block, node)| Some((block.checked_mul(frames)?, block.checked_add(1)?.checked_mul(frames)?, node)))
        .collect()
}

/// "Node 0, zone DMA32", "spanned 1044480", "start_pfn: 4096".
fn zones(zoneinfo: &str) -> Vec<(u64, u64, NodeId)> {
    let mut ranges = Vec::new();
    let (mut node, mut spanned) = (None, 0);
    for line in zoneinfo.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Node"), Some(n)) => node = n.trim_end_matches(',').parse().ok().map(NodeId),
            (Some("spanned"), Some(n)) => spanned = n.parse().unwrap_or(0),
            (Some("start_pfn:"), Some(n)) => {
                let range = node.zip(n.parse::<u64>().ok()).filter(|_| spanned > 0);
                ranges.extend(range.map(|(node, first)| (first, first.saturating_add(spanned), node)));
            }
            _ => {}
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_two_nodes() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        for place in ["memory", "node/node0/memory0", "node/node0/memory1", "node/node2/memory2", "node/possible"] {
            fs::create_dir_all(dir.path().join(place)).expect("a directory");
        }
        fs::write(dir.path().join("memory/block_size_bytes"), "8000000\n").expect("a file");
        let mut ranges = memory_blocks(dir.path());
        ranges.sort_unstable();
        assert_eq!(ranges, [(0, 32768, NodeId(0)), (32768, 65536, NodeId(0)), (65536, 98304, NodeId(2))]);
    }

    #[test]
    fn zones_where_there_are_no_blocks() {
        let text = "Node 0, zone      DMA\n  pages free 1\n        spanned  4095\n  start_pfn:           1\nNode 1, zone   Normal\n        spanned  10\n  \
                    start_pfn:  4096\nNode 1, zone  Movable\n        spanned  0\n  start_pfn: 0\n";
        assert_eq!(zones(text), [(1, 4096, NodeId(0)), (4096, 4106, NodeId(1))]);
    }
}
