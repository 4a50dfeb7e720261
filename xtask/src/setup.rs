//! `setup`: says what is missing to build, test and demonstrate memtier, and installs it where that can be done: as root on
//! Debian and its kin from their packages. Elsewhere it says what to do. Running it again changes nothing.
//!
//! bpf-linker is not here: `build-ebpf` builds the version that fits the compiler into target/bpf-tools.

use crate::{sh, vm};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// One thing that some verb needs.
struct Want {
    what: &'static str,
    why: &'static str,
    there: fn() -> bool,
    /// Debian packages that bring it.
    packages: &'static [&'static str],
    /// Where Debian's packages are not to be had.
    elsewhere: &'static str,
    /// Nothing that a verb must do fails without it.
    optional: bool,
}

const WANTS: &[Want] = &[
    Want {
        what: "C compiler",
        why: "links Rust programs, builds zstd",
        there: || on_path("cc"),
        packages: &["gcc", "libc6-dev"],
        elsewhere: "install gcc or clang",
        optional: false,
    },
    Want {
        what: "rustfmt and clippy",
        why: "lint",
        there: || on_path("cargo-fmt") && on_path("cargo-clippy"),
        packages: &[],
        elsewhere: "rustup component add rustfmt clippy",
        optional: false,
    },
    Want {
        what: "core library for BPF",
        why: "build-ebpf",
        there: bpf_core,
        packages: &["rustc-web", "libstd-rust-web-dev-bpf"],
        elsewhere: "rustup toolchain install nightly-2026-05-20 --component rust-src",
        optional: false,
    },
    Want {
        what: "clippy of the BPF compiler",
        why: "lint of memtier-ebpf",
        there: || Path::new(BPF_CLIPPY).exists(),
        packages: &["rust-web-clippy"],
        elsewhere: "rustup component add clippy --toolchain nightly-2026-05-20",
        optional: true,
    },
    Want {
        what: "memcached",
        why: "demo, shell and host tests",
        there: || on_path("memcached"),
        packages: &["memcached"],
        elsewhere: "install memcached 1.6",
        optional: false,
    },
    Want {
        what: "mkswap, swapon, setpriv, modprobe",
        why: "demo and host tests: a swap area of their own",
        there: || ["mkswap", "swapon", "setpriv", "modprobe"].iter().all(|p| on_path(p)),
        packages: &["util-linux", "mount", "kmod"],
        elsewhere: "install util-linux, mount and kmod",
        optional: false,
    },
    Want {
        what: "python3",
        why: "host tests: userfaultfd(2), which Rust reaches only by unsafe code",
        there: || on_path("python3"),
        packages: &["python3"],
        elsewhere: "install python3",
        optional: false,
    },
    Want {
        what: "xz, zstd, dpkg-deb, tar, depmod",
        why: "vm: unpacks QEMU and kernels, which it fetches itself",
        there: || ["xz", "zstd", "dpkg-deb", "tar", "depmod"].iter().all(|p| on_path(p)),
        packages: &["xz-utils", "zstd", "dpkg", "tar", "kmod"],
        elsewhere: "the lab unpacks Debian's packages: install dpkg, tar, xz, zstd and kmod",
        optional: false,
    },
];

/// clippy of Debian's rustc-web, the compiler that has a prebuilt core for BPF.
pub const BPF_CLIPPY: &str = "/usr/bin/clippy-driver";

pub fn run(root: &Path) -> Result<()> {
    for want in WANTS {
        let state = if (want.there)() { "there" } else { "missing" };
        println!("{state:>8}  {} ({})", want.what, want.why);
    }
    ensure(root)?;
    vm::fetch(root)
}

/// Installs what is missing; says nothing when nothing is. Fails only if something needed cannot be had.
pub fn ensure(root: &Path) -> Result<()> {
    let missing = || WANTS.iter().filter(|w| !(w.there)());
    let packages: Vec<&str> = missing().flat_map(|w| w.packages).copied().collect();
    if !packages.is_empty() && on_path("apt-get") && nix::unistd::geteuid().is_root() {
        println!("setup: installing {}", packages.join(" "));
        let apt = |args: &[&str]| sh::run(sh::command("apt-get", args, root).env("DEBIAN_FRONTEND", "noninteractive"));
        apt(&["update", "-qq"])?;
        // One at a time for the optional: a package that this release lacks must not keep the others out.
        let needed: Vec<&str> = missing().filter(|w| !w.optional).flat_map(|w| w.packages).copied().collect();
        let optional = missing().filter(|w| w.optional).flat_map(|w| w.packages).copied();
        for batch in std::iter::once(needed).filter(|b| !b.is_empty()).chain(optional.map(|p| vec![p])) {
            let args: Vec<&str> = ["install", "-qq", "-y", "--no-install-recommends"].into_iter().chain(batch).collect();
            if let Err(error) = apt(&args) {
                println!("setup: {error}");
            }
        }
    }
    let by_hand = |w: &Want| match (w.packages, on_path("apt-get")) {
        ([_, ..], true) => format!("  {}: apt-get install {} (as root)", w.what, w.packages.join(" ")),
        _ => format!("  {}: {}", w.what, w.elsewhere),
    };
    let needed: Vec<String> = missing().filter(|w| !w.optional).map(by_hand).collect();
    for hint in missing().filter(|w| w.optional).map(by_hand) {
        println!("setup: not there, and not needed:\n{hint}");
    }
    if needed.is_empty() {
        return Ok(());
    }
    bail!("still missing; do this, then call again:\n{}", needed.join("\n"))
}

/// A program of this name on PATH, beside cargo, or where root's programs are.
fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).any(|dir| dir.join(name).is_file())
}

/// Some compiler here can make BPF objects: Debian's with its prebuilt core, or a nightly with the sources of core.
fn bpf_core() -> bool {
    let sysroot = |rustc: &str, toolchain: Option<&str>| {
        let mut command = sh::command(rustc, &["--print", "sysroot"], Path::new("/"));
        command.env("RUSTUP_AUTO_INSTALL", "0");
        if let Some(toolchain) = toolchain {
            command.env("RUSTUP_TOOLCHAIN", toolchain);
        }
        sh::output(&mut command).map(PathBuf::from)
    };
    let prebuilt = ["rustc", "/usr/bin/rustc"]
        .into_iter()
        .filter_map(|rustc| sysroot(rustc, None))
        .any(|root| root.join("lib/rustlib/bpfel-unknown-none/lib").is_dir());
    let sources = |root: PathBuf| root.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists();
    prebuilt || ["nightly-2026-05-20", "nightly"].into_iter().filter_map(|t| sysroot("rustc", Some(t))).any(sources)
}
