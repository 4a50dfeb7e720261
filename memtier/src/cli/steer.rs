//! `memtier pause`, `resume`, `reload`: one word to the daemon, one sentence back.

use super::{Common, Ended, Exit, Trouble, print_json};
use crate::daemon::views::Done;
use std::io::Write as _;

/// Sends one word and says what came back.
pub fn tell(common: &Common, word: &str) -> Ended {
    let done: Done = common.client()?.post(&format!("/v1/{word}"), &serde_json::Value::Null).map_err(Trouble::from_daemon)?;
    if common.json {
        print_json(&done)?;
    } else {
        writeln!(std::io::stdout(), "{}", done.done)?;
    }
    Ok(Exit::Ok)
}
