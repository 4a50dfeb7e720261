//! memcached's slab automover scripts: which class gives a page, which gets one, from three looks a second at the server's
//! counters. docs/slab-automove.md says what is kept of the originals and what is repaired.
//!
//! Deliberately absent: I/O and clocks. A look comes in with its time, a pass goes out with its decision, the reason and the
//! lines that the script would print.

mod extstore;
mod history;
#[cfg(test)]
mod laws;
mod lines;
mod mover;
mod patience;
mod plain;
mod sample;

pub use mover::{Mover, Pause};
pub use patience::Held;
pub use sample::{ClassStats, Sample};

use crate::vocab::{ClassId, Place};
use serde::{Deserialize, Serialize};

/// Whose decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The script's with its defects repaired.
    #[default]
    Repaired,
    /// The script's of 2017 on the same looks, defects included.
    #[serde(rename = "2017")]
    Compat2017,
}

/// Which of the two scripts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Script {
    /// memcached-automove-extstore.
    Extstore {
        /// Share of chunks and pages that is kept free.
        free: f64,
        /// Classes of smaller chunks never live on flash.
        size: u64,
    },
    /// Its sister memcached-automove, for servers without flash.
    Plain,
}

/// The scripts' own defaults.
pub mod defaults {
    pub const WINDOW: usize = 30;
    pub const RATIO: f64 = 0.8;
    pub const FREE: f64 = 0.005;
    pub const SIZE: u64 = 512;
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub mode: Mode,
    pub script: Script,
    /// Looks that are remembered; nothing is decided on fewer.
    pub window: usize,
    /// A class is too young below this share of the age of the oldest.
    pub ratio: f64,
}

/// A page that shall go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Move {
    pub from: Place,
    pub to: Place,
}

/// Which rule spoke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Nothing was ever evicted: there may be memory that nobody has used yet.
    #[default]
    NeverFull,
    /// A class that neither grew nor evicted has free pages.
    Free,
    /// More than enough in the pool: the youngest class gets a page.
    PoolHigh,
    /// Not enough in the pool: the oldest class gives a page.
    PoolLow,
    /// One class is too young beside the oldest.
    TooYoung,
    /// It is, or the pool is full, but the class that would get a page has free chunks.
    HasFree,
    /// Nothing to do.
    Even,
}

/// A class and the age of its oldest items, averaged over the looks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aged {
    pub class: ClassId,
    pub age: f64,
}

/// What one look came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    pub decision: Option<Move>,
    pub rule: Rule,
    /// Free chunks that each of these classes shall have from now on.
    pub targets: Vec<(ClassId, u64)>,
    /// Looks so far, and how many it takes.
    pub looks: usize,
    pub window: usize,
    pub pool: Option<u64>,
    /// The pool is low below half of it, and high above it.
    pub pool_target: u64,
    pub oldest: Option<Aged>,
    pub youngest: Option<Aged>,
    /// The move is due, but the server said something that makes it wait.
    pub held: Option<Held>,
    /// What the script prints with -v.
    #[serde(skip)]
    pub lines: Vec<String>,
}

/// What makes the original fall over: it then forgets its looks, and connects anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Raised {
    /// It asks for its last decision before it ever made one.
    #[error("<class 'NameError'> name 'decision' is not defined")]
    Undecided,
    /// A counter, or the target of a class.
    #[error("<class 'KeyError'> '{0}'")]
    Missing(String),
    #[error("<class 'ZeroDivisionError'> division by zero")]
    Division,
}
