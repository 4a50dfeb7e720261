//! `vm`: a throw-away QEMU guest with a kernel and a topology of choice, in which one command runs as root.
//!
//! The guest's root is this machine's own, read-only, under a tmpfs that takes what is written: every program, library and
//! path is where it is here, and nothing that a guest does outlives it. Emulated by TCG, it shows placement and counters,
//! never speed.

pub mod apt;
mod boot;
mod initrd;
pub mod matrix;
mod stock;
mod topo;

use anyhow::Result;
use boot::{Guest, boot};
use clap::Args;
use std::path::Path;
use std::time::Duration;
use stock::{SERIES, Stock};
use topo::Topology;

/// The guest could not be had, or ended without a word.
const DIED: u8 = 125;
/// As timeout(1) has it.
const LATE: u8 = 124;

#[derive(Args)]
pub struct Options {
    /// Kernel series: 6.1, 6.12 or 6.18, Debian's builds
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// 1, 2, 4 nodes; with CPU-less ones 2+cxl, 4+2cxl; or QEMU options in one word
    #[arg(long, default_value = "1", allow_hyphen_values = true)]
    topo: Topology,
    /// tcg emulates; kvm where /dev/kvm runs stock kernels
    #[arg(long, default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accel: String,
    /// Memory of each node in MiB
    #[arg(long, default_value_t = 1024)]
    mem: u32,
    /// Processors in all, spread over the nodes that have any [default: 2, or one a node]
    #[arg(long)]
    cpus: Option<u32>,
    /// More words for the kernel's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// A module to load, with what it depends on
    #[arg(long)]
    module: Vec<String>,
    /// A Debian package to have in the guest, unpacked with what it needs and this machine lacks
    #[arg(long)]
    deb: Vec<String>,
    /// A blank disk of so many MiB: /dev/vda, then /dev/vdb
    #[arg(long)]
    disk: Vec<u32>,
    /// Seconds until the guest is ended and 124 returned
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// What to run; its exit code is ours
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Runs the command and ends with its exit code.
pub fn run(root: &Path, options: Options) -> Result<()> {
    let Options { kernel, topo, accel, mem, cpus, append, module, deb, disk, timeout, command } = options;
    let timeout = Duration::from_secs(timeout);
    let guest = Guest { kernel, topo, kvm: accel == "kvm", mem, cpus, append, modules: module, debs: deb, disks: disk, timeout };
    let code = boot(root, &guest, &command, None).unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        DIED
    });
    std::process::exit(code.into())
}

/// Fetches what the matrix of the layer `vm` needs.
pub fn fetch(root: &Path) -> Result<()> {
    let (stock, _lock) = Stock::open(root)?;
    stock.qemu()?;
    SERIES.iter().try_for_each(|series| stock.kernel(series).map(drop))
}
