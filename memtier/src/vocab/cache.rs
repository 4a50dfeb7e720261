//! What memcached servers tell: counters of a look, and what their event streams said meanwhile, counted.

use super::{ClassId, Permil, ProcKey, ServerLife};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A memcached server: its place among the `[[cache]]` rules, from nought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u16);

/// Servers that one daemon looks after.
pub const MOST_SERVERS: usize = 16;

impl ServerId {
    /// Stands for a server that is no process of this host as far as anybody can tell. No process has pid 0.
    #[must_use]
    pub const fn nobody(self) -> ProcKey {
        ProcKey { pid: 0, start: self.0 as u64 + 1 }
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {}", self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSample {
    pub server: ServerId,
    pub told: CacheTold,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheTold {
    /// A connection stands.
    Met(Box<CacheServer>),
    Look(Box<CacheLook>),
    Evictions(CacheEvictions),
    Fetches(CacheFetches),
    /// The server has no such stream, or takes no watcher more: its counters must do.
    Lacks {
        stream: CacheStream,
        why: String,
    },
    /// A step closed the streams, or opened them again.
    Watch {
        on: bool,
    },
    /// It cannot be talked to; until `Met`.
    Blind {
        why: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheStream {
    Evictions,
    Fetchers,
}

impl fmt::Display for CacheStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Evictions => "evictions",
            Self::Fetchers => "fetchers",
        })
    }
}

/// What a server is, for as long as it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheServer {
    pub address: String,
    pub version: String,
    /// None: it does not tell.
    pub life: Option<ServerLife>,
    /// Its process, where that is one of this host.
    pub proc: Option<ProcKey>,
    /// `slab_reassign`: it moves pages when asked.
    pub reassign: bool,
    /// Items that are asked for again leave the part of the list that is next to go.
    pub segmented: bool,
    /// Values go to flash: of classes whose chunks have so many bytes at least.
    pub extstore: bool,
    #[serde(default)]
    pub flash_from: u64,
    /// While its pool has no more than this part of its pages, two at least, all classes that write to flash do so early. None: they do
    /// not go by the pool.
    #[serde(default)]
    pub early: Option<Permil>,
}

/// Counters of one look; totals since the server began, but for what is there now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLook {
    /// Pages of no class now.
    pub pool: u64,
    /// A page is on its way now.
    pub moving: bool,
    pub moved: u64,
    /// Gets answered from flash.
    pub flash_reads: u64,
    /// `slab_automove`, as it was last told; none where the server has no mover.
    pub automove: Option<u8>,
    /// Records that its threads had no room for, which no stream knows of.
    pub dropped: u64,
    /// Ascending; those without a page are left out.
    pub classes: Vec<ClassLook>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassLook {
    pub class: ClassId,
    pub chunk_size: u64,
    pub chunks_per_page: u64,
    /// What is there now.
    pub pages: u64,
    pub used: u64,
    pub free: u64,
    pub items: u64,
    /// Items in the part of the list from which they go.
    pub cold: u64,
    /// Items in the part where those are that were asked for again.
    #[serde(default)]
    pub warm: u64,
    /// Seconds since the item that is next to go was used.
    pub age: u64,
    /// Totals.
    pub hits: u64,
    /// Hits of items that were cold.
    pub cold_hits: u64,
    #[serde(default)]
    pub warm_hits: u64,
    pub sets: u64,
    pub evicted: u64,
    /// Items that had expired when they were next to go, and whose chunks were had again.
    pub reclaimed: u64,
    /// Expired items that the server's crawler found.
    pub crawled: u64,
    /// Times that no chunk could be had at all.
    pub out_of_memory: u64,
}

/// What a stream of evictions said in one batch. Of the keys whose hash ends in `shift` bits of nought the hash is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEvictions {
    pub span_ns: u64,
    pub shift: u8,
    pub classes: Vec<ClassEvictions>,
    pub keys: Vec<EvictedKey>,
    /// Records that the server left out, or that make no sense.
    pub skipped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassEvictions {
    pub class: ClassId,
    pub evicted: u64,
    /// Of these, how many had ever been asked for.
    pub fetched: u64,
    /// Bytes of their values; nought where the server does not tell.
    pub bytes: u64,
    /// Sum of their ages, in seconds.
    pub idle: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictedKey {
    pub class: ClassId,
    pub hash: u64,
    /// It was the so-manieth of its class in this batch.
    pub nth: u64,
    /// The key as the server writes it, where `caches.keep_keys` wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What a stream of fetches said while it was open. A set looks for the old item first and shows as a fetch, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFetches {
    pub span_ns: u64,
    pub shift: u8,
    pub found: u64,
    pub missed: u64,
    /// In their order.
    pub keys: Vec<FetchedKey>,
    pub skipped: u64,
    /// The stream is closed after this batch.
    pub last: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedKey {
    /// None: it was not found.
    pub class: Option<ClassId>,
    pub hash: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
