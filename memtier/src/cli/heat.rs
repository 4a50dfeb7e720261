//! `memtier heat PID`: how hot is which memory of a process.

use super::inside::{Inward, Session};
use super::run::{ConfigArgs, EyeArgs};
use super::{Common, Ended, Exit, Trouble, print_json, with_memory};
use crate::config::Target;
use crate::daemon::start::Signals;
use crate::daemon::views::HeatView;
use crate::ui;
use crate::vocab::PolicyId;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// Show how hot which memory of a process is: idle ages and a picture of its address space
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process to look at
    pid: u32,
    /// Walk this many times, `--every` apart: more walks tell finer ages
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    scans: u32,
    /// Seconds between two walks
    #[arg(long, value_name = "SECS", default_value_t = 2.0)]
    every: f64,
    /// Clear accessed bits between the walks, so that ages are known; a daemon that runs must do so already
    #[arg(long)]
    arm: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    eyes: EyeArgs,
}

pub fn run(common: &Common, args: &Args) -> Ended {
    let Args { pid, scans, every, arm, config, eyes } = args;
    let every = Duration::try_from_secs_f64(*every).map_err(|error| Trouble::new(Exit::Usage, error))?;
    with_memory(*pid)?;
    // Nothing acts here, so a policy that would arm is as harmless as one that only watches.
    let policy = (!arm).then_some(PolicyId::Watch);
    let targets = vec![Target { pid: Some(*pid), policy, ..Target::default() }];
    let session = Session::open(common, Inward { role: "heat", config, eyes, arm: *arm, targets, signals: Signals::Stop })?;
    let looked = look(common, &session, *pid, *scans, every);
    session.close()?;
    let view = looked?;
    if common.json {
        print_json(&view)?;
    } else {
        write!(std::io::stdout(), "{}", ui::heat(&view, common.style()))?;
    }
    Ok(Exit::Ok)
}

fn look(common: &Common, session: &Session, pid: u32, scans: u32, every: Duration) -> Result<HeatView, Trouble> {
    let path = format!("/v1/heat?pid={pid}&look=1&columns={}", common.style().columns.saturating_sub(30).max(8));
    let shown = scans > 1 && !common.json && std::io::stderr().is_terminal();
    let mut view = session.client.get(&path);
    for scan in 1..scans {
        if shown {
            eprint!("\rwalk {scan} of {scans} ");
        }
        std::thread::sleep(every);
        view = session.client.get(&path);
        if view.is_err() {
            break;
        }
    }
    if shown {
        eprint!("\r\x1b[K");
    }
    view.map_err(Trouble::from_daemon)
}
