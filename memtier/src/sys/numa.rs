//! Where the pages of a process lie, and moving them.

use crate::vocab::{Bytes, NodeId, PAGE_BYTES, Pages};
use std::collections::BTreeMap;
use std::io;

/// What [`move_pages`] leaves in the answer of a page that the kernel said nothing about: no node and no errno.
pub const UNTOLD: i32 = i32::MIN;

/// Asks for the node of each page (`to` is `None`), or moves them to one node. The answer has one number a page: its node,
/// or a negative errno.
///
/// | answer | meaning |
/// | --- | --- |
/// | -ENOENT | no page there; on Linux 6.1 with NUMA balancing also a page that waits for its hint fault |
/// | -EACCES | mapped by several processes, and not to be moved so |
/// | -EBUSY | held by somebody for the moment |
/// | -EFAULT | no mapping there, or the zero page |
/// | -ENOMEM | no room on that node |
/// | `UNTOLD` | the call broke off: a page of the same batch did not move, or it comes after such a batch |
///
/// | errno | meaning |
/// | --- | --- |
/// | ESRCH | no such process |
/// | EPERM | no CAP_SYS_NICE, or no right to ptrace-read the process |
/// | ENODEV | the node has no memory online |
/// | EACCES | the cpuset of the process forbids the node |
/// | ENOMEM | no room on that node; the pages before may have moved |
/// | EINVAL | the process has no memory: it is ending, or a kernel thread |
pub fn move_pages(pid: u32, addrs: &[u64], to: Option<u16>) -> io::Result<Vec<i32>> {
    const MPOL_MF_MOVE: libc::c_int = 1 << 1;
    let nodes: Option<Vec<i32>> = to.map(|node| vec![node.into(); addrs.len()]);
    let wanted = nodes.as_ref().map_or(std::ptr::null(), Vec::as_ptr);
    let mut status = vec![UNTOLD; addrs.len()];
    // SAFETY: three arrays of `addrs.len()` elements, the second of them or none; the addresses are of the other process and
    // are not dereferenced on our side.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            pid as libc::pid_t,
            addrs.len(),
            addrs.as_ptr(),
            wanted,
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    // A positive number counts pages that did not move; their answers say why.
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

/// Moves all pages of a process that lie on `from` to `to`; with CAP_SYS_NICE, which a daemon has, also those that others map too,
/// shared libraries and shared memory among them. Returns how many the kernel says it could not move; it says nothing of which, and the number is not of one unit on all kernels (pages, or folios).
///
/// | errno | meaning |
/// | --- | --- |
/// | ESRCH | no such process |
/// | EPERM | no right to ptrace-read the process; or its cpuset forbids `to` and we have no CAP_SYS_NICE |
/// | EINVAL | `to` has no memory online, or our own cpuset forbids it; a number that is no node's; the process is ending |
/// | ENOMEM | no room on `to`; part of the pages may have moved |
pub fn migrate_pages(pid: u32, from: &[NodeId], to: NodeId) -> io::Result<u64> {
    let most = from.iter().chain([&to]).map(|node| usize::from(node.0)).max().unwrap_or_default();
    let (old, new) = (node_mask(from, most), node_mask(&[to], most));
    // The kernel takes one bit less than it is told (mm/mempolicy.c, get_nodes).
    let bits = old.len() * libc::c_ulong::BITS as usize + 1;
    // SAFETY: two arrays of as many bits as are told, but for the one that the kernel takes off; it only reads them.
    let left = unsafe { libc::syscall(libc::SYS_migrate_pages, pid as libc::pid_t, bits, old.as_ptr(), new.as_ptr()) };
    if left < 0 { Err(io::Error::last_os_error()) } else { Ok(left.unsigned_abs()) }
}

/// A bit for each node, in as many words as hold the number `most`.
fn node_mask(nodes: &[NodeId], most: usize) -> Vec<libc::c_ulong> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let mut words = vec![0; most / BITS + 1];
    for node in nodes {
        words[usize::from(node.0) / BITS] |= 1 << (usize::from(node.0) % BITS);
    }
    words
}

/// What /proc/PID/numa_maps tells, summed: base pages on each node. A page that others map too counts whole.
#[must_use]
pub fn by_node(numa_maps: &str) -> BTreeMap<NodeId, Pages> {
    let mut sums: BTreeMap<NodeId, Pages> = BTreeMap::new();
    for line in numa_maps.lines() {
        // The name of a file may hold anything; it comes before what is counted.
        let words = || line.split(' ').filter_map(|word| word.split_once('='));
        let kib = words().filter(|(key, _)| *key == "kernelpagesize_kB").filter_map(|(_, kib)| kib.parse().ok()).next_back();
        let pages = Bytes::from_kib(kib.unwrap_or(4)).0 / PAGE_BYTES;
        for (key, count) in words() {
            let node = key.strip_prefix('N').and_then(|node| node.parse().ok());
            if let (Some(node), Ok(count)) = (node, count.parse::<u64>()) {
                sums.entry(NodeId(node)).or_default().0 += count * pages;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_numbers_beyond_a_word_have_their_bits() {
        let nodes = [0, 1, 63, 64, 130].map(NodeId);
        assert_eq!(node_mask(&nodes, 130), [1 << 63 | 0b11, 1, 0b100]);
        assert_eq!(node_mask(&nodes[..1], 0), [1]);
        assert_eq!(node_mask(&[], 64), [0, 0]);
    }

    #[test]
    fn numa_maps_is_summed_in_base_pages() {
        let text = "55d0c000 default file=/usr/bin/a b mapped=3 N0=1 N2=2 kernelpagesize_kB=4\n\
                    7f000000 bind:0 anon=512 dirty=512 N70=512 kernelpagesize_kB=4\n\
                    7f200000 default file=/dev/hugepages/x huge dirty=2 N0=2 kernelpagesize_kB=2048\n7f0 default\n";
        let sums = by_node(text);
        assert_eq!(
            sums.into_iter().collect::<Vec<_>>(),
            [(NodeId(0), Pages(1025)), (NodeId(2), Pages(2)), (NodeId(70), Pages(512))]
        );
    }

    /// One node has nowhere to move to, but the kernel checks what it is asked, and 64-bit words are read in full.
    #[test]
    fn our_own_pages_are_asked_for_and_nodes_that_are_none_are_refused() {
        let (here, me) = (Box::new([7u8; 8192]), std::process::id());
        let page = (here.as_ptr().addr() as u64 + 4095) & !4095;
        let status = match move_pages(me, &[page, 4096], None) {
            Ok(status) => status,
            // A kernel without NUMA has no such calls.
            Err(error) => return assert_eq!(error.raw_os_error(), Some(libc::ENOSYS)),
        };
        assert!(status[0] >= 0, "{status:?}");
        assert!([-libc::EFAULT, -libc::ENOENT].contains(&status[1]), "{status:?}");
        let refused = move_pages(me, &[page], Some(900)).expect_err("no such node").raw_os_error();
        assert_eq!(refused, Some(libc::ENODEV));
        assert_eq!(migrate_pages(me, &[NodeId(0)], NodeId(0)).expect("nothing to do"), 0);
        // The bit is beyond what the kernel knows, or a node without memory: it saw the second word.
        let refused = migrate_pages(me, &[NodeId(0)], NodeId(70)).expect_err("no such node").raw_os_error();
        assert!(matches!(refused, Some(libc::EINVAL | libc::EPERM)), "{refused:?}");
    }
}
