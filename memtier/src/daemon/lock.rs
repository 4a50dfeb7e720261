//! One daemon per host: a flock on RUN/lock, which also names its holder. The kernel drops it with the process, so that
//! kill -9 leaves no stale lock; the file itself stays.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("memtier already runs on this host: {holder} holds {}", path.display())]
    Held { path: PathBuf, holder: String },
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of this run directory, which is made if it is missing. `role` tells others who holds it.
    pub fn take(run_dir: &Path, role: &str) -> Result<Self, LockError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| LockError::Io { what, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o755).create(run_dir).map_err(io("cannot create", run_dir))?;
        let path = run_dir.join("lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path);
        let file = file.map_err(io("cannot open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let holder = format!("pid {} (memtier {role})\n", std::process::id());
                file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(io("cannot write", &path))?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                // Half a line at worst: the holder may be writing it just now.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "another process".to_owned() } else { holder.trim_end().to_owned() };
                Err(LockError::Held { path, holder })
            }
            Err((_, errno)) => Err(LockError::Io { what: "cannot lock", path, source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_is_told_who_holds_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let run = dir.path().join("deep/run");
        let lock = Lock::take(&run, "run").expect("first");
        let told = Lock::take(&run, "heat").expect_err("second").to_string();
        assert!(told.contains(&format!("pid {} (memtier run)", std::process::id())), "{told}");
        drop(lock);
        Lock::take(&run, "heat").expect("free again");
    }
}
