//! What the ground under a test offers: root, BPF, swap, memory. Each answers `Ok` or the words to skip with.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// File that `cargo xtask test` reads skips from: one line each.
pub const SKIPS: &str = "MEMTIER_SKIPS";

/// True where a skip would hide a broken machine: in CI, and as root with BPF at hand.
#[must_use]
pub fn must_run() -> bool {
    std::env::var_os("CI").is_some_and(|v| v == "true") || (root().is_ok() && bpf().is_ok())
}

/// Says that the running test cannot run here; panics where it must.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    assert!(!must_run(), "{test} cannot run here, and here it must: {why}");
    elsewhere(why);
}

/// Says that the running test belongs to other ground, whatever this one offers.
pub fn elsewhere(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    // Not eprintln!, which the test runner swallows for tests that pass.
    let line = format!("{test}: {why}");
    writeln!(std::io::stderr(), "SKIPPED {line}").expect("stderr is open");
    if let Some(path) = std::env::var_os(SKIPS) {
        let mut file = fs::File::options().append(true).create(true).open(path).expect("the file that counts skips opens");
        writeln!(file, "{line}").expect("the file that counts skips takes a line");
    }
}

pub fn root() -> Result<(), String> {
    nix::unistd::geteuid().is_root().then_some(()).ok_or_else(|| "needs root".into())
}

/// A kernel that loads BPF with type information. Says nothing about the object.
pub fn bpf() -> Result<(), String> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)".into());
    }
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(state) if state.contains("[confidentiality]") => Err("the kernel is locked down: confidentiality".into()),
        _ => Ok(()),
    }
}

/// The BPF object as `cargo xtask build-ebpf` leaves it.
pub fn object() -> Result<PathBuf, String> {
    let path = std::env::var_os("MEMTIER_BPF_OBJECT").map_or_else(|| crate::root().join("target/memtier.bpf.o"), PathBuf::from);
    path.is_file().then(|| path.clone()).ok_or_else(|| format!("no {}: run `cargo xtask build-ebpf`", path.display()))
}

/// Root, BPF and the object: what the host layer stands on.
pub fn host() -> Result<PathBuf, String> {
    root()?;
    bpf()?;
    object()
}

/// At least this much memory is free for a test.
pub fn memory(mib: u64) -> Result<(), String> {
    let free = available_mib()?;
    if free >= mib { Ok(()) } else { Err(format!("needs {mib} MiB of memory, {free} MiB are available")) }
}

pub fn available_mib() -> Result<u64, String> {
    let info = fs::read_to_string("/proc/meminfo").map_err(|e| format!("/proc/meminfo: {e}"))?;
    info.lines()
        .find_map(|l| l.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kib| kib >> 10)
        .ok_or_else(|| "/proc/meminfo has no MemAvailable".into())
}

/// Inside of a guest of the lab. Elsewhere there is nothing to show for what needs several nodes, and nothing may be changed.
#[must_use]
pub fn lab() -> bool {
    let lab = Path::new("/run/vm/command").exists();
    if !lab {
        elsewhere("only in a guest of `cargo xtask vm`");
    }
    lab
}

/// A program on PATH, or the package that has it.
pub fn program(name: &str, package: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
        .ok_or_else(|| format!("no {name} on PATH: apt-get install {package}"))
}
