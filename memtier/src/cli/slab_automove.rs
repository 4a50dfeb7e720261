//! `memtier slab-automove`, and memtier called as one of memcached's automover scripts: their command line. docs/slab-automove.md.

use super::{Common, Ended, Exit, Trouble};
use crate::compat::slab::{Mode, Script, Settings, defaults};
use crate::daemon::automove::{AutomoveError, Start};
use crate::daemon::levers;
use crate::daemon::lock::LockError;
use crate::observe::memcached::{Address, Server};
use anyhow::Context as _;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "slab-automove";
/// The scripts by their own names, and what each is here.
const SCRIPTS: [(&str, &[&str]); 2] = [("memcached-automove-extstore", &[NAME]), ("memcached-automove", &[NAME, "--no-extstore"])];

/// Move a memcached server's slab pages between classes as its automover scripts do: their command line
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server: HOST:PORT, [IPV6]:PORT or the path of a unix socket
    #[arg(long, value_name = "SERVER", default_value = "localhost:11211")]
    host: Address,
    /// Seconds between looks
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    sleep: u64,
    /// Print what each look weighs, and what the server says to moves
    #[arg(short, long)]
    verbose: bool,
    /// Move pages; without it nothing is sent that changes anything
    #[arg(short, long)]
    automove: bool,
    /// Looks that are remembered; nothing is decided on fewer
    #[arg(short, long, value_name = "N", default_value_t = defaults::WINDOW, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=86_400))]
    window: usize,
    /// A class is too young below this share of the age of the oldest
    #[arg(short, long, value_name = "SHARE", default_value_t = defaults::RATIO, value_parser = share)]
    ratio: f64,
    /// Share of chunks and pages that is kept free
    #[arg(short, long, value_name = "SHARE", default_value_t = defaults::FREE, value_parser = share)]
    free: f64,
    /// Items of less bytes stay in memory
    #[arg(short = 'z', long, value_name = "BYTES", default_value_t = defaults::SIZE)]
    size: u64,
    /// As the sister script does, for servers without flash: -f and -z mean nothing
    #[arg(long)]
    no_extstore: bool,
    /// Decide exactly as the scripts of 2017, defects included, and put nothing back at the end
    #[arg(long)]
    compat: bool,
    /// user:password for a server with an authfile, in the first line of this file
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// Seconds that the server may take to answer
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share: &f64| share.is_finite() && *share >= 0.0).ok_or_else(|| format!("{text:?} is no share"))
}

pub fn run(common: &Common, args: &Args) -> Ended {
    let Args { host, sleep, verbose, automove, window, ratio, free, size, no_extstore, compat, auth_file, timeout } = args;
    let auth_file = auth_file.as_deref().map(std::path::absolute).transpose()?;
    let auth = auth_file.as_deref().map(|file| levers::auth(file).with_context(|| file.display().to_string())).transpose()?;
    let script = if *no_extstore { Script::Plain } else { Script::Extstore { free: *free, size: *size } };
    let mode = if *compat { Mode::Compat2017 } else { Mode::Repaired };
    let start = Start {
        server: Server { address: absolute(host)?, auth, patience: Duration::from_secs(*timeout) },
        auth_file,
        run_dir: std::path::absolute(common.run_dir())?,
        settings: Settings { mode, script, window: *window, ratio: *ratio },
        sleep: Duration::from_secs(*sleep),
        act: *automove,
        verbose: *verbose,
        json: common.json,
    };
    match start.run(std::io::stdout()) {
        Ok(()) => Ok(Exit::Ok),
        Err(AutomoveError::Lock(error @ LockError::Held { .. })) => {
            Err(Trouble::new(Exit::Locked, error).next("one mover a server: end that one first"))
        }
        Err(AutomoveError::Lock(error)) => Err(Trouble::locked(error)),
        Err(error @ AutomoveError::Footprint(_)) => Err(error.into()),
        Err(AutomoveError::Io(error)) => Err(error.into()),
    }
}

/// Whoever undoes may stand elsewhere.
fn absolute(address: &Address) -> std::io::Result<Address> {
    Ok(match address {
        Address::Unix(path) => Address::Unix(std::path::absolute(path)?),
        Address::Tcp { .. } => address.clone(),
    })
}

/// The command line, with the subcommand in it where the program's own name says it.
pub fn by_name(mut args: Vec<OsString>) -> Vec<OsString> {
    let called = args.first().and_then(|arg| Path::new(arg).file_name());
    if let Some((_, words)) = SCRIPTS.iter().find(|(name, _)| called.is_some_and(|called| called == *name)) {
        args.splice(..1, ["memtier"].iter().chain(*words).map(OsString::from));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser as _;

    fn args(options: &[&str]) -> Result<Args, String> {
        let cli = Cli::try_parse_from([&["memtier", NAME], options].concat()).map_err(|e| e.to_string())?;
        let Command::SlabAutomove(args) = cli.command else { panic!("another subcommand") };
        Ok(args)
    }

    #[test]
    fn options_of_the_scripts() {
        let plain = args(&[]).expect("in order");
        assert_eq!((plain.host.to_string().as_str(), plain.sleep, plain.window), ("localhost:11211", 1, 30));
        assert_eq!((plain.ratio, plain.free, plain.size, plain.timeout), (0.8, 0.005, 512, 5));
        assert!(!plain.verbose && !plain.automove && !plain.no_extstore && !plain.compat);
        let all =
            args(&["--host", "[::1]:1", "-s0", "-v", "-a", "-w", "3", "-r", ".5", "-f", "0.01", "-z", "1024", "--no-extstore"]);
        let all = all.expect("in order");
        assert_eq!((all.host.to_string().as_str(), all.sleep, all.window), ("[::1]:1", 0, 3));
        assert_eq!((all.ratio, all.free, all.size), (0.5, 0.01, 1024));
        assert!(all.verbose && all.automove && all.no_extstore);
        let long = args(&["--sleep=2", "--verbose", "--automove", "--window=9", "--ratio=1", "--free=0", "--size=1", "--compat"]);
        assert!(long.is_ok_and(|long| long.sleep == 2 && long.compat && long.size == 1));
        for bad in
            [&["-w", "0"][..], &["-s", "-1"], &["-r", "nan"], &["-f", "x"], &["--host", "a:b:1x"], &["--host", ""], &["more"]]
        {
            assert!(args(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_scripts_names_are_subcommands() {
        let line = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(by_name(line(&["/usr/bin/memcached-automove", "-v"])), line(&["memtier", NAME, "--no-extstore", "-v"]));
        assert_eq!(by_name(line(&["memcached-automove-extstore"])), line(&["memtier", NAME]));
        assert_eq!(by_name(line(&["memtier", "status"])), line(&["memtier", "status"]));
        assert_eq!(by_name(line(&[])), line(&[]));
    }
}
