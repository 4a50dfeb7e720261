//! A process whose memory lies on several nodes from its first page on, and that never rests: what numad and the policy numa
//! are there for. It is a hog (tests/src/bin/hog.rs) whose memory a thread on each node fills, or one of several tenants
//! (tests/src/bin/tenants.rs).

use crate::brood::masks;
use memtier::sys::affinity::CpuMask;
use memtier::sys::numa::{by_node, move_pages};
use memtier::vocab::{CpuId, NodeId, Pages};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Longer than any measurement.
const BURNS_MS: u64 = 3_600_000;

/// Ends with its owner, and by itself when the owner dies.
#[derive(Debug)]
pub struct Spread {
    child: Child,
    orders: ChildStdin,
    /// None of a hog.
    pub tenants: Vec<Tenant>,
}

/// What belongs together of a process with several tenants.
#[derive(Debug)]
pub struct Tenant {
    pages: Vec<u64>,
    pub tids: Vec<u32>,
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
    pub fn hog(mib: u64, cpus: &[CpuId]) -> Result<Self, String> {
        let mut command = Command::new(crate::binary("hog")?);
        command.args([mib.to_string().as_str(), "sparse", "small"]).args(cpus.iter().map(|cpu| cpu.0.to_string()));
        let mut hog = Self::spawn(command.stdout(Stdio::null()))?;
        writeln!(hog.orders, "burn {BURNS_MS}").map_err(|e| format!("hog: {e}"))?;
        Ok(hog)
    }

    /// Of each tenant the MiB and how many threads. Blocks of 2 MiB of each lie on these nodes, in turn, before any thread works on
    /// them.
    pub fn tenants(mib: u64, nodes: &[NodeId], threads: &[usize]) -> Result<Self, String> {
        let mut command = Command::new(crate::binary("tenants")?);
        command.arg(mib.to_string()).args(threads.iter().map(ToString::to_string));
        let mut spread = Self::spawn(command.stdout(Stdio::piped()))?;
        let said = BufReader::new(spread.child.stdout.take().ok_or("no pipe from the tenants")?);
        for line in said.lines().take(threads.len()) {
            let line = line.map_err(|e| format!("tenants: {e}"))?;
            let mut numbers = line.split(' ').map(|n| n.parse::<u64>().map_err(|e| format!("tenants: {line}: {e}")));
            let start = numbers.next().ok_or("tenants: an empty line")??;
            let tids = numbers.map(|tid| Ok(tid? as u32)).collect::<Result<_, String>>()?;
            spread.tenants.push(Tenant { pages: (0..mib << 8).map(|n| start + (n << 12)).collect(), tids });
        }
        let short = spread.tenants.iter().zip(threads).any(|(tenant, threads)| tenant.tids.len() != *threads);
        if short || spread.tenants.len() != threads.len() {
            return Err("the tenants ended, or lack threads".into());
        }
        spread.scatter(nodes)?;
        writeln!(spread.orders, "go").map_err(|e| format!("tenants: {e}"))?;
        Ok(spread)
    }

    fn spawn(command: &mut Command) -> Result<Self, String> {
        let name = command.get_program().to_owned();
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(|e| format!("{}: {e}", name.display()))?;
        let orders = child.stdin.take().ok_or("no pipe to the hog")?;
        Ok(Self { child, orders, tenants: Vec::new() })
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

    fn scatter(&self, nodes: &[NodeId]) -> Result<(), String> {
        let blocks = self.tenants.iter().flat_map(|tenant| tenant.pages.chunks(512));
        for (block, node) in blocks.zip(nodes.iter().cycle()) {
            move_pages(self.pid(), block, Some(node.0)).map_err(|e| format!("move_pages of {}: {e}", self.pid()))?;
        }
        Ok(())
    }

    /// Where the memory of a tenant lies.
    pub fn tenant_lies(&self, tenant: &Tenant) -> Result<BTreeMap<NodeId, Pages>, String> {
        let mut lies = BTreeMap::<NodeId, Pages>::new();
        for at in move_pages(self.pid(), &tenant.pages, None).map_err(|e| format!("move_pages of {}: {e}", self.pid()))? {
            // Less than zero: not there.
            if let Ok(node) = u16::try_from(at) {
                lies.entry(NodeId(node)).or_default().0 += 1;
            }
        }
        Ok(lies)
    }

    /// The CPUs that any of these threads may run on; of none given, any thread.
    #[must_use]
    pub fn may_run(&self, tids: &[u32]) -> CpuMask {
        let mut masks = masks(self.pid());
        masks.retain(|tid, _| tids.is_empty() || tids.contains(tid));
        masks.values().filter_map(|list| CpuMask::parse(list)).fold(CpuMask::default(), |all, mask| all.or(&mask))
    }
}

impl Drop for Spread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
