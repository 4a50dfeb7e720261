//! Reclaim: pages written to swap, by the task that wrote them and by the memory cgroup that owned them; and passes of
//! reclaim that a task had to make itself, because memory or its cgroup's share was short.
//!
//! Pages that memtier itself pages out are counted for memtier, not for the cgroup: they are no sign of pressure.

use crate::kernel::{CGROUP_KN, FOLIO_FLAGS, FOLIO_MEMCG, FOLIO_PAGES, KN_ID, MEMCG_CGROUP, OWN_PID, PG_HEAD, Process, word};
use crate::out::tally;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use memtier_common::{TallyKey, lost, tally_kind};

const NOTHING: TallyKey = TallyKey { kind: 0, pid: 0, id: 0, tid: 0, from_cpu: 0, to_cpu: 0 };
/// Low bits of memcg_data tell what kind of pointer it is.
const MEMCG_FLAGS: u64 = 7;

/// mm_vmscan_write_folio(folio)
#[btf_tracepoint]
pub fn swap_write(ctx: BtfTracePointContext) -> i32 {
    let folio: *const u8 = ctx.arg(0);
    let folio = folio as u64;
    let large = word(folio + FOLIO_FLAGS.load()) >> PG_HEAD.load() & 1 == 1;
    let pages = if large { word(folio + FOLIO_PAGES.load()) & 0xffff_ffff } else { 1 };
    let Process { pid, start_ns } = Process::current();
    tally(&TallyKey { kind: tally_kind::SWAP_WRITES, pid, id: start_ns, ..NOTHING }, pages, lost::RECLAIM);
    if u64::from(pid) == OWN_PID.load() {
        return 0;
    }
    let memcg = word(folio + FOLIO_MEMCG.load()) & !MEMCG_FLAGS;
    if memcg != 0 {
        let id = word(word(word(memcg + MEMCG_CGROUP.load()) + CGROUP_KN.load()) + KN_ID.load());
        tally(&TallyKey { kind: tally_kind::CGROUP_SWAP, id, ..NOTHING }, pages, lost::RECLAIM);
    }
    0
}

/// mm_vmscan_direct_reclaim_begin(order, flags)
#[btf_tracepoint]
pub fn direct_reclaim(ctx: BtfTracePointContext) -> i32 {
    pass(&ctx)
}

/// mm_vmscan_memcg_reclaim_begin(order, flags)
#[btf_tracepoint]
pub fn memcg_reclaim(ctx: BtfTracePointContext) -> i32 {
    pass(&ctx)
}

#[inline(always)]
fn pass(ctx: &BtfTracePointContext) -> i32 {
    let Process { pid, start_ns } = Process::current();
    debug!(ctx, "reclaim by {}", pid);
    tally(&TallyKey { kind: tally_kind::DIRECT_RECLAIM, pid, id: start_ns, ..NOTHING }, 1, lost::RECLAIM);
    0
}
