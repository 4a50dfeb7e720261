//! `bench NAME`: builds what measures (tests/src/bin/bench) in release mode, the BPF object inside, and runs it.
//! Without a name it lists them, and builds nothing: it reads the table in their source. Some run in guests of the lab.

use crate::{build, setup, sh};
use anyhow::{Context as _, Result, bail};
use std::path::Path;

const SOURCE: &str = "tests/src/bin/bench/main.rs";
/// Benches that measure inside guests, and what these must have, one after another. The time only ends what hangs.
const IN_GUESTS: [(&str, &[&[&str]]); 3] = [
    ("accuracy-guest", &[&["--cpus", "9", "--mem", "1536", "--timeout", "1800"]]),
    ("tier", &[&["--topo", "2+cxl", "--cpus", "4", "--mem", "512", "--timeout", "1800"]]),
    (
        "numa",
        &[
            &["--topo", "2", "--cpus", "4", "--mem", "1024", "--deb", "numad", "--timeout", "1800"],
            &["--topo", "4", "--mem", "1024", "--deb", "numad", "--timeout", "1800"],
            &["--topo", UNEVEN, "--deb", "numad", "--timeout", "1800"],
            &["--topo", "2+cxl", "--cpus", "4", "--mem", "1024", "--deb", "numad", "--timeout", "1800"],
        ],
    ),
];
/// A small node of one CPU beside a large one of three.
const UNEVEN: &str = "-smp 4,sockets=4,cores=1,threads=1 -m 2304M -object memory-backend-ram,id=m0,size=640M \
                      -object memory-backend-ram,id=m1,size=1664M -numa node,nodeid=0,memdev=m0,cpus=0 \
                      -numa node,nodeid=1,memdev=m1,cpus=1-3 -numa dist,src=0,dst=1,val=21";
/// Kernels of these guests, in words; without it there is one.
const KERNELS: &str = "MEMTIER_BENCH_KERNELS";
const KERNEL: &str = "6.12";

pub fn run(root: &Path, name: Option<&str>, json: bool) -> Result<()> {
    let source = std::fs::read_to_string(root.join(SOURCE)).context(SOURCE)?;
    let Some(name) = name.filter(|name| benches(&source).any(|(known, _)| known == *name)) else {
        benches(&source).for_each(|(name, what)| println!("{name:14} {what}"));
        return name.map_or(Ok(()), |name| bail!("no bench is called {name}"));
    };
    setup::ensure(root)?;
    let bench = build::with_tests(root)?.join("bench");
    let json = json.then_some("--json");
    let Some((_, guests)) = IN_GUESTS.iter().find(|(guest, _)| *guest == name) else {
        return sh::run(sh::command(bench, &[], root).arg(name).args(json));
    };
    let kernels = std::env::var(KERNELS).unwrap_or_else(|_| KERNEL.to_owned());
    kernels.split_whitespace().flat_map(|kernel| guests.iter().map(move |options| (kernel, *options))).try_for_each(
        |(kernel, options)| {
            let mut guest = sh::command(std::env::current_exe()?, &["vm", "--kernel", kernel], root);
            sh::run(guest.args(options).arg("--").arg(&bench).arg(name).args(json))
        },
    )
}

/// (name, what it measures) of each `Bench { name: "...", what: "...", ... }`.
fn benches(source: &str) -> impl Iterator<Item = (&str, &str)> {
    fn field<'a>(entry: &'a str, key: &str) -> Option<&'a str> {
        let (_, rest) = entry.split_once(key)?;
        Some(rest.split_once('"')?.1.split_once('"')?.0)
    }
    source.split("Bench {").filter_map(|entry| Some((field(entry, "name:")?, field(entry, "what:")?)))
}

#[cfg(test)]
mod tests {
    use super::benches;

    #[test]
    fn every_bench_of_the_source_is_listed() {
        let source = include_str!("../../tests/src/bin/bench/main.rs");
        let named: Vec<_> = benches(source).collect();
        assert_eq!(named.len(), source.matches("::measure").count(), "{named:?}");
        assert!(named.iter().any(|(name, what)| *name == "scan" && what.starts_with("walk of 8 GiB")), "{named:?}");
    }
}
