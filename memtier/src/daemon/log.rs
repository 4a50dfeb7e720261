//! The decision log, written beside the loop: whoever does not read it loses lines and never holds up a turn. What finds
//! no room is counted, and the log says so where the gap is.

use crate::vocab::Time;
use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

/// Entries under way, some hundred bytes each: minutes of a busy log.
const ROOM: usize = 4096;
/// How long a reader gets for the rest when the daemon stops.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Log {
    to: SyncSender<String>,
    /// Says when the writer is through, by being closed.
    through: Receiver<()>,
    missed: u64,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("missed", &self.missed).finish_non_exhaustive()
    }
}

impl Log {
    pub fn new(out: Box<dyn Write + Send>) -> io::Result<Self> {
        let (to, entries) = sync_channel(ROOM);
        let (alive, through) = channel();
        thread::Builder::new().name("memtier-log".to_owned()).spawn(move || {
            write(out, &entries);
            drop(alive);
        })?;
        Ok(Self { to, through, missed: 0 })
    }

    /// An entry of one or more lines.
    pub fn say(&mut self, now: Time, entry: String) {
        if self.missed > 0 && self.to.try_send(format!("{now} lost {} entries: nobody read them in time", self.missed)).is_ok() {
            self.missed = 0;
        }
        // Nothing is said of it elsewhere: standard error may have the same reader.
        if self.missed > 0 || self.to.try_send(entry).is_err() {
            self.missed += 1;
        }
    }

    /// Waits until all is written, for a while.
    pub fn end(self) {
        let Self { to, through, missed } = self;
        drop(to);
        if through.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) || missed > 0 {
            tracing::warn!(missed, "nobody read the end of the decision log");
        }
    }
}

fn write(mut out: Box<dyn Write + Send>, entries: &Receiver<String>) {
    while let Ok(first) = entries.recv() {
        let mut batch = std::iter::once(first).chain(entries.try_iter().take(ROOM));
        let written = batch.try_for_each(|entry| writeln!(out, "{entry}")).and_then(|()| out.flush());
        if let Err(error) = written {
            tracing::debug!(%error, "decision log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, pipe};

    #[test]
    fn a_reader_that_sleeps_loses_entries_and_is_told_how_many() {
        let (reader, writer) = pipe().expect("a pipe");
        let mut log = Log::new(Box::new(writer)).expect("a thread");
        // A pipe holds 64 KiB; the writer may have taken one batch more.
        let said = 4 * ROOM as u64;
        (0..said).for_each(|i| log.say(Time(i), format!("{i} {}", "x".repeat(100))));
        let read = thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).collect::<Vec<_>>());
        // Room comes while the reader reads; there may be gaps more than one.
        let mut more = 0;
        while more == 0 || log.missed > 0 {
            log.say(Time(7_000_000), "after".to_owned());
            more += 1;
            thread::yield_now();
        }
        log.end();
        let lines = read.join().expect("reads to the end");
        let lost = |line: &String| line.split_once(" lost ")?.1.split(' ').next()?.parse::<u64>().ok();
        let told: u64 = lines.iter().map(|line| lost(line).unwrap_or(1)).sum();
        assert_eq!((told, lines.last().map(String::as_str)), (said + more, Some("after")));
        assert!(lines.iter().any(|line| lost(line).is_some()));
    }
}
