//! What memtier itself uses, and what must outlive it: bytes written to flash or disk today, so that a restart does not
//! begin the day's budget anew.

use super::views::OwnView;
use crate::vocab::{Bytes, Span, Time};
use procfs::process::Process;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// CPU time and memory of this process; zero where /proc does not tell.
#[must_use]
pub fn own() -> OwnView {
    let Ok(stat) = Process::myself().and_then(|me| me.stat()) else { return OwnView::default() };
    let span = |ticks: u64| Span(ticks.saturating_mul(1_000_000_000 / procfs::ticks_per_second()));
    OwnView {
        cpu_user: span(stat.utime),
        cpu_system: span(stat.stime),
        resident: Bytes(stat.rss.saturating_mul(procfs::page_size())),
        ..OwnView::default()
    }
}

/// Days of the kernel's clock, as the planner's ledger counts them.
const DAY: Span = Span::from_secs(86_400);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    day: u64,
    bytes: Bytes,
}

/// The file RUN/swap-written. It lies beside the lock: a reboot begins a new day of that clock, and clears both.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    kept: Written,
    now: Written,
}

impl Ledger {
    #[must_use]
    pub fn open(run_dir: &Path, now: Time) -> Self {
        let path = run_dir.join("swap-written");
        let text = std::fs::read(&path).unwrap_or_default();
        let kept: Written = serde_json::from_slice(&text).unwrap_or_default();
        let day = now.0 / DAY.0;
        let now = if kept.day == day { kept } else { Written { day, bytes: Bytes::ZERO } };
        Self { path, kept, now }
    }

    /// What earlier runs wrote today.
    #[must_use]
    pub const fn today(&self) -> Bytes {
        self.now.bytes
    }

    pub fn note(&mut self, bytes: Bytes, now: Time) {
        self.now = Written { day: now.0 / DAY.0, bytes };
    }

    /// Writes what changed since the last time.
    pub fn keep(&mut self) {
        if self.now == self.kept {
            return;
        }
        let text = serde_json::to_vec(&self.now).expect("two numbers become JSON");
        let fresh = self.path.with_extension("new");
        let written: io::Result<()> = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &self.path));
        match written {
            Ok(()) => self.kept = self.now,
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "bytes written to swap today"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_goes_on_with_the_day() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |s: u64| Time(Span::from_secs(s).0);
        let mut first = Ledger::open(dir.path(), at(10));
        assert_eq!(first.today(), Bytes::ZERO);
        first.note(Bytes(4096), at(20));
        first.keep();
        assert_eq!(Ledger::open(dir.path(), at(30)).today(), Bytes(4096));
        assert_eq!(Ledger::open(dir.path(), at(86_400)).today(), Bytes::ZERO);
    }
}
