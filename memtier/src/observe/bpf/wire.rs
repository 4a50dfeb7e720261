//! Bytes from the kernel to events: the records of the event ring, the keys of the tallies, the slots of the scheduler
//! probe. Total: any bytes decode to something or to `Malformed`.

use crate::vocab::{AddrRange, CpuId, CpuTime, FaultKind, KernelEvent, ProcKey};
use memtier_common::{FaultRecord, ProcRecord, RegionRecord, SchedSlot, SpillRecord, TICK_NS, TallyKey, record_kind};
use std::mem::offset_of;

/// Bytes that are no record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of kind {kind} with {len} bytes")]
pub struct Malformed {
    pub kind: u32,
    pub len: usize,
}

/// One record of the event ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Kernel(KernelEvent),
    Sched(CpuTime),
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_ne_bytes(*b))
}
fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b))
}

/// A process by pid and start in nanoseconds.
#[must_use]
pub const fn key(pid: u32, start_ns: u64) -> ProcKey {
    ProcKey { pid, start: start_ns / TICK_NS }
}

/// Decodes a record of the event ring.
pub fn record(bytes: &[u8]) -> Result<Record, Malformed> {
    let kind = half(bytes, 0);
    let malformed = Malformed { kind, len: bytes.len() };
    let sized = |size: usize| if bytes.len() == size { Ok(()) } else { Err(malformed) };
    let fault = |kind| {
        sized(size_of::<FaultRecord>())?;
        let proc = key(half(bytes, offset_of!(FaultRecord, pid)), word(bytes, offset_of!(FaultRecord, start_ns)));
        let addr = word(bytes, offset_of!(FaultRecord, addr));
        let (tid, period) = (half(bytes, offset_of!(FaultRecord, tid)), half(bytes, offset_of!(FaultRecord, period)).into());
        Ok(Record::Kernel(KernelEvent::Fault { proc, tid, addr, kind, period }))
    };
    let proc = || {
        sized(size_of::<ProcRecord>())?;
        Ok(key(half(bytes, offset_of!(ProcRecord, pid)), word(bytes, offset_of!(ProcRecord, start_ns))))
    };
    match kind {
        record_kind::FORK => {
            let child = proc()?;
            let parent = key(half(bytes, offset_of!(ProcRecord, parent)), word(bytes, offset_of!(ProcRecord, parent_start_ns)));
            Ok(Record::Kernel(KernelEvent::Fork { parent, child }))
        }
        record_kind::EXEC => Ok(Record::Kernel(KernelEvent::Exec { proc: proc()? })),
        record_kind::EXIT => Ok(Record::Kernel(KernelEvent::Exit { proc: proc()? })),
        record_kind::MINOR_FAULT => fault(FaultKind::Minor),
        record_kind::MAJOR_FAULT => fault(FaultKind::Major),
        record_kind::SCHED_SPILL => {
            sized(size_of::<SpillRecord>())?;
            let slot = |at: usize| word(bytes, offset_of!(SpillRecord, slot) + at);
            Ok(Record::Sched(cpu_time(half(bytes, offset_of!(SpillRecord, cpu)), slot)))
        }
        record_kind::REGION => {
            sized(size_of::<RegionRecord>())?;
            Ok(Record::Kernel(region(bytes)))
        }
        _ => Err(malformed),
    }
}

fn region(bytes: &[u8]) -> KernelEvent {
    KernelEvent::Region {
        proc: key(half(bytes, offset_of!(RegionRecord, pid)), word(bytes, offset_of!(RegionRecord, start_ns))),
        range: AddrRange { start: word(bytes, offset_of!(RegionRecord, from)), end: word(bytes, offset_of!(RegionRecord, to)) },
        accesses: half(bytes, offset_of!(RegionRecord, accesses)),
        samples: half(bytes, offset_of!(RegionRecord, samples)),
    }
}

