//! numad: which nodes a workload of so many CPUs and so much memory should get, and the loop that moves processes there.
//! docs/numad.md says what is kept of the original and what is repaired.
//!
//! Deliberately absent: I/O. The loop is told what lives, and asks a `Host` for the rest.

mod choice;
mod figures;
#[cfg(test)]
mod laws;
mod lines;
mod manage;
mod maps;
mod moves;
mod options;
mod request;
mod table;
mod tenant;

pub use choice::{Choice, Score, Taken, Unplaceable, Why, Wish, choose};
pub use figures::{Look, NodeReading, Settings, figures};
pub use lines::{advised, asked, heeded, seen};
pub use manage::{Bind, Binder, Bound, Host, Manager, Round, Sample};
pub use maps::{PageSizes, Spread};
pub use moves::{Move, moves};
pub use options::{Interval, Options, Order};
pub use request::{Request, Unparsable};
pub use table::Allowed;
pub use tenant::{Tenant, Ticks, vcpus};

use crate::vocab::{CpuId, NodeId};
use serde::{Deserialize, Serialize};

/// Whose arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The original's with its defects repaired.
    #[default]
    Repaired,
    /// The original's to the digit, for scripts that depend on it.
    Compat,
}

/// What a node has, in numad's units: hundredths of a CPU, and MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub node: NodeId,
    pub cpus_total: u64,
    pub cpus_free: u64,
    pub mb_total: u64,
    pub mb_free: u64,
    /// To each node of the host, itself included, in the order of their numbers. May be short: the kernel said no more.
    pub distances: Vec<u16>,
    /// Online and not reserved.
    pub cpus: Vec<CpuId>,
}

impl Node {
    /// Too little memory to speak of: numad leaves such nodes out of "all nodes".
    const fn has_memory(&self) -> bool {
        self.mb_total >= 1
    }
    const fn has_cpus(&self) -> bool {
        !self.cpus.is_empty()
    }
}

/// The answer to `-w`, and what it was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Advice {
    /// As numad prints them.
    pub nodes: String,
    pub request: Request,
    pub settings: Settings,
    pub sampled_ms: u64,
    pub figures: Vec<Node>,
    pub why: Choice,
}

impl Advice {
    /// On what was seen; each line of numad's log goes to `say`, with its level.
    pub fn on(look: &Look, request: Request, settings: &Settings, mut say: impl FnMut(i64, &str)) -> Result<Self, Unplaceable> {
        let figures = figures(look, settings);
        say(6, &seen(&figures));
        say(7, &asked(-1, request));
        let why = choose(&figures, request, settings.mode)?;
        say(5, &advised(&figures, &why.nodes));
        let (nodes, settings, sampled_ms) = (node_list(&why.nodes), settings.clone(), look.elapsed.as_millis());
        Ok(Self { nodes, request, settings, sampled_ms, figures, why })
    }
}

/// Ascending numbers the way numad and the kernel write them: `0,2-3`.
pub fn list(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown: Vec<String> =
        ranges.into_iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") }).collect();
    shown.join(",")
}

/// The same for nodes.
#[must_use]
pub fn node_list(nodes: &[NodeId]) -> String {
    list(nodes.iter().map(|n| u32::from(n.0)))
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn lists_are_written_as_ranges() {
        for (numbers, shown) in [
            (&[][..], ""),
            (&[0], "0"),
            (&[0, 1], "0-1"),
            (&[0, 2, 3], "0,2-3"),
            (&[1, 63, 64, 65, 300], "1,63-65,300"),
            (&[u32::MAX], "4294967295"),
        ] {
            assert_eq!(list(numbers.iter().copied()), shown);
        }
    }
}
