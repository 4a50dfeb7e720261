//! Page walker: runs when somebody reads the iterator, once per chunk, and copies last-level page tables as they are.
//!
//! The iterator has a task filter, so the program sees one task. It reads the tables through the kernel's direct map and
//! takes no lock: not mmap_lock, no page-table lock. Two things make that sound enough to use:
//! the program runs in an RCU read section, and x86 frees page tables through RCU; and after the walk the task must still
//! have the address space it had before, so that its top-level table was not freed on the way. What remains is read by
//! `bpf_probe_read_kernel`, which survives any address; the daemon checks every record.
//!
//! Returning 1 asks the iterator to come back to the same task at the next read(2): one link and one open file serve a
//! whole walk, a chunk costs one system call. A chunk ends at `most_blocks` or `most_ns`.

use crate::kernel::{MM_PGD, TASK_MM, TASK_START_BOOTTIME, now, table, word};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use core::ffi::c_void;
use memtier_common::{BLOCK_PAGES, BlockHead, CHUNK_BLOCKS, Calibration, TICK_NS, WalkControl, block_form, walk_status};

#[map]
static WALK: Array<WalkControl> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static CALIBRATION: Array<Calibration> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The two tables above the last level that the walk stands in.
#[map]
static UPPER: Array<[u64; 512]> = Array::with_max_entries(2, 0);
#[map]
static HEADS: Array<BlockHead> = Array::with_max_entries(CHUNK_BLOCKS as u32, BPF_F_MMAPABLE);
/// Beside the heads, so that each table lies in a page of its own and is copied line by line.
#[map]
static TABLES: Array<[u64; BLOCK_PAGES]> = Array::with_max_entries(CHUNK_BLOCKS as u32, BPF_F_MMAPABLE);

/// Where the walk stands. In a map, not on the stack: the verifier takes what it reads from a map for unknown, so that all
/// turns of the loop look alike to it.
#[map]
static STATE: Array<Walk> = Array::with_max_entries(1, 0);

const PRESENT: u64 = 1;
/// A leaf above the last level.
const HUGE: u64 = 1 << 7;
/// Between steps the clock is read every so often.
const CLOCK_STEPS: u64 = 64;

struct Walk {
    addr: u64,
    end: u64,
    pgd: u64,
    /// Numbers (plus one) of the 512 GiB and 1 GiB regions whose tables UPPER holds.
    pud_held: u64,
    pmd_held: u64,
    left: u64,
    records: u64,
    unreadable: u64,
    steps: u64,
    deadline: u64,
    direct_map: u64,
    frame_mask: u64,
    memory_end: u64,
    levels: u64,
}

impl Walk {
    #[inline(always)]
    fn skip(&mut self, shift: u32) -> i64 {
        self.addr = ((self.addr >> shift) + 1) << shift;
        0
    }
    /// Where the table lies that an entry points to; 0, which nobody can read, where that is no memory: behind the direct
    /// map stands what the kernel maps for devices, and a read there is not for us to make.
    #[inline(always)]
    fn below(&self, entry: u64) -> u64 {
        let at = entry & self.frame_mask;
        if at < self.memory_end { self.direct_map + at } else { 0 }
    }
}

/// Moves the walk on by one entry of whatever table it stands in. 1 ends the chunk.
#[inline(always)]
fn step(walk: &mut Walk) -> i64 {
    let addr = walk.addr;
    if addr >= walk.end || walk.left == 0 {
        return 1;
    }
    walk.steps += 1;
    if walk.steps.is_multiple_of(CLOCK_STEPS) && now() > walk.deadline {
        return 1;
    }
    let (Some(puds), Some(pmds)) = (UPPER.get_ptr_mut(0), UPPER.get_ptr_mut(1)) else { return 1 };
    if walk.pmd_held != (addr >> 30) + 1 {
        if walk.pud_held != (addr >> 39) + 1 {
            let mut top = walk.pgd;
            if walk.levels == 5 {
                let entry = word(top + ((addr >> 48) & 511) * 8);
                if entry & PRESENT == 0 {
                    return walk.skip(48);
                }
                top = walk.below(entry);
                if top == 0 {
                    walk.unreadable += 1;
                    return walk.skip(48);
                }
            }
            let entry = word(top + ((addr >> 39) & 511) * 8);
            if entry & PRESENT == 0 {
                return walk.skip(39);
            }
            if !table(puds, walk.below(entry)) {
                walk.unreadable += 1;
                return walk.skip(39);
            }
            walk.pud_held = (addr >> 39) + 1;
        }
        // SAFETY: the index is below 512.
        let pud = unsafe { *puds.cast::<u64>().add(((addr >> 30) & 511) as usize) };
        if pud & PRESENT == 0 {
            return walk.skip(30);
        }
        if pud & HUGE != 0 {
            return pud_leaf(walk, pud);
        }
        if !table(pmds, walk.below(pud)) {
            walk.unreadable += 1;
            return walk.skip(30);
        }
        walk.pmd_held = (addr >> 30) + 1;
    }
    // SAFETY: the index is below 512.
    let pmd = unsafe { *pmds.cast::<u64>().add(((addr >> 21) & 511) as usize) };
    if pmd == 0 {
        return walk.skip(21);
    }
    // A leaf; or neither present nor empty: a huge page on its way to another node.
    if pmd & (PRESENT | HUGE) != PRESENT {
        return if emit(walk, pmd, block_form::PMD_LEAF, 1) { walk.skip(21) } else { 1 };
    }
    if emit(walk, pmd, block_form::TABLE, 1) { walk.skip(21) } else { 1 }
}

