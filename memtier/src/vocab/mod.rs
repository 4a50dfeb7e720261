//! The words that everything else speaks: units, identities, facts, events, actions, reasons.
//!
//! Deliberately absent: decisions, I/O, clocks. Nothing here does more than arithmetic, `Display` and serialisation.
//! Every type that a trace records derives serde; the field names are the trace format (docs/trace-format.md).

mod action;
mod cache;
mod event;
mod facts;
mod ids;
mod pages;
mod reason;
mod slab;
mod units;

pub use action::{Action, Amount, Charge, End, Fault, Group, Guard, Outcome, Step, StepId, Whom};
pub use cache::{
    CacheEvictions, CacheFetches, CacheLook, CacheSample, CacheServer, CacheStream, CacheTold, ClassEvictions, ClassLook,
    EvictedKey, FetchedKey, MOST_SERVERS, ServerId,
};
pub use event::{
    CgroupSample, CpuTime, Event, FaultKind, HostSample, KernelEvent, MapsSample, NodeSample, NodesSample, Pressure, PressureKind,
    ProcSample, ReclaimCounts, Request, Sample, SchedClass, SchedSample, Source, Stamped, SwapBacking, SwapSample, Vma, VmaFlags,
    VmaKind,
};
pub use facts::{Answer, Fact, HostFacts, Need, NodeFacts, is_slow};
pub use ids::{CgroupId, CpuId, IdSet, NodeId, PolicyId, ProcKey};
pub use pages::{
    AddrRange, BLOCK_BYTES, BLOCK_PAGES, Bits, BlockId, BlockSample, Leaf, NodeRun, PAGE_BYTES, PAGE_SHIFT, PageChunk,
};
pub use reason::{Evidence, Hold, Idle, Measure, Quantity, Reason, Rule, Subject, Unit};
pub use slab::{ClassId, Place, Reply, ServerLife};
pub use units::{Bytes, Pages, Permil, Span, Time};
