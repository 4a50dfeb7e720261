//! `cargo xtask test --mutants`: breaks the code on purpose, law by law, and expects the law's test to notice.
//!
//! tests/mutants.toml lists the mutations. They are made in a copy of the tracked tree under target/mutants, never in
//! the tree itself, so that an interrupted run leaves nothing behind.

use crate::sh::{self, Ended};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Ends what a mutation made endless.
const CAP: Duration = Duration::from_secs(900);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

/// One deliberate mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    file: PathBuf,
    /// Occurs exactly once in the file.
    find: String,
    replace: String,
    /// The test that must fail.
    law: String,
    /// Where it is, and what its build needs.
    #[serde(default = "laws")]
    suite: String,
    features: Option<String>,
}

fn laws() -> String {
    "laws".to_owned()
}

pub fn run(root: &Path) -> Result<()> {
    let path = root.join("tests/mutants.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let List { mutant: mutants } = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let tree = root.join("target/mutants/tree");
    copy_tracked(root, &tree)?;
    for m in &mutants {
        mutated(m, &fs::read_to_string(tree.join(&m.file)).with_context(|| m.file.display().to_string())?)?;
    }
    println!("mutants: building the laws in {}", tree.display());
    let mut sound = BTreeSet::new();
    for m in mutants.iter().filter(|m| sound.insert(&m.law)) {
        ensure!(m.build(&tree)?, "{} does not compile even without a mutation", m.suite);
        let names = sh::output(&mut m.cargo(&tree, &["--", "--list"])).unwrap_or_default();
        let known = names.lines().any(|line| line.strip_suffix(": test") == Some(&m.law));
        ensure!(known, "mutant {}: tests/tests/{}.rs has no test {}", m.name, m.suite, m.law);
        ensure!(m.holds(&tree)?, "law {} fails without any mutation", m.law);
    }
    let mut failed = 0;
    for m in &mutants {
        let verdict = try_one(&tree, m)?;
        failed += usize::from(verdict != Verdict::Noticed);
        println!("{:<9} {:<56} {}", verdict.word(), m.law, m.name);
    }
    println!("{} passed, {failed} failed", mutants.len() - failed);
    ensure!(failed == 0, "{failed} mutants were not noticed, or do not compile");
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Verdict {
    Noticed,
    Survived,
    DoesNotCompile,
}

impl Verdict {
    const fn word(&self) -> &'static str {
        match self {
            Self::Noticed => "ok",
            Self::Survived => "SURVIVED",
            Self::DoesNotCompile => "NO BUILD",
        }
    }
}

fn try_one(tree: &Path, m: &Mutant) -> Result<Verdict> {
    let path = tree.join(&m.file);
    let text = fs::read_to_string(&path)?;
    fs::write(&path, mutated(m, &text)?)?;
    let verdict = m.build(tree).and_then(|built| match built {
        false => Ok(Verdict::DoesNotCompile),
        true => Ok(if m.holds(tree)? { Verdict::Survived } else { Verdict::Noticed }),
    });
    fs::write(&path, text)?;
    verdict
}

fn mutated(m: &Mutant, text: &str) -> Result<String> {
    let found = text.matches(&m.find).count();
    ensure!(found == 1, "mutant {}: its `find` text occurs {found} times in {}, not once", m.name, m.file.display());
    Ok(text.replacen(&m.find, &m.replace, 1))
}

impl Mutant {
    /// Without the feature `host`, unless asked for, the build needs no BPF and no tokio.
    fn cargo(&self, tree: &Path, args: &[&str]) -> Command {
        let mut c = sh::cargo(tree, &["test", "--quiet", "--package", "memtier-tests", "--test", &self.suite]);
        c.args(self.features.iter().flat_map(|f| ["--features", f])).args(args);
        c.env("CARGO_TARGET_DIR", tree.with_file_name("target"));
        // It is enough to know that it fails.
        super::test::seed(&mut c);
        // Ten times as many cases as a test of every day: what a mistake needs to show must not hang on the seed.
        c.env("PROPTEST_CASES", "240").env("PROPTEST_MAX_SHRINK_ITERS", "0").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
        c
    }

    fn build(&self, tree: &Path) -> Result<bool> {
        Ok(sh::follow(&mut self.cargo(tree, &["--no-run"]), Duration::MAX, None)? == Ended::Well)
    }

    /// Whether the law's test passes. Any other end than a test's own failure is an error.
    fn holds(&self, tree: &Path) -> Result<bool> {
        const TEST_FAILED: Option<i32> = Some(101);
        let mut test = self.cargo(tree, &["--", "--exact", &self.law]);
        match sh::follow(test.stdout(Stdio::null()).stderr(Stdio::null()), CAP, None)? {
            Ended::Well => Ok(true),
            Ended::Badly(TEST_FAILED) => Ok(false),
            Ended::Badly(code) => bail!("the test of law {} ended with {code:?}", self.law),
            Ended::Late => bail!("the test of law {} did not end in {} min", self.law, CAP.as_secs() / 60),
        }
    }
}

/// Brings the copy up to the tracked tree as it stands, leaving alone what is equal so that cargo rebuilds little.
fn copy_tracked(root: &Path, tree: &Path) -> Result<()> {
    let out = Command::new("git").current_dir(root).args(["ls-files", "-z"]).output().context("git ls-files")?;
    ensure!(out.status.success(), "git ls-files: {}", String::from_utf8_lossy(&out.stderr));
    let names = String::from_utf8(out.stdout)?;
    for name in names.split_terminator('\0') {
        let (from, to) = (root.join(name), tree.join(name));
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().expect("a file lies in a directory"))?;
        fs::write(&to, bytes).with_context(|| to.display().to_string())?;
    }
    Ok(())
}
