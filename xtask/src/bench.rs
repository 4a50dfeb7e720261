//! `bench NAME`: builds what measures (tests/src/bin/bench) in release mode, the BPF object inside, and runs it.
//! Without a name it lists them, and builds nothing: it reads the table in their source.

use crate::{build, setup, sh};
use anyhow::{Context as _, Result, bail};
use std::path::Path;

const SOURCE: &str = "tests/src/bin/bench/main.rs";

pub fn run(root: &Path, name: Option<&str>, json: bool) -> Result<()> {
    let source = std::fs::read_to_string(root.join(SOURCE)).context(SOURCE)?;
    let Some(name) = name.filter(|name| benches(&source).any(|(known, _)| known == *name)) else {
        benches(&source).for_each(|(name, what)| println!("{name:8} {what}"));
        return name.map_or(Ok(()), |name| bail!("no bench is called {name}"));
    };
    setup::ensure(root)?;
    let bench = build::with_tests(root)?.join("bench");
    sh::run(sh::command(bench, &[], root).arg(name).args(json.then_some("--json")))
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
