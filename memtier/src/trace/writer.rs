//! Writing a recording: batches of records into frames, frames into segments, segments until they are too many or too old.
//!
//! A frame reaches the file whole or not at all, and after a failed write nothing more goes into that segment: what
//! follows the gap stands in a new one that opens with a checkpoint.

use super::frame::{self, Clocks, Header, MAX_RAW, Opening, Packer};
use super::{Reader, TraceError};
use crate::config;
use crate::plan::Decision;
use crate::vocab::{Bytes, Span, Stamped};
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Raw bytes that make a frame without being asked: a walk's chunks fill it in a moment, single events in a second.
const BATCH: usize = 256 << 10;
/// Size of the pieces of a checkpoint, so that no frame grows with the host's memory.
const PIECE: usize = 1 << 20;
/// A segment holds at least this many times its checkpoint, so that checkpoints stay a fifth of the recording.
const CHECKPOINT_SHARE: u64 = 4;
/// After a failed write the next try waits this long.
const RETRY: Span = Span::from_secs(60);

/// When a segment ends, and when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub segment: Bytes,
    pub keep: Bytes,
    pub keep_for: Span,
}

impl From<&config::Trace> for Limits {
    fn from(trace: &config::Trace) -> Self {
        let config::Trace { segment_mib, keep_mib, keep_hours } = *trace;
        Self {
            segment: Bytes::from_mib(segment_mib),
            keep: Bytes::from_mib(keep_mib),
            keep_for: Span::from_secs(keep_hours.saturating_mul(3600)),
        }
    }
}

/// What `turn` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Same,
    NewSegment,
    /// Recording works again; this many records are missing.
    Resumed {
        lost: u64,
    },
}

