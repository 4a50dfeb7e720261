//! What `cargo xtask bench NAME` runs. Each bench reports rows; none fails on a timing (docs/benchmarks.md).

mod accuracy;
mod accuracy_guest;
mod advise;
mod caches;
mod cycle;
mod fold;
mod harm;
mod monitor;
mod numa;
mod rig;
mod saved;
mod scan;
mod sched;
mod tier;
mod vm;

use clap::Parser;
use memtier_tests::rows::{self, Row};
use std::process::ExitCode;

struct Bench {
    name: &'static str,
    what: &'static str,
    measure: fn() -> Vec<Row>,
}

const BENCHES: &[Bench] = &[
    Bench { name: "scan", what: "walk of 8 GiB beside pagemap, PAGEMAP_SCAN and smaps", measure: scan::measure },
    Bench { name: "sched", what: "what the scheduler probe adds to a context switch", measure: sched::measure },
    Bench { name: "fold", what: "events absorbed per second; exactness of counted loss", measure: fold::measure },
    Bench { name: "harm", what: "stalls, faults, slowdown and refaults of a process that memtier acts on", measure: harm::measure },
    Bench {
        name: "monitor",
        what: "CPU, model and trace of a daemon on 16 GiB, and of a simulated 1 TiB",
        measure: monitor::measure,
    },
    Bench { name: "saved", what: "memory saved on the demo's cache, and what its clients pay", measure: saved::measure },
    Bench { name: "accuracy", what: "what the picture of heat finds and misses, and how soon", measure: accuracy::measure },
    Bench {
        name: "accuracy-guest",
        what: "the same in a guest of the lab, each target with a neighbour on its CPU and alone",
        measure: accuracy_guest::measure,
    },
    Bench { name: "vm", what: "boot of a guest of the lab, a command in it, its exit code: by kernel", measure: vm::measure },
    Bench {
        name: "advise",
        what: "latency of numad's placement advice, and whether it equals the original's",
        measure: advise::measure,
    },
    Bench {
        name: "tier",
        what: "memory in use on a slow node, in a guest that has one: moves, and where all lies in the end",
        measure: tier::measure,
    },
    Bench {
        name: "numa",
        what: "placing of busy processes beside Debian's numad, in guests of several nodes",
        measure: numa::measure,
    },
    Bench {
        name: "caches",
        what: "who moves memcached's pages: nobody, memcached, its scripts, memtier; misses, flash reads, cost of watching",
        measure: caches::measure,
    },
    Bench { name: "cycle", what: "cost of a round of looking and clearing beside clear_refs", measure: cycle::measure },
];

#[derive(Parser)]
struct Args {
    name: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Args { name, json } = Args::parse();
    let Some(bench) = name.and_then(|name| BENCHES.iter().find(|b| b.name == name)) else {
        println!("benches:");
        BENCHES.iter().for_each(|b| println!("  {:14} {}", b.name, b.what));
        return ExitCode::from(2);
    };
    rows::print(&(bench.measure)(), json);
    ExitCode::SUCCESS
}
