//! A child process that holds a known region and touches exactly the pages it is told to (tests/src/bin/hog.rs).

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// How the pages of the region are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Half noise, half repeated: compresses about 2:1 and is nowhere same-filled.
    Half,
    /// Noise: does not compress.
    Noise,
    /// Mapped, never touched.
    Untouched,
}

impl Fill {
    const fn arg(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Noise => "noise",
            Self::Untouched => "untouched",
        }
    }
}

/// Ends with its owner, and by itself when the owner dies: it reads its orders from a pipe.
#[derive(Debug)]
pub struct Hog {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Address of the first page; aligned to 2 MiB.
    pub base: u64,
    pub pages: u64,
}

impl Hog {
    /// A region of `mib` MiB in 4 KiB pages.
    pub fn start(mib: u64, fill: Fill) -> Result<Self, String> {
        Self::spawn(mib, fill, "small")
    }

    /// A region of `mib` MiB in huge pages, as far as the kernel has them.
    pub fn huge(mib: u64, fill: Fill) -> Result<Self, String> {
        compact();
        Self::spawn(mib, fill, "huge")
    }

    fn spawn(mib: u64, fill: Fill, size: &str) -> Result<Self, String> {
        let mut child = Command::new(crate::binary("hog")?)
            .args([mib.to_string().as_str(), fill.arg(), size])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("hog: {e}"))?;
        let orders = child.stdin.take().expect("stdin was asked for");
        let answers = BufReader::new(child.stdout.take().expect("stdout was asked for"));
        let mut hog = Self { child, orders, answers, base: 0, pages: mib << 8 };
        hog.base = hog.answer()?;
        compact();
        Ok(hog)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    #[must_use]
    pub const fn addr(&self, page: u64) -> u64 {
        self.base + page * 4096
    }
    /// Reads one byte of each page of the range; on return it is done.
    pub fn read(&mut self, pages: Range<u64>) -> Result<(), String> {
        self.order("read", pages)
    }
    /// Writes one word of each page of the range; on return it is done.
    pub fn write(&mut self, pages: Range<u64>) -> Result<(), String> {
        self.order("write", pages)
    }
    /// Runs for so long of its own CPU time, reading its first 64 pages.
    pub fn burn(&mut self, ms: u64) -> Result<(), String> {
        writeln!(self.orders, "burn {ms}").map_err(|e| format!("hog: {e}"))?;
        self.answer().map(|_| ())
    }
    /// A process that it made and that is nobody's child any more; its pid.
    pub fn orphan(&mut self) -> Result<u32, String> {
        writeln!(self.orders, "orphan").map_err(|e| format!("hog: {e}"))?;
        u32::try_from(self.answer()?).map_err(|e| format!("hog: {e}"))
    }
    /// True while every page still holds what was filled in; reads all pages.
    pub fn intact(&mut self) -> Result<bool, String> {
        writeln!(self.orders, "check").map_err(|e| format!("hog: {e}"))?;
        Ok(self.answer()? == 0)
    }

    fn order(&mut self, verb: &str, pages: Range<u64>) -> Result<(), String> {
        writeln!(self.orders, "{verb} {} {}", pages.start, pages.end).map_err(|e| format!("hog: {e}"))?;
        self.answer().map(|_| ())
    }
    fn answer(&mut self) -> Result<u64, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|e| format!("hog: {e}"))?;
        line.trim().parse().map_err(|_| format!("hog answered {line:?}"))
    }
}

/// Empties the per-CPU batches in which freshly touched pages wait for their list (no hand can take them from there:
/// mm/swap.c), and makes room for huge pages. Needs root, and so does every test that depends on it.
fn compact() {
    let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
