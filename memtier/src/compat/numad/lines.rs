//! The log lines of numad that people grep for, without their time stamps.

use super::{Choice, Node, Request, list, node_list};

/// What was measured: the host, then each node.
#[must_use]
pub fn seen(nodes: &[Node]) -> Vec<String> {
    let mut lines = vec![format!("Nodes: {}", nodes.len())];
    lines.extend(spread("CPUs", nodes.iter().map(|n| n.cpus_free)));
    lines.extend(spread("MBs", nodes.iter().map(|n| n.mb_free)));
    lines.extend(nodes.iter().map(|node| {
        let Node { node, cpus_total, cpus_free, mb_total, mb_free, distances, cpus } = node;
        let distances: Vec<String> = distances.iter().map(ToString::to_string).collect();
        format!(
            "Node {}: MBs_total {mb_total}, MBs_free {mb_free}, CPUs_total {cpus_total}, CPUs_free {cpus_free},  Distance: {}  CPUs: {}",
            node.0,
            distances.join(" "),
            list(cpus.iter().map(|c| c.0))
        )
    }));
    lines
}

fn spread(what: &str, values: impl Iterator<Item = u64>) -> Option<String> {
    let values: Vec<u128> = values.map(u128::from).collect();
    let (count, least, most) = (values.len() as u128, values.iter().min()?, values.iter().max()?);
    let average = values.iter().sum::<u128>() / count;
    let variance = values.iter().map(|v| v.abs_diff(average).saturating_pow(2)).fold(0, u128::saturating_add) / count;
    Some(format!("Min {what} free: {least}, Max {what}: {most}, Avg {what}: {average}, StdDev: {}", variance.isqrt()))
}

#[must_use]
pub fn asked(Request { cpus, mb }: Request) -> String {
    format!("PICK NODES FOR:  PID: -1,  CPUs {cpus},  MBs {mb}")
}

#[must_use]
pub fn advised(choice: &Choice) -> String {
    format!("Advising pid -1 (unknown) move from nodes () to nodes ({})", node_list(&choice.nodes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::numad::{Mode, choose};
    use crate::vocab::{CpuId, NodeId};

    #[test]
    fn lines() {
        let node = |number, cpus_free, mb_free, distances: [u16; 2]| Node {
            node: NodeId(number),
            cpus_total: 200,
            cpus_free,
            mb_total: 4096,
            mb_free,
            distances: distances.to_vec(),
            cpus: vec![CpuId(0), CpuId(2)],
        };
        let nodes = [node(0, 50, 1000, [10, 21]), node(2, 150, 2001, [21, 10])];
        assert_eq!(
            seen(&nodes),
            [
                "Nodes: 2",
                "Min CPUs free: 50, Max CPUs: 150, Avg CPUs: 100, StdDev: 50",
                "Min MBs free: 1000, Max MBs: 2001, Avg MBs: 1500, StdDev: 500",
                "Node 0: MBs_total 4096, MBs_free 1000, CPUs_total 200, CPUs_free 50,  Distance: 10 21  CPUs: 0,2",
                "Node 2: MBs_total 4096, MBs_free 2001, CPUs_total 200, CPUs_free 150,  Distance: 21 10  CPUs: 0,2",
            ]
        );
        assert_eq!(seen(&[]), ["Nodes: 0"]);
        let request = Request { cpus: 100, mb: 10 };
        assert_eq!(asked(request), "PICK NODES FOR:  PID: -1,  CPUs 100,  MBs 10");
        let choice = choose(&nodes, request, Mode::Repaired).expect("a node");
        assert_eq!(advised(&choice), "Advising pid -1 (unknown) move from nodes () to nodes (2)");
    }
}
