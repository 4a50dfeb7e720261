//! CPU time per task and CPU, and tasks that move between CPUs.
//!
//! sched_switch is the hottest hook there is, so its program touches one line of per-CPU state and one slot of a
//! direct-mapped table: no hashing, no atomics. Slots come in two halves. Once a period the daemon runs `sched_tick` on each
//! CPU: it accounts the task that runs there and turns to the other half, so that the daemon may read and clear the first.
//! Both programs run with interrupts off on that CPU, so neither ever meets the other: nothing is counted twice or missed.
//! A task that finds its slot taken sends the slot's contents through the event ring.

use crate::kernel::{Process, TASK_CPU, TASK_LEADER, TASK_PID, TASK_START_BOOTTIME, TASK_TGID, half, now};
use crate::out::{send, tally_move};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_get_smp_processor_id};
use aya_ebpf::macros::{btf_tracepoint, map, raw_tracepoint};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext};
use memtier_common::{SCHED_SLOTS, SchedCpu, SchedSlot, SpillRecord, TallyKey, lost, record_kind, tally_kind};

/// One per possible CPU; sized by the loader.
#[map]
static SCHED_CPUS: Array<SchedCpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Two halves of SCHED_SLOTS per possible CPU; sized by the loader.
#[map]
static SCHED: Array<SchedSlot> = Array::with_max_entries(2 * SCHED_SLOTS as u32, BPF_F_MMAPABLE);

/// sched_switch(preempt, previous, next, state of previous)
#[btf_tracepoint]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let (previous, next): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(2));
    if let Some(cpu) = account(previous, 1) {
        cpu.running = u64::from(tid(next));
        cpu.switches += 1;
    }
    0
}

/// Run by the daemon on one CPU (BPF_F_TEST_RUN_ON_CPU), in an interrupt; never attached.
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn sched_tick(_: RawTracePointContext) -> i32 {
    // SAFETY: the helper takes nothing.
    if let Some(cpu) = account(unsafe { bpf_get_current_task_btf() }.cast::<u8>(), 0) {
        cpu.half ^= 1;
    }
    0
}

/// The yardstick of `bench sched`: what it costs to call a program that does nothing. Nobody else loads it.
#[btf_tracepoint]
pub fn sched_nothing(_: BtfTracePointContext) -> i32 {
    0
}

#[inline(always)]
fn tid(task: *const u8) -> u32 {
    // SAFETY: a BTF pointer, and an offset that the verifier knows: a plain load that survives faults.
    unsafe { task.add(TASK_PID.load() as usize).cast::<u32>().read() }
}

/// Books the time since the last call on this CPU to `task`; the state of this CPU.
#[inline(always)]
fn account(task: *const u8, switches: u64) -> Option<&'static mut SchedCpu> {
    // SAFETY: the helper takes nothing.
    let number = unsafe { bpf_get_smp_processor_id() };
    // SAFETY: only this CPU writes its state, and we run with interrupts off.
    let cpu = unsafe { &mut *SCHED_CPUS.get_ptr_mut(number)? };
    let at = now();
    let since = cpu.since_ns;
    cpu.since_ns = at;
    let tid = tid(task);
    if tid == 0 || since == 0 {
        return Some(cpu);
    }
    let half = number * 2 + (cpu.half as u32 & 1);
    // SAFETY: only this CPU writes this half until the next tick.
    let slot = unsafe { &mut *SCHED.get_ptr_mut(half * SCHED_SLOTS as u32 + tid % SCHED_SLOTS as u32)? };
    if slot.tid != tid {
        if slot.tid != 0 {
            send(SpillRecord { kind: record_kind::SCHED_SPILL, cpu: number, slot: *slot }, lost::SCHED);
        }
        // SAFETY: as in `tid`.
        let (pid, start_ns) = unsafe {
            let leader = task.add(TASK_LEADER.load() as usize).cast::<*const u8>().read();
            let pid = task.add(TASK_TGID.load() as usize).cast::<u32>().read();
            (pid, leader.add(TASK_START_BOOTTIME.load() as usize).cast::<u64>().read())
        };
        *slot = SchedSlot { tid, pid, start_ns, runtime_ns: 0, switches: 0 };
    }
    slot.runtime_ns += at - since;
    slot.switches += switches;
    Some(cpu)
}

/// sched_migrate_task(task, destination)
#[btf_tracepoint]
pub fn sched_migrate(ctx: BtfTracePointContext) -> i32 {
    let (task, to): (*const u8, i32) = (ctx.arg(0), ctx.arg(1));
    let task = task as u64;
    let Process { pid, start_ns } = Process::of(task);
    let (tid, from_cpu) = (half(task + TASK_PID.load()), half(task + TASK_CPU.load()) as u16);
    let key = TallyKey { kind: tally_kind::TASK_MOVES, pid, id: start_ns, tid, from_cpu, to_cpu: to as u16 };
    tally_move(&key, lost::MIGRATE);
    0
}