/// `Record` by reference.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Borrowed<'a> {
    Event(&'a Stamped),
    Decision(&'a Decision),
    Checkpoint(#[serde(with = "super::bytes")] &'a [u8]),
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    /// Wall time of its header; none where that cannot be read.
    began: Option<u64>,
}

/// Appends to a recording.
pub struct Writer {
    dir: PathBuf,
    limits: Limits,
    /// Numbers, names and clocks that the next header will carry.
    header: Header,
    number: u32,
    file: File,
    /// Raw records that are not yet in a frame, and how many.
    batch: Vec<u8>,
    pending: u64,
    packer: Packer,
    frame: Vec<u8>,
    checkpoint_bytes: u64,
    /// Oldest first; the last one is being written.
    segments: VecDeque<Segment>,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    lost: u64,
    retry: Option<crate::vocab::Time>,
}

impl Writer {
    /// Starts a stream in `dir`, which is made if missing. A recording that is there already stays: the new stream's
    /// segments follow it, and retention counts both.
    ///
    /// # Errors
    /// When the directory or the first segment cannot be made.
    pub fn create(dir: &Path, host: &str, boot_id: &str, now: Clocks, limits: Limits) -> Result<Self, TraceError> {
        Self::open(dir, header(host, boot_id, now, Opening::Start, (1, 1)), limits, None::<&()>)
    }

    /// As `create`, in a stream that runs already: opens with its state. `next`: numbers of the next event and decision.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn join(
        dir: &Path,
        host: &str,
        boot_id: &str,
        now: Clocks,
        limits: Limits,
        state: &impl Serialize,
        next: (u64, u64),
    ) -> Result<Self, TraceError> {
        Self::open(dir, header(host, boot_id, now, Opening::Resumes, next), limits, Some(state))
    }

    fn open(dir: &Path, header: Header, limits: Limits, state: Option<&impl Serialize>) -> Result<Self, TraceError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir).map_err(failed("create", dir))?;
        let mut segments = VecDeque::new();
        for path in Reader::segments(dir)? {
            let bytes = std::fs::metadata(&path).map_err(failed("look at", &path))?.len();
            let began = Reader::header(&path).ok().map(|h| h.clocks.unix_ns);
            segments.push_back(Segment { path, bytes, began });
        }
        let number = segments.back().map_or(1, |s| Reader::number(&s.path).unwrap_or(0).saturating_add(1));
        let mut packer = Packer::new().map_err(failed("compress for", dir))?;
        let checkpoint =
            state.map_or_else(|| Ok(Vec::new()), |state| checkpoint(&mut packer, state)).map_err(failed("compress for", dir))?;
        let (file, segment) = begin(dir, number, &header, &checkpoint)?;
        segments.push_back(segment);
        let now = header.clocks;
        let mut writer = Self {
            dir: dir.to_owned(),
            limits,
            header,
            number,
            file,
            batch: Vec::with_capacity(BATCH * 2),
            pending: 0,
            packer,
            frame: Vec::new(),
            checkpoint_bytes: checkpoint.len() as u64,
            segments,
            failure: None,
        };
        writer.prune(now)?;
        Ok(writer)
    }

    /// Records an event.
    ///
    /// # Errors
    /// Once, when records could not be written; what follows is counted as lost until `turn` resumes.
    pub fn event(&mut self, event: &Stamped) -> Result<(), TraceError> {
        self.header.next_event = event.seq + 1;
        self.record(&Borrowed::Event(event))
    }

    /// Records a decision. The events that it stands on were recorded before.
    ///
    /// # Errors
    /// As [`Writer::event`].
    pub fn decision(&mut self, decision: &Decision) -> Result<(), TraceError> {
        self.header.next_decision = decision.number + 1;
        self.record(&Borrowed::Decision(decision))
    }

    /// Hands what is pending to the kernel, as one frame.
    ///
    /// # Errors
    /// As [`Writer::event`].
    pub fn flush(&mut self) -> Result<(), TraceError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let written = self.append();
        self.batch.clear();
        match written {
            Ok(()) => {
                self.pending = 0;
                Ok(())
            }
            Err(cause) => Err(self.fail("write", cause)),
        }
    }

    /// To be called after a decision was recorded, with the state that produced it: begins a new segment when the
    /// present one is full or old, or when recording failed a while ago.
    ///
    /// # Errors
    /// As [`Writer::event`]; also when an old segment cannot be deleted, which stops nothing.
    pub fn turn(&mut self, state: &impl Serialize, now: Clocks) -> Result<Turn, TraceError> {
        if let Some(failure) = &mut self.failure {
            let retry = *failure.retry.get_or_insert(now.at.after(RETRY));
            if now.at < retry {
                return Ok(Turn::Same);
            }
            let lost = failure.lost;
            if self.next_segment(Opening::Resumes, state, now).is_err() {
                // Said once already, and counted: the retry goes on in silence.
                self.failure = Some(Failure { lost, retry: None });
                return Ok(Turn::Same);
            }
            self.failure = None;
            self.prune(now)?;
            return Ok(Turn::Resumed { lost });
        }
        let full = self.limits.segment.0.max(CHECKPOINT_SHARE * self.checkpoint_bytes);
        // An eighth of the time to keep: else a quiet host would keep a segment for as long as it takes to fill.
        let old = self.header.clocks.at.after(Span(self.limits.keep_for.0 / 8));
        if self.bytes() < full && now.at < old {
            return Ok(Turn::Same);
        }
        self.flush()?;
        if let Err(cause) = self.file.sync_data() {
            return Err(self.fail("sync", cause));
        }
        if let Err(e) = self.next_segment(Opening::Continues, state, now) {
            self.failure = Some(Failure { lost: 0, retry: None });
            return Err(e);
        }
        self.prune(now)?;
        Ok(Turn::NewSegment)
    }

    /// Writes what is pending and waits for the disk.
    ///
    /// # Errors
    /// When that fails.
    pub fn finish(mut self) -> Result<(), TraceError> {
        self.flush()?;
        self.file.sync_data().map_err(failed("sync", self.path()))
    }

    /// The segment that is being written.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.segments.back().map_or(&self.dir, |s| &s.path)
    }

    /// Bytes in the segment that is being written, without the pending batch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.back().map_or(0, |s| s.bytes)
    }

    /// Records that could not be written since recording failed; none while it works.
    #[must_use]
    pub fn lost(&self) -> Option<u64> {
        self.failure.as_ref().map(|f| f.lost)
    }

    fn record(&mut self, record: &Borrowed<'_>) -> Result<(), TraceError> {
        if let Some(failure) = &mut self.failure {
            failure.lost += 1;
            return Ok(());
        }
        let before = self.batch.len();
        frame::encode(record, &mut self.batch);
        self.pending += 1;
        let bytes = self.batch.len() - before;
        if bytes > MAX_RAW {
            // What came before it is still good; it alone and what follows are missing.
            self.batch.truncate(before);
            self.pending -= 1;
            self.flush()?;
            self.failure = Some(Failure { lost: 1, retry: None });
            return Err(TraceError::TooLarge { bytes });
        }
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Appends the batch as one frame to the file, or leaves the file as it was.
    fn append(&mut self) -> io::Result<()> {
        self.frame.clear();
        self.packer.pack(&self.batch, &mut self.frame)?;
        let segment = self.segments.back_mut().expect("a segment is open from `open` on");
        if let Err(e) = self.file.write_all(&self.frame) {
            // Best effort: were it to fail too, the half frame would be the torn tail of a segment that is never
            // appended to again.
            let _ = self.file.set_len(segment.bytes);
            return Err(e);
        }
        segment.bytes += self.frame.len() as u64;
        Ok(())
    }

    fn fail(&mut self, doing: &'static str, cause: io::Error) -> TraceError {
        self.failure = Some(Failure { lost: std::mem::take(&mut self.pending), retry: None });
        TraceError::Io { doing, path: self.path().to_owned(), cause }
    }

    fn next_segment(&mut self, opening: Opening, state: &impl Serialize, now: Clocks) -> Result<(), TraceError> {
        let header = Header { clocks: now, opening, ..self.header.clone() };
        let number = self.number.saturating_add(1);
        let checkpoint = checkpoint(&mut self.packer, state).map_err(failed("compress for", &self.dir))?;
        let (file, segment) = begin(&self.dir, number, &header, &checkpoint)?;
        self.checkpoint_bytes = checkpoint.len() as u64;
        (self.file, self.number, self.header) = (file, number, header);
        self.segments.push_back(segment);
        Ok(())
    }

    /// Deletes the oldest segments while all are too large or the oldest ended too long ago; never the present one.
    fn prune(&mut self, now: Clocks) -> Result<(), TraceError> {
        while self.segments.len() > 1 {
            let total: u64 = self.segments.iter().map(|s| s.bytes).sum();
            // A segment ended when the next one began.
            let ended = self.segments.iter().skip(1).find_map(|s| s.began);
            let old = ended.is_some_and(|ended| now.unix_ns.saturating_sub(ended) > self.limits.keep_for.0);
            if total <= self.limits.keep.0 && !old {
                break;
            }
            let oldest = &self.segments[0].path;
            match std::fs::remove_file(oldest) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("delete", oldest)(e)),
                Ok(()) | Err(_) => self.segments.pop_front(),
            };
        }
        Ok(())
    }
}

