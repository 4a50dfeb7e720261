//! The load: one thread asks all servers for the same, in turn, a batch at a time, so that every arm has the same requests at
//! the same time. A look-aside cache: what a get misses is set; the sets go out before the gets of the next batch.

use super::workload::Request;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Gets that go out together: 5 ms at the rate of the workloads.
pub const BATCH: u64 = 100;
const READ: usize = 256 << 10;

/// One server, as its client sees it.
pub struct Lane {
    to: UnixStream,
    from: BufReader<UnixStream>,
    out: Vec<u8>,
    line: Vec<u8>,
    missed: Vec<Request>,
    tally: Tally,
    /// Values that were not what was stored, since it began.
    pub wrong: u64,
}

/// What came of requests; those that no cache can have are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u64,
    pub misses: u64,
}

impl Lane {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let to = UnixStream::connect(socket)?;
        let from = BufReader::with_capacity(READ, to.try_clone()?);
        Ok(Self { to, from, out: Vec::new(), line: Vec::new(), missed: Vec::new(), tally: Tally::default(), wrong: 0 })
    }

    /// Since the last call.
    pub fn take(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Sends what the last batch missed, and the gets of this one. They fit into the socket together with what is not read yet.
    fn ask(&mut self, batch: &[Request]) -> io::Result<()> {
        self.out.clear();
        for request in self.missed.drain(..) {
            let Request { key, bytes, ttl, once: _ } = request;
            write!(self.out, "set {key:012x} 0 {ttl} {bytes} noreply\r\n")?;
            let end = self.out.len() + bytes;
            self.out.extend_from_slice(&key.to_le_bytes());
            self.out.resize(end, b'.');
            self.out.extend_from_slice(b"\r\n");
        }
        for request in batch {
            write!(self.out, "get {:012x}\r\n", request.key)?;
        }
        self.to.write_all(&self.out)
    }

    fn hear(&mut self, batch: &[Request]) -> io::Result<()> {
        for request in batch {
            let found = self.answer(request)?;
            self.tally.requests += u64::from(!request.once);
            if !found {
                self.tally.misses += u64::from(!request.once);
                self.missed.push(*request);
            }
        }
        Ok(())
    }

    /// Whether it was there.
    fn answer(&mut self, request: &Request) -> io::Result<bool> {
        self.read_line()?;
        if self.line == b"END\r\n" {
            return Ok(false);
        }
        let said = value(&self.line).ok_or_else(|| nonsense(&self.line))?;
        let mut left = said + 2;
        let mut first = true;
        let mut sound = said == request.bytes;
        while left > 0 {
            let bytes = self.from.fill_buf()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = left.min(bytes.len());
            if std::mem::take(&mut first) && taken >= 8 {
                sound &= bytes[..8] == request.key.to_le_bytes();
            }
            left -= taken;
            self.from.consume(taken);
        }
        self.wrong += u64::from(!sound);
        self.read_line()?;
        if self.line == b"END\r\n" { Ok(true) } else { Err(nonsense(&self.line)) }
    }

    fn read_line(&mut self) -> io::Result<()> {
        self.line.clear();
        match self.from.read_until(b'\n', &mut self.line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// All servers are asked before the first one is heard: they work beside each other.
pub fn serve(lanes: &mut [Lane], batch: &[Request]) -> io::Result<()> {
    lanes.iter_mut().try_for_each(|lane| lane.ask(batch))?;
    lanes.iter_mut().try_for_each(|lane| lane.hear(batch))
}

/// Bytes of the value that `VALUE key flags bytes` announces.
fn value(line: &[u8]) -> Option<usize> {
    let rest = line.strip_prefix(b"VALUE ")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(rest.rsplit(|byte| *byte == b' ').next()?).ok()?.parse().ok()
}

fn nonsense(line: &[u8]) -> io::Error {
    io::Error::other(format!("memcached answered a get with {:?}", String::from_utf8_lossy(line)))
}
