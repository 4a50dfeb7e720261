//! The kernel's text files below one root, so that a fixture tree stands in for a host in tests.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where /proc and /sys hang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// A file that could not be read, or not be understood.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {what}", path = path.display())]
    Text { path: PathBuf, what: String },
}

impl ReadError {
    /// The process (or cgroup, or device) behind the file went away meanwhile: expected, never worth a warning.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV)),
            Self::Text { .. } => false,
        }
    }
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Text { .. } => false,
        }
    }
}

impl Root {
    /// The running host.
    #[must_use]
    pub fn host() -> Self {
        Self(PathBuf::from("/"))
    }
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
    /// Whether questions can be put to the kernel itself, not only to files.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }
    /// `path` is absolute as on a host.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub fn bytes(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, ReadError> {
        let path = self.path(path);
        fs::read(&path).map_err(|source| ReadError::Io { path, source })
    }
    /// Names in these files may hold any byte; what is not UTF-8 becomes U+FFFD instead of hiding the whole file.
    pub fn text(&self, path: impl AsRef<Path>) -> Result<String, ReadError> {
        Ok(match String::from_utf8(self.bytes(path)?) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        })
    }
    /// A file that holds one number.
    pub fn number(&self, path: impl AsRef<Path>) -> Result<u64, ReadError> {
        let path = path.as_ref();
        let text = self.text(path)?;
        text.trim().parse().map_err(|_| self.nonsense(path, format_args!("{:?} is no number", text.trim())))
    }
    /// Parses with one of `procfs`'s types, which want UTF-8.
    pub fn parse<T: procfs::FromRead>(&self, path: impl AsRef<Path>) -> Result<T, ReadError> {
        let path = path.as_ref();
        T::from_read(self.text(path)?.as_bytes()).map_err(|e| self.nonsense(path, format_args!("{e}")))
    }
    /// Names in a directory, sorted.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>, ReadError> {
        let path = self.path(path);
        let wrap = |source| ReadError::Io { path: path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(wrap)? {
            names.extend(entry.map_err(wrap)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }
    #[must_use]
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }
    /// Error for a file that reads but makes no sense.
    pub fn nonsense(&self, path: impl AsRef<Path>, what: impl fmt::Display) -> ReadError {
        ReadError::Text { path: self.path(path), what: what.to_string() }
    }
}

/// Start time in clock ticks, field 22 of /proc/PID/stat.
#[must_use]
pub fn start_ticks(stat: &[u8]) -> Option<u64> {
    stat_field(stat, 22)?.parse().ok()
}

/// The parent, field 4 of /proc/PID/stat; 0 is nobody.
#[must_use]
pub fn parent_pid(stat: &[u8]) -> Option<u32> {
    stat_field(stat, 4)?.parse().ok().filter(|pid| *pid > 0)
}

/// What a task does, field 3: R, S, D, Z ...
#[must_use]
pub fn state(stat: &[u8]) -> Option<char> {
    stat_field(stat, 3)?.chars().next()
}

/// A field after the name, which is number 2 and may hold blanks and parentheses.
fn stat_field(stat: &[u8], number: usize) -> Option<&str> {
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    std::str::from_utf8(stat.get(name_end + 1..)?).ok()?.split_ascii_whitespace().nth(number - 3)
}

/// `key value` or `key: value kB`, first match. Sizes in kB come back in kB.
#[must_use]
pub fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?;
        let rest = rest.strip_prefix(':').or_else(|| rest.starts_with([' ', '\t']).then_some(rest))?;
        rest.split_ascii_whitespace().next()?.parse().ok()
    })
}

/// Undoes the octal escapes (blank, tab, newline, backslash) of mountinfo, swaps and maps.
#[must_use]
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.first_chunk::<3>().filter(|d| d[0] <= b'3' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match octal {
            Some(d) if byte == b'\\' => {
                out.push(d.iter().fold(0, |n, c| n << 3 | (c - b'0')));
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// "0-3,8,10-11" as numbers; `None` for text of another form.
#[must_use]
pub fn number_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (low.parse::<u32>().ok()?, high.parse::<u32>().ok()?);
        // A CPU or node number beyond this is no list the kernel writes.
        if high > 1 << 16 {
            return None;
        }
        numbers.extend(low..=high);
    }
    Some(numbers)
}
