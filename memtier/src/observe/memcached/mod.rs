//! A client of memcached: counters, levers and event streams of any number of servers, over TCP or a unix socket.
//!
//! Whatever a server says is a value: an answer, a refusal, or an error that names the server and what was asked. Nothing here
//! waits without end, keeps more than a bounded number of bytes, or tries again on its own: who asks decides that, with a
//! `Backoff`.
//!
//! `CacheEyes` makes events of all that, for the live loop.
//!
//! Deliberately absent: items (nothing is stored or fetched), opinions, and TLS.

mod address;
mod backoff;
mod connection;
mod eyes;
mod look;
mod record;
mod sample;
mod watch;
mod wire;

pub use address::{Address, BadAddress};
pub use backoff::Backoff;
pub use connection::{Auth, Connection, Server, TalkError};
pub use eyes::{CacheEyes, Manner, Poke};
pub use record::{Record, What};
pub use watch::{Kind, Seen, Watch, Watching};
pub use wire::{Answer, Command, Lever, Nonsense, Parser, Said, Stats, Table};
