//! What a simulated run is made of: a host, processes, a script of changes, and faults.

use super::cache::CacheSpec;
use super::nodes::NodeSpec;
use super::process::{Pattern, ProcSpec};
use crate::config::Config;
use crate::vocab::{Bytes, Need, Permil, Request, Source, Span, SwapBacking};

/// The swap area, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct SwapSpec {
    pub size: Bytes,
    pub backing: SwapBacking,
    /// zram: memory it may cost at most; 0 is no limit.
    pub limit: Bytes,
}

/// Probabilities in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A step fails with EBUSY or ESRCH.
    pub busy: u64,
    /// A step does half of what it should.
    pub partial: u64,
    /// The target exits between plan and act and its pid is taken by another process.
    pub pid_reuse: u64,
    /// The target exits in the middle of a walk.
    pub exit_mid_scan: u64,
    /// The outcome comes up to a minute late.
    pub late: u64,
    /// Each record that comes through a ring buffer may be the first of a burst of up to 16 lost ones.
    pub lost: u64,
    /// Each second, one source may go blind for up to a minute.
    pub blind: u64,
    /// Each second, a process may fork a short-lived child.
    pub churn: u64,
}

impl Faults {
    /// Everything goes wrong now and then.
    pub const STORM: Self = Self { busy: 50, partial: 50, pid_reuse: 5, exit_mid_scan: 5, late: 50, lost: 5, blind: 3, churn: 50 };
}

/// Something that happens at a given time. Processes are named by their comm; the oldest of that name is meant.
#[derive(Clone, Debug)]
pub enum Change {
    Start(ProcSpec),
    Exit(&'static str),
    Exec(&'static str),
    /// Exit, and another process gets the pid.
    ReusePid(&'static str),
    Pattern {
        comm: &'static str,
        region: usize,
        pattern: Pattern,
    },
    /// Others take the CPU that it wants; until `Feed` it touches nothing.
    Starve(&'static str),
    Feed(&'static str),
    /// Each of its threads wants so much of a CPU from now on.
    Busy {
        comm: &'static str,
        busy: Permil,
    },
    Blind(Source),
    Sight(Source),
    /// Tells nothing more, and does not say so.
    Mute(Source),
    /// Memory that something outside the model takes for good.
    Take(Bytes),
    /// A node with that much memory is removed; new facts follow.
    RemoveNode(Bytes),
    /// Somebody else says on which CPUs it may run.
    Affinity {
        comm: &'static str,
        cpus: Vec<u32>,
    },
    SwapLimit {
        cgroup: &'static str,
        limit: Bytes,
    },
    Reload(Box<Config>),
    Request(fn(crate::vocab::ProcKey) -> Request, &'static str),
    Faults(Faults),
    /// The server is killed and started anew, with nothing in it.
    RestartCache(u16),
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub memory: Bytes,
    pub nodes: Vec<NodeSpec>,
    pub swap: Option<SwapSpec>,
    pub procs: Vec<ProcSpec>,
    /// memcached servers, in the order of the configuration's `[[cache]]` rules.
    pub caches: Vec<CacheSpec>,
    pub script: Vec<(Span, Change)>,
    pub faults: Faults,
    pub lacks: Vec<Need>,
    /// kernel.numa_balancing is on; what it does is not simulated.
    pub balancing: bool,
    pub length: Span,
}

impl Scenario {
    /// A host of 1 GiB on two nodes with a zram area of the same size; nothing runs on it.
    #[must_use]
    pub fn new(name: &'static str, length: Span) -> Self {
        Self {
            name,
            memory: Bytes::from_mib(1024),
            nodes: NodeSpec::USUAL.to_vec(),
            swap: Some(SwapSpec { size: Bytes::from_mib(1024), backing: SwapBacking::Zram, limit: Bytes::ZERO }),
            procs: Vec::new(),
            caches: Vec::new(),
            script: Vec::new(),
            faults: Faults::default(),
            lacks: Vec::new(),
            balancing: false,
            length,
        }
    }
    #[must_use]
    pub fn with(mut self, proc: ProcSpec) -> Self {
        self.procs.push(proc);
        self
    }
    #[must_use]
    pub fn at(mut self, secs: u64, change: Change) -> Self {
        self.script.push((Span::from_secs(secs), change));
        self
    }
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }
}

/// Most of a page's content compresses away; the usual share for a Scenario's `Permil` fields.
pub const INCOMPRESSIBLE: Permil = Permil(1010);
