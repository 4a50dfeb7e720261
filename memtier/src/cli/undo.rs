//! `memtier undo`: puts back what a daemon that is gone has changed on the host. Needs no daemon, and refuses beside one.

use super::{Common, Ended, Exit, Trouble, print_json};
use crate::daemon::automove;
use crate::daemon::boot_id;
use crate::daemon::footprint::{Footprint, HostSettings, Undone, Verdict};
use crate::daemon::lock::{Lock, LockError};
use std::io::Write as _;

/// Put back every setting that memtier changed and that nobody changed since
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(common: &Common, Args {}: &Args) -> Ended {
    let run_dir = common.run_dir();
    if !run_dir.exists() {
        return say(common, &[]);
    }
    // A daemon that runs is no reason to leave what a mover of memcached's pages left.
    let mut told = Vec::new();
    for dir in automove::dirs(&run_dir)? {
        match Lock::take(&dir, "undo") {
            Ok(_lock) => told.extend(Footprint::open(&dir, &boot_id()?)?.undo(&mut HostSettings)?),
            // One that runs puts back what is its own.
            Err(error @ LockError::Held { .. }) => tracing::info!(%error, "left alone"),
            Err(error) => return Err(Trouble::locked(error)),
        }
    }
    match Lock::take(&run_dir, "undo") {
        Ok(_lock) => told.extend(Footprint::open(&run_dir, &boot_id()?)?.undo(&mut HostSettings)?),
        Err(error) => {
            if !told.is_empty() {
                say(common, &told)?;
            }
            return Err(Trouble::locked(error));
        }
    }
    say(common, &told)
}

fn say(common: &Common, told: &[Undone]) -> Ended {
    if common.json {
        print_json(&told)?;
    } else if told.is_empty() {
        writeln!(std::io::stdout(), "nothing to undo")?;
    } else {
        told.iter().try_for_each(|undone| writeln!(std::io::stdout(), "{undone}"))?;
    }
    let failed = told.iter().any(|undone| matches!(undone.verdict, Verdict::Failed { .. }));
    Ok(if failed { Exit::Failure } else { Exit::Ok })
}
