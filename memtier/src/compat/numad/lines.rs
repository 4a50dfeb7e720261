//! The log lines of numad that people grep for, without their time stamps. Of a text of several lines only the first gets one, as
//! the original's.

use super::manage::Bind;
use super::options::Order;
use super::table::Entry;
use super::{Node, Request, list, node_list};
use crate::vocab::NodeId;

/// What was measured: the host, then each node.
#[must_use]
pub fn seen(nodes: &[Node]) -> String {
    // An empty line sets rounds apart.
    let mut lines = vec![format!("\nNodes: {}", nodes.len())];
    lines.extend(spread("CPUs", nodes.iter().map(|n| n.cpus_free)));
    lines.extend(spread("MBs", nodes.iter().map(|n| n.mb_free)));
    lines.extend(nodes.iter().map(|node| {
        let Node { node, cpus_total, cpus_free, mb_total, mb_free, distances, cpus } = node;
        let distances: Vec<String> = distances.iter().map(ToString::to_string).collect();
        format!(
            "Node {}: MBs_total {mb_total}, MBs_free {mb_free:6}, CPUs_total {cpus_total}, CPUs_free {cpus_free:4},  Distance: {}  CPUs: {}",
            node.0,
            distances.join(" "),
            list(cpus.iter().map(|c| c.0))
        )
    }));
    lines.join("\n")
}

fn spread(what: &str, values: impl Iterator<Item = u64>) -> Option<String> {
    let values: Vec<u128> = values.map(u128::from).collect();
    let (count, least, most) = (values.len() as u128, values.iter().min()?, values.iter().max()?);
    let average = values.iter().sum::<u128>() / count;
    let squares = values.iter().map(|v| v.abs_diff(average).saturating_pow(2)).fold(0, u128::saturating_add);
    let deviation = general((squares as f64 / count as f64).sqrt());
    Some(format!("Min {what} free: {least}, Max {what}: {most}, Avg {what}: {average}, StdDev: {deviation}"))
}

/// As C prints a number that is no less than nought with %g.
fn general(number: f64) -> String {
    let trimmed =
        |text: &str| if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() };
    let scientific = format!("{number:.5e}");
    match scientific.split_once('e').and_then(|(digits, power)| Some((digits, power.parse::<i32>().ok()?))) {
        Some((_, power @ -4..6)) => trimmed(&format!("{number:.*}", (5 - power).unsigned_abs() as usize)),
        Some((digits, power)) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", trimmed(digits), power.unsigned_abs())
        }
        None => scientific,
    }
}

/// `pid` is -1 for advice.
#[must_use]
pub fn asked(pid: i64, Request { cpus, mb }: Request) -> String {
    format!("PICK NODES FOR:  PID: {pid},  CPUs {cpus},  MBs {mb}")
}

/// What does not run yet comes from everywhere.
#[must_use]
pub fn advised(nodes: &[Node], to: &[NodeId]) -> String {
    let from: Vec<NodeId> = nodes.iter().map(|n| n.node).collect();
    format!("Advising pid -1 (unknown) move from nodes ({}) to nodes ({})", node_list(&from), node_list(to))
}

pub(super) fn advised_process(entry: &Entry, to: &[NodeId]) -> String {
    let (pid, comm, from) = (entry.seen.pid, &entry.seen.comm, node_list(&entry.nodes));
    format!("Advising pid {pid} ({comm}) move from nodes ({from}) to nodes ({})", node_list(to))
}

/// Hangs below `Candidates: n`; `at` in hundredths.
pub(super) fn candidate(at: i64, entry: &Entry) -> String {
    let Entry { seen, cpus_used, nodes, .. } = entry;
    format!(
        "{at}: PID {}: ({}), Threads {:2}, MBs_size {:6}, MBs_used {:6}, CPUs_used {cpus_used:4}, Magnitude {:6}, Nodes: {}",
        seen.pid,
        seen.comm,
        seen.threads,
        seen.mb_size,
        seen.mb_used,
        entry.magnitude(),
        node_list(nodes)
    )
}

pub(super) fn moved(bind: &Bind, hundredths: i64) -> String {
    let Bind { pid, nodes, .. } = bind;
    format!("PID {pid} moved to node(s) {} in {}.{:02} seconds", node_list(nodes), hundredths / 100, hundredths % 100)
}

/// What the log says of an order that is heeded. The scan of huge pages tells itself, when it is changed.
#[must_use]
pub fn heeded(order: Order) -> Option<String> {
    Some(match order {
        Order::CacheIsFree(true) => "Counting inactive file cache as available".to_owned(),
        Order::CacheIsFree(false) => "Counting inactive file cache as unavailable".to_owned(),
        Order::ThpSleep(_) => return None,
        Order::Interval(interval) => format!("Changing interval to {}:{}", interval.min, interval.max),
        Order::KeepInterleaved(true) => "Keeping interleaved memory spread across nodes".to_owned(),
        Order::KeepInterleaved(false) => "Merging interleaved memory to localized NUMA nodes".to_owned(),
        Order::Level(level) => format!("Changing log level to {level}"),
        Order::Locality(percent) => format!("Changing target memory locality to {percent}"),
        Order::Include(pid) => format!("Adding PID {pid} to inclusion PID list"),
        Order::Exclude(pid) => format!("Adding PID {pid} to exclusion PID list"),
        Order::Remove(pid) => format!("Removing PID {pid} from explicit PID lists"),
        Order::ScanAll(true) => "Scanning all processes".to_owned(),
        Order::ScanAll(false) => "Scanning only explicit PID list processes".to_owned(),
        Order::Smt(percent) => format!("Changing logical CPU thread percent to {percent}"),
        Order::Utilization(percent) => format!("Changing target utilization to {percent}"),
        Order::Advise(Request { cpus, mb }) => format!("Getting NUMA pre-placement advice for {cpus} CPUs and {mb} MBs"),
    })
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
            seen(&nodes).lines().collect::<Vec<_>>(),
            [
                "",
                "Nodes: 2",
                "Min CPUs free: 50, Max CPUs: 150, Avg CPUs: 100, StdDev: 50",
                "Min MBs free: 1000, Max MBs: 2001, Avg MBs: 1500, StdDev: 500.5",
                "Node 0: MBs_total 4096, MBs_free   1000, CPUs_total 200, CPUs_free   50,  Distance: 10 21  CPUs: 0,2",
                "Node 2: MBs_total 4096, MBs_free   2001, CPUs_total 200, CPUs_free  150,  Distance: 21 10  CPUs: 0,2",
            ]
        );
        assert_eq!(seen(&[]), "\nNodes: 0");
        let request = Request { cpus: 100, mb: 10 };
        assert_eq!(asked(-1, request), "PICK NODES FOR:  PID: -1,  CPUs 100,  MBs 10");
        let choice = choose(&nodes, request, Mode::Repaired).expect("a node");
        assert_eq!(advised(&nodes, &choice.nodes), "Advising pid -1 (unknown) move from nodes (0,2) to nodes (2)");
    }

    /// Three of them are in a log of the original.
    #[test]
    fn numbers_as_c_prints_them() {
        for (number, text) in [
            (210.5f64.sqrt(), "14.5086"),
            (0.5f64.sqrt(), "0.707107"),
            (49.0, "49"),
            (0.0, "0"),
            (123_456.7, "123457"),
            (999_999.7, "1e+06"),
            (12_345_678.0, "1.23457e+07"),
        ] {
            assert_eq!(general(number), text);
        }
    }
}
