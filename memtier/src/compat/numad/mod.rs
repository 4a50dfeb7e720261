//! numad's placement advice: which nodes a workload of so many CPUs and so much memory should get. docs/numad.md says what
//! is kept of the original and what is repaired.
//!
//! Deliberately absent: processes. Only advice is given, for something that does not run yet.

mod choice;
mod figures;
#[cfg(test)]
mod laws;
mod lines;
mod request;

pub use choice::{Choice, Score, Taken, Unplaceable, Why, choose};
pub use figures::{Look, NodeReading, Settings, figures};
pub use lines::{advised, asked, seen};
pub use request::{Request, Unparsable};

use crate::vocab::{CpuId, NodeId};
use serde::Serialize;

/// Whose arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The original's with its defects repaired.
    #[default]
    Repaired,
    /// The original's to the digit, for scripts that depend on it.
    Compat,
}

/// What a node has, in numad's units: hundredths of a CPU, and MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
