//! Pictures and tables for terminals.
//!
//! Deliberately absent: a full-screen view (`top`) and a web page, which come later and read the same views.

mod caches;
mod heat;
mod status;
mod table;

pub use caches::caches;
pub use heat::heat;
pub use status::status;
pub use table::Table;

use std::fmt::Write as _;

/// How to write: colour or not, and how wide.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub color: bool,
    pub columns: usize,
}

impl Style {
    /// Text in one of the 256 terminal colours.
    fn paint(self, out: &mut String, color: u8, text: &str) {
        let written = if self.color { write!(out, "\x1b[38;5;{color}m{text}\x1b[0m") } else { write!(out, "{text}") };
        written.expect("a String takes everything");
    }
    fn bold(self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}
