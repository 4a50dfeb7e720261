//! One guest from power-on to its exit code.

use super::stock::Stock;
use super::topo::Topology;
use super::{DIED, LATE, initrd};
use crate::sh::{self, Ended};
use anyhow::{Context as _, Result};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Guest {
    pub kernel: String,
    pub topo: Topology,
    pub kvm: bool,
    /// MiB of each node.
    pub mem: u32,
    pub cpus: Option<u32>,
    pub append: String,
    pub modules: Vec<String>,
    pub debs: Vec<String>,
    /// MiB of each blank disk.
    pub disks: Vec<u32>,
    pub timeout: Duration,
}

/// A guest without mitigations and clock checks: emulated, both cost seconds and give nothing.
const KERNEL_WORDS: &str =
    "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off no_timer_check tsc=reliable psi=1 rdinit=/init";
/// Without fast string instructions, which are emulated byte by byte: a guest that has them copies with them, and moving a page
/// takes about twice as long (docs/benchmarks.md, numa).
const EMULATED: &str = "max,la57=off,erms=off,fsrm=off";
/// Lines of the kernel's own messages that a dead guest leaves on standard error.
const LAST_WORDS: usize = 80;

/// Files of one run; they go away with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(home: &Path) -> Result<Self> {
        static RUN: AtomicU32 = AtomicU32::new(0);
        // Of an xtask that was killed.
        for entry in fs::read_dir(home)?.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|n| n.strip_prefix("run-")?.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = home.join(format!("run-{}-{}", std::process::id(), RUN.fetch_add(1, Relaxed)));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Boots, runs the words as a command with this process's environment and directory, and returns its exit code. Standard
/// output passes through `each_line`, or to ours.
pub fn boot(root: &Path, guest: &Guest, words: &[String], each_line: Option<&mut dyn FnMut(&str)>) -> Result<u8> {
    let (stock, lock) = Stock::open(root)?;
    let qemu = stock.qemu()?;
    let kernel = stock.kernel(&guest.kernel)?;
    let debs = guest.debs.iter().map(|name| stock.package(name)).collect::<Result<Vec<_>>>()?;
    drop(lock);
    let scratch = Scratch::new(stock.home())?;
    let lower: Vec<String> = debs.iter().chain([&kernel.layer]).map(|layer| format!("/layers/{layer}")).collect();
    let mut modules = guest.modules.clone();
    modules.extend((!guest.disks.is_empty()).then(|| "virtio_blk".to_owned()));
    let mut archive = fs::read(&kernel.initrd)?;
    archive.extend(initrd::run(&lower.join(":"), &modules, &script(words)?));
    fs::write(scratch.path("initrd"), archive)?;
    // QEMU must not outlive us, whatever ends us.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(qemu.get_program()).args(qemu.get_args());
    command.envs(qemu.get_envs().filter_map(|(name, value)| Some((name, value?))));
    machine(&mut command, guest, &scratch)?;
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(scratch.path("initrd"));
    command.arg("-append").arg(format!("{KERNEL_WORDS} {}", guest.append));
    for (tag, path) in [("host", Path::new("/")), ("layers", &stock.layers())] {
        let path = path.display();
        command.arg("-fsdev").arg(format!("local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"));
        command.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
    }
    // Pipes, whatever our own streams are: QEMU opens them by name once more, and of a file that would be another offset.
    let (mut output, to_us) = std::io::pipe()?;
    command.stdout(to_us);
    let output = thread::spawn(move || std::io::copy(&mut output, &mut std::io::stdout().lock()));
    let (complaints, to_us) = std::io::pipe()?;
    command.stderr(to_us);
    let complaints = thread::spawn(move || complain(complaints));
    let ended = sh::follow(&mut command, guest.timeout, each_line);
    drop(command);
    let _ = (output.join(), complaints.join());
    let ended = ended.context("QEMU")?;
    let console = || {
        let text = fs::read_to_string(scratch.path("console")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n"));
    };
    if ended == Ended::Late {
        console();
        eprintln!("lab: not done after {} s; the guest was ended (--timeout)", guest.timeout.as_secs());
        return Ok(LATE);
    }
    let said = fs::read_to_string(scratch.path("result")).unwrap_or_default();
    if let Some(code) = said.trim().strip_prefix("exit=").and_then(|n| n.parse().ok()) {
        return Ok(code);
    }
    console();
    eprintln!("lab: the guest ended without an exit code ({ended:?}); above are its kernel's last words");
    Ok(DIED)
}

/// Passes on what the guest and QEMU have to complain about.
fn complain(from: std::io::PipeReader) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        // It says so of every feature that TCG leaves out of `-cpu max`.
        if !line.windows(13).any(|w| w == b"warning: TCG ") {
            let _ = std::io::stderr().write_all(&[line, b"\n".to_vec()].concat());
        }
    }
}

fn machine(command: &mut Command, guest: &Guest, scratch: &Scratch) -> Result<()> {
    let (accel, cpu) = if guest.kvm { ("kvm", "host") } else { ("tcg,thread=multi,tb-size=256", EMULATED) };
    command.args(["-M", &format!("q35{}", guest.topo.machine()), "-accel", accel, "-cpu", cpu]);
    command.args(guest.topo.options(guest.mem, guest.cpus));
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-serial").arg(format!("file:{}", scratch.path("console").display()));
    command.args(["-device", "virtio-serial-pci"]);
    // Not `stdio`: it takes the end of its input for the end of the guest's output.
    for stream in ["out", "err"] {
        command.arg("-chardev").arg(format!("file,id={stream},path=/dev/std{stream},append=on"));
    }
    command.arg("-chardev").arg(format!("file,id=result,path={}", scratch.path("result").display()));
    for (number, port) in (1..).zip(["out", "err", "result"]) {
        command.arg("-device").arg(format!("virtserialport,nr={number},chardev={port},name={port}"));
    }
    for (number, mib) in guest.disks.iter().enumerate() {
        let disk = scratch.path(&format!("disk{number}"));
        fs::File::create(&disk)?.set_len(u64::from(*mib) << 20)?;
        command.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()));
    }
    Ok(())
}

/// What the guest's shell runs.
fn script(words: &[String]) -> Result<String> {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let mut script = String::new();
    for (name, value) in std::env::vars() {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit());
        // The shell keeps these itself.
        if plain && !["_", "PWD", "OLDPWD", "SHLVL"].contains(&name.as_str()) {
            script += &format!("export {name}={}\n", quoted(&value));
        }
    }
    let dir = std::env::current_dir().context("the current directory")?;
    script += &format!("cd {} || exit {DIED}\n", quoted(&dir.display().to_string()));
    script += &format!("exec {}\n", words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" "));
    Ok(script)
}
