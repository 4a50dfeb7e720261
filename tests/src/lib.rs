//! Harness of memtier's cross-cutting tests: what a test may need, and what happens where it is not there.
//!
//! A test that cannot run where it stands says so loudly and counts as skipped, never as passed. Where it must run (in CI,
//! or as root on a host with BPF) it fails instead.

pub mod brood;
pub mod cpu;
#[cfg(feature = "host")]
pub mod daemon;
pub mod fake_memcached;
pub mod footing;
pub mod hog;
pub mod interrupt;
pub mod load;
pub mod memcached;
pub mod memcg;
pub mod numad;
pub mod numad_daemon;
pub mod owner;
pub mod pairs;
pub mod rows;
pub mod slab;
#[cfg(feature = "host")]
pub mod spread;
#[cfg(feature = "host")]
pub mod stage;
pub mod toucher;
pub mod victim;
pub mod vital;
pub mod workload;
pub mod zipf;
pub mod zram;

use std::path::{Path, PathBuf};
use std::process::Child;

/// Ends the test as skipped unless `$ground` is `Ok`; fails it where it must run.
///
/// ```
/// memtier_tests::need!(Ok::<(), String>(()));
/// ```
#[macro_export]
macro_rules! need {
    ($ground:expr) => {
        match $ground {
            Ok(ground) => ground,
            Err(why) => return $crate::footing::skip(&why.to_string()),
        }
    };
}

/// Root of the source tree.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// A child process that ends with its owner, whatever happens to that.
#[derive(Debug)]
pub struct Owned(pub Child);

impl Owned {
    pub fn kill(&mut self) {
        // Of one that ended by itself both have nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A scratch directory that goes away with its owner.
#[must_use]
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("memtier-test-").tempdir().expect("a scratch directory under $TMPDIR")
}

/// A binary of the workspace, built beside the one that runs.
pub fn binary(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("no {name} beside {}: `cargo xtask test` builds it", own.display()))
}
