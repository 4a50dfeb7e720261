//! numad's log: lines that begin with the time as ctime(3) prints it, appended to a file that may be moved away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// For all threads.
#[derive(Debug)]
pub struct Log {
    path: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None`: standard error.
    file: Option<File>,
    level: i64,
}

impl Log {
    /// Appends to the file; to standard error where that cannot be, with the reason as its first line.
    #[must_use]
    pub fn open(path: &Path, level: i64) -> Self {
        let log = Self { path: Some(path.to_owned()), inner: Mutex::new(Inner { file: None, level }) };
        log.reopen();
        log
    }

    /// To standard error.
    #[must_use]
    pub const fn stderr(level: i64) -> Self {
        Self { path: None, inner: Mutex::new(Inner { file: None, level }) }
    }

    /// Goes on in a new file if the old one was moved away.
    pub fn reopen(&self) {
        let Some(path) = &self.path else { return };
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => self.lock().file = Some(file),
            // An old file that still takes lines is better than none.
            Err(error) => self.say(0, &format!("Cannot open log file {}: {error}", path.display())),
        }
    }

    #[must_use]
    pub fn to_stderr(&self) -> bool {
        self.lock().file.is_none()
    }

    pub fn set_level(&self, level: i64) {
        self.lock().level = level;
    }

    /// A text of several lines is stamped once; a line break at its start comes before the stamp.
    pub fn say(&self, level: i64, text: &str) {
        let mut inner = self.lock();
        if level > inner.level {
            return;
        }
        let (space, text) = text.strip_prefix('\n').map_or(("", text), |text| ("\n", text));
        let line = format!("{space}{}: {text}\n", jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y"));
        // Nobody is left to be told when this fails.
        let _: io::Result<()> = match &mut inner.file {
            Some(file) => file.write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_are_stamped_and_appended() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("numad.log");
        fs::write(&path, "of yesterday\n").expect("scratch");
        let log = Log::open(&path, 5);
        log.say(6, "not said");
        log.say(5, "said");
        log.set_level(6);
        log.say(6, "\nNodes: 2\nNode 0");
        let text = fs::read_to_string(&path).expect("a log");
        let lines: Vec<&str> = text.lines().collect();
        let [yesterday, said, "", nodes, "Node 0"] = lines[..] else { panic!("{text}") };
        // "Sat Nov 28 13:03:52 2026: "
        assert_eq!((yesterday, &said[24..], &nodes[24..]), ("of yesterday", ": said", ": Nodes: 2"));
        fs::rename(&path, dir.path().join("old")).expect("scratch");
        log.reopen();
        log.say(5, "later");
        assert!(fs::read_to_string(&path).expect("a new log").ends_with(": later\n"));
        assert!(!log.to_stderr() && Log::open(dir.path(), 5).to_stderr() && Log::stderr(5).to_stderr());
    }
}