/// A 1 GiB page counts as the blocks it covers, so that no chunk grows beyond its bound.
#[inline(always)]
fn pud_leaf(walk: &mut Walk, pud: u64) -> i64 {
    let leaf_end = ((walk.addr >> 30) + 1) << 30;
    let until = if leaf_end < walk.end { leaf_end } else { walk.end };
    let inside = (until - walk.addr + (1 << 21) - 1) >> 21;
    let blocks = if inside < walk.left { inside } else { walk.left };
    if !emit(walk, pud, block_form::PUD_LEAF, blocks) {
        return 1;
    }
    walk.addr = ((walk.addr >> 21) + blocks) << 21;
    0
}

/// Writes one block; false where there is no room for it: the next chunk begins here.
#[inline(always)]
fn emit(walk: &mut Walk, entry: u64, form: u64, blocks: u64) -> bool {
    let slot = walk.records as u32;
    let (Some(head), Some(copy)) = (HEADS.get_ptr_mut(slot), TABLES.get_ptr_mut(slot)) else { return false };
    if form == block_form::TABLE && !table(copy, walk.below(entry)) {
        walk.unreadable += 1;
        return true;
    }
    // SAFETY: the daemon leaves the slots alone while it waits for the read that runs this.
    unsafe { *head = BlockHead { addr: walk.addr & !0x1f_ffff, entry, form, blocks } };
    walk.records += 1;
    walk.left -= blocks;
    true
}

extern "C" fn turn(_: u32, _: *mut c_void) -> i64 {
    // SAFETY: one walk runs at a time.
    STATE.get_ptr_mut(0).map_or(1, |walk| step(unsafe { &mut *walk }))
}

/// More steps than any chunk takes within its time.
const MOST_STEPS: u32 = 1 << 20;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn walk(ctx: *const u64) -> i32 {
    // SAFETY: the context of an iterator over tasks is { meta *, task * }.
    let task = unsafe { *ctx.add(1) };
    // The iterator calls once more, without a task, when it is done.
    if task == 0 {
        return 0;
    }
    let Some(control) = WALK.get_ptr_mut(0) else { return 0 };
    // SAFETY: the daemon leaves the block alone while it waits for the read that runs this.
    let control = unsafe { &mut *control };
    let began = now();
    if word(task + TASK_START_BOOTTIME.load()) / TICK_NS != control.start_ticks {
        control.status = walk_status::STRANGER;
        return 0;
    }
    let mm = word(task + TASK_MM.load());
    if mm == 0 {
        control.status = walk_status::NO_MEMORY;
        return 0;
    }
    if control.mm != 0 && control.mm != mm {
        control.status = walk_status::REPLACED;
        return 0;
    }
    control.mm = mm;
    let Some(walk) = STATE.get_ptr_mut(0) else { return 0 };
    // SAFETY: one walk runs at a time.
    let walk = unsafe { &mut *walk };
    *walk = Walk {
        addr: control.cursor,
        end: control.end,
        pgd: word(mm + MM_PGD.load()),
        pud_held: 0,
        pmd_held: 0,
        left: control.most_blocks,
        records: 0,
        unreadable: 0,
        steps: 0,
        deadline: began + control.most_ns,
        direct_map: control.direct_map,
        frame_mask: control.frame_mask,
        memory_end: control.memory_end,
        levels: control.levels,
    };
    // SAFETY: the callback takes nothing from us.
    unsafe { bpf_loop(MOST_STEPS, turn as *mut c_void, core::ptr::null_mut(), 0) };
    control.records = walk.records;
    control.unreadable = walk.unreadable;
    control.kernel_ns = now() - began;
    if word(task + TASK_MM.load()) != mm {
        control.status = walk_status::REPLACED;
        return 0;
    }
    control.cursor = walk.addr;
    control.status = walk_status::WALKED;
    i32::from(walk.addr < walk.end)
}

struct Search {
    base: u64,
    physical: u64,
    magic: [u64; 2],
    found: u64,
}

extern "C" fn try_base(_: u32, search: *mut Search) -> i64 {
    // SAFETY: bpf_loop hands back the pointer it was given.
    let search = unsafe { &mut *search };
    let at = search.base + search.physical;
    if word(at) == search.magic[0] && word(at + 8) == search.magic[1] {
        search.found = search.base;
        return 1;
    }
    search.base -= 1 << 30;
    0
}

/// Finds the direct map: the kernel puts it at a multiple of 1 GiB below any page table, and physical memory behind it in
/// order. The daemon tells the physical address of a page of its own and what stands in it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn calibrate(ctx: *const u64) -> i32 {
    // SAFETY: the context of an iterator over tasks is { meta *, task * }.
    let task = unsafe { *ctx.add(1) };
    if task == 0 {
        return 0;
    }
    let Some(asked) = CALIBRATION.get_ptr_mut(0) else { return 0 };
    // SAFETY: the daemon leaves the block alone while it waits for the read that runs this.
    let asked = unsafe { &mut *asked };
    let pgd = word(word(task + TASK_MM.load()) + MM_PGD.load());
    let mut search = Search { base: pgd & !((1 << 30) - 1), physical: asked.physical, magic: asked.magic, found: 0 };
    // SAFETY: the callback gets the search back, which outlives the call.
    unsafe { bpf_loop(asked.most_steps as u32, try_base as *mut c_void, (&raw mut search).cast::<c_void>(), 0) };
    asked.direct_map = search.found;
    0
}
