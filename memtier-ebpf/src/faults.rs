//! Page faults through software perf events, with the address.
//!
//! Minor faults are sampled: the kernel adapts the period so that each CPU takes a bounded number of samples a second, and they
//! wait for the daemon's next look. Major faults are all counted, and reported with their address up to a bound per CPU and
//! second; a report stands for those that were not reported before it.

use crate::kernel::{Process, now};
use crate::out::{leave, send, tally};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{map, perf_event};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::PerfEventContext;
use aya_log_ebpf::debug;
use memtier_common::{FaultRecord, TallyKey, lost, record_kind, tally_kind};

/// Major faults reported per CPU and second at most.
const MOST_PER_S: u64 = 1000;

/// Second, reports in it, faults since the last report.
#[map]
static MAJORS: PerCpuArray<[u64; 3]> = PerCpuArray::with_max_entries(1, 0);

/// struct bpf_perf_event_data { regs; u64 sample_period; u64 addr; }: words of user_pt_regs.
#[cfg(bpf_target_arch = "x86_64")]
const REGS: usize = 21;
#[cfg(bpf_target_arch = "aarch64")]
const REGS: usize = 34;

#[perf_event]
pub fn minor_fault(ctx: PerfEventContext) -> u32 {
    // SAFETY: the layout is the kernel's ABI.
    let period = unsafe { ctx.as_ptr().cast::<u64>().add(REGS).read() };
    leave(report(&ctx, record_kind::MINOR_FAULT, Process::current(), period), lost::FAULTS);
    0
}

#[perf_event]
pub fn major_fault(ctx: PerfEventContext) -> u32 {
    let proc = Process::current();
    let key = TallyKey { kind: tally_kind::MAJOR_FAULTS, pid: proc.pid, id: proc.start_ns, tid: 0, from_cpu: 0, to_cpu: 0 };
    tally(&key, 1, lost::RECLAIM);
    let Some(state) = MAJORS.get_ptr_mut(0) else { return 0 };
    // SAFETY: per CPU, and page faults do not nest in this program.
    let [second, reports, silent] = unsafe { &mut *state };
    let this = now() / 1_000_000_000;
    if this != *second {
        (*second, *reports) = (this, 0);
    }
    *silent += 1;
    if *reports < MOST_PER_S {
        *reports += 1;
        let period = *silent;
        *silent = 0;
        send(report(&ctx, record_kind::MAJOR_FAULT, proc, period), lost::FAULTS);
    }
    0
}

#[inline(always)]
fn report(ctx: &PerfEventContext, kind: u32, proc: Process, period: u64) -> FaultRecord {
    // SAFETY: the layout is the kernel's ABI.
    let addr = unsafe { ctx.as_ptr().cast::<u64>().add(REGS + 1).read() };
    debug!(ctx, "fault of {} at {:x}", proc.pid, addr);
    // The low half: what the kernel calls a pid.
    let (tid, period) = (bpf_get_current_pid_tgid() as u32, period.min(u64::from(u32::MAX)) as u32);
    FaultRecord { kind, pid: proc.pid, start_ns: proc.start_ns, addr, tid, period }
}
