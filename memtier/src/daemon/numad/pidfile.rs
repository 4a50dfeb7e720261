//! The pid file: made exclusively, so that of two that start at once one is told.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// How often a stale file is removed before somebody else is taken to be faster.
const TRIES: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    #[error("numad runs already as pid {pid} ({}), and it is none that can be spoken to here", path.display())]
    Runs { path: PathBuf, pid: u32 },
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// Removed with its owner, unless another numad's is in its place.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Names this process. A file that names a process that is gone, or none, is stale.
    pub fn take(path: &Path) -> Result<Self, PidFileError> {
        let io = |what| move |source| PidFileError::Io { what, path: path.to_owned(), source };
        for _ in 0..TRIES {
            match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
                Ok(mut file) => {
                    writeln!(file, "{}", std::process::id()).map_err(io("cannot write"))?;
                    return Ok(Self { path: path.to_owned() });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match named(path).map_err(io("cannot read"))? {
                    Some(pid) if lives(pid) => {
                        return Err(PidFileError::Runs { path: path.to_owned(), pid });
                    }
                    Some(_) | None => remove(path).map_err(io("cannot remove the stale"))?,
                },
                Err(error) => return Err(io("cannot make")(error)),
            }
        }
        Err(io("cannot make")(io::ErrorKind::AlreadyExists.into()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = named(&self.path).is_ok_and(|pid| pid == Some(std::process::id()));
        if ours && let Err(error) = remove(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove");
        }
    }
}

/// One that is dead and waits for its parent to notice does not.
fn lives(pid: u32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    state.is_some_and(|state| !matches!(state, b'Z' | b'X'))
}

/// The pid in the file; `None` for a file without one, or none at all.
fn named(path: &Path) -> io::Result<Option<u32>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("numad.pid");
        for stale in [None, Some(""), Some("no number\n"), Some("4194305\n")] {
            if let Some(text) = stale {
                fs::write(&path, text).expect("scratch");
            }
            let file = PidFile::take(&path).unwrap_or_else(|e| panic!("{stale:?}: {e}"));
            assert_eq!(fs::read_to_string(&path).expect("made"), format!("{}\n", std::process::id()));
            let told = PidFile::take(&path).expect_err("we live").to_string();
            assert!(told.contains(&format!("runs already as pid {}", std::process::id())), "{told}");
            drop(file);
            assert!(!path.exists());
        }
        // Another's in its place stays.
        let file = PidFile::take(&path).expect("free");
        fs::write(&path, "1\n").expect("scratch");
        drop(file);
        assert!(path.exists());
        assert!(PidFile::take(&dir.path().join("none/numad.pid")).is_err_and(|e| e.to_string().starts_with("cannot make ")));
    }
}
