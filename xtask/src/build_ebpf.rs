//! Builds the BPF object: target/memtier.bpf.o.
//!
//! Two toolchains do it, with the same sources and flags: a rustc that brings a prebuilt core for the BPF target (Debian's
//! rustc-web with libstd-rust-web-dev-bpf), or a nightly with rust-src, which builds core itself. bpf-linker is installed
//! into target/bpf-tools when it is missing.
//!
//! MEMTIER_BPF_RUSTC names the rustc to use, MEMTIER_BPF_CORE = prebuilt | build-std the way, MEMTIER_BPF_LINKER a linker.

use anyhow::{Context as _, Result, bail};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "bpfel-unknown-none";
/// A nightly whose LLVM is LINKER_LLVM, then whatever nightly there is.
const NIGHTLIES: [&str; 2] = ["nightly-2026-05-20", "nightly"];
/// The last bpf-linker that loads rustc's own libLLVM 22 when it runs: no LLVM packages needed.
const LINKER_VERSION: &str = "0.10.3";
const LINKER_LLVM: u32 = 22;

/// The compiler, and where core comes from.
struct Compiler {
    rustc: PathBuf,
    /// rustup toolchain that `rustc` stands for.
    toolchain: Option<&'static str>,
    build_std: bool,
}

impl Compiler {
    fn ask(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new(&self.rustc);
        if let Some(toolchain) = self.toolchain {
            command.env("RUSTUP_TOOLCHAIN", toolchain);
        }
        said(command.args(args))
    }

    fn sysroot(&self) -> Option<PathBuf> {
        self.ask(&["--print", "sysroot"]).map(PathBuf::from)
    }

    fn fits(&self) -> bool {
        let Some(sysroot) = self.sysroot() else { return false };
        let rustlib = sysroot.join("lib/rustlib");
        if self.build_std {
            return rustlib.join("src/rust/library/core/src/lib.rs").exists();
        }
        fs::read_dir(rustlib.join(TARGET).join("lib"))
            .is_ok_and(|dir| dir.flatten().any(|f| f.file_name().to_string_lossy().starts_with("libcore-")))
    }

    fn find() -> Result<Self> {
        let given = env::var_os("MEMTIER_BPF_RUSTC").map(PathBuf::from);
        let way = env::var("MEMTIER_BPF_CORE").ok();
        let rustcs = given
            .clone()
            .map_or_else(|| ["rustc", "/usr/bin/rustc", "/usr/local/bin/rustc"].map(PathBuf::from).to_vec(), |r| vec![r]);
        let nightlies = NIGHTLIES.iter().filter(|_| given.is_none());
        let all = (rustcs.iter().map(|rustc| Self { rustc: rustc.clone(), toolchain: None, build_std: false }))
            .chain(nightlies.map(|&t| Self { rustc: "rustc".into(), toolchain: Some(t), build_std: true }))
            .chain(rustcs.iter().map(|rustc| Self { rustc: rustc.clone(), toolchain: None, build_std: true }));
        all.filter(|c| way.as_deref().is_none_or(|w| w == if c.build_std { "build-std" } else { "prebuilt" })).find(Self::fits).with_context(|| {
            format!(
                "no libcore for {TARGET}. Do one of:\n  apt-get install rustc-web libstd-rust-web-dev-bpf      (Debian: prebuilt core)\n  \
                 rustup toolchain install {} --component rust-src  (anywhere: builds core)",
                NIGHTLIES[0]
            )
        })
    }
}

