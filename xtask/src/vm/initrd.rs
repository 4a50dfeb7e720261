//! The guest's first file system: a cpio archive ("newc") with busybox, the modules that reach the root, and two scripts.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
/// What reaches the root and the ports, by the name of its file; each brings what it depends on.
const NEEDED: &[&str] = &["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let sizes = [u32::try_from(data.len()).expect("a file of the initrd is small"), 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in [self.entries, mode, 0, 0, 1, 0].into_iter().chain(sizes) {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    pub fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, FILE, data);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// What does not change from run to run of one kernel: busybox and modules.
pub fn base(busybox: &Path, modules: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "modules"] {
        archive.entry(dir, DIRECTORY, &[]);
    }
    archive.entry("bin/busybox", PROGRAM, &fs::read(busybox).with_context(|| busybox.display().to_string())?);
    for (order, file) in in_order(&fs::read_to_string(modules.join("modules.dep"))?).into_iter().enumerate() {
        let path = modules.join(&file);
        let module = if file.ends_with(".xz") { unpacked("xz", &path)? } else { fs::read(&path)? };
        archive.file(&format!("modules/{order:02}.ko"), &module);
    }
    Ok(archive.end())
}

/// What a run brings: the kernel reads one archive after the other.
pub fn run(lower: &str, modules: &[String], command: &str) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.entry("init", PROGRAM, include_bytes!("init.sh"));
    archive.file("start", include_bytes!("start.sh"));
    archive.file("lower", lower.as_bytes());
    archive.file("modprobe", modules.iter().map(|m| format!("{m}\n")).collect::<String>().as_bytes());
    archive.file("command", command.as_bytes());
    archive.end()
}

/// Files of the needed modules, dependencies first; what is not listed is built in. A line of modules.dep names a module
/// and then what it needs, nearest first.
fn in_order(dep: &str) -> Vec<String> {
    let stem = |file: &str| file.rsplit('/').next().unwrap_or(file).split('.').next().unwrap_or_default().replace('-', "_");
    let mut order: Vec<String> = Vec::new();
    for needed in NEEDED {
        let line = dep.lines().find(|l| l.split_once(':').is_some_and(|(file, _)| stem(file) == *needed));
        let Some((file, needs)) = line.and_then(|l| l.split_once(':')) else { continue };
        for file in needs.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|have| have == file) {
                order.push(file.to_owned());
            }
        }
    }
    order
}

/// What `tool -dc` makes of a file.
pub fn unpacked(tool: &str, file: &Path) -> Result<Vec<u8>> {
    let input = fs::File::open(file).with_context(|| file.display().to_string())?;
    let out = Command::new(tool).arg("-dc").stdin(input).stderr(Stdio::null()).output();
    // The status says nothing: a kernel image has bytes behind the compressed ones.
    Ok(out.with_context(|| format!("running {tool}"))?.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let dep = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\nkernel/fs/other.ko:\n\
                   kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n";
        let names: Vec<String> = in_order(dep);
        assert_eq!(
            names,
            [
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/net/9p/9pnet_virtio.ko.xz",
                "kernel/fs/9p/9p.ko.xz"
            ]
        );
    }

    #[test]
    fn entries_are_aligned() {
        let mut archive = Archive::default();
        archive.file("a", b"12345");
        let bytes = archive.end();
        assert_eq!((bytes.len() % 4, &bytes[..6], &bytes[110..112]), (0, &b"070701"[..], &b"a\0"[..]));
        assert_eq!(&bytes[112..117], b"12345");
    }
}
