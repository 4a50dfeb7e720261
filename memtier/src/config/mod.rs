//! Configuration: text to `Config`. TOML here; the dialects of the prior systems join as modules beside this one.
//!
//! Deliberately absent: the environment, clocks, defaults that depend on the host. Only `files` reads anything, and
//! only in the half of the crate that may: everything else takes text and the name of its origin.

mod cache;
#[cfg(feature = "host")]
mod files;
mod knobs;
mod load;
mod target;
mod text;

pub use cache::CacheRule;
#[cfg(feature = "host")]
pub use files::{DEFAULT_PATH, Unreadable, read};
pub use knobs::{
    Arm, Autocold, Brake, Budget, Caches, Config, Daemon, Heat, KNOBS, Knob, Numa, Scan, Slide, TABLES, Tier, Trace, Value,
};
pub use load::{COMMAND_LINE, ConfigError, Loaded, Origin, Problem, load, parse};
pub use target::Target;
pub use text::{annotated, canonical, help, knobs_markdown, rule_text, sample};