/// The CPU time of one slot, read word by word.
pub fn cpu_time(cpu: u32, word: impl Fn(usize) -> u64) -> CpuTime {
    let ids = word(offset_of!(SchedSlot, tid)).to_ne_bytes();
    CpuTime {
        proc: key(half(&ids, offset_of!(SchedSlot, pid)), word(offset_of!(SchedSlot, start_ns))),
        tid: half(&ids, offset_of!(SchedSlot, tid)),
        cpu: CpuId(cpu),
        runtime_ns: word(offset_of!(SchedSlot, runtime_ns)),
        switches: word(offset_of!(SchedSlot, switches)),
    }
}

/// Decodes a key of a tally; short keys read as zeros, which no kind has.
#[must_use]
pub fn tally_key(bytes: &[u8]) -> TallyKey {
    let cpus = half(bytes, offset_of!(TallyKey, from_cpu)).to_ne_bytes();
    let cpu = |at: usize| cpus.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_ne_bytes(*b));
    TallyKey {
        kind: half(bytes, offset_of!(TallyKey, kind)),
        pid: half(bytes, offset_of!(TallyKey, pid)),
        id: word(bytes, offset_of!(TallyKey, id)),
        tid: half(bytes, offset_of!(TallyKey, tid)),
        from_cpu: cpu(0),
        to_cpu: cpu(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    #[test]
    fn each_kind_decodes() {
        let parent = ProcKey { pid: 7, start: 3 };
        let proc = ProcKey { pid: 9, start: 12 };
        let head = |kind: u32| u64::from(kind) | 9 << 32;
        let tells = |words: &[u64]| record(&bytes(words));
        let fork = tells(&[head(record_kind::FORK), 120_000_001, 7, 39_999_999]);
        assert_eq!(fork, Ok(Record::Kernel(KernelEvent::Fork { parent, child: proc })));
        assert_eq!(tells(&[head(record_kind::EXEC), 120_000_001, 0, 0]), Ok(Record::Kernel(KernelEvent::Exec { proc })));
        assert_eq!(tells(&[head(record_kind::EXIT), 129_999_999, 0, 0]), Ok(Record::Kernel(KernelEvent::Exit { proc })));
        let fault = KernelEvent::Fault { proc, tid: 11, addr: 4097, kind: FaultKind::Major, period: 3 };
        assert_eq!(tells(&[head(record_kind::MAJOR_FAULT), 120_000_000, 4097, 11 | 3 << 32]), Ok(Record::Kernel(fault)));
        let spill = tells(&[u64::from(record_kind::SCHED_SPILL) | 2 << 32, 11 | 9 << 32, 120_000_000, 55, 4]);
        assert_eq!(spill, Ok(Record::Sched(CpuTime { proc, tid: 11, cpu: CpuId(2), runtime_ns: 55, switches: 4 })));
        let region = KernelEvent::Region { proc, range: AddrRange { start: 4096, end: 8192 }, accesses: 3, samples: 20 };
        assert_eq!(tells(&[head(record_kind::REGION), 120_000_000, 4096, 8192, 3 | 20 << 32]), Ok(Record::Kernel(region)));
        let key = tally_key(&bytes(&[7 | 9 << 32, 120_000_000, 11 | 1 << 32 | 2 << 48]));
        assert_eq!(key, TallyKey { kind: 7, pid: 9, id: 120_000_000, tid: 11, from_cpu: 1, to_cpu: 2 });
    }

    proptest! {
        #[test]
        fn any_bytes_decode(kind in 0u32..9, noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = tally_key(&noise);
            let _ = record(&noise);
            let mut named = kind.to_ne_bytes().to_vec();
            named.extend(&noise);
            if let Ok(Record::Kernel(event)) = record(&named) {
                let region = matches!(event, KernelEvent::Region { .. });
                prop_assert!(named.len() == if region { 40 } else { 32 }, "{:?}", event);
            }
        }
    }
}
