//! `demo`: installs what is missing, builds, and hands over to tests/src/bin/demo, which sets everything up and undoes it.

use crate::{build, setup, sh};
use anyhow::Result;
use std::path::Path;

pub fn run(root: &Path, json: bool, keep: Option<&Path>) -> Result<()> {
    setup::ensure(root)?;
    let built = build::with_tests(root)?;
    let mut demo = sh::command(built.join("demo"), &[], root);
    demo.arg("--memtier").arg(built.join("memtier")).args(json.then_some("--json"));
    if let Some(dir) = keep {
        demo.arg("--keep").arg(std::path::absolute(dir)?);
    }
    sh::run(&mut demo)
}
