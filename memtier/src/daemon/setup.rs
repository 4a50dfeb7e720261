//! Where the configuration comes from, so that `reload` can read it again: files, and what the command line said.

use crate::config::{self, COMMAND_LINE, CacheRule, ConfigError, DEFAULT_PATH, Loaded, Target, rule_text};
use crate::observe::memcached::{Address, BadAddress};
use crate::plan::anything_selected;
use std::path::PathBuf;

#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// A file, with its drop-ins, or a directory; the default path if absent.
    pub path: Option<PathBuf>,
    /// Lines of TOML: `--set scan.period_ms=5000`, and what other flags stand for. They win over the files.
    pub sets: Vec<String>,
    /// Rules of the command line. They come before those of the files: the first match wins.
    pub targets: Vec<Target>,
    /// Servers of the command line.
    pub caches: Vec<CacheRule>,
}

/// Why a configuration is not let in.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Unreadable(#[from] config::Unreadable),
    #[error("{0}")]
    Bad(#[from] ConfigError),
    #[error("acting needs a selection: nobody said which processes may lose memory")]
    NothingSelected,
    #[error(transparent)]
    BadCache(#[from] BadAddress),
}

impl SetupError {
    /// What to do about it.
    #[must_use]
    pub const fn next(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "name a file that exists with --config, or give none",
            Self::Bad(_) => "`memtier check` shows the merged configuration; docs/knobs.md lists every knob",
            Self::BadCache(_) => "write it as in a [[cache]] rule of docs/knobs.md",
            Self::NothingSelected => {
                "add --pid, --comm, --exe, --cgroup, --unit or --uid, a [[target]] rule to the configuration, or --all for every \
                 process that the code does not protect; or --cache for a memcached server"
            }
        }
    }
}

impl Setup {
    /// Reads everything anew: a whole valid configuration and the names of its sources, or no change.
    pub fn load(&self) -> Result<(Loaded, Vec<String>), SetupError> {
        let files = config::read(self.path.as_deref().unwrap_or(DEFAULT_PATH.as_ref()))?;
        let mut names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        let mut sources = vec![(COMMAND_LINE.to_owned(), rules(&self.targets) + &servers(&self.caches))];
        sources.extend(files);
        sources.extend(self.sets.iter().map(|text| (COMMAND_LINE.to_owned(), text.clone())));
        if !(self.sets.is_empty() && self.targets.is_empty() && self.caches.is_empty()) {
            names.push(COMMAND_LINE.to_owned());
        }
        let sources: Vec<_> = sources.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let loaded = config::load(&sources)?;
        loaded.config.cache.iter().try_for_each(|rule| rule.server.parse::<Address>().map(drop))?;
        let acts_on_nothing = loaded.config.daemon.act && !anything_selected(&loaded.config) && loaded.config.cache.is_empty();
        if acts_on_nothing { Err(SetupError::NothingSelected) } else { Ok((loaded, names)) }
    }
}

fn servers(caches: &[CacheRule]) -> String {
    caches.iter().map(|rule| rule_text("cache", "", rule)).collect()
}

fn rules(targets: &[Target]) -> String {
    targets.iter().map(|rule| rule_text("target", "", rule)).collect()
}
