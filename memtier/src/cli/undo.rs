//! `memtier undo`: puts back what a daemon that is gone has changed on the host. Needs no daemon, and refuses beside one.

use super::{Common, Ended, Exit, Trouble, print_json};
use crate::daemon::boot_id;
use crate::daemon::footprint::{Footprint, HostSettings, Undone, Verdict};
use crate::daemon::lock::Lock;
use std::io::Write as _;

/// Put back every setting that memtier changed and that nobody changed since
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(common: &Common, Args {}: &Args) -> Ended {
    let run_dir = common.run_dir();
    if !run_dir.exists() {
        return say(common, &[]);
    }
    let _lock = Lock::take(&run_dir, "undo").map_err(Trouble::locked)?;
    let told = Footprint::open(&run_dir, &boot_id()?)?.undo(&mut HostSettings)?;
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
