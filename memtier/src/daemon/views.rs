//! What the control socket answers: plain structs, rendered as JSON by the daemon and read back by the command line
//! (docs/control-api.md shows each). Field names are an interface; new ones may join.

use super::footprint::Held;
use crate::vocab::{AddrRange, Bytes, CpuId, Idle, NodeId, Permil, ProcKey, Source, Span, Time, VmaKind};
use serde::{Deserialize, Serialize};

/// GET /v1/status
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub started: Time,
    pub now: Time,
    pub mode: Mode,
    pub paused: bool,
    /// Files and the command line, in merge order.
    pub config: Vec<String>,
    /// Directory of the running recording.
    pub recording: Option<String>,
    /// Why nothing reaches it, while that is so.
    #[serde(default)]
    pub recording_stalled: Option<String>,
    /// Records that are missing in it.
    #[serde(default)]
    pub recording_missing: u64,
    pub sources: Vec<SourceView>,
    pub targets: Vec<TargetView>,
    /// Selected processes beyond those listed.
    pub more_targets: u64,
    /// Target rules that decide for no process, and what was compared.
    #[serde(default)]
    pub vain_rules: Vec<String>,
    pub budgets: Vec<BudgetView>,
    /// Brakes that hold right now.
    pub brakes: Vec<String>,
    pub idles: Vec<Idle>,
    /// The last lines of the decision log, newest last.
    pub log: Vec<String>,
    pub footprint: Vec<Held>,
    pub own: OwnView,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    pub act: bool,
    pub arm: bool,
    pub all: bool,
}

impl Mode {
    /// In one phrase for people.
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self { act: true, .. } => "acting",
            Self { arm: true, .. } => "arming and advising",
            Self { .. } => "reading and advising",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SightView {
    Seeing,
    /// Not heard of yet.
    Waiting,
    Blind {
        why: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceView {
    pub source: Source,
    pub sight: SightView,
    /// Since its last record.
    pub silent: Option<Span>,
    pub records: u64,
    pub lost: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetView {
    pub proc: ProcKey,
    pub comm: String,
    pub selection: String,
    pub resident: Bytes,
    pub swapped: Bytes,
    /// Idle for two minutes or longer.
    pub idle_2min: Bytes,
    pub unknown: Bytes,
    pub scans: u32,
    pub confidence: Permil,
    pub refaults_per_min: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BudgetView {
    pub name: String,
    pub used: u64,
    pub limit: u64,
    /// "bytes" or "calls".
    pub unit: String,
    pub window: Span,
}

/// What memtier itself costs.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct OwnView {
    pub cpu_user: Span,
    pub cpu_system: Span,
    /// Time spent in our BPF programs; none where the kernel does not count it.
    pub bpf_run: Option<Span>,
    pub resident: Bytes,
    pub models: Bytes,
    /// Memory that the models track.
    pub tracked: Bytes,
    pub events: u64,
    pub decisions: u64,
    pub steps_open: u64,
}

/// GET /v1/caches
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CachesView {
    pub servers: Vec<CacheView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CacheView {
    /// Its place among the `[[cache]]` rules.
    pub id: u16,
    pub server: String,
    pub version: String,
    pub pid: Option<u32>,
    /// Why it cannot be talked to, while that is so.
    pub blind: Option<String>,
    /// Streams that it lacks, and its words.
    pub lacks: Vec<String>,
    pub policy: String,
    pub acts: bool,
    /// Pages of all classes, and of none.
    pub pages: u64,
    pub pool: u64,
    /// Pages moved by memtier and seen to be.
    pub moves: u64,
    pub moving: Option<MoveView>,
    /// Records of its streams that were read, and that are known to be lost.
    pub events: u64,
    pub lost: u64,
    /// For so long none are read, while it rests.
    #[serde(default)]
    pub rested_s: Option<u64>,
    /// Why no page moves right now.
    pub held: Option<String>,
    pub classes: Vec<ClassView>,
    /// Its last steps, latest last.
    pub log: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveView {
    /// 0 is the pool.
    pub from: u8,
    pub to: u8,
}

/// Shares are thousandths of the sum over all classes; of the age, of that of the oldest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassView {
    pub class: u8,
    pub chunk_size: u64,
    pub pages: u64,
    pub pages_permil: u64,
    pub items: u64,
    pub items_permil: u64,
    pub free_chunks: u64,
    pub age_s: u64,
    pub age_permil: u64,
    pub evictions_per_s: u64,
    pub evictions_permil: u64,
    pub hits_per_s: u64,
    pub sets_per_s: u64,
    /// Hits per second, in thousandths, that a page less costs and a page more earns.
    pub loss_milli: u64,
    pub gain_milli: u64,
    /// How much was told of what it would earn.
    pub confidence_permil: u64,
    /// Of its hits, how many half of it would have had; none where fetches told too little.
    pub near_permil: Option<u64>,
    /// Pages that it got and gave by memtier.
    pub got: u64,
    pub gave: u64,
}

/// GET /v1/nodes
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodesView {
    /// Between the samples that idle time comes from.
    pub apart: Span,
    /// Hardware threads of one core.
    pub smt_width: u64,
    pub nodes: Vec<NodeView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeView {
    pub node: NodeId,
    pub total: Bytes,
    pub free: Bytes,
    pub inactive_file: Bytes,
    pub cpus: Vec<CpuId>,
    /// Thousandths of a CPU that idled.
    pub idle: u64,
    /// To each node, itself included, in the order of their numbers; empty where the kernel does not tell them all.
    pub distances: Vec<u16>,
}

/// GET /v1/heat
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeatView {
    pub proc: ProcKey,
    pub comm: String,
    pub selection: String,
    pub now: Time,
    /// End of the last complete walk.
    pub scan_at: Option<Time>,
    pub scans: u32,
    pub resident: Bytes,
    pub swapped: Bytes,
    /// (idle for at least this, bytes): cumulative, and less than the first edge is what all of these leave of `resident`
    pub idle: Vec<(Span, Bytes)>,
    pub young: Bytes,
    /// Never asked: nobody cleared their accessed bits, so that being set or not proves nothing.
    pub unknown: Bytes,
    /// Touched within the last two minutes, as far as is known.
    pub working_set: Bytes,
    pub refaults_per_min: u64,
    pub confidence: Permil,
    /// Bytes under huge leaves: one accessed bit for 2 MiB.
    pub huge: Bytes,
    /// Bits are being cleared for this process.
    pub armed: bool,
    /// Why the walker does not tell, where it does not.
    pub blind: Option<String>,
    pub cell: Bytes,
    pub areas: Vec<AreaView>,
    /// Resident bytes of areas too small for the picture.
    pub elsewhere: Bytes,
}

/// Neighbouring mappings in one strip of cells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AreaView {
    pub range: AddrRange,
    pub kinds: Vec<VmaKind>,
    pub resident: Bytes,
    pub cells: Vec<CellView>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellView {
    pub resident: Bytes,
    pub young: Bytes,
    /// Nobody cleared these bits: being set proves nothing.
    #[serde(default)]
    pub unknown: Bytes,
    /// Mean idle age of the rest.
    pub idle: Span,
}

/// POST /v1/record/stop
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recorded {
    pub dir: String,
    pub events: u64,
    pub decisions: u64,
}

/// An answer that has nothing to tell but that it is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    pub done: String,
}
