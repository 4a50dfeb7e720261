//! Bytes of a segment: one header, then frames. Both carry checksums over their own lengths, so that a flipped bit is
//! told from a cut tail. docs/trace-format.md is the specification.

use super::Record;
use crate::vocab::Time;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};

/// As PNG does it: a high bit, a name, both line ends and a DOS end-of-file betray a transfer that mangles bytes.
pub(super) const MAGIC: [u8; 8] = *b"\x89MTT\r\n\x1a\n";
/// Raised when older readers would misread; they refuse.
pub const MAJOR: u16 = 1;
/// Raised when something is added that older readers skip or name as unknown.
pub const MINOR: u16 = 2;
/// magic, major, minor, length of the body, CRC of these three and the body.
const FIXED: usize = 8 + 2 + 2 + 4 + 4;
/// A header names a host and two versions; more is not one of ours.
const MAX_HEADER: usize = 64 << 10;
/// Stored length, raw length, CRC of the stored bytes, CRC of these three.
pub(super) const FRAME_HEAD: usize = 16;
/// Bound of a frame's raw bytes, against absurd lengths. The largest record by far is the map list of a process:
/// about 60 bytes a mapping, so this covers four million of them.
pub(super) const MAX_RAW: usize = 256 << 20;

/// The two clocks, read together by the caller: event time orders, wall time dates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    pub at: Time,
    /// Nanoseconds since 1970, UTC.
    pub unix_ns: u64,
}

/// How a segment's first record relates to the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opening {
    /// Event 1 of a new stream.
    Start,
    /// A checkpoint, then the next event: the previous segment was full.
    Continues,
    /// A checkpoint, then the next event, after records that could not be written.
    Resumes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// "memtier 0.1.0": what wrote it.
    pub by: String,
    pub host: String,
    pub boot_id: String,
    pub clocks: Clocks,
    pub opening: Opening,
    /// Numbers that the first event and the first decision will have.
    pub next_event: u64,
    pub next_decision: u64,
}

/// What a header read from a file turned out to be.
#[derive(Debug)]
pub(super) enum Head {
    Good { header: Header, bytes: u64 },
    Cut,
    Foreign,
    Newer { major: u16, by: String },
    Damaged(&'static str),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let body = minicbor_serde::to_vec(self).expect("a flat record of strings and numbers serialises");
        let mut out = Vec::with_capacity(FIXED + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        out.extend_from_slice(&u32::try_from(body.len()).expect("host names are short").to_le_bytes());
        let crc = crc(&[&out[MAGIC.len()..], &body]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// The layout up to the CRC is the same in all versions to come, so that a newer file is told from a broken one.
    pub(super) fn read(input: &mut impl Read) -> io::Result<Head> {
        let mut fixed = Vec::with_capacity(FIXED);
        input.take(FIXED as u64).read_to_end(&mut fixed)?;
        let magic = fixed.len().min(MAGIC.len());
        if fixed[..magic] != MAGIC[..magic] {
            return Ok(Head::Foreign);
        }
        let Some((fields, _)) = fixed[magic..].split_first_chunk::<12>() else { return Ok(Head::Cut) };
        let [major, minor] = [0, 2].map(|i| u16::from_le_bytes([fields[i], fields[i + 1]]));
        let [len, stored] = [4, 8].map(|i| u32::from_le_bytes([fields[i], fields[i + 1], fields[i + 2], fields[i + 3]]));
        if len as usize > MAX_HEADER {
            return Ok(Head::Damaged("the header's length is absurd"));
        }
        let mut body = Vec::new();
        input.take(u64::from(len)).read_to_end(&mut body)?;
        if body.len() < len as usize {
            return Ok(Head::Cut);
        }
        if crc(&[&fields[..8], &body]) != stored {
            return Ok(Head::Damaged("the header's checksum differs"));
        }
        #[derive(Deserialize)]
        struct By {
            by: String,
        }
        if major > MAJOR {
            let by = minicbor_serde::from_slice::<By>(&body).map_or_else(|_| format!("format {major}.{minor}"), |b| b.by);
            return Ok(Head::Newer { major, by });
        }
        Ok(match minicbor_serde::from_slice(&body) {
            Ok(header) => Head::Good { header, bytes: FIXED as u64 + u64::from(len) },
            Err(_) => Head::Damaged("the header is not understood"),
        })
    }
}

/// Packs batches of records into frames; owns the buffers.
pub(super) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    stored: Vec<u8>,
}

impl Packer {
    /// Level 1: a recorder must cost little; page bitmaps and repeated key names shrink well at any level.
    const LEVEL: i32 = 1;

    pub fn new() -> io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(Self::LEVEL)?, stored: Vec::new() })
    }

    /// Appends one frame that holds `raw` (at most `MAX_RAW` bytes) to `out`.
    pub fn pack(&mut self, raw: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.stored.clear();
        self.stored.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.zstd.compress_to_buffer(raw, &mut self.stored)?;
        let length = |n: usize| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge)).map(u32::to_le_bytes);
        let head = out.len();
        out.extend_from_slice(&length(self.stored.len())?);
        out.extend_from_slice(&length(raw.len())?);
        out.extend_from_slice(&crc(&[&self.stored]).to_le_bytes());
        let check = crc(&[&out[head..]]);
        out.extend_from_slice(&check.to_le_bytes());
        out.extend_from_slice(&self.stored);
        Ok(())
    }
}

