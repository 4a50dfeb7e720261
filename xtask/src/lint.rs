//! `lint`: formatting and clippy of every package in every way it is built.

use crate::setup::BPF_CLIPPY;
use crate::sh::{self, Ended};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const AARCH64: &str = "aarch64-unknown-linux-gnu";
const BPF: &str = "bpfel-unknown-none";

/// One check: what it holds, and how; `Err` says why it cannot be made here.
pub struct Check {
    pub name: &'static str,
    pub command: Result<Command, String>,
}

pub fn checks(root: &Path) -> Vec<Check> {
    let ebpf = root.join("memtier-ebpf");
    let clippy = |args: &[&str]| {
        let mut command = sh::cargo(root, &["clippy", "--quiet", "--locked"]);
        command.args(args).args(["--all-targets", "--", "-D", "warnings"]);
        Ok(command)
    };
    vec![
        Check { name: "format", command: Ok(sh::cargo(root, &["fmt", "--all", "--check"])) },
        Check { name: "format of memtier-ebpf", command: Ok(sh::cargo(&ebpf, &["fmt", "--all", "--check"])) },
        Check { name: "clippy of the workspace", command: clippy(&["--workspace", "--features", "memtier-tests/host"]) },
        Check { name: "clippy of the thinking half alone", command: clippy(&["--package", "memtier", "--no-default-features"]) },
        Check { name: "clippy of memtier-ebpf", command: ebpf_clippy(root) },
        Check { name: "workspace compiles for aarch64", command: aarch64(root) },
    ]
}

/// With the clippy that belongs to the compiler that builds the object: its core is of no other's use.
fn ebpf_clippy(root: &Path) -> Result<Command, String> {
    let core = Path::new("/usr/lib/rustlib").join(BPF);
    if !Path::new(BPF_CLIPPY).exists() || !(core.exists() || Path::new("/usr/lib/rustlib").exists()) {
        return Err(format!("no {BPF_CLIPPY}: apt-get install rust-web-clippy (its compiler has the core for {BPF})"));
    }
    let mut command = sh::cargo(&root.join("memtier-ebpf"), &["check", "--quiet", "--release", "--locked", "--target", BPF]);
    let flags = ["--cfg=bpf_target_arch=\"x86_64\"", "-Dwarnings"];
    command
        .arg("--target-dir")
        .arg(root.join("target/bpf-clippy"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_WORKSPACE_WRAPPER", BPF_CLIPPY)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(command)
}

fn aarch64(root: &Path) -> Result<Command, String> {
    let sysroot = sh::output(&mut sh::command("rustc", &["--print", "sysroot"], root)).unwrap_or_default();
    if !Path::new(&sysroot).join("lib/rustlib").join(AARCH64).join("lib").is_dir() {
        return Err(format!("no core for it: rustup target add {AARCH64}"));
    }
    if sh::output(&mut sh::command("aarch64-linux-gnu-gcc", &["--version"], root)).is_none() {
        return Err("no C compiler for it (zstd): apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross".into());
    }
    Ok(sh::cargo(root, &["check", "--quiet", "--locked", "--workspace", "--features", "memtier-tests/host", "--target", AARCH64]))
}

/// Makes one check, says how it went, and returns whether it held; `None` if it cannot be made here.
pub fn make(check: Check, cap: Duration) -> Result<Option<bool>> {
    let began = Instant::now();
    let Check { name, command } = check;
    let mut command = match command {
        Ok(command) => command,
        Err(why) => {
            println!("lint {name} ... SKIPPED: {why}");
            return Ok(None);
        }
    };
    let ended = sh::follow(&mut command, cap, None)?;
    let held = ended == Ended::Well;
    println!("lint {name} ... {} ({:.1} s)", if held { "ok" } else { "FAILED" }, began.elapsed().as_secs_f64());
    if !held {
        println!("  again with: {}", sh::show(&command));
    }
    Ok(Some(held))
}

pub fn run(root: &Path) -> Result<()> {
    let mut failed = Vec::new();
    for check in checks(root) {
        let name = check.name;
        if make(check, Duration::MAX)? == Some(false) {
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("lint failed: {}", failed.join(", ")) }
}
