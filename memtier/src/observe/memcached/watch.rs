//! Event streams: what a server evicts, or is asked for, as it happens. One connection each; nothing else can be asked there.
//!
//! A server writes records into a buffer a watcher; one that reads too slowly misses some, and is told how many.

use super::connection::{Connection, Server, TalkError};
use super::record::Record;
use super::wire::Said;

/// Kinds of records. A server writes them for as long as anybody watches: for each eviction, or for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With extstore also what is written to flash.
    Evictions,
    Fetchers,
    Sysevents,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Evictions => "evictions",
            Self::Fetchers => "fetchers",
            Self::Sysevents => "sysevents",
        }
    }
}

/// What came of asking for a stream.
#[derive(Debug)]
pub enum Watching {
    Stream(Watch),
    /// The server has no such stream, or no room for another watcher: there are its counters.
    Lacking(Said),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Record(Record),
    /// So many records are missing here: the server left them out, or they make no sense.
    Lost(u64),
}

#[derive(Debug)]
pub struct Watch {
    connection: Connection,
    request: String,
}

impl Watch {
    pub async fn open(server: &Server, kinds: &[Kind]) -> Result<Watching, TalkError> {
        let request = kinds.iter().fold("watch".to_owned(), |request, kind| request + " " + kind.name());
        let mut connection = Connection::open(server).await?;
        Ok(match connection.subscribe(&request).await? {
            Ok(()) => Watching::Stream(Self { connection, request }),
            Err(said) => Watching::Lacking(said),
        })
    }

    /// The next record, however long it takes. May be dropped and called again; nothing is lost by that.
    pub async fn next(&mut self) -> Result<Seen, TalkError> {
        let line = self.connection.next_line(&self.request).await?;
        Ok(match (Record::skipped(&line), Record::parse(&line)) {
            (Some(skipped), _) => Seen::Lost(skipped),
            (None, Some(record)) => Seen::Record(record),
            (None, None) => Seen::Lost(1),
        })
    }
}
