//! What the lab has in store under target/vm: QEMU, busybox, kernels, packages for guests. Fetched once; remove the directory to
//! fetch anew.

use super::apt::{self, Apt};
use super::initrd;
use crate::sh;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernel series, oldest first. By series and not by version: a security update moves the version.
pub const SERIES: [&str; 3] = ["6.1", "6.12", "6.18"];
/// Modules worth having in a guest: the whole set takes depmod a minute.
const KERNEL_FILES: &[&str] = &[
    "./boot/vmlinuz-*",
    "*/modules.*",
    "*/kernel/arch/*",
    "*/kernel/crypto/*",
    "*/kernel/fs/*",
    "*/kernel/lib/*",
    "*/kernel/mm/*",
    "*/kernel/net/9p/*",
    "*/kernel/net/vmw_vsock/*",
    "*/kernel/drivers/acpi/*",
    "*/kernel/drivers/block/*",
    "*/kernel/drivers/char/*",
    "*/kernel/drivers/cxl/*",
    "*/kernel/drivers/dax/*",
    "*/kernel/drivers/nvdimm/*",
    "*/kernel/drivers/virtio/*",
    "*/kernel/drivers/xen/*",
];
const QEMU: &str = "qemu-system-x86_64";

pub struct Stock {
    home: PathBuf,
    apt: Apt,
}

pub struct Kernel {
    /// Uncompressed: its own entry (PVH) saves the guest the unpacking.
    pub image: PathBuf,
    /// The part of the initrd that belongs to it.
    pub initrd: PathBuf,
    /// Name of the layer with its modules.
    pub layer: String,
}

