//! Which files a configuration is made of.

use std::io;
use std::path::{Path, PathBuf};

/// Read when nothing is named; need not exist.
pub const DEFAULT_PATH: &str = "/etc/memtier/memtier.toml";

#[derive(Debug, thiserror::Error)]
#[error("cannot read the configuration {}: {cause}", .path.display())]
pub struct Unreadable {
    pub path: PathBuf,
    pub cause: io::Error,
}

/// (name, text) of `path` and of its drop-ins, in merge order: memtier.toml is followed by memtier.d/*.toml by name.
/// A directory stands for the *.toml files in it.
///
/// # Errors
/// The first file that cannot be read. A missing drop-in directory is none; neither is a missing [`DEFAULT_PATH`].
pub fn read(path: &Path) -> Result<Vec<(String, String)>, Unreadable> {
    let mut paths = Vec::new();
    if path.is_dir() {
        paths.extend(listed(path)?);
    } else {
        paths.push(path.to_owned());
        paths.extend(listed(&path.with_extension("d"))?);
    }
    let mut sources = Vec::with_capacity(paths.len());
    for file in paths {
        match std::fs::read_to_string(&file) {
            Ok(text) => sources.push((file.display().to_string(), text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && file == Path::new(DEFAULT_PATH) => {}
            Err(cause) => return Err(Unreadable { path: file, cause }),
        }
    }
    Ok(sources)
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let fail = |cause| Unreadable { path: dir.to_owned(), cause };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|ext| ext == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
