//! Regions of address spaces that DAMON watches, where it found accesses.
//!
//! The tracepoint tells the place of a target among those of its context, and no process. The context is the data of the
//! thread that runs here, a kdamond; its targets hold the process, whatever sysfs was told since and whoever asked for it.
//! Contexts that watch physical memory, as the host's own do, know no process: they are left after three loads.
//!
//! An aggregation may end every few milliseconds with a thousand regions; the first that ends in each second is told.

use crate::kernel::{
    DAMON_AGGR_US, DAMON_FVADDR, DAMON_OPS, DAMON_PASSED, DAMON_SAMPLE_US, DAMON_TARGETS, DAMON_VADDR, KTHREAD_DATA, PID_TASKS,
    Process, REGION_ACCESSES, REGION_END, REGION_START, TARGET_LIST, TARGET_PID, TASK_KTHREAD, TASK_PID_LINKS, current, half, word,
};
use crate::out::{lose, send};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use memtier_common::{RegionRecord, lost, record_kind};

/// Processes of one context that we look through; regions of those beyond count as lost.
const MOST_TARGETS: u32 = 32;
const SECOND_US: u64 = 1_000_000;
/// The shortest idle age that the model corrects.
const LONGEST_US: u64 = 30 * SECOND_US;
const PAGE_BYTES: u64 = 4096;
const BLOCK_BYTES: u64 = 2 << 20;

/// damon_aggregated(target, region, regions)
#[btf_tracepoint]
pub fn damon_region(ctx: BtfTracePointContext) -> i32 {
    let (place, region): (u32, *const u8) = (ctx.arg(0), ctx.arg(1));
    let region = region as u64;
    let context = word(word(current() + TASK_KTHREAD.load()) + KTHREAD_DATA.load());
    let watches = u64::from(half(context + DAMON_OPS.load()));
    if watches != DAMON_VADDR.load() && watches != DAMON_FVADDR.load() {
        return 0;
    }
    let accesses = half(region + REGION_ACCESSES.load());
    let (from, to) = (word(region + REGION_START.load()), word(region + REGION_END.load()));
    let Some(samples) = samples(context).filter(|&samples| tells(to - from, accesses, samples)) else { return 0 };
    if place >= MOST_TARGETS {
        lose(lost::DAMON);
        return 0;
    }
    if let Some(Process { pid, start_ns }) = watched(context, place) {
        debug!(&ctx, "region of {} at {:x}", pid, from);
        send(RegionRecord { kind: record_kind::REGION, pid, start_ns, from, to, accesses, samples }, lost::DAMON);
    }
    0
}

/// Whether the model makes anything of a region of so many bytes (model/heat/proc.rs): of a page that was accessed, and of a
/// block or less most of whose looks found accesses.
#[inline(always)]
fn tells(bytes: u64, accesses: u32, samples: u32) -> bool {
    accesses != 0 && bytes == PAGE_BYTES || bytes <= BLOCK_BYTES && accesses > samples / 2
}

/// Samples in the aggregation that ends now; none where another ended before it in the same second, or where it began so long
/// ago that nobody knows whether the page was asked since.
#[inline(always)]
fn samples(context: u64) -> Option<u32> {
    let sample_us = word(context + DAMON_SAMPLE_US.load()).max(1);
    let aggregation_us = word(context + DAMON_AGGR_US.load());
    let samples = aggregation_us / sample_us;
    let passed = word(context + DAMON_PASSED.load());
    let second = |samples: u64| samples * sample_us / SECOND_US;
    let first = passed <= samples || second(passed) != second(passed - samples);
    (first && aggregation_us <= LONGEST_US).then_some(samples as u32)
}

/// The process that is watched as target number `place`; none once it is gone.
#[inline(always)]
fn watched(context: u64, place: u32) -> Option<Process> {
    let mut link = word(context + DAMON_TARGETS.load());
    for at in 0..MOST_TARGETS {
        if at == place {
            break;
        }
        link = word(link);
    }
    let pid = word(link - TARGET_LIST.load() + TARGET_PID.load());
    let task = word(pid + PID_TASKS.load());
    (task != 0).then(|| Process::of(task - TASK_PID_LINKS.load()))
}
