//! `test`: every layer of tests that this machine can run, each with a time cap; failures are collected, none ends the run.
//!
//! A suite of `tests/tests` is of the layer that names the first word of its file name, or it is of none, which is a failure.
//! The last line counts what all layers did, in the form `N passed, M failed, K skipped`.

use crate::sh::{self, Ended};
use crate::vm::{self, matrix};
use crate::{build_ebpf, lint, setup};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

struct Layer {
    name: &'static str,
    what: &'static str,
    cap: Duration,
    /// First words of the file names of its suites.
    suites: &'static [&'static str],
}

const fn layer(name: &'static str, minutes: u64, what: &'static str, suites: &'static [&'static str]) -> Layer {
    Layer { name, what, cap: Duration::from_secs(60 * minutes), suites }
}

/// In order. The caps are several times what two cores need: they end what hangs, they measure nothing.
const LAYERS: &[Layer] = &[
    layer("lint", 12, "formatting, clippy of every package and feature set", &[]),
    layer("tidy", 4, "imports, unsafe, docs that are generated or owed", &["tidy"]),
    layer("unit", 8, "tests beside the code", &[]),
    layer("tables", 6, "arithmetic, policies and configuration, case by case", &["advice", "config", "movers", "policies"]),
    layer("laws", 12, "properties over random views and streams", &["laws"]),
    layer("goldens", 6, "scenario to decision log", &["goldens"]),
    layer("replay", 8, "recorded traces give the same bytes", &["replay", "trace"]),
    layer("sim", 12, "seeded closed loops with faults", &["sim"]),
    layer(
        "shell",
        8,
        "parsers, fake syscalls, undo, real memcached",
        &["parsers", "footprint", "caches", "memcached", "numad", "shell", "slab"],
    ),
    layer("host", 12, "BPF, real processes, real swap, the daemon; root", &["daemon", "eyes", "hands", "host"]),
    layer("vm", 58, "the eyes and hands on other kernels and nodes, in QEMU guests", &["vm"]),
];

/// Suites of the host layer that a guest of each kernel runs too.
const IN_GUESTS: &[&str] = &["host_eyes", "hands", "hands_bind"];

/// What one layer did.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: Vec<String>,
    skipped: Vec<String>,
}

pub fn run(root: &Path, only: Option<&str>) -> Result<()> {
    let chosen: Vec<&Layer> = LAYERS.iter().filter(|l| only.is_none_or(|name| name == l.name)).collect();
    if chosen.is_empty() {
        let known: Vec<String> = LAYERS.iter().map(|l| format!("  {:8} {}", l.name, l.what)).collect();
        bail!("no such layer; there are\n{}", known.join("\n"));
    }
    setup::ensure(root)?;
    let began = Instant::now();
    let mut total = Tally::default();
    let object = stage("BPF object", || build_ebpf::run(root));
    if let Err(error) = &object {
        total.failed.push(format!("build-ebpf: {error:#}"));
    }
    let built = stage("programs and tests", || {
        // Tests of one package run the binary of another, which `cargo test` does not build.
        let bins = ["build", "--locked", "--package", "memtier", "--package", "memtier-tests", "--bins"];
        sh::run(sh::cargo(root, &bins).args(["--features", "memtier-tests/host"]))?;
        sh::run(&mut tests(root, &["--no-run", "--quiet"]))
    });
    if let Err(error) = built {
        total.failed.push(format!("build: {error:#}"));
    }
    for layer in chosen {
        let start = Instant::now();
        println!("\n==== {}: {} (at most {} min)", layer.name, layer.what, layer.cap.as_secs() / 60);
        let tally = run_layer(root, layer, object.as_deref().ok())
            .unwrap_or_else(|error| Tally { failed: vec![format!("{}: {error:#}", layer.name)], ..Tally::default() });
        let Tally { passed, failed, skipped } = tally;
        println!(
            "==== {}: {passed} passed, {} failed, {} skipped in {:.1} s",
            layer.name,
            failed.len(),
            skipped.len(),
            start.elapsed().as_secs_f64()
        );
        total.passed += passed;
        total.failed.extend(failed);
        total.skipped.extend(skipped);
    }
    close(&total, began)
}

