//! The layer `vm` of `cargo xtask test`: test programs in guests of every kernel and topology, one boot each.

use super::{Guest, SERIES, boot};
use crate::sh;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TOPOLOGIES: [&str; 3] = ["1", "2", "2+cxl"];
/// MiB of memory of a whole guest: what the tests of the host layer ask for, and the root's writes.
const MEMORY: u32 = 3072;
/// For disk swap, and for zswap over it.
const DISK: u32 = 256;
/// Runs every program, and fails if one did. NUMA balancing stays off but where a test turns it on: of huge pages that wait
/// for its hint fault, smaps of Linux 6.1 says nothing, and smaps is the truth that our hands are held to.
const ALL: &str =
    "code=0; echo 0 >/proc/sys/kernel/numa_balancing; for each; do \"$each\" --test-threads=1 || code=101; done; exit $code";

pub struct Cell {
    /// "6.12, 2+cxl".
    pub name: String,
    /// Has every kind of node: what asks about the kernel and not about nodes is shown here.
    pub fullest: bool,
    guest: Guest,
}

pub fn cells() -> Vec<Cell> {
    let all = SERIES.iter().flat_map(|kernel| TOPOLOGIES.iter().map(move |topo| (kernel, topo)));
    all.map(|(kernel, topo)| {
        let topology: super::Topology = topo.parse().expect("a preset");
        let guest = Guest {
            kernel: (*kernel).to_owned(),
            mem: MEMORY / topology.nodes(),
            topo: topology,
            kvm: false,
            cpus: None,
            append: String::new(),
            modules: Vec::new(),
            debs: Vec::new(),
            disks: vec![DISK],
            timeout: Duration::MAX,
        };
        Cell { name: format!("{kernel}, {topo}"), fullest: *topo == "2+cxl", guest }
    })
    .collect()
}

impl Cell {
    /// Boots and runs the programs; their exit code, and how long all of it took.
    pub fn run(&self, root: &Path, programs: &[PathBuf], cap: Duration, each_line: &mut dyn FnMut(&str)) -> Result<(u8, Duration)> {
        let began = Instant::now();
        let mut words: Vec<String> = ["sh", "-c", ALL, "sh"].map(str::to_owned).to_vec();
        words.extend(programs.iter().map(|p| p.display().to_string()));
        let guest = Guest { timeout: cap, ..self.guest.clone() };
        Ok((boot(root, &guest, &words, Some(each_line))?, began.elapsed()))
    }
}

/// The test programs that `cargo test ...` would run: it is asked to run them by `echo`.
pub fn programs(mut cargo_test: Command) -> Result<Vec<PathBuf>> {
    let arch = std::env::consts::ARCH.to_uppercase();
    cargo_test.env(format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER"), "echo").stdin(Stdio::null()).stderr(Stdio::null());
    let said = sh::output(&mut cargo_test).with_context(|| format!("`{}` failed", sh::show(&cargo_test)))?;
    let programs: Vec<PathBuf> = said.lines().filter_map(|l| l.split_whitespace().next()).map(PathBuf::from).collect();
    match programs.iter().find(|p| !p.is_file()) {
        Some(odd) => bail!("cargo said {}, which is no program", odd.display()),
        None => Ok(programs),
    }
}
