//! The running kernel's type information: where a field lies, what a tracepoint hands over, what an enumerator is.
//!
//! aya keeps its own type tables private, and Rust cannot emit CO-RE relocations, so this reads /sys/kernel/btf/vmlinux.
//! Total: no input makes it panic or loop. Only what the loader asks for is here; anything else about types is not.

use std::path::Path;

/// Nesting of anonymous members and of qualifiers that we follow; the kernel stays far below.
const MOST_DEPTH: u32 = 32;

mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("BTF is damaged at byte {0}")]
    Damaged(usize),
    #[error("this kernel has no {0}")]
    Absent(String),
}

/// Parsed type information.
pub struct Types {
    data: Vec<u8>,
    strings: usize,
    /// Where each type begins; type 0 is void and has no place.
    places: Vec<usize>,
}

/// One type: its name, kind, count of members, size or target, and where its members begin.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: &'a [u8],
    kind: u32,
    members: usize,
    /// Bit-field offsets are packed with sizes.
    packed: bool,
    target: u32,
    tail: usize,
}

impl std::fmt::Debug for Types {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Types({} types)", self.places.len())
    }
}

impl Types {
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new("/sys/kernel/btf/vmlinux"))
    }

    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path).map_err(|source| BtfError::Read { path: path.display().to_string(), source })?;
        Self::parse(data)
    }

    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let field = |at: usize| word(&data, at).ok_or(BtfError::Damaged(at));
        if field(0)? & 0xffff != 0xeb9f {
            return Err(BtfError::Damaged(0));
        }
        let header = field(4)? as usize;
        let begin = header.saturating_add(field(8)? as usize);
        let end = begin.saturating_add(field(12)? as usize);
        let strings = header.saturating_add(field(16)? as usize);
        if end > data.len() || strings > data.len() {
            return Err(BtfError::Damaged(12));
        }
        let mut places = vec![0];
        let mut at = begin;
        while at < end {
            places.push(at);
            let info = field(at + 4)?;
            let members = (info & 0xffff) as usize;
            let tail = match info >> 24 & 31 {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => members * 12,
                kind::ENUM | kind::FUNC_PROTO => members * 8,
                _ => 0,
            };
            at += 12 + tail;
        }
        if at != end {
            return Err(BtfError::Damaged(at));
        }
        Ok(Self { data, strings, places })
    }

    fn name(&self, offset: u32) -> &[u8] {
        let rest = self.data.get(self.strings.saturating_add(offset as usize)..).unwrap_or_default();
        rest.split(|&c| c == 0).next().unwrap_or_default()
    }

    fn at(&self, place: usize) -> Option<Type<'_>> {
        let info = word(&self.data, place + 4)?;
        Some(Type {
            name: self.name(word(&self.data, place)?),
            kind: info >> 24 & 31,
            members: (info & 0xffff) as usize,
            packed: info >> 31 == 1,
            target: word(&self.data, place + 8)?,
            tail: place + 12,
        })
    }

    fn get(&self, id: u32) -> Option<Type<'_>> {
        self.at(*self.places.get(id as usize)?).filter(|_| id != 0)
    }

    fn find(&self, name: &str, kinds: &[u32]) -> Option<Type<'_>> {
        self.places
            .iter()
            .skip(1)
            .filter_map(|&place| self.at(place))
            .find(|t| t.name == name.as_bytes() && kinds.contains(&t.kind))
    }

    /// The type behind typedefs and qualifiers.
    fn bare(&self, mut id: u32) -> Option<Type<'_>> {
        for _ in 0..MOST_DEPTH {
            let t = self.get(id)?;
            match t.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => id = t.target,
                _ => return Some(t),
            }
        }
        None
    }

    /// Bit offset and type of a member, looked for inside anonymous members too.
    fn member(&self, of: Type<'_>, field: &str, depth: u32) -> Option<(u64, u32)> {
        for i in 0..of.members {
            let at = of.tail + i * 12;
            let (name, id) = (self.name(word(&self.data, at)?), word(&self.data, at + 4)?);
            let raw = word(&self.data, at + 8)?;
            let offset = u64::from(if of.packed { raw & 0xff_ffff } else { raw });
            if name == field.as_bytes() {
                return Some((offset, id));
            }
            if name.is_empty()
                && depth > 0
                && let Some(inner) = self.bare(id).filter(|t| matches!(t.kind, kind::STRUCT | kind::UNION))
                && let Some((deeper, id)) = self.member(inner, field, depth - 1)
            {
                return Some((offset + deeper, id));
            }
        }
        None
    }

    /// Byte offset of `path` ("a.b.c") in struct `name`.
    pub fn offset(&self, name: &str, path: &str) -> Result<u64, BtfError> {
        let absent = || BtfError::Absent(format!("struct {name} with {path}"));
        let mut inside = self.find(name, &[kind::STRUCT, kind::UNION]);
        let mut bits = 0;
        for field in path.split('.') {
            let (offset, id) = inside.and_then(|t| self.member(t, field, MOST_DEPTH)).ok_or_else(absent)?;
            bits += offset;
            inside = self.bare(id);
        }
        if bits % 8 == 0 { Ok(bits / 8) } else { Err(absent()) }
    }

    /// Value of an enumerator, whatever its enum is called.
    pub fn enumerator(&self, name: &str) -> Result<u64, BtfError> {
        let value = |&place: &usize| {
            let t = self.at(place).filter(|t| t.kind == kind::ENUM)?;
            (0..t.members).map(|i| t.tail + i * 8).find_map(|at| {
                (self.name(word(&self.data, at)?) == name.as_bytes()).then(|| word(&self.data, at + 4).map(u64::from))?
            })
        };
        self.places.iter().skip(1).find_map(value).ok_or_else(|| BtfError::Absent(format!("enumerator {name}")))
    }

    /// What a tracepoint hands to a program: one word per argument, "task_struct*" style.
    pub fn tracepoint(&self, name: &str) -> Result<Vec<String>, BtfError> {
        let proto = || {
            let pointer = self.bare(self.find(&format!("btf_trace_{name}"), &[kind::TYPEDEF])?.target)?;
            self.bare(pointer.target).filter(|t| pointer.kind == kind::PTR && t.kind == kind::FUNC_PROTO)
        };
        let t = proto().ok_or_else(|| BtfError::Absent(format!("tracepoint {name}")))?;
        // The first argument is the tracepoint's own.
        (1..t.members)
            .map(|i| t.tail + i * 8 + 4)
            .map(|at| word(&self.data, at).map(|id| self.words(id, MOST_DEPTH)).ok_or(BtfError::Damaged(at)))
            .collect()
    }

    fn words(&self, id: u32, depth: u32) -> String {
        match self.get(id) {
            _ if depth == 0 => String::new(),
            None => "void".to_owned(),
            Some(t) if t.kind == kind::PTR => self.words(t.target, depth - 1) + "*",
            Some(t) if matches!(t.kind, kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG) => {
                self.words(t.target, depth - 1)
            }
            Some(t) => String::from_utf8_lossy(t.name).into_owned(),
        }
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// struct s { int a; struct { int b; int c:4; }; }; and typedef void (*btf_trace_t)(void *, struct s *).
    fn small() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0c\0int\0btf_trace_t\0E\0PG_x\0";
        let name = |n: &str| {
            let n = format!("\0{n}\0");
            strings.windows(n.len()).position(|w| w == n.as_bytes()).map_or(0, |p| p as u32 + 1)
        };
        let mut types: Vec<u32> = Vec::new();
        let info = |kind: u32, members: u32| kind << 24 | members;
        types.extend([name("int"), info(kind::INT, 0), 4, 32]); // 1
        types.extend([name("s"), info(kind::STRUCT, 2), 16, name("a"), 1, 0, 0, 3, 64]); // 2
        types.extend([0, info(kind::STRUCT, 2) | 1 << 31, 8, name("b"), 1, 32, name("c"), 1, 4 << 24 | 64]); // 3
        types.extend([0, info(kind::PTR, 0), 2]); // 4
        types.extend([0, info(kind::PTR, 0), 0]); // 5
        types.extend([0, info(kind::FUNC_PROTO, 2), 0, 0, 5, 0, 4]); // 6
        types.extend([0, info(kind::PTR, 0), 6]); // 7
        types.extend([name("btf_trace_t"), info(kind::TYPEDEF, 0), 7]); // 8
        types.extend([name("E"), info(kind::ENUM, 1), 4, name("PG_x"), 6]); // 9
        let types: Vec<u8> = types.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut data = vec![0x9f, 0xeb, 1, 0];
        for w in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend(w.to_le_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn finds_fields_through_anonymous_members() {
        let types = Types::parse(small()).expect("whole");
        assert_eq!(types.offset("s", "a").ok(), Some(0));
        assert_eq!(types.offset("s", "b").ok(), Some(12));
        assert!(types.offset("s", "d").is_err());
        assert!(types.offset("s", "a.b").is_err());
        assert_eq!(types.tracepoint("t").ok(), Some(vec!["s*".to_owned()]));
        assert_eq!(types.enumerator("PG_x").ok(), Some(6));
    }

    proptest! {
        /// Damaged in any byte or cut anywhere, it answers or refuses.
        #[test]
        fn survives_garbage(at in 0usize..300, byte: u8, cut in 0usize..400, noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut data = small();
            let at = at % data.len();
            data[at] = byte;
            data.truncate(cut);
            for data in [data, noise] {
                if let Ok(types) = Types::parse(data) {
                    let _ = types.offset("s", "b");
                    let _ = types.offset("s", "a.b");
                    let _ = types.tracepoint("t");
                    let _ = types.enumerator("PG_x");
                }
            }
        }
    }
}
