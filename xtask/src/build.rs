//! `build`: the release binary with the BPF object inside, so that one file can be copied to a host.

use crate::{build_ebpf, sh};
use anyhow::Result;
use std::path::{Path, PathBuf};

pub fn run(root: &Path) -> Result<PathBuf> {
    release(root, &["--package", "memtier", "--features", "memtier/embed-ebpf"])?;
    Ok(root.join("target/release/memtier"))
}

/// memtier, and the programs that measure and show it. In one go: cargo then builds what they share once.
pub fn with_tests(root: &Path) -> Result<PathBuf> {
    let features = "memtier/embed-ebpf,memtier-tests/host";
    release(root, &["--package", "memtier", "--package", "memtier-tests", "--bins", "--features", features])?;
    Ok(root.join("target/release"))
}

fn release(root: &Path, args: &[&str]) -> Result<()> {
    let object = build_ebpf::run(root)?;
    sh::run(sh::cargo(root, &["build", "--release", "--locked"]).args(args).env("MEMTIER_BPF_OBJECT", object))
}
