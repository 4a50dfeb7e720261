//! A swap area in compressed memory, of our own: a zram device that is added, used and removed again.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[derive(Debug)]
pub struct Zram {
    number: u32,
    gone: bool,
}

impl Zram {
    /// Adds a device of `mib` MiB (uncompressed) and swaps on it before any other area.
    pub fn start(mib: u64) -> Result<Self, String> {
        crate::footing::root()?;
        let control = PathBuf::from("/sys/class/zram-control/hot_add");
        if !control.exists() {
            run("modprobe", &["zram", "num_devices=0"])?;
        }
        let number = fs::read_to_string(&control).map_err(|e| format!("{}: {e}", control.display()))?;
        let number = number.trim().parse().map_err(|_| format!("zram gave no device number but {number:?}"))?;
        let zram = Self { number, gone: false };
        fs::write(zram.sys("disksize"), format!("{mib}M")).map_err(|e| format!("{}: {e}", zram.sys("disksize").display()))?;
        run("mkswap", &[&zram.device()])?;
        run("swapon", &["--priority", "32000", &zram.device()])?;
        Ok(zram)
    }

    #[must_use]
    pub fn device(&self) -> String {
        format!("/dev/zram{}", self.number)
    }
    fn sys(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/sys/block/zram{}/{file}", self.number))
    }

    /// Swaps off (what is in it comes back to memory) and removes the device.
    pub fn stop(mut self) -> Result<(), String> {
        self.undo()
    }

    fn undo(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        let swaps = fs::read_to_string("/proc/swaps").map_err(|e| format!("/proc/swaps: {e}"))?;
        if swaps.lines().any(|l| l.split_whitespace().next() == Some(&self.device())) {
            run("swapoff", &[&self.device()])?;
        }
        let wrote = fs::write(self.sys("reset"), "1")
            .and_then(|()| fs::write("/sys/class/zram-control/hot_remove", self.number.to_string()));
        wrote.map_err(|e| format!("removing {}: {e}", self.device()))
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        if let Err(why) = self.undo() {
            eprintln!("zram: {why}");
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let program = crate::footing::program(program, "util-linux mount kmod")?;
    let out = Command::new(&program).args(args).stdin(Stdio::null()).output().map_err(|e| format!("{}: {e}", program.display()))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{} {}: {}", program.display(), args.join(" "), String::from_utf8_lossy(&out.stderr).trim()))
}
