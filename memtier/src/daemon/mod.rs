//! The live loop around the Governor, and what surrounds it: lock, footprint, control socket, metrics.
//!
//! Deliberately absent: decisions (plan/), observation (observe/), hands (act/). The loop only carries.

mod answers;
pub mod automove;
pub mod caches;
mod caches_view;
pub mod client;
pub mod control;
mod cpusets;
pub mod dispatch;
pub mod footprint;
pub mod ingest;
pub mod levers;
pub mod live;
pub mod lock;
pub mod log;
mod metrics;
pub mod numad;
mod recorder;
mod settings;
pub mod setup;
pub mod start;
pub mod unbind;
mod usage;
pub mod views;
mod walk;

use std::path::PathBuf;

/// Where control socket, lock and footprint live unless the command line says otherwise.
#[must_use]
pub fn default_run_dir() -> PathBuf {
    std::env::var_os("MEMTIER_RUN_DIR").map_or_else(|| PathBuf::from("/run/memtier"), PathBuf::from)
}

/// Tells one boot of the host from the next.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// Tells systemd, where it runs us; silence otherwise.
pub(crate) fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "sd_notify");
    }
}
