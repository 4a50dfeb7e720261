//! Where the pages of a process lie, and moving them.

use std::io;

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
///
/// | errno | meaning |
/// | --- | --- |
/// | ESRCH | no such process |
/// | EPERM | no CAP_SYS_NICE, or no right to ptrace-read the process |
/// | EINVAL, ENODEV, EACCES | the node is none of the process's, or offline |
pub fn move_pages(pid: u32, addrs: &[u64], to: Option<u16>) -> io::Result<Vec<i32>> {
    const MPOL_MF_MOVE: libc::c_int = 1 << 1;
    let nodes: Option<Vec<i32>> = to.map(|node| vec![node.into(); addrs.len()]);
    let wanted = nodes.as_ref().map_or(std::ptr::null(), Vec::as_ptr);
    let mut status = vec![0; addrs.len()];
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
