//! Mappings of one process: an iterator over its VMAs that writes one record each to the reader.
//!
//! The seq file carries the records: the kernel comes back to a mapping whose record did not fit, so none is lost.

use crate::kernel::{
    FILE_INODE, INODE_SB, POLICY_MODE, SB_MAGIC, TASK_START_BOOTTIME, VMA_END, VMA_FILE, VMA_FLAGS, VMA_OPS, VMA_POLICY, VMA_START,
    VMA_UFFD, half, word,
};
use aya_ebpf::helpers::generated::bpf_seq_write;
use core::ffi::c_void;
use memtier_common::{VmaRecord, vma_has};

/// MPOL_LOCAL (include/uapi/linux/mempolicy.h): the node of whoever touches a page first, as without any policy.
const LOCAL: u16 = 4;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_vma")]
pub extern "C" fn vmas(ctx: *const u64) -> i32 {
    // SAFETY: the context of an iterator over VMAs is { meta *, task *, vma * }.
    let (meta, task, vma) = unsafe { (*ctx as *const u64, *ctx.add(1), *ctx.add(2)) };
    if task == 0 || vma == 0 {
        return 0;
    }
    let file = word(vma + VMA_FILE.load());
    let mut has = 0;
    let mut fs_magic = 0;
    if file != 0 {
        has |= vma_has::FILE;
        fs_magic = word(word(word(file + FILE_INODE.load()) + INODE_SB.load()) + SB_MAGIC.load());
    }
    if word(vma + VMA_OPS.load()) != 0 {
        has |= vma_has::OPS;
    }
    // Kernels without userfaultfd have no such field.
    let uffd = VMA_UFFD.load();
    if uffd != 0 && word(vma + uffd) != 0 {
        has |= vma_has::UFFD;
    }
    // Nor do kernels without NUMA have this one. The policy stays while the iterator holds the mmap_lock.
    let own = VMA_POLICY.load();
    let policy = if own != 0 { word(vma + own) } else { 0 };
    // An unsigned short, and flags behind it.
    if policy != 0 && half(policy + POLICY_MODE.load()) as u16 != LOCAL {
        has |= vma_has::POLICY;
    }
    let mut record = VmaRecord {
        start_ns: word(task + TASK_START_BOOTTIME.load()),
        from: word(vma + VMA_START.load()),
        to: word(vma + VMA_END.load()),
        flags: word(vma + VMA_FLAGS.load()),
        has,
        fs_magic,
    };
    // SAFETY: the first word of the iterator's meta is its seq file; the record is initialised.
    unsafe { bpf_seq_write(*meta as *mut _, (&raw mut record).cast::<c_void>(), size_of::<VmaRecord>() as u32) };
    0
}
