//! `memtier caches`: the classes of each memcached server, and what their pages are worth.

use super::{Common, Ended, Exit, Trouble, print_json};
use crate::daemon::views::CachesView;
use crate::ui;
use std::io::Write as _;

/// Show the memcached servers that the daemon looks after: their classes, what a page earns in each, and what was moved
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this server, as its rule names it
    server: Option<String>,
}

pub fn run(common: &Common, Args { server }: &Args) -> Ended {
    let CachesView { mut servers } = common.client()?.get("/v1/caches").map_err(Trouble::from_daemon)?;
    if let Some(server) = server {
        servers.retain(|view| view.server == *server);
        if servers.is_empty() {
            let error = anyhow::anyhow!("the daemon looks after no server {server}");
            return Err(Trouble::new(Exit::Failure, error).next("`memtier caches` lists those that it does"));
        }
    }
    if common.json {
        print_json(&CachesView { servers })?;
        return Ok(Exit::Ok);
    }
    let mut out = std::io::stdout().lock();
    if servers.is_empty() {
        writeln!(out, "no server is looked after: give --cache SERVER to `memtier run`, or write a [[cache]] rule")?;
    }
    for view in &servers {
        write!(out, "{}", ui::caches(view))?;
    }
    Ok(Exit::Ok)
}
