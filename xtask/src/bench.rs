//! `bench NAME`: builds what measures (tests/src/bin/bench) in release mode, the BPF object inside, and runs it.
//! Without a name it lists them, and builds nothing: it reads the table in their source. Some run in guests of the lab.

use crate::{build, setup, sh};
use anyhow::{Context as _, Result, bail};
use std::path::Path;

const SOURCE: &str = "tests/src/bin/bench/main.rs";
/// Benches that measure inside a guest, and what it must have. The time only ends what hangs.
const IN_GUESTS: [(&str, &[&str]); 2] = [
    ("accuracy-guest", &["--cpus", "9", "--mem", "1536", "--timeout", "1800"]),
    ("tier", &["--topo", "2+cxl", "--cpus", "4", "--mem", "512", "--timeout", "1800"]),
];
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
    let Some((_, options)) = IN_GUESTS.iter().find(|(guest, _)| *guest == name) else {
        return sh::run(sh::command(bench, &[], root).arg(name).args(json));
    };
    let kernels = std::env::var(KERNELS).unwrap_or_else(|_| KERNEL.to_owned());
    kernels.split_whitespace().try_for_each(|kernel| {
        let mut guest = sh::command(std::env::current_exe()?, &["vm", "--kernel", kernel], root);
        sh::run(guest.args(*options).arg("--").arg(&bench).arg(name).args(json))
    })
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
