//! Puts the probes in place, one family at a time. A family that does not fit this kernel says why and leaves nothing
//! behind; the others go on.

use super::deepest;
use super::drain::{SchedSlots, Tallies};
use super::object::{Object, program};
use crate::sys::bpf::run_on_cpu;
use crate::vocab::Source;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{BtfTracePoint, PerfEvent, RawTracePoint};
use memtier_common::{SCHED_SLOTS, SchedCpu, SchedSlot};
use std::os::fd::{AsFd as _, OwnedFd};

/// Minor faults sampled per CPU and second; the kernel adapts the period.
const MINOR_FAULTS_HZ: u64 = 50;

/// A program, its tracepoint, and the arguments it reads.
type Probe = (&'static str, &'static str, &'static [&'static str]);

const PROCS: &[Probe] = &[
    ("proc_fork", "sched_process_fork", &["task_struct*", "task_struct*"]),
    ("proc_exec", "sched_process_exec", &["task_struct*"]),
    ("proc_exit", "sched_process_exit", &["task_struct*"]),
];
const SCHED: &[Probe] = &[
    ("sched_switch", "sched_switch", &["bool", "task_struct*", "task_struct*"]),
    ("sched_migrate", "sched_migrate_task", &["task_struct*", "int"]),
];
const RECLAIM: &[Probe] = &[
    ("swap_write", "mm_vmscan_write_folio", &["folio*"]),
    ("direct_reclaim", "mm_vmscan_direct_reclaim_begin", &[]),
    ("memcg_reclaim", "mm_vmscan_memcg_reclaim_begin", &[]),
];
const DAMON: &[Probe] = &[("damon_region", "damon_aggregated", &["unsigned int", "damon_region*"])];
const MIGRATE: &[Probe] = &[("migrate_pages", "mm_migrate_pages", &["long unsigned int", "long unsigned int"])];

pub fn procs(object: &mut Object) -> Result<(), String> {
    tracepoints(object, Source::Procs, PROCS)
}
/// A program that does nothing, where the hottest of ours is; in place as long as the object.
pub fn nothing(object: &mut Object) -> Result<(), String> {
    tracepoints(object, Source::Sched, &[("sched_nothing", "sched_switch", &[])])
}
pub fn reclaim(object: &mut Object) -> Result<(), String> {
    tracepoints(object, Source::Reclaim, RECLAIM)
}
pub fn migrate(object: &mut Object) -> Result<(), String> {
    tracepoints(object, Source::Migrate, MIGRATE)
}
pub fn damon(object: &mut Object) -> Result<(), String> {
    tracepoints(object, Source::Damon, DAMON)
}

/// The scheduler probes, and the slots to drain.
pub fn sched(object: &mut Object) -> Result<SchedSlots, String> {
    let tick: &mut RawTracePoint = program(&mut object.ebpf, "sched_tick")?;
    tick.load().map_err(|e| format!("loading sched_tick: {}", deepest(&e)))?;
    let tick = owned(tick.fd())?;
    let cpus = object.cpus as usize;
    let slots = SchedSlots {
        cpus: object.mapped("SCHED_CPUS", cpus * size_of::<SchedCpu>())?,
        slots: object.mapped("SCHED", cpus * 2 * SCHED_SLOTS * size_of::<SchedSlot>())?,
        tick,
        seen: vec![0; cpus],
    };
    let online = aya::util::online_cpus().map_err(|(what, e)| format!("{what}: {e}"))?;
    if let Some(&cpu) = online.first() {
        run_on_cpu(slots.tick.as_fd(), cpu).map_err(|e| format!("this kernel cannot run a program on a chosen CPU: {e}"))?;
    }
    tracepoints(object, Source::Sched, SCHED)?;
    Ok(slots)
}

/// Page-fault samples on every CPU that is online.
pub fn faults(object: &mut Object) -> Result<(), String> {
    lacks(object, Source::Faults)?;
    let events = [
        ("minor_fault", SoftwareEvent::PageFaultsMin, SamplePolicy::Frequency(MINOR_FAULTS_HZ)),
        ("major_fault", SoftwareEvent::PageFaultsMaj, SamplePolicy::Period(1)),
    ];
    let online = aya::util::online_cpus().map_err(|(what, e)| format!("{what}: {e}"))?;
    for (name, event, policy) in events {
        let probe: &mut PerfEvent = program(&mut object.ebpf, name)?;
        let mut attached = probe.load().map_err(|e| format!("loading {name}: {}", deepest(&e)));
        for &cpu in &online {
            let scope = PerfEventScope::AllProcessesOneCpu { cpu };
            attached = attached.and_then(|()| {
                let link = probe.attach(PerfEventConfig::Software(event), scope, policy, false);
                link.map(drop).map_err(|e| format!("attaching {name}: {}", deepest(&e)))
            });
        }
        attached?;
    }
    Ok(())
}

/// The tallies and the word that tells which ones are written.
pub fn tallies(object: &Object) -> Result<Tallies, String> {
    let map = |name| object.map(name)?.fd().as_fd().try_clone_to_owned().map_err(|e| format!("{name}: {e}"));
    let most = object.map("TALLY_0")?.info().map_err(|e| e.to_string())?.max_entries();
    Ok(Tallies {
        turn: object.mapped("TALLIED", 8)?,
        maps: [[map("TALLY_0")?, map("MOVES_0")?], [map("TALLY_1")?, map("MOVES_1")?]],
        most,
    })
}

fn lacks(object: &Object, source: Source) -> Result<(), String> {
    object.lacking.get(&source).map_or(Ok(()), |why| Err(why.clone()))
}

fn tracepoints(object: &mut Object, source: Source, probes: &[Probe]) -> Result<(), String> {
    lacks(object, source)?;
    let attached = probes.iter().try_for_each(|probe| tracepoint(object, probe));
    if attached.is_err() {
        for (name, ..) in probes {
            if let Ok(probe) = program::<BtfTracePoint>(&mut object.ebpf, name) {
                // It may not have been loaded.
                let _ = probe.unload();
            }
        }
    }
    attached
}

fn tracepoint(object: &mut Object, &(name, tracepoint, reads): &Probe) -> Result<(), String> {
    let tells = object.types.tracepoint(tracepoint).map_err(|e| e.to_string())?;
    if !tells.iter().map(String::as_str).zip(reads).all(|(tells, reads)| tells == *reads) || tells.len() < reads.len() {
        return Err(format!("tracepoint {tracepoint} tells ({}), not ({})", tells.join(", "), reads.join(", ")));
    }
    let Object { ebpf, btf, .. } = object;
    let probe: &mut BtfTracePoint = program(ebpf, name)?;
    probe.load(tracepoint, btf).map_err(|e| format!("loading {name}: {}", deepest(&e)))?;
    probe.attach().map(drop).map_err(|e| format!("attaching {name}: {}", deepest(&e)))
}

fn owned(fd: Result<&aya::programs::ProgramFd, aya::programs::ProgramError>) -> Result<OwnedFd, String> {
    fd.map_err(|e| e.to_string())?.as_fd().try_clone_to_owned().map_err(|e| e.to_string())
}
