//! `memtier status`: what the daemon sees, may, does and costs.

use super::{Common, Ended, Exit, Trouble, print_json};
use crate::daemon::boot_id;
use crate::daemon::client::ClientError;
use crate::daemon::footprint::{Footprint, Held, Setting};
use crate::daemon::views::Status;
use crate::ui;
use std::io::Write as _;

/// Show what the daemon sees, may, does and costs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only list the settings that memtier changed on this host, with their old values
    #[arg(long)]
    footprint: bool,
}

pub fn run(common: &Common, Args { footprint }: &Args) -> Ended {
    let client = common.client()?;
    let mut out = std::io::stdout().lock();
    if *footprint {
        let held = match client.get::<Vec<Held>>("/v1/footprint") {
            Ok(held) => held,
            // What it changed outlives a daemon that was killed.
            Err(ClientError::NoDaemon { .. }) => left_behind(common)?,
            Err(error) => return Err(Trouble::from_daemon(error)),
        };
        if common.json {
            print_json(&held)?;
        } else if held.is_empty() {
            writeln!(out, "no setting of the host is changed")?;
        }
        for Held { setting, old, ours } in held.iter().filter(|_| !common.json) {
            let now = match &setting {
                Setting::File { .. } | Setting::Cpuset { .. } | Setting::Server(_) => ours.last().cloned().unwrap_or_default(),
                // Those of one process may differ.
                Setting::Affinity { .. } => ours.join(" or "),
            };
            writeln!(out, "{setting}: {now} (was {old:?})")?;
        }
        return Ok(Exit::Ok);
    }
    let status: Status = client.get("/v1/status").map_err(Trouble::from_daemon)?;
    if common.json {
        print_json(&status)?;
    } else {
        write!(out, "{}", ui::status(&status, common.style()))?;
    }
    Ok(Exit::Ok)
}

fn left_behind(common: &Common) -> Result<Vec<Held>, Trouble> {
    let held = Footprint::open(&common.run_dir(), &boot_id()?)?.held();
    let next = if held.is_empty() { "" } else { "; `memtier undo` puts this back" };
    eprintln!("memtier: no daemon answers: this is what the last one left in its footprint{next}");
    Ok(held)
}
