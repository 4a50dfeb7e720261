//! Settings of the host that the configuration wants changed while memtier acts. Each goes through the footprint, and
//! goes back when the configuration no longer wants it, when the daemon stops, or by `memtier undo`.
//!
//! Deliberately absent: BPF run-time statistics. They are switched on by a descriptor that ends with the process.

use super::footprint::{Footprint, FootprintError, HostSettings};
use super::levers::{ServerSetting, What};
use crate::config::{CacheRule, Config};
use crate::observe::memcached::Address;
use crate::vocab::PolicyId;
use std::path::{Path, PathBuf};

/// `daemon.page_cluster` at or over this leaves the host's value.
const LEAVE: u64 = 10;

fn wanted(config: &Config) -> Vec<(PathBuf, String)> {
    let cluster = config.daemon.page_cluster;
    let path = "/proc/sys/vm/page-cluster".into();
    if config.daemon.act && cluster < LEAVE { vec![(path, cluster.to_string())] } else { Vec::new() }
}

/// Brings the host to what `config` wants; a setting that cannot be changed is reported and the others still are.
pub fn apply(footprint: &mut Footprint, config: &Config) {
    let wanted = wanted(config);
    let held: Vec<PathBuf> = footprint.files().map(Path::to_owned).collect();
    for path in held.iter().filter(|held| wanted.iter().all(|(path, _)| path != *held)) {
        match footprint.restore(&mut HostSettings, path) {
            Ok(Some(undone)) => tracing::info!(%undone, "setting"),
            Ok(None) => {}
            Err(error) => told(&error),
        }
    }
    // Whose pages are no longer moved has its own mover again; what a class keeps free is no business of the plain script.
    let wanted_there = |setting: &ServerSetting| {
        let there = |rule: &&CacheRule| rule.server.parse::<Address>().is_ok_and(|a| a.to_string() == setting.server);
        config.cache.iter().find(there).is_some_and(|rule| match setting.what {
            What::Automove => true,
            What::FreeMemchunks(_) => rule.policy() != PolicyId::SlabAutomove,
        })
    };
    let acts = config.daemon.act && config.caches.enabled;
    match footprint.restore_servers(&mut HostSettings, |setting| acts && wanted_there(setting)) {
        Ok(undone) => undone.iter().for_each(|undone| tracing::info!(%undone, "setting")),
        Err(error) => told(&error),
    }
    for (path, value) in &wanted {
        match footprint.change(&mut HostSettings, path, value) {
            Ok(true) => {}
            Ok(false) => tracing::info!(path = %path.display(), "somebody set it after memtier: left alone"),
            Err(error) => told(&error),
        }
    }
}

fn told(error: &FootprintError) {
    tracing::error!(%error, "setting");
}
