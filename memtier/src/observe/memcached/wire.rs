//! memcached's text protocol, and of its meta commands the no-op: what is sent, and what comes back, however it is cut into
//! pieces on the way.

use crate::vocab::{ClassId, Place, Reply};
use bytes::{Buf as _, Bytes, BytesMut};
use std::fmt;

/// No line of a server is longer; its own records have less than 4 KiB.
const LINE_MOST: usize = 16 << 10;
/// Lines of one table: those of a thousand classes.
const TABLE_MOST: usize = 1 << 16;
/// Of a line that an error shows.
const SHOWN_MOST: usize = 80;

/// Tables of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    General,
    Items,
    Slabs,
    Settings,
}

/// What can be set. A value that a server does not take is answered, not refused here.
#[derive(Clone, Debug, PartialEq)]
pub enum Lever {
    /// Whether the server moves pages itself: 0 no, 1 slowly, 2 at every eviction.
    Automove(u8),
    AutomoveRatio(f64),
    AutomoveFreeRatio(f64),
    AutomoveWindow(u32),
    /// Free chunks that a class shall have.
    FreeMemchunks(ClassId, u64),
    /// Any other of extstore's, by name.
    Extstore(String, u64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Stats(Table),
    /// A page from a class, or from whichever has one to spare.
    Reassign {
        from: Option<Place>,
        to: Place,
    },
    Set(Lever),
    /// Meta no-op: after it nothing of what was asked before is still to come.
    Fence,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stats(Table::General) => f.write_str("stats"),
            Self::Stats(Table::Items) => f.write_str("stats items"),
            Self::Stats(Table::Slabs) => f.write_str("stats slabs"),
            Self::Stats(Table::Settings) => f.write_str("stats settings"),
            Self::Reassign { from: Some(from), to } => write!(f, "slabs reassign {from} {to}"),
            Self::Reassign { from: None, to } => write!(f, "slabs reassign -1 {to}"),
            Self::Set(Lever::Automove(mode)) => write!(f, "slabs automove {mode}"),
            Self::Set(Lever::AutomoveRatio(ratio)) => write!(f, "slabs automove ratio {ratio}"),
            Self::Set(Lever::AutomoveFreeRatio(ratio)) => write!(f, "slabs automove freeratio {ratio}"),
            Self::Set(Lever::AutomoveWindow(looks)) => write!(f, "slabs automove window {looks}"),
            Self::Set(Lever::FreeMemchunks(class, chunks)) => write!(f, "extstore free_memchunks {} {chunks}", class.0),
            Self::Set(Lever::Extstore(name, value)) => write!(f, "extstore {name} {value}"),
            Self::Fence => f.write_str("mn"),
        }
    }
}

/// An answer of one line, and how it was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub reply: Reply,
    pub line: String,
}

/// A table of counters as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats(Vec<(Bytes, Bytes)>);

impl Stats {
    pub(super) const EMPTY: Self = Self(Vec::new());

    /// What is no text is left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?)))
    }
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Stats(Stats),
    Said(Said),
}

/// Bytes that are no answer to what was asked. What comes after them cannot be told apart, so the connection is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    #[error("a line of more than {LINE_MOST} bytes")]
    TooLong,
    #[error("a table of more than {TABLE_MOST} lines")]
    Endless,
    #[error("{0:?}")]
    Line(String),
}

impl Nonsense {
    pub(super) fn line(line: &[u8]) -> Self {
        let mut shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_MOST)]).into_owned();
        if line.len() > SHOWN_MOST {
            shown.push_str("...");
        }
        Self::Line(shown)
    }
}

/// Makes answers of bytes.
#[derive(Debug, Default)]
pub struct Parser {
    bytes: BytesMut,
    /// So many of them hold no line end.
    searched: usize,
    /// Lines of a table that has not ended.
    table: Vec<(Bytes, Bytes)>,
}