fn close(total: &Tally, began: Instant) -> Result<()> {
    println!("\nall layers took {:.0} s", began.elapsed().as_secs_f64());
    for skip in &total.skipped {
        println!("SKIPPED {skip}");
    }
    for failure in &total.failed {
        println!("FAILED {failure}");
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed.len(), total.skipped.len());
    if !total.failed.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

fn stage<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let result = work();
    println!("==== {name}: {} in {:.1} s", if result.is_ok() { "built" } else { "FAILED" }, began.elapsed().as_secs_f64());
    result
}

/// One feature set for all of them, so that every program is built once.
fn tests(root: &Path, args: &[&str]) -> Command {
    let mut command = sh::cargo(root, &["test", "--locked", "--workspace", "--features", "memtier-tests/host", "--no-fail-fast"]);
    command.args(args);
    seed(&mut command);
    command
}

/// The same cases on every machine; set another seed to explore.
pub fn seed(command: &mut Command) {
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        command.env("PROPTEST_RNG_SEED", "20261122");
    }
}

/// Names of the integration suites of the layers that `of` picks.
pub fn suites(root: &Path, of: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let dir = root.join("tests/tests");
    let entries = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let suite = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").exists();
            suite.then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect();
    names.sort();
    let layer_of = |name: &str| LAYERS.iter().find(|l| l.suites.contains(&name.split('_').next().unwrap_or(name))).map(|l| l.name);
    if let Some(stray) = names.iter().find(|n| layer_of(n).is_none()) {
        bail!("tests/tests/{stray} is of no layer: name it in LAYERS of xtask/src/test.rs");
    }
    names.retain(|name| layer_of(name).is_some_and(&of));
    Ok(names)
}

fn run_layer(root: &Path, layer: &Layer, object: Option<&Path>) -> Result<Tally> {
    match layer.name {
        "lint" => run_lint(root, layer.cap),
        "vm" => run_guests(root, layer, object),
        "unit" => {
            let mut tally = run_tests(root, layer, object, tests(root, &["--lib", "--bins"]))?;
            let docs = sh::cargo(root, &["test", "--locked", "--workspace", "--features", "memtier-tests/host", "--doc"]);
            let Tally { passed, failed, skipped } = run_tests(root, layer, object, docs)?;
            tally.passed += passed;
            tally.failed.extend(failed);
            tally.skipped.extend(skipped);
            Ok(tally)
        }
        name => {
            let suites = suites(root, |l| l == name)?;
            if suites.is_empty() {
                println!("no suite of this layer in tests/tests");
                return Ok(Tally::default());
            }
            let mut args: Vec<&str> = suites.iter().flat_map(|s| ["--test", s]).collect();
            if name == "host" {
                // They share the host's swap, cgroups and BPF statistics.
                args.extend(["--", "--test-threads=1"]);
            }
            run_tests(root, layer, object, tests(root, &args))
        }
    }
}

fn run_lint(root: &Path, cap: Duration) -> Result<Tally> {
    let mut tally = Tally::default();
    let deadline = Instant::now() + cap;
    for check in lint::checks(root) {
        let name = format!("lint: {}", check.name);
        match lint::make(check, deadline.saturating_duration_since(Instant::now()))? {
            Some(true) => tally.passed += 1,
            Some(false) => tally.failed.push(name),
            None => tally.skipped.push(name),
        }
    }
    Ok(tally)
}

