//! The recording that runs, if one does. It never stops the daemon: what cannot be written is counted and said, and
//! recording begins again when it can.

use super::views::Recorded;
use crate::config::Config;
use crate::plan::{Decision, Governor};
use crate::sys::clock::boottime;
use crate::trace::{Clocks, Limits, TraceError, Turn, Writer};
use crate::vocab::Stamped;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug)]
pub struct Recorder {
    host: String,
    boot: String,
    on: Option<Running>,
}

#[derive(Debug)]
struct Running {
    writer: Writer,
    dir: PathBuf,
    events: u64,
    decisions: u64,
    /// Why the last write failed.
    trouble: String,
    /// Records that earlier failures cost.
    missing: u64,
}

/// How the recording fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    pub dir: Option<PathBuf>,
    /// Why nothing is being written, while that is so; it is tried again every minute.
    pub stalled: Option<String>,
    /// Records that are missing in it so far.
    pub missing: u64,
}

impl Running {
    fn new(writer: Writer, dir: &Path) -> Self {
        Self { writer, dir: dir.to_owned(), events: 0, decisions: 0, trouble: String::new(), missing: 0 }
    }

    /// The writer reports each failure once and counts what follows.
    fn note<T>(&mut self, written: Result<T, TraceError>) -> Option<T> {
        written
            .map_err(|error| {
                tracing::error!(%error, "recording stopped; it will be tried again, and what is missing counted");
                self.trouble = error.to_string();
            })
            .ok()
    }
}

impl Recorder {
    #[must_use]
    pub fn new(boot: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim_end().to_owned();
        Self { host, boot: boot.to_owned(), on: None }
    }

    /// From the first event on.
    pub fn create(&mut self, dir: &Path, config: &Config) -> Result<(), TraceError> {
        let writer = Writer::create(dir, &self.host, &self.boot, clocks(), Limits::from(&config.trace))?;
        self.on = Some(Running::new(writer, dir));
        Ok(())
    }

    /// From now on, in a stream that runs: `event` and `decision` are the last that happened.
    pub fn join(&mut self, dir: &Path, governor: &Governor, event: u64, decision: u64) -> Result<(), TraceError> {
        let limits = Limits::from(&governor.config().trace);
        let writer = Writer::join(dir, &self.host, &self.boot, clocks(), limits, governor, (event + 1, decision + 1))?;
        self.on = Some(Running::new(writer, dir));
        Ok(())
    }

    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        self.on.as_ref().map(|on| on.dir.as_path())
    }

    #[must_use]
    pub fn recording(&self) -> Recording {
        let Some(Running { writer, dir, trouble, missing, .. }) = &self.on else { return Recording::default() };
        let lost = writer.lost();
        let stalled = lost.map(|_| trouble.clone());
        Recording { dir: Some(dir.clone()), stalled, missing: missing + lost.unwrap_or(0) }
    }

    pub fn event(&mut self, event: &Stamped) {
        if let Some(on) = &mut self.on {
            on.events += 1;
            let written = on.writer.event(event);
            on.note(written);
        }
    }

    pub fn decision(&mut self, decision: &Decision, state: &Governor) {
        let Some(on) = &mut self.on else { return };
        on.decisions += 1;
        let written = on.writer.decision(decision);
        on.note(written);
        let turned = on.writer.turn(state, clocks());
        match on.note(turned) {
            Some(Turn::Resumed { lost }) => {
                on.missing += lost;
                tracing::warn!(lost, "recording works again; that many records are missing");
            }
            Some(Turn::Same | Turn::NewSegment) | None => {}
        }
    }

    /// Hands everything to the kernel: what is lost by kill -9 is what came after.
    pub fn flush(&mut self) {
        if let Some(on) = &mut self.on {
            let written = on.writer.flush();
            on.note(written);
        }
    }

    /// Ends the recording on the disk.
    pub fn stop(&mut self) -> Option<Result<Recorded, TraceError>> {
        let Running { writer, dir, events, decisions, trouble: _, missing: _ } = self.on.take()?;
        Some(writer.finish().map(|()| Recorded { dir: dir.display().to_string(), events, decisions }))
    }
}

fn clocks() -> Clocks {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Clocks { at: boottime(), unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{Event, Source, Time};

    /// A recording whose files are gone with their directory cannot begin its next segment: that is said, counted, and over
    /// when the directory is there again.
    #[test]
    fn a_recording_that_stalls_says_why_and_counts() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let dir = parent.path().join("trace");
        let mut config = Config::default();
        // Every turn wants a new segment.
        (config.trace.segment_mib, config.trace.keep_hours) = (0, 0);
        let mut recorder = Recorder::new("boot");
        assert_eq!(recorder.recording(), Recording::default());
        recorder.create(&dir, &config).expect("a recording");
        assert_eq!(recorder.recording(), Recording { dir: Some(dir.clone()), ..Recording::default() });
        std::fs::remove_dir_all(&dir).expect("ours");
        let event = |seq| Stamped { seq, at: Time(seq), event: Event::Sight { source: Source::Psi } };
        recorder.event(&event(1));
        recorder.decision(&Decision::default(), &Governor::new());
        recorder.event(&event(2));
        let Recording { stalled, missing, .. } = recorder.recording();
        assert!(stalled.is_some_and(|why| why.contains("No such file")) && missing == 1, "{missing}");
    }
}
