//! Records of a watcher's stream, one a line: words of the form name=value.

use crate::vocab::{ClassId, Place};
use bytes::Bytes;

/// What happened on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Microseconds of the server's wall clock.
    pub at_micros: u64,
    /// Numbers all records of the server, also those of other kinds.
    pub gid: u64,
    pub what: What,
}

/// Keys are as the server writes them: what is not printable is percent and two hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Eviction {
        key: Bytes,
        fetched: bool,
        /// Seconds that it still had to live; `None`: for ever.
        ttl: Option<u64>,
        /// Seconds since it was asked for.
        idle: u64,
        class: ClassId,
        /// Bytes of the value; old servers do not tell.
        size: Option<u64>,
    },
    /// Somebody asked for a key, or set it: a set looks for the old item first.
    Fetch {
        key: Bytes,
        found: bool,
        /// Of a key that was not found the server knows none.
        class: Option<ClassId>,
        size: Option<u64>,
    },
    /// An item went to flash.
    ExtWrite { key: Bytes, fetched: bool, ttl: Option<u64>, idle: u64, class: ClassId, bucket: u64 },
    /// A page moves.
    SlabMove { from: Place, to: Place },
    /// Of a kind that nobody here asks for.
    Other,
}

/// The words of a line by name, found in one pass: hundreds of thousands of these come in a second. Of two the first counts.
#[derive(Default)]
struct Words<'a> {
    ts: Option<&'a [u8]>,
    gid: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    fetch: Option<&'a [u8]>,
    ttl: Option<&'a [u8]>,
    la: Option<&'a [u8]>,
    clsid: Option<&'a [u8]>,
    size: Option<&'a [u8]>,
    status: Option<&'a [u8]>,
    bucket: Option<&'a [u8]>,
    src: Option<&'a [u8]>,
    dst: Option<&'a [u8]>,
}

impl<'a> Words<'a> {
    fn of(line: &'a [u8]) -> Self {
        let mut words = Self::default();
        for word in line.split(|byte| *byte == b' ') {
            let Some(at) = word.iter().position(|byte| *byte == b'=') else { continue };
            let slot = match &word[..at] {
                b"ts" => &mut words.ts,
                b"gid" => &mut words.gid,
                b"type" => &mut words.kind,
                b"key" => &mut words.key,
                b"fetch" => &mut words.fetch,
                b"ttl" => &mut words.ttl,
                b"la" => &mut words.la,
                b"clsid" => &mut words.clsid,
                b"size" => &mut words.size,
                b"status" => &mut words.status,
                b"bucket" => &mut words.bucket,
                b"src" => &mut words.src,
                b"dst" => &mut words.dst,
                _ => continue,
            };
            slot.get_or_insert(&word[at + 1..]);
        }
        words
    }
}

impl Record {
    /// `None`: it is no record.
    #[must_use]
    pub fn parse(line: &Bytes) -> Option<Self> {
        let words = Words::of(line);
        let number = |word: Option<&[u8]>| std::str::from_utf8(word?).ok()?.parse::<u64>().ok();
        let class = |word: Option<&[u8]>| std::str::from_utf8(word?).ok()?.parse().ok().map(ClassId);
        let place = |word| class(word).map(|class| if class.0 == 0 { Place::Pool } else { Place::Class(class) });
        let key = || Some(line.slice_ref(words.key?));
        let fetched = || Some(words.fetch? == b"yes");
        let ttl = || Some(u64::try_from(std::str::from_utf8(words.ttl?).ok()?.parse::<i64>().ok()?).ok());
        // The microseconds are a number, not decimals: ts=5.42 is 42 of them.
        let (seconds, micros) = std::str::from_utf8(words.ts?).ok()?.split_once('.')?;
        let at_micros = seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros.parse().ok()?)?;
        let what = match words.kind? {
            b"eviction" => What::Eviction {
                key: key()?,
                fetched: fetched()?,
                ttl: ttl()?,
                idle: number(words.la)?,
                class: class(words.clsid)?,
                size: number(words.size),
            },
            b"item_get" => What::Fetch {
                key: key()?,
                found: words.status? == b"found",
                class: class(words.clsid).filter(|class| class.0 != 0),
                size: number(words.size),
            },
            b"extwrite" => What::ExtWrite {
                key: key()?,
                fetched: fetched()?,
                ttl: ttl()?,
                idle: number(words.la)?,
                class: class(words.clsid)?,
                bucket: number(words.bucket)?,
            },
            b"slab_move" => What::SlabMove { from: place(words.src)?, to: place(words.dst)? },
            _ => What::Other,
        };
        Some(Self { at_micros, gid: number(words.gid)?, what })
    }

    /// How many records a server left out before this line, which is then no record.
    #[must_use]
    pub fn skipped(line: &[u8]) -> Option<u64> {
        std::str::from_utf8(line.strip_prefix(b"skipped=")?).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Option<Record> {
        Record::parse(&Bytes::copy_from_slice(line.as_bytes()))
    }

    #[test]
    fn records() {
        let key = || Bytes::from_static(b"k%20y");
        let (class, fetched, idle) = (ClassId(5), true, 3);
        for (words, what) in [
            (
                "type=eviction key=k%20y fetch=yes ttl=-1 la=3 clsid=5 size=100",
                What::Eviction { key: key(), fetched, ttl: None, idle, class, size: Some(100) },
            ),
            (
                "type=eviction key=k%20y fetch=no ttl=77 la=3 clsid=5",
                What::Eviction { key: key(), fetched: false, ttl: Some(77), idle, class, size: None },
            ),
            (
                "type=item_get key=k%20y status=found clsid=5 cfd=29 size=10",
                What::Fetch { key: key(), found: true, class: Some(class), size: Some(10) },
            ),
            (
                "type=item_get key=k%20y status=not_found clsid=0 cfd=29 size=0",
                What::Fetch { key: key(), found: false, class: None, size: Some(0) },
            ),
            (
                "type=extwrite key=k%20y fetch=yes ttl=0 la=3 clsid=5 bucket=2",
                What::ExtWrite { key: key(), fetched, ttl: Some(0), idle, class, bucket: 2 },
            ),
            ("type=slab_move src=5 dst=0", What::SlabMove { from: Place::Class(class), to: Place::Pool }),
            ("type=conn_new rip=unix rport=0 transport=local cfd=11", What::Other),
        ] {
            let record = Record { at_micros: 1_795_978_392_000_042, gid: 7, what };
            assert_eq!(parse(&format!("ts=1795978392.42 gid=7 {words}")), Some(record), "{words}");
        }
    }

    #[test]
    fn what_is_no_record() {
        for line in [
            "",
            "garbage",
            "ts=1.2 gid=7",
            "ts=1 gid=7 type=x",
            "ts=1.2 type=x",
            "ts=1.2 gid=7 type=eviction key=k fetch=yes ttl=x la=3 clsid=5",
            "ts=1.2 gid=7 type=eviction key=k fetch=yes ttl=-1 la=3 clsid=300",
            "ts=99999999999999999999.2 gid=7 type=x",
            "ts=18446744073709551615.2 gid=7 type=x",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        assert_eq!(Record::skipped(b"skipped=12"), Some(12));
        assert_eq!((Record::skipped(b"skipped="), Record::skipped(b"ts=1.2")), (None, None));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "(ts=|gid=|type=|eviction|key=|[ -~]){0,20}") {
            let _ = parse(&line);
        }
    }
}
