//! `cargo xtask VERB`: everything a person or CI does with this tree. One file per verb.

mod bench;
mod bless;
mod build;
mod build_ebpf;
mod demo;
mod lint;
mod memcached_suite;
mod mutants;
mod run;
mod setup;
mod sh;
mod test;
mod vm;

use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tools of the memtier tree.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Say what is missing to build, test and demonstrate memtier, and install it where that can be done
    Setup,
    /// Build the BPF object into target/memtier.bpf.o
    BuildEbpf,
    /// Build the release binary with the BPF object embedded: target/release/memtier, one file to copy to a host
    Build,
    /// Build, then run memtier with the arguments given
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// A real memcached, most of it cold, under a daemon that acts: what it saves and what it costs
    Demo {
        /// Print the figures as JSON lines too
        #[arg(long)]
        json: bool,
        /// Keep the recorded trace in this directory
        #[arg(long)]
        keep: Option<PathBuf>,
    },
    /// Run every layer of tests that this machine can run; exactly what CI runs
    Test {
        /// Only this layer; an unknown name lists them
        #[arg(long)]
        layer: Option<String>,
        /// Instead: mutate the code law by law and expect the tests to notice
        #[arg(long, conflicts_with = "layer")]
        mutants: bool,
    },
    /// Formatting and lints of all packages, in all the ways they are built
    Lint,
    /// Measure; without a name, list what can be measured
    Bench {
        name: Option<String>,
        /// One JSON object a line instead of the table
        #[arg(long)]
        json: bool,
    },
    /// memcached's own test suite, of Debian's source package, with memtier at each server that it starts
    MemcachedSuite {
        /// This binary instead of one that is built now
        #[arg(long)]
        memtier: Option<PathBuf>,
        /// Only these files, by name
        files: Vec<String>,
    },
    /// Run a command as root in a throw-away QEMU guest: other kernels, several nodes, CPU-less memory. Its exit code is ours;
    /// 124 when its time was up, 125 when there was no guest. Works as cargo's target runner
    Vm(vm::Options),
    /// Rewrite goldens and generated docs from what the code does now; then read the diff
    Bless,
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let verb = Verb::parse();
    match sh::end_children_on_signal().and_then(|()| call(verb, root)) {
        Ok(()) => ExitCode::SUCCESS,
        // Not by returning it: a backtrace tells nobody what to do next.
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn call(verb: Verb, root: &Path) -> anyhow::Result<()> {
    match verb {
        Verb::Setup => setup::run(root),
        Verb::BuildEbpf => build_ebpf::run(root).map(|object| println!("{}", object.display())),
        Verb::Build => build::run(root).map(|binary| println!("{}", binary.display())),
        Verb::Run { args } => run::run(root, &args),
        Verb::Demo { json, keep } => demo::run(root, json, keep.as_deref()),
        Verb::Test { mutants: true, .. } => mutants::run(root),
        Verb::Test { layer, .. } => test::run(root, layer.as_deref()),
        Verb::Lint => lint::run(root),
        Verb::Bench { name, json } => bench::run(root, name.as_deref(), json),
        Verb::MemcachedSuite { memtier, files } => memcached_suite::run(root, memtier.as_deref(), &files),
        Verb::Vm(options) => vm::run(root, options),
        Verb::Bless => bless::run(root),
    }
}
