//! How a step on memory is cut into system calls: the hands (act/) go by it, and the budget is charged by it.

use crate::config::Config;
use crate::vocab::{Action, Bytes, Pages};

/// Between two slices guards are looked at again.
pub const COLD_SLICE: Bytes = Bytes::from_mib(32);
pub const PAGE_OUT_SLICE: Bytes = Bytes::from_mib(4);
/// Paging out 512 KiB to zram takes 0.6 ms (docs/hands.md), in which the target cannot map or unmap.
pub const PAGE_OUT_CALL: Bytes = Bytes::from_kib(512);
/// Pages between nodes: guards are looked at again after so much ...
pub const MOVE_SLICE: Bytes = Bytes::from_mib(32);
/// ... and one call of move_pages(2) takes this much. Each has all CPUs empty their batches of pages, and waits for them
/// (mm/migrate.c, lru_cache_disable), which small calls would do more than move. Who touches a page under way waits no longer
/// for large ones: the kernel has 512 pages under way at most (NR_MAX_BATCHED_MIGRATION), before 6.3 one.
pub const MOVE_CALL: Bytes = Bytes::from_mib(8);
/// What a range costs in a call beside its pages: a TLB flush and a start, 0.5 to 1.5 us.
pub const RANGE_COST: Pages = Pages(16);
/// Reading over a gap of this many pages costs less than another system call.
pub const BRIDGE: Pages = Pages(64);
/// What binding one thread takes: two looks at its mask and its start, and the call that sets it.
pub const BIND_CALLS: u64 = 8;
/// Handles, and the look whose they are.
const TO_TAKE_HOLD: u64 = 8;

/// The system calls that a step is likely to make; it is charged with them until its outcome says how many they were. What
/// nobody foresees (refused ranges, looks at huge pages, marks of frames that lie far apart) is not in it.
#[must_use]
pub fn calls(action: &Action, config: &Config) -> u64 {
    let (slice, call, reads, guards) = match action {
        Action::Scan { .. }
        | Action::MoveSlabPage { .. }
        | Action::SetMover { .. }
        | Action::SetWatch { .. }
        | Action::SetFree { .. } => return 0,
        Action::Bind { .. } | Action::Migrate { .. } => return TO_TAKE_HOLD,
        Action::MovePages { .. } => (MOVE_SLICE, MOVE_CALL, 2, 2),
        Action::PageOut { .. } => (PAGE_OUT_SLICE, PAGE_OUT_CALL, 2, 2),
        Action::Arm { .. } | Action::Deactivate { .. } => (COLD_SLICE, Bytes::from_mib(config.arm.slice_mib), 1, 1),
    };
    let (ranges, bytes) = (action.ranges(), action.pages().bytes());
    let slices = bytes.0.div_ceil(slice.0);
    let weight = bytes.0.saturating_add(RANGE_COST.bytes().0 * ranges.len() as u64);
    let portions = weight.div_ceil(call.0.max(1)).max(slices);
    let apart = ranges.windows(2).filter(|pair| pair[1].start.saturating_sub(pair[0].end) > BRIDGE.bytes().0).count() as u64;
    // Between two calls there is a pause, which is one too.
    TO_TAKE_HOLD + slices * guards + (slices + apart) * reads + portions * 2
}
