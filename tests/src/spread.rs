//! A process whose memory lies on several nodes from its first page on, and that never rests: what numad and the policy numa
//! are there for. It is a hog (tests/src/bin/hog.rs) whose memory a thread on each node fills.

use crate::brood::masks;
use memtier::sys::affinity::CpuMask;
use memtier::sys::numa::by_node;
use memtier::vocab::{CpuId, NodeId, Pages};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Longer than any measurement.
const BURNS_MS: u64 = 3_600_000;

/// Ends with its owner, and by itself when the owner dies.
#[derive(Debug)]
pub struct Spread {
    child: Child,
    _orders: ChildStdin,
}

/// What changes while it is being placed, as far as it can be looked at often: not where its pages are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    pub resident: u64,
    /// Of each thread.
    pub cpus: BTreeMap<u32, String>,
}

impl Spread {
    /// Does not wait until it has filled its memory.
    pub fn start(mib: u64, cpus: &[CpuId]) -> Result<Self, String> {
        let mut command = Command::new(crate::binary("hog")?);
        command.args([mib.to_string().as_str(), "sparse", "small"]).args(cpus.iter().map(|cpu| cpu.0.to_string()));
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = spawned.map_err(|e| format!("hog: {e}"))?;
        let mut orders = child.stdin.take().ok_or("no pipe to the hog")?;
        writeln!(orders, "burn {BURNS_MS}").map_err(|e| format!("hog: {e}"))?;
        Ok(Self { child, _orders: orders })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn glance(&self) -> Result<Glance, String> {
        let path = format!("/proc/{}/statm", self.pid());
        let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let resident = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
        Ok(Glance { resident: resident.ok_or_else(|| format!("{path}: {text}"))?, cpus: masks(self.pid()) })
    }

    /// Where its anonymous pages lie. Pages of its program and libraries are others' too.
    pub fn lies(&self) -> Result<BTreeMap<NodeId, Pages>, String> {
        let path = format!("/proc/{}/numa_maps", self.pid());
        let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let own: Vec<&str> = text.lines().filter(|line| line.contains(" anon=") && !line.contains(" file=")).collect();
        Ok(by_node(&own.join("\n")))
    }

    /// The CPUs that any of its threads may run on.
    #[must_use]
    pub fn may_run(&self) -> CpuMask {
        let masks = masks(self.pid());
        masks.values().filter_map(|list| CpuMask::parse(list)).fold(CpuMask::default(), |all, mask| all.or(&mask))
    }
}

impl Drop for Spread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
