//! What BPF programs see: loaded, attached and drained here.

mod attach;
pub mod btf;
pub mod decode;
mod drain;
mod eyes;
pub mod feed;
mod nodes;
mod object;
mod wire;

pub use attach::nothing as attach_nothing;
pub use eyes::{Costs, Eyes, PERIOD, ProgramCost};
pub use nodes::of_host as host_nodes;
pub use object::{Object, ObjectError, Options};

/// An error with its causes. Of a verifier's log, which may have megabytes, only the end says something.
#[must_use]
pub fn deepest(error: &dyn std::error::Error) -> String {
    const MOST: usize = 400;
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(e) = inner {
        text = format!("{text}: {e}");
        inner = e.source();
    }
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let (mut tail, mut room) = (Vec::new(), MOST);
    for line in lines.rev() {
        let Some(left) = usize::checked_sub(room, line.len()) else { break };
        room = left;
        tail.insert(0, line);
    }
    if tail.is_empty() { first.to_owned() } else { format!("{first} [...] {}", tail.join("; ")) }
}
