//! Processes: fork, exec, exit. Threads are not reported.

use crate::kernel::{EXIT_TELLS_LAST, Process, SIGNAL_LIVE, TASK_PID, TASK_SIGNAL, half, word};
use crate::out::send;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use memtier_common::{ProcRecord, lost, record_kind};

/// sched_process_fork(parent, child)
#[btf_tracepoint]
pub fn proc_fork(ctx: BtfTracePointContext) -> i32 {
    let (parent, child): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    let new = Process::of(child as u64);
    if half(child as u64 + TASK_PID.load()) != new.pid {
        return 0;
    }
    let by = Process::of(parent as u64);
    debug!(&ctx, "fork of {} by {}", new.pid, by.pid);
    tell(record_kind::FORK, new, by)
}

/// sched_process_exec(task, old pid, binary)
#[btf_tracepoint]
pub fn proc_exec(ctx: BtfTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    let proc = Process::of(task as u64);
    debug!(&ctx, "exec of {}", proc.pid);
    tell(record_kind::EXEC, proc, Process { pid: 0, start_ns: 0 })
}

/// sched_process_exit(task[, whether it was the last thread])
#[btf_tracepoint]
pub fn proc_exit(ctx: BtfTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    // Where the tracepoint does not tell, the count of live threads does. Two threads that leave at the same moment may then
    // both see zero: the second exit of a process says nothing new.
    let last = if EXIT_TELLS_LAST.load() != 0 {
        ctx.arg::<u64>(1) & 0xff != 0
    } else {
        half(word(task as u64 + TASK_SIGNAL.load()) + SIGNAL_LIVE.load()) == 0
    };
    if !last {
        return 0;
    }
    let proc = Process::of(task as u64);
    debug!(&ctx, "exit of {}", proc.pid);
    tell(record_kind::EXIT, proc, Process { pid: 0, start_ns: 0 })
}

#[inline(always)]
fn tell(kind: u32, proc: Process, parent: Process) -> i32 {
    let Process { pid, start_ns } = proc;
    let record = ProcRecord { kind, pid, start_ns, parent: parent.pid, pad: 0, parent_start_ns: parent.start_ns };
    send(record, lost::PROCS);
    0
}
