//! Reading a recording: one file or a directory of segments, as one sequence of records. Any bytes at all give records
//! or a message, never a panic.

use super::frame::{Frame, Head, Header, Unpacker};
use super::{Record, TraceError};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

/// What a recording consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Segment {
        header: Header,
        /// Follows the record before it; otherwise what came before says nothing about what comes.
        joins: bool,
    },
    Record(Record),
}

/// Bytes that hold no records: a tail that never became a frame, or damage that `salvage` stepped over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub path: PathBuf,
    pub offset: u64,
    pub bytes: u64,
    pub why: String,
}

/// The records of a recording in order. After an error it ends.
pub struct Reader {
    files: VecDeque<PathBuf>,
    salvage: bool,
    current: Option<Segment>,
    unpacker: Unpacker,
    /// Position in the raw bytes of the present frame.
    at: usize,
    /// Last event and decision; none before the first segment and after a loss.
    last: Option<(u64, u64)>,
    damage: Vec<Damage>,
    begun: bool,
}

struct Segment {
    path: PathBuf,
    input: BufReader<File>,
    /// Where the present frame begins, and where it ends.
    offset: u64,
    next: u64,
}

impl Reader {
    /// # Errors
    /// When `path` cannot be read or holds no segment.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let io = |cause| TraceError::Io { doing: "read", path: path.to_owned(), cause };
        let files = if std::fs::metadata(path).map_err(io)?.is_dir() { Self::segments(path)? } else { vec![path.to_owned()] };
        if files.is_empty() {
            return Err(TraceError::Empty { path: path.to_owned() });
        }
        Ok(Self {
            files: files.into(),
            salvage: false,
            current: None,
            unpacker: Unpacker::new().map_err(io)?,
            at: 0,
            last: None,
            damage: Vec::new(),
            begun: false,
        })
    }

    /// Steps over damage to the next segment instead of stopping.
    #[must_use]
    pub const fn salvage(mut self, on: bool) -> Self {
        self.salvage = on;
        self
    }

    /// What was found so far.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The segments of a directory, in order.
    pub(super) fn segments(dir: &Path) -> Result<Vec<PathBuf>, TraceError> {
        let io = |cause| TraceError::Io { doing: "list", path: dir.to_owned(), cause };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if let Some(number) = Self::number(&path) {
                files.push((number, path));
            }
        }
        files.sort();
        Ok(files.into_iter().map(|(_, path)| path).collect())
    }

    /// The number in the name of a segment.
    pub(super) fn number(path: &Path) -> Option<u32> {
        let digits = path.file_name()?.to_str()?.strip_suffix(".mtt")?;
        (digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    }

    /// The header of one segment.
    pub(super) fn header(path: &Path) -> Result<Header, TraceError> {
        Self::begin(path).map(|(header, _)| header)
    }

    fn begin(path: &Path) -> Result<(Header, Segment), TraceError> {
        let path = path.to_owned();
        let open = |path: &Path| -> io::Result<_> {
            let mut input = BufReader::with_capacity(1 << 18, File::open(path)?);
            Ok((Header::read(&mut input)?, input))
        };
        match open(&path) {
            Ok((Head::Good { header, bytes }, input)) => Ok((header, Segment { path, input, offset: bytes, next: bytes })),
            Ok((Head::Cut, _)) => Err(TraceError::Headless { path }),
            Ok((Head::Foreign, _)) => Err(TraceError::Foreign { path }),
            Ok((Head::Newer { major, by }, _)) => Err(TraceError::Newer { path, major, by }),
            Ok((Head::Damaged(why), _)) => Err(TraceError::Damaged { path, offset: 0, why: why.to_owned(), event: 0, decision: 0 }),
            Err(cause) => Err(TraceError::Io { doing: "read", path, cause }),
        }
    }

    /// The next item; `None` at the end.
    fn advance(&mut self) -> Result<Option<Item>, TraceError> {
        loop {
            let Some(segment) = &mut self.current else {
                match self.next_segment()? {
                    Some(item) => return Ok(Some(item)),
                    None if self.files.is_empty() => return Ok(None),
                    None => continue,
                }
            };
            if self.at < self.unpacker.raw.len() {
                let mut input = minicbor_serde::Deserializer::new(&self.unpacker.raw[self.at..]);
                match Record::deserialize(&mut input) {
                    Ok(record) => {
                        self.at += input.decoder().position();
                        self.note(&record);
                        return Ok(Some(Item::Record(record)));
                    }
                    Err(e) => self.damaged(format!("a record is not understood: {e}"))?,
                }
                continue;
            }
            self.at = 0;
            segment.offset = segment.next;
            let frame = self.unpacker.unpack(&mut segment.input);
            match frame.map_err(|cause| TraceError::Io { doing: "read", path: segment.path.clone(), cause })? {
                Frame::Good(bytes) => segment.next += bytes,
                Frame::End => self.current = None,
                Frame::Torn(bytes) => {
                    let why = "cut inside a frame that was being written".to_owned();
                    self.damage.push(Damage { path: segment.path.clone(), offset: segment.offset, bytes, why });
                    self.current = None;
                }
                Frame::Damaged(why) => self.damaged(why.to_owned())?,
            }
        }
    }

    /// Opens the next file. `None`: there is none, or this one was stepped over.
    fn next_segment(&mut self) -> Result<Option<Item>, TraceError> {
        let Some(path) = self.files.pop_front() else { return Ok(None) };
        self.unpacker.raw.clear();
        self.at = 0;
        let (header, segment) = match Self::begin(&path) {
            Ok(begun) => begun,
            // A daemon that was killed between making a file and writing its header leaves nothing behind that was
            // ever recorded; a recording of nothing else cannot be read.
            Err(TraceError::Headless { path }) if self.begun || !self.files.is_empty() => {
                let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
                self.damage.push(Damage { path, offset: 0, bytes, why: "cut inside its header".to_owned() });
                return Ok(None);
            }
            Err(TraceError::Damaged { path, offset, why, .. }) if self.salvage => {
                let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
                self.damage.push(Damage { path, offset, bytes, why });
                self.last = None;
                return Ok(None);
            }
            Err(TraceError::Damaged { path, offset, why, .. }) => {
                let (event, decision) = self.last.unwrap_or_default();
                return Err(TraceError::Damaged { path, offset, why, event, decision });
            }
            Err(e) => return Err(e),
        };
        let joins = match (header.opening, self.last) {
            (super::Opening::Start | super::Opening::Resumes, _) | (super::Opening::Continues, None) => false,
            (super::Opening::Continues, Some((event, decision))) => {
                let joins = (event + 1, decision + 1) == (header.next_event, header.next_decision);
                if !joins && !self.salvage {
                    return Err(TraceError::Gap { path, event: event + 1, next: header.next_event });
                }
                joins
            }
        };
        self.begun = true;
        self.last = Some((header.next_event.saturating_sub(1), header.next_decision.saturating_sub(1)));
        self.current = Some(segment);
        Ok(Some(Item::Segment { header, joins }))
    }

    fn note(&mut self, record: &Record) {
        let (event, decision) = self.last.unwrap_or_default();
        self.last = Some(match record {
            Record::Event(stamped) => (stamped.seq, decision),
            Record::Decision(d) => (event, d.number),
            Record::Checkpoint(_) => (event, decision),
        });
    }

    /// Stops, or leaves the rest of the segment behind.
    fn damaged(&mut self, why: String) -> Result<(), TraceError> {
        let Some(Segment { path, offset, input: _, next: _ }) = self.current.take() else { return Ok(()) };
        let (event, decision) = self.last.take().unwrap_or_default();
        if !self.salvage {
            return Err(TraceError::Damaged { path, offset, why, event, decision });
        }
        let bytes = std::fs::metadata(&path).map_or(0, |m| m.len()).saturating_sub(offset);
        self.damage.push(Damage { path, offset, bytes, why });
        self.unpacker.raw.clear();
        self.at = 0;
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = Result<Item, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            self.files.clear();
            self.current = None;
        }
        next
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, offset, bytes, why } = self;
        write!(f, "{}: {bytes} bytes from byte {offset} on are not read: {why}", path.display())
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("files", &self.files).field("salvage", &self.salvage).finish_non_exhaustive()
    }
}
