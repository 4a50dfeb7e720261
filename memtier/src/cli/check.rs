//! `memtier check`: what the configuration comes to, and where each value was set.

use super::{Common, Ended, Exit, Trouble};
use crate::config::{self, COMMAND_LINE, Loaded};
use crate::daemon::setup::SetupError;
use crate::plan::anything_selected;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Check the configuration and print the merged result with the origin of every value
#[derive(Debug, clap::Args)]
#[command(after_long_help = config::help())]
pub struct Args {
    /// Files in merge order, each followed by its drop-ins; a directory stands for the *.toml in it
    /// [default: /etc/memtier/memtier.toml, then memtier.d/*.toml beside it]
    files: Vec<PathBuf>,
    /// Override one knob
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    set: Vec<String>,
    /// Print the sample configuration instead
    #[arg(long)]
    sample: bool,
}

pub fn run(common: &Common, args: &Args) -> Ended {
    print(common.json, args, &mut std::io::stdout().lock())
}

fn print(json: bool, args: &Args, out: &mut dyn Write) -> Ended {
    if args.sample && json {
        return Err(Trouble::new(Exit::Usage, anyhow::anyhow!("the sample is TOML: --json and --sample exclude each other")));
    }
    if args.sample {
        out.write_all(config::sample().as_bytes())?;
        return Ok(Exit::Ok);
    }
    let files = if args.files.is_empty() { vec![PathBuf::from(config::DEFAULT_PATH)] } else { args.files.clone() };
    let loaded = load(&sources(&files, &args.set)?)?;
    let acts_on_nothing = loaded.config.daemon.act && !anything_selected(&loaded.config) && loaded.config.cache.is_empty();
    if json {
        let Loaded { config, origins, targets, caches } = loaded;
        serde_json::to_writer_pretty(
            &mut *out,
            &json!({"config": config, "origins": origins, "targets": targets, "caches": caches}),
        )?;
        writeln!(out)?;
    } else {
        out.write_all(config::annotated(&loaded).as_bytes())?;
    }
    if acts_on_nothing {
        // What `run` would say, unless its own options select something.
        let error = SetupError::NothingSelected;
        let next = error.next();
        return Err(Trouble::new(Exit::Refused, error).next(next));
    }
    Ok(Exit::Ok)
}

/// (name, text) of `files` with their drop-ins, then of the command line.
pub fn sources(files: &[impl AsRef<Path>], set: &[String]) -> Result<Vec<(String, String)>, Trouble> {
    let mut sources = Vec::new();
    for file in files {
        let read = config::read(file.as_ref()).map_err(|e| Trouble::new(Exit::Usage, e))?;
        if read.is_empty() && file.as_ref().is_dir() {
            return Err(Trouble::new(Exit::Usage, anyhow::anyhow!("{} holds no *.toml", file.as_ref().display())));
        }
        sources.extend(read);
    }
    sources.extend(set.iter().map(|text| (COMMAND_LINE.to_owned(), text.clone())));
    Ok(sources)
}

/// As [`config::load`], in terms of an exit code.
pub fn load(sources: &[(String, String)]) -> Result<Loaded, Trouble> {
    let texts: Vec<_> = sources.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    config::load(&texts).map_err(|e| Trouble::new(Exit::Usage, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn check(json: bool, line: &[&str]) -> Result<String, (u8, String)> {
        let args = Line::try_parse_from(std::iter::once("check").chain(line.iter().copied())).expect("a valid line").args;
        let mut out = Vec::new();
        match print(json, &args, &mut out) {
            Ok(exit) => Ok(format!("{}{}", String::from_utf8_lossy(&out), exit.code())),
            Err(trouble) => Err((trouble.exit.code(), format!("{:#}", trouble.error))),
        }
    }

    #[test]
    fn merges_files_drop_ins_and_overrides() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let main = dir.path().join("m.toml");
        let drop_ins = dir.path().join("m.d");
        std::fs::create_dir(&drop_ins).expect("mkdir");
        std::fs::write(&main, "[scan]\nmax_procs = 5\n[[target]]\ncomm = \"a\"\n").expect("write");
        std::fs::write(drop_ins.join("20.toml"), "[scan]\nperiod_ms = 2000\n").expect("write");
        std::fs::write(drop_ins.join("10.toml"), "[scan]\nperiod_ms = 1000\nmax_procs = 6\n").expect("write");
        std::fs::write(drop_ins.join(".hidden.toml"), "nonsense").expect("write");
        std::fs::write(drop_ins.join("note.txt"), "nonsense").expect("write");
        let path = main.to_str().expect("utf-8");
        let text = check(false, &[path, "--set", "slide.scans=5"]).expect("good");
        let shown = drop_ins.display();
        let scan = format!(
            "[scan]\nperiod_ms = 2000 # {shown}/20.toml:2\nwalk_permil_of_core = 5 # default\nmin_resident_mib = 64 # default\nmax_procs = 6 # {shown}/10.toml:3\n"
        );
        assert!(text.contains(&scan), "{text}");
        assert!(text.contains("\nscans = 5 # command line\n"), "{text}");
        assert!(text.ends_with(&format!("[[target]] # {path}:3\ncomm = \"a\"\n0")), "{text}");
        let value: serde_json::Value =
            serde_json::from_str(check(true, &[path]).expect("good").trim_end_matches('0')).expect("json");
        assert_eq!(value["config"]["scan"]["max_procs"], 6);
        assert_eq!(value["origins"]["scan.period_ms"], format!("{shown}/20.toml:2"));
        assert_eq!(value["targets"][0], format!("{path}:3"));
    }

    #[test]
    fn trouble_ends_with_two() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let missing = dir.path().join("none.toml");
        let missing = missing.to_str().expect("utf-8");
        let error = check(false, &[missing]).expect_err("missing");
        assert_eq!(error, (2, format!("cannot read the configuration {missing}: No such file or directory (os error 2)")));
        let empty = dir.path().to_str().expect("utf-8");
        assert_eq!(check(false, &[empty]), Err((2, format!("{empty} holds no *.toml"))));
        let good = dir.path().join("good.toml");
        std::fs::write(&good, "[daemon]\nact = true\n").expect("write");
        let good = good.to_str().expect("utf-8");
        assert_eq!(check(false, &[good]).expect_err("nothing selected").0, 9);
        let error = check(false, &[good, "--set", "scan.max_procs=0"]).expect_err("out of range");
        assert_eq!(error, (2, "command line: scan.max_procs = 0 is out of range 1 to 4096".to_owned()));
    }

    #[test]
    fn the_sample_is_there_without_any_file() {
        assert_eq!(check(false, &["--sample"]), Ok(config::sample() + "0"));
    }
}
