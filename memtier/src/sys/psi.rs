//! Pressure stall files: their text, and triggers on them.

use crate::sys::files::Root;
use procfs::{PressureRecord, parse_pressure_record};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A pressure file. avg10 and avg60 in hundredths of a percent, totals in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    pub some_avg10: u32,
    pub some_avg60: u32,
    pub full_avg10: u32,
    pub some_total_us: u64,
    pub full_total_us: u64,
}

impl Stall {
    /// `None` where the text has no "some" line. "full" is absent for cpu before Linux 5.13: it then reads as zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = |what: &str| -> Option<PressureRecord> {
            let line = text.lines().find(|l| l.strip_prefix(what).is_some_and(|rest| rest.starts_with(' ')))?;
            parse_pressure_record(line).ok()
        };
        let hundredths = |percent: f32| (percent * 100.0).round() as u32;
        let some = line("some")?;
        let full = line("full");
        Some(Self {
            some_avg10: hundredths(some.avg10),
            some_avg60: hundredths(some.avg60),
            full_avg10: full.as_ref().map_or(0, |f| hundredths(f.avg10)),
            some_total_us: some.total,
            full_total_us: full.map_or(0, |f| f.total),
        })
    }
}

/// Arms a trigger: the file is ready for `Interest::PRIORITY` when tasks stalled for `stall_us` within `window_us`.
///
/// | errno | meaning |
/// | --- | --- |
/// | EINVAL | window not within 0.5..10 s, stall over the window; without CAP_SYS_RESOURCE also a window that is no multiple of 2 s |
/// | EPERM, EACCES | no right to trigger (Linux before 6.5 wants CAP_SYS_RESOURCE) |
/// | EOPNOTSUPP, ENOENT | no PSI: booted without psi=1 or built without CONFIG_PSI |
/// | EBUSY | this descriptor has a trigger already |
pub fn trigger(root: &Root, path: impl AsRef<Path>, stall_us: u64, window_us: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(root.path(path))?;
    // The kernel wants the whole line, with its NUL, in one write.
    file.write_all(format!("some {stall_us} {window_us}\0").as_bytes())?;
    Ok(file)
}

/// Waits for a trigger without a thread.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn watch(armed: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` keeps its descriptor open and unchanged until it is dropped, which the `AsyncFd` that owns it does.
    let watched = unsafe { AsyncFd::register_with_interest(armed, Interest::PRIORITY) };
    Ok(watched?)
}