impl Parser {
    /// Where the bytes go that come in. Between two calls of `line` or `answer` that want more, no more than a buffer's worth.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next whole line, without its end. `None`: more bytes are needed.
    pub fn line(&mut self) -> Result<Option<Bytes>, Nonsense> {
        match self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(at) if self.searched + at <= LINE_MOST => {
                let mut line = self.bytes.split_to(self.searched + at);
                self.bytes.advance(1);
                self.searched = 0;
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                Ok(Some(line.freeze()))
            }
            None if self.bytes.len() <= LINE_MOST => {
                self.searched = self.bytes.len();
                Ok(None)
            }
            Some(_) | None => Err(Nonsense::TooLong),
        }
    }

    /// The answer to this command. `None`: more bytes are needed.
    pub fn answer(&mut self, to: &Command) -> Result<Option<Answer>, Nonsense> {
        let table = matches!(to, Command::Stats(_));
        while let Some(line) = self.line()? {
            if table && &line[..] == b"END" {
                return Ok(Some(Answer::Stats(Stats(std::mem::take(&mut self.table)))));
            }
            if table && let Some(row) = row(&line) {
                if self.table.len() == TABLE_MOST {
                    return Err(Nonsense::Endless);
                }
                self.table.push(row);
                continue;
            }
            if *to == Command::Fence && &line[..] == b"MN" {
                return Ok(Some(Answer::Said(Said { reply: Reply::Ok, line: "MN".to_owned() })));
            }
            // In the middle of a table nothing else may come.
            let said = said(&line).filter(|_| self.table.is_empty()).ok_or_else(|| Nonsense::line(&line))?;
            let refusal = matches!(said.reply, Reply::Error | Reply::ClientError | Reply::ServerError);
            let fits = refusal || !table && *to != Command::Fence;
            return if fits { Ok(Some(Answer::Said(said))) } else { Err(Nonsense::line(&line)) };
        }
        Ok(None)
    }

    /// Whether something came that nobody asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// `STAT name value`; a value may have blanks in it, or be nothing.
fn row(line: &Bytes) -> Option<(Bytes, Bytes)> {
    let rest = line.strip_prefix(b"STAT ")?;
    let at = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
    let (name, value) = rest.split_at(at);
    Some((line.slice_ref(name), line.slice_ref(value.get(1..).unwrap_or_default())))
}