/// What stands where a frame should be.
#[derive(Debug)]
pub(super) enum Frame {
    /// Its raw bytes are in the unpacker; it took this many in the file.
    Good(u64),
    /// The file ends between two frames.
    End,
    /// The file ends inside this frame (or in zeros that a crash left behind): these bytes never became one.
    Torn(u64),
    Damaged(&'static str),
}

/// Takes frames apart; owns the buffers.
pub(super) struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
    stored: Vec<u8>,
    pub raw: Vec<u8>,
}

impl Unpacker {
    pub fn new() -> io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, stored: Vec::new(), raw: Vec::new() })
    }

    pub fn unpack(&mut self, input: &mut impl Read) -> io::Result<Frame> {
        self.raw.clear();
        self.stored.clear();
        input.take(FRAME_HEAD as u64).read_to_end(&mut self.stored)?;
        if self.stored.is_empty() {
            return Ok(Frame::End);
        }
        let Some(head) = self.stored.first_chunk::<FRAME_HEAD>() else { return Ok(Frame::Torn(self.stored.len() as u64)) };
        if *head == [0; FRAME_HEAD] {
            return Ok(match zeros(input)? {
                Some(more) => Frame::Torn(FRAME_HEAD as u64 + more),
                None => Frame::Damaged("a frame of zeros"),
            });
        }
        let [len, raw, check, own] = [0, 4, 8, 12].map(|i| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]));
        if crc(&[&head[..12]]) != own {
            return Ok(Frame::Damaged("the checksum of a frame's head differs"));
        }
        if raw as usize > MAX_RAW {
            return Ok(Frame::Damaged("a frame's length is absurd"));
        }
        self.stored.clear();
        input.take(u64::from(len)).read_to_end(&mut self.stored)?;
        if self.stored.len() < len as usize {
            return Ok(Frame::Torn((FRAME_HEAD + self.stored.len()) as u64));
        }
        if crc(&[&self.stored]) != check {
            return Ok(Frame::Damaged("the checksum of a frame differs"));
        }
        self.raw.reserve(raw as usize);
        match self.zstd.decompress_to_buffer(&self.stored, &mut self.raw) {
            Ok(n) if n == raw as usize => Ok(Frame::Good((FRAME_HEAD + len as usize) as u64)),
            Ok(_) | Err(_) => Ok(Frame::Damaged("a frame does not decompress to its length")),
        }
    }
}

/// Length of the rest when it is all zeros.
fn zeros(input: &mut impl Read) -> io::Result<Option<u64>> {
    let mut buffer = [0; 4096];
    let mut total = 0;
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(Some(total)),
            Ok(n) if buffer[..n].iter().any(|b| *b != 0) => return Ok(None),
            Ok(n) => total += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Appends one record to a batch.
pub(super) fn encode(record: &impl Serialize, batch: &mut Vec<u8>) {
    record.serialize(&mut minicbor_serde::Serializer::new(batch)).expect("records serialise, and a Vec takes them");
}

/// The records of a batch, one after another; ends after the first that is not understood.
pub(super) fn decode(batch: &[u8]) -> impl Iterator<Item = Result<Record, minicbor_serde::error::DecodeError>> {
    let mut input = minicbor_serde::Deserializer::new(batch);
    let mut broken = false;
    std::iter::from_fn(move || {
        if broken || input.decoder().position() == batch.len() {
            return None;
        }
        let record = Record::deserialize(&mut input);
        broken = record.is_err();
        Some(record)
    })
}