fn header(host: &str, boot_id: &str, clocks: Clocks, opening: Opening, (next_event, next_decision): (u64, u64)) -> Header {
    let by = concat!("memtier ", env!("CARGO_PKG_VERSION")).to_owned();
    Header { by, host: host.to_owned(), boot_id: boot_id.to_owned(), clocks, opening, next_event, next_decision }
}

/// The frames that a segment opens with.
fn checkpoint(packer: &mut Packer, state: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    frame::encode(state, &mut whole);
    let mut frames = Vec::new();
    for piece in whole.chunks(PIECE) {
        let mut raw = Vec::with_capacity(PIECE + 64);
        frame::encode(&Borrowed::Checkpoint(piece), &mut raw);
        packer.pack(&raw, &mut frames)?;
    }
    Ok(frames)
}

/// A new file that only its owner may read: it tells what runs here and which memory it touches.
fn begin(dir: &Path, number: u32, header: &Header, checkpoint: &[u8]) -> Result<(File, Segment), TraceError> {
    let path = dir.join(format!("{number:06}.mtt"));
    let mut options = OpenOptions::new();
    options.append(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&path).map_err(failed("create", &path))?;
    let mut bytes = header.encode();
    bytes.extend_from_slice(checkpoint);
    if let Err(cause) = file.write_all(&bytes) {
        let _ = std::fs::remove_file(&path);
        return Err(TraceError::Io { doing: "write", path, cause });
    }
    Ok((file, Segment { path, bytes: bytes.len() as u64, began: Some(header.clocks.unix_ns) }))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TraceError {
    move |cause| TraceError::Io { doing, path: path.to_owned(), cause }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.path()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
