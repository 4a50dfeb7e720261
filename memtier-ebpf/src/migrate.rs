//! Pages that the kernel moves: between nodes, or together (compaction).

use crate::out::tally;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use memtier_common::{TallyKey, lost, tally_kind};

/// mm_migrate_pages(succeeded, failed, ...)
#[btf_tracepoint]
pub fn migrate_pages(ctx: BtfTracePointContext) -> i32 {
    let (succeeded, failed): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    debug!(&ctx, "migrated {}, failed {}", succeeded, failed);
    for (kind, pages) in [(tally_kind::MIGRATED, succeeded), (tally_kind::NOT_MIGRATED, failed)] {
        if pages != 0 {
            tally(&TallyKey { kind, pid: 0, id: 0, tid: 0, from_cpu: 0, to_cpu: 0 }, pages, lost::MIGRATE);
        }
    }
    0
}