pub(super) fn said(line: &[u8]) -> Option<Said> {
    let line = std::str::from_utf8(line).ok()?;
    Some(Said { reply: Reply::of(line)?, line: line.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(id: u8) -> Place {
        Place::Class(ClassId(id))
    }

    #[test]
    fn commands() {
        for (command, text) in [
            (Command::Stats(Table::General), "stats"),
            (Command::Stats(Table::Items), "stats items"),
            (Command::Stats(Table::Slabs), "stats slabs"),
            (Command::Stats(Table::Settings), "stats settings"),
            (Command::Reassign { from: Some(class(3)), to: Place::Pool }, "slabs reassign 3 0"),
            (Command::Reassign { from: Some(Place::Pool), to: class(9) }, "slabs reassign 0 9"),
            (Command::Reassign { from: None, to: class(9) }, "slabs reassign -1 9"),
            (Command::Set(Lever::Automove(2)), "slabs automove 2"),
            (Command::Set(Lever::AutomoveRatio(0.75)), "slabs automove ratio 0.75"),
            (Command::Set(Lever::AutomoveFreeRatio(0.005)), "slabs automove freeratio 0.005"),
            (Command::Set(Lever::AutomoveWindow(30)), "slabs automove window 30"),
            (Command::Set(Lever::FreeMemchunks(ClassId(7), 150)), "extstore free_memchunks 7 150"),
            (Command::Set(Lever::Extstore("item_age".into(), 60)), "extstore item_age 60"),
            (Command::Fence, "mn"),
        ] {
            assert_eq!(command.to_string(), text);
        }
    }

    fn parse(bytes: &[u8], to: &Command) -> Result<Option<Answer>, Nonsense> {
        let mut parser = Parser::default();
        parser.buffer().extend_from_slice(bytes);
        parser.answer(to)
    }

    #[test]
    fn every_reply_is_a_value() {
        let reassign = Command::Reassign { from: Some(class(1)), to: class(2) };
        for (line, reply) in [
            ("OK", Reply::Ok),
            ("BUSY currently processing reassign request", Reply::Busy),
            ("BADCLASS invalid src or dst class id", Reply::BadClass),
            ("NOSPARE source class has no spare pages", Reply::NoSpare),
            ("NOTFULL dest class has spare memory", Reply::NotFull),
            ("UNSAFE src class is in an unsafe state", Reply::Unsafe),
            ("SAME src and dst class are identical", Reply::Same),
            ("CLIENT_ERROR slab reassignment disabled", Reply::ClientError),
            ("SERVER_ERROR out of memory", Reply::ServerError),
            ("ERROR", Reply::Error),
        ] {
            let said = Answer::Said(Said { reply, line: line.into() });
            assert_eq!(parse(format!("{line}\r\n").as_bytes(), &reassign), Ok(Some(said)));
        }
        for line in ["", "ok", "OKAY", "MN", "END", "STAT a 1", "VALUE k 0 1", "\u{0}"] {
            assert_eq!(parse(format!("{line}\r\n").as_bytes(), &reassign), Err(Nonsense::Line(line.into())));
        }
        assert_eq!(parse(b"\xff\xfe\n", &reassign), Err(Nonsense::Line("\u{fffd}\u{fffd}".into())));
    }

    #[test]
    fn tables() {
        let items = Command::Stats(Table::Items);
        let Ok(Some(Answer::Stats(stats))) =
            parse(b"STAT items:1:age 5\r\nSTAT libevent 2.1 a\r\nSTAT inter \r\nSTAT x\r\nEND\r\n", &items)
        else {
            panic!("no table")
        };
        assert_eq!(stats.iter().collect::<Vec<_>>(), [("items:1:age", "5"), ("libevent", "2.1 a"), ("inter", ""), ("x", "")]);
        assert_eq!((stats.get("libevent"), stats.get("y")), (Some("2.1 a"), None));
        assert_eq!(parse(b"END\r\n", &items), Ok(Some(Answer::Stats(Stats::default()))));
        assert_eq!(parse(b"STAT a 1\r\n", &items), Ok(None));
        assert!(matches!(parse(b"ERROR\r\n", &items), Ok(Some(Answer::Said(Said { reply: Reply::Error, .. })))));
        // A table that is something else half-way, or has no end.
        for bytes in [&b"STAT a 1\r\nERROR\r\n"[..], b"OK\r\n", b"MN\r\n", b"STAT a 1\r\nblah\r\n"] {
            assert!(matches!(parse(bytes, &items), Err(Nonsense::Line(_))), "{bytes:?}");
        }
        assert_eq!(parse(&b"STAT a 1\n".repeat(TABLE_MOST + 1), &items), Err(Nonsense::Endless));
    }

    #[test]
    fn a_fence_is_passed_or_not_known() {
        let fenced = |bytes: &[u8]| parse(bytes, &Command::Fence);
        assert!(matches!(fenced(b"MN\r\n"), Ok(Some(Answer::Said(Said { reply: Reply::Ok, .. })))));
        assert!(matches!(fenced(b"ERROR\r\n"), Ok(Some(_))));
        assert_eq!(fenced(b"OK\r\n"), Err(Nonsense::Line("OK".into())));
    }

    #[test]
    fn lines_have_a_bound() {
        let line = |len: usize| [vec![b'x'; len], b"\n".to_vec()].concat();
        let command = Command::Fence;
        assert!(matches!(parse(&line(LINE_MOST), &command), Err(Nonsense::Line(shown)) if shown.len() == SHOWN_MOST + 3));
        assert_eq!(parse(&line(LINE_MOST + 1), &command), Err(Nonsense::TooLong));
        assert_eq!(parse(&vec![b'x'; LINE_MOST + 1], &command), Err(Nonsense::TooLong));
        assert_eq!(parse(&vec![b'x'; LINE_MOST], &command), Ok(None));
    }

    /// Cuts a stream at the places named.
    fn pieces<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
    }

    /// Whatever comes of these commands, until the first error or the end.
    fn read(pieces: &[&[u8]], commands: &[Command]) -> Vec<Result<Answer, Nonsense>> {
        let (mut parser, mut answers) = (Parser::default(), Vec::new());
        let mut due = commands.iter().cycle().peekable();
        for piece in pieces {
            parser.buffer().extend_from_slice(piece);
            while let Some(read) = due.peek().and_then(|command| parser.answer(command).transpose()) {
                due.next();
                let broke = read.is_err();
                answers.push(read);
                if broke {
                    return answers;
                }
            }
        }
        answers
    }

    fn asked() -> Vec<Command> {
        vec![Command::Stats(Table::Items), Command::Set(Lever::Automove(0)), Command::Fence]
    }

    proptest! {
        #[test]
        fn where_a_stream_is_cut_is_all_the_same(
            rows in prop::collection::vec(("[a-z0-9:]{1,12}", "[ -~]{0,12}"), 0..5),
            end in prop::sample::select(vec!["\r\n", "\n"]),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let mut text: String = rows.iter().map(|(name, value)| format!("STAT {name} {value}{end}")).collect();
            text.push_str(&["END", "BUSY currently", "MN", ""].join(end));
            let whole = read(&[text.as_bytes()], &asked());
            prop_assert_eq!(whole.len(), 3);
            prop_assert!(whole.iter().all(Result::is_ok));
            prop_assert_eq!(read(&pieces(text.as_bytes(), &cuts), &asked()), whole);
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            stream in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'S'), any::<u8>()], 0..200),
            cuts in prop::collection::vec(any::<usize>(), 0..6),
        ) {
            let whole = read(&[&stream], &asked());
            prop_assert_eq!(read(&pieces(&stream, &cuts), &asked()), whole);
        }
    }
}