impl Stock {
    /// Waits for another xtask that fetches into the same directory.
    pub fn open(root: &Path) -> Result<(Self, fs::File)> {
        let home = root.join("target/vm");
        fs::create_dir_all(home.join("layers"))?;
        let lock = fs::File::create(home.join("lock"))?;
        lock.lock()?;
        let apt = Apt::new(home.join("apt"));
        Ok((Self { home, apt }, lock))
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn layers(&self) -> PathBuf {
        self.home.join("layers")
    }

    /// The QEMU of PATH, or Debian's from bookworm-backports, unpacked: plain bookworm's would replace qemu-utils.
    pub fn qemu(&self) -> Result<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Some(own) = std::env::split_paths(&path).map(|dir| dir.join(QEMU)).find(|p| p.is_file()) {
            return Ok(Command::new(own));
        }
        let dir = self.home.join("qemu");
        if !dir.exists() {
            eprintln!("lab: fetching QEMU");
            apt::unpack(&self.apt.with_needs("qemu-system-x86", Some("bookworm-backports"))?, &dir, &[], |_| Ok(()))?;
        }
        let mut command = Command::new(dir.join("usr/bin").join(QEMU));
        command.env("LD_LIBRARY_PATH", dir.join("usr/lib/x86_64-linux-gnu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(dir.join(firmware));
        }
        if sh::output(
            Command::new(command.get_program()).arg("--version").env("LD_LIBRARY_PATH", dir.join("usr/lib/x86_64-linux-gnu")),
        )
        .is_none()
        {
            bail!("{} does not start; remove {} to fetch it anew", command.get_program().display(), dir.display());
        }
        Ok(command)
    }

    pub fn kernel(&self, series: &str) -> Result<Kernel> {
        if !SERIES.contains(&series) {
            bail!("no kernel {series}; there are {}", SERIES.join(", "));
        }
        let layer = format!("linux-{series}");
        let dir = self.layers().join(&layer);
        if !dir.exists() {
            eprintln!("lab: fetching Linux {series}");
            let names = self.apt.names(&format!("linux-image-{series}."))?;
            let name = newest(&names).with_context(|| format!("the package archive has no linux-image-{series}.*-amd64"))?;
            apt::unpack(&self.apt.archive(name)?, &dir, KERNEL_FILES, |part| {
                let version = only_entry(&part.join("usr/lib/modules"))?;
                let version = version.file_name().unwrap_or_default();
                sh::run(sh::command("depmod", &["-b"], part).arg(part).arg(version)).context("package kmod has depmod")
            })?;
        }
        let image = self.made(&format!("vmlinux-{series}"), || uncompressed(&only_entry(&dir.join("boot"))?))?;
        let initrd =
            self.made(&format!("initrd-{series}"), || initrd::base(&self.busybox()?, &only_entry(&dir.join("usr/lib/modules"))?))?;
        Ok(Kernel { image, initrd, layer })
    }

    /// A package and what it needs, as a layer over the machine's root; its name.
    pub fn package(&self, name: &str) -> Result<String> {
        let layer = format!("deb-{name}");
        let dir = self.layers().join(&layer);
        if !dir.exists() {
            eprintln!("lab: fetching package {name}");
            let archives = self.apt.with_needs(name, None).with_context(|| format!("--deb {name}"))?;
            apt::unpack(&archives, &dir, &[], |_| Ok(()))?;
        }
        Ok(layer)
    }

    /// Static, so that it runs before there is a root.
    fn busybox(&self) -> Result<PathBuf> {
        let dir = self.home.join("busybox");
        if !dir.exists() {
            apt::unpack(&self.apt.archive("busybox-static")?, &dir, &[], |_| Ok(()))?;
        }
        Ok(dir.join("bin/busybox"))
    }

    /// A file of the store, written once and whole.
    fn made(&self, name: &str, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<PathBuf> {
        let path = self.home.join(name);
        if !path.exists() {
            let part = path.with_extension("part");
            fs::write(&part, make()?)?;
            fs::rename(&part, &path)?;
        }
        Ok(path)
    }
}

/// The newest plain kernel: not the cloud flavour (no zswap, no 9p), not the real-time one.
fn newest(names: &[String]) -> Option<&str> {
    let plain = |n: &&String| n.ends_with("-amd64") && !["-cloud-", "-rt-"].iter().any(|f| n.contains(f));
    // Without the 64 of the architecture, which would stand where a longer version has its next number.
    let version = |n: &str| n.strip_suffix("-amd64").unwrap_or_default().to_owned();
    let numbers =
        |n: &String| -> Vec<u64> { version(n).split(|c: char| !c.is_ascii_digit()).filter_map(|w| w.parse().ok()).collect() };
    names.iter().filter(plain).max_by_key(|n| numbers(n)).map(String::as_str)
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    Ok(entries.next().with_context(|| format!("{} is empty; remove target/vm", dir.display()))??.path())
}

/// The ELF image inside a bzImage (Documentation/arch/x86/boot.rst): where it lies and how long it is stand in the header.
fn uncompressed(file: &Path) -> Result<Vec<u8>> {
    let image = fs::read(file)?;
    let word = |at: usize| image.get(at..at + 4).and_then(|b| Some(u32::from_le_bytes(b.try_into().ok()?) as usize));
    let bad = || format!("{} is no bzImage", file.display());
    let setup = match image.get(0x1f1) {
        None | Some(0) => 4,
        Some(&sectors) => usize::from(sectors),
    };
    let (offset, length) = word(0x248).zip(word(0x24c)).with_context(bad)?;
    let from = (setup + 1) * 512 + offset;
    let payload = image.get(from..from + length).with_context(bad)?;
    let tool = match payload {
        [0xfd, b'7', b'z', b'X', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("{}: compressed in a way that is not known here", file.display()),
    };
    let packed = file.with_extension("packed");
    fs::write(&packed, payload)?;
    let unpacked = initrd::unpacked(tool, &packed)?;
    fs::remove_file(&packed)?;
    if !unpacked.starts_with(b"\x7fELF") {
        bail!("{tool} makes no kernel of {}", file.display());
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_plain_kernel() {
        let names = [
            "linux-image-6.12.9+deb12-amd64",
            "linux-image-6.12.90+deb12.1-amd64",
            "linux-image-6.12.90+deb12-amd64",
            "linux-image-6.12.100+deb12-cloud-amd64",
            "linux-image-6.12.100+deb12-amd64-dbg",
        ]
        .map(str::to_owned);
        assert_eq!(newest(&names), Some("linux-image-6.12.90+deb12.1-amd64"));
    }
}
