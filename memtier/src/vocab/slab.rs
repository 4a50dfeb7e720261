//! memcached's memory: classes of chunks of one size, pages that go from one class to another, and what a server says to that.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A slab class. Nought is none: it is where pages lie that no class has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassId(pub u8);

/// Where a page is, or shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The global pool, from which a class that grows takes its next page.
    Pool,
    Class(ClassId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool => f.write_str("0"),
            Self::Class(class) => class.0.fmt(f),
        }
    }
}

/// One life of a server: a restart gives it another, and its settings are those of its command line again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServerLife {
    pub pid: u32,
    /// Seconds of the server's clock at which its uptime was nought.
    pub since: u64,
}

/// A server's answer of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Ok,
    /// A page is on its way already.
    Busy,
    /// No such class.
    BadClass,
    /// The source has less than two pages.
    NoSpare,
    /// Of old servers: the page is not full.
    NotFull,
    /// Of old servers: the page cannot be moved safely.
    Unsafe,
    /// From a class to itself.
    Same,
    /// The server does not know the command, or lacks what it is about.
    Error,
    ClientError,
    ServerError,
}

impl Reply {
    /// By the first word of the line.
    #[must_use]
    pub fn of(line: &str) -> Option<Self> {
        Some(match line.split(' ').next()? {
            "OK" => Self::Ok,
            "BUSY" => Self::Busy,
            "BADCLASS" => Self::BadClass,
            "NOSPARE" => Self::NoSpare,
            "NOTFULL" => Self::NotFull,
            "UNSAFE" => Self::Unsafe,
            "SAME" => Self::Same,
            "ERROR" => Self::Error,
            "CLIENT_ERROR" => Self::ClientError,
            "SERVER_ERROR" => Self::ServerError,
            _ => return None,
        })
    }
}