/// First line and all that a program prints, if it ends well. rustup must not download a toolchain because we asked.
fn said(command: &mut Command) -> Option<String> {
    let out = command.env("RUSTUP_AUTO_INSTALL", "0").stderr(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn linker(root: &Path) -> Result<PathBuf> {
    let home = root.join("target/bpf-tools");
    let own = home.join("bin/bpf-linker");
    let want = format!("bpf-linker {LINKER_VERSION}");
    for candidate in [own.as_path(), Path::new("bpf-linker")] {
        if said(Command::new(candidate).arg("--version")).as_deref() == Some(want.as_str()) {
            return Ok(candidate.to_owned());
        }
    }
    eprintln!("xtask: installing {want} into target/bpf-tools (about 1.5 minutes, once)");
    let mut install = Command::new("cargo");
    install.args(["install", "bpf-linker", "--locked", "--quiet", "--version", LINKER_VERSION, "--root"]).arg(&home);
    install.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    if !install.status().context("running cargo install")?.success() {
        bail!("cargo install bpf-linker failed");
    }
    Ok(own)
}

/// bpf-linker 0.10 opens the first file named libLLVM* that it meets on LD_LIBRARY_PATH, whatever its version. The wrapper
/// shows it exactly one: the LLVM of the rustc that wrote the bitcode.
fn wrapped(root: &Path, linker: &Path, sysroot: &Path) -> Result<PathBuf> {
    let names = [format!("libLLVM.so.{LINKER_LLVM}"), format!("libLLVM-{LINKER_LLVM}.so")];
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    let dirs =
        [sysroot.join("lib"), sysroot.join(multiarch), format!("/usr/lib/llvm-{LINKER_LLVM}/lib").into(), "/usr/lib64".into()];
    let library = (dirs.iter().filter_map(|d| fs::read_dir(d).ok()).flatten().flatten().map(|f| f.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Linker scripts carry the same names; the library itself is large.
            names.iter().any(|n| name.starts_with(n)) && fs::metadata(path).is_ok_and(|m| m.len() > 1 << 20)
        })
        .with_context(|| format!("no libLLVM {LINKER_LLVM} beside {}", sysroot.display()))?;
    let dir = root.join("target/bpf-tools/wrap");
    let shown = dir.join("lib");
    fs::create_dir_all(&shown)?;
    let link = shown.join("libLLVM.so");
    if fs::read_link(&link).ok().as_ref() != Some(&library) {
        let _ = fs::remove_file(&link);
        symlink(&library, &link)?;
    }
    let script = format!("#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n", shown.display(), linker.display());
    let wrapper = dir.join("bpf-linker");
    if fs::read_to_string(&wrapper).ok().as_ref() != Some(&script) {
        fs::write(&wrapper, script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    }
    Ok(wrapper)
}

/// Builds the object and returns its path. Quick when nothing changed.
pub fn run(root: &Path) -> Result<PathBuf> {
    let compiler = Compiler::find()?;
    let version = compiler.ask(&["-vV"]).context("rustc -vV failed")?;
    let name = version.lines().next().unwrap_or_default();
    let llvm = version.lines().find_map(|l| l.strip_prefix("LLVM version: ")?.split('.').next()?.parse::<u32>().ok());
    let sysroot = compiler.sysroot().context("rustc --print sysroot failed")?;
    let linker = match env::var_os("MEMTIER_BPF_LINKER") {
        Some(given) => PathBuf::from(given),
        None if llvm == Some(LINKER_LLVM) => wrapped(root, &linker(root)?, &sysroot)?,
        None => bail!("{name} has LLVM {llvm:?}, bpf-linker {LINKER_VERSION} is for LLVM {LINKER_LLVM}: set MEMTIER_BPF_LINKER"),
    };
    let target = root.join("target/bpf");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root.join("memtier-ebpf"));
    cargo.args(["build", "--release", "--locked", "--quiet", "--target", TARGET, "--target-dir"]).arg(&target);
    // What the outer cargo or the user set for the host must not reach the BPF build.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(name);
    }
    let mut linker_flag = OsString::from("-Clinker=");
    linker_flag.push(&linker);
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
    let mut flags = OsString::new();
    for flag in [arch.into(), "-Cdebuginfo=2".into(), "-Ctarget-cpu=v3".into(), linker_flag, "-Clink-arg=--btf".into()] {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push::<OsString>(flag);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags).env("RUSTC_BOOTSTRAP", "1");
    match compiler.toolchain {
        Some(toolchain) => cargo.env("RUSTUP_TOOLCHAIN", toolchain),
        None => cargo.env("RUSTC", &compiler.rustc),
    };
    if compiler.build_std {
        cargo.arg("-Zbuild-std=core");
    }
    if !cargo.status().context("running cargo")?.success() {
        bail!("the BPF object does not build with {name}");
    }
    let object = root.join("target/memtier.bpf.o");
    let built = fs::read(target.join(TARGET).join("release/memtier")).context("reading the object")?;
    // Binaries that embed it are built anew when its time changes.
    if fs::read(&object).ok().as_ref() != Some(&built) {
        fs::write(&object, built).context("writing the object")?;
    }
    Ok(object)
}