impl Tally {
    /// Counts a line of a test runner; true for one that sums up a program.
    fn line(&mut self, place: &str, line: &str) -> bool {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.passed += counted(rest, "passed");
            return true;
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ").filter(|(_, r)| r.starts_with("FAILED")))
        {
            self.failed.push(format!("{place}: {}", name.0));
        } else if let Some(name) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ignored")) {
            self.skipped.push(format!("{place}: {} (ignored)", name.0));
        }
        false
    }

    /// What the end of the programs says beyond their lines.
    fn ended(&mut self, place: &str, ended: Ended, ran: usize, what: &str) {
        match ended {
            Ended::Well if ran == 0 => self.failed.push(format!("{place}: no test program ran")),
            Ended::Well => {}
            Ended::Late => self.failed.push(format!("{place}: not done in its time; ended")),
            Ended::Badly(_) if self.failed.is_empty() => self.failed.push(format!("{place}: {what} broke off")),
            Ended::Badly(_) => {}
        }
    }
}

/// Runs `cargo test` and counts what its test runners print; a test that skipped itself wrote to the file of skips.
fn run_tests(root: &Path, layer: &Layer, object: Option<&Path>, mut command: Command) -> Result<Tally> {
    let skips: PathBuf = root.join("target").join(format!("skips-{}", layer.name));
    let _ = std::fs::remove_file(&skips);
    command.env("MEMTIER_SKIPS", &skips);
    if let Some(object) = object {
        command.env("MEMTIER_BPF_OBJECT", object);
    }
    let (mut tally, mut ran) = (Tally::default(), 0);
    let mut each = |line: &str| {
        println!("{line}");
        ran += usize::from(tally.line(layer.name, line));
    };
    let ended = sh::follow(&mut command, layer.cap, Some(&mut each))?;
    if let Ok(text) = std::fs::read_to_string(&skips) {
        let skipped: Vec<String> = text.lines().map(|l| format!("{}: {l}", layer.name)).collect();
        tally.passed = tally.passed.saturating_sub(skipped.len() as u64);
        tally.skipped.extend(skipped);
    }
    tally.ended(layer.name, ended, ran, &format!("`{}`", sh::show(&command)));
    Ok(tally)
}

/// One guest for each kernel and topology. Nothing skips: as root with BPF at hand a test must run.
fn run_guests(root: &Path, layer: &Layer, object: Option<&Path>) -> Result<Tally> {
    object.context("no BPF object")?;
    vm::fetch(root)?;
    let own = suites(root, |l| l == layer.name)?;
    let programs_of = |suites: &[&str]| {
        let args: Vec<&str> = suites.iter().flat_map(|s| ["--test", s]).collect();
        matrix::programs(tests(root, &args))
    };
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let (own, kernels) = (programs_of(&own)?, programs_of(&[&own[..], IN_GUESTS].concat())?);
    let (mut all, began) = (Tally::default(), Instant::now());
    for cell in matrix::cells() {
        let place = format!("{} {}", layer.name, cell.name);
        let programs = if cell.fullest { &kernels } else { &own };
        let (mut tally, mut ran) = (Tally::default(), 0);
        let mut each = |line: &str| {
            println!("{line}");
            ran += usize::from(tally.line(&place, line));
        };
        let (code, took) = cell.run(root, programs, layer.cap.saturating_sub(began.elapsed()), &mut each)?;
        let ended = match code {
            0 if ran == programs.len() => Ended::Well,
            124 => Ended::Late,
            code => Ended::Badly(Some(code.into())),
        };
        tally.ended(&place, ended, ran, "a guest");
        println!("---- {place}: {} passed, {} failed in {:.1} s", tally.passed, tally.failed.len(), took.as_secs_f64());
        all.passed += tally.passed;
        all.failed.extend(tally.failed);
    }
    Ok(all)
}

/// The number before `word` in "ok. 3 passed; 0 failed; ...".
fn counted(line: &str, word: &str) -> u64 {
    line.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn counts_are_read_from_the_result_line() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        assert_eq!(counted(line, "passed"), 12);
        assert_eq!(counted(line, "failed"), 3);
        assert_eq!(counted("nothing", "passed"), 0);
    }
}
