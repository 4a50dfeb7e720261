//! `bless`: rewrites goldens, generated docs and, as root, the baseline of the verifier. A changed golden is a changed behaviour: read the diff.

use crate::{build_ebpf, sh, test};
use anyhow::Result;
use std::path::Path;

pub fn run(root: &Path) -> Result<()> {
    let mut args = vec!["test", "--locked", "--package", "memtier-tests", "--features", "host", "--no-fail-fast"];
    let suites = test::suites(root, |layer| matches!(layer, "tidy" | "tables" | "goldens" | "replay"))?;
    args.extend(suites.iter().flat_map(|suite| ["--test", suite]));
    sh::run(sh::cargo(root, &args).env("MEMTIER_BLESS", "1"))?;
    build_ebpf::run(root)?;
    let verifier = ["test", "--locked", "--package", "memtier-tests", "--features", "host", "--test", "host_eyes", "verifier"];
    sh::run(sh::cargo(root, &verifier).env("MEMTIER_BLESS", "1"))?;
    sh::run(&mut sh::command("git", &["status", "--short"], root))
}
