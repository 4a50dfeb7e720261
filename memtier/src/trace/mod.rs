//! The memory of it all: every event and every decision, in order, in files that replay to the same bytes.
//!
//! A recording is a directory of segments `NNNNNN.mtt`; docs/trace-format.md says what is in them. The writer gets
//! its times from the caller, so that nothing here reads a clock.
//!
//! Deliberately absent: PFNs (a recording must not tell physical addresses), seeking, repair in place.

mod export;
mod frame;
mod reader;
pub mod replay;
mod writer;

pub use export::{COLUMNS, Format, Row, export};
pub use frame::{Clocks, Header, MAJOR, MINOR, Opening};
pub use reader::{Damage, Item, Reader};
pub use writer::{Limits, Turn, Writer};

use crate::plan::Decision;
use crate::vocab::Stamped;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// What a recording holds, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    Event(Stamped),
    Decision(Decision),
    /// A piece of the planner's state; the pieces that open a segment, put together, let a replay start there.
    Checkpoint(#[serde(with = "bytes")] Vec<u8>),
}

/// Why a recording cannot be written or read; each says where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("cannot {doing} {}: {cause}", .path.display())]
    Io { doing: &'static str, path: PathBuf, cause: io::Error },
    #[error("{} holds no recording: no files named NNNNNN.mtt", .path.display())]
    Empty { path: PathBuf },
    #[error("{} is not a memtier recording", .path.display())]
    Foreign { path: PathBuf },
    #[error("{} is cut inside its header: nothing in it can be read", .path.display())]
    Headless { path: PathBuf },
    #[error("{} has trace format {major}, this memtier reads up to {MAJOR}: use a memtier as new as the one that recorded it ({by})", .path.display())]
    Newer { path: PathBuf, major: u16, by: String },
    #[error(
        "{} is damaged at byte {offset}: {why}; good up to event {event} and decision {decision} (--salvage goes on with what is good)",
        .path.display()
    )]
    Damaged { path: PathBuf, offset: u64, why: String, event: u64, decision: u64 },
    #[error(
        "{} does not follow what comes before it: events {event} to {next} are missing, or decisions between them; \
         was a segment deleted or cut? (--salvage goes on from its checkpoint)", .path.display()
    )]
    Gap { path: PathBuf, event: u64, next: u64 },
    #[error("a record of {bytes} bytes is too large to be recorded")]
    TooLarge { bytes: usize },
    #[error(
        "the recording begins at event {event} with a checkpoint that this memtier cannot read: {why}; use {by}, which wrote it"
    )]
    Checkpoint { event: u64, why: String, by: String },
}

/// Why a pass over a recording stopped.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("cannot write the output")]
    Write(#[from] io::Error),
}

/// Byte strings as such: serde takes `Vec<u8>` for a list of numbers.
mod bytes {
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Self::Value, E> {
                Ok(v.to_vec())
            }
        }
        d.deserialize_bytes(Visitor)
    }
}
