//! Hosts made up for numad's placement advice, and what the original answered on them.

use memtier::compat::numad::{Choice, Mode, Node, Request, choose, node_list};
use memtier::vocab::{CpuId, NodeId};

/// `(CPUs, MB total, MB free, CPUs free in hundredths)` by node, each node's distances, then request and answer.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub nodes: &'static [(u32, u64, u64, u64)],
    pub distances: &'static [&'static [u16]],
}

pub const TWO: &[&[u16]] = &[&[10, 20], &[20, 10]];
pub const A: Host = Host { nodes: &[(16, 32768, 20000, 1500), (16, 32768, 30000, 400)], distances: TWO };
pub const B: Host = Host { nodes: &[(16, 32768, 20000, 1600), (16, 32768, 20000, 1600)], distances: TWO };
pub const C: Host = Host {
    nodes: &[(8, 65536, 10000, 800), (8, 65536, 60000, 200), (8, 65536, 30000, 700), (8, 65536, 60000, 750)],
    distances: &[&[10, 16, 22, 22], &[16, 10, 22, 22], &[22, 22, 10, 16], &[22, 22, 16, 10]],
};
pub const D: Host = Host {
    nodes: &[(8, 65536, 50000, 100), (8, 65536, 40000, 300), (8, 65536, 30000, 500), (8, 65536, 20000, 700)],
    distances: &[&[10, 20, 30, 20], &[20, 10, 20, 30], &[30, 20, 10, 20], &[20, 30, 20, 10]],
};
/// Uneven.
pub const E: Host = Host { nodes: &[(8, 16384, 12000, 800), (8, 65536, 60000, 0)], distances: TWO };

/// Host, request, the original's answer.
pub const VECTORS: &[(&Host, &str, &str)] = &[
    (&A, "1:1024", "0"),
    (&A, "8:8192", "0"),
    (&A, "16:40000", "0-1"),
    (&A, "0:0", "0"),
    (&A, "2:31000", "0-1"),
    (&A, "17:100", "0-1"),
    (&B, "4:4096", "0"),
    (&B, "0:0", "0"),
    (&C, "1:2048", "3"),
    (&C, "12:70000", "2-3"),
    (&C, "4:61000", "2-3"),
    (&C, "8:20000", "2-3"),
    (&C, "32:10", "0-3"),
    (&D, "0.5:500", "2"),
    (&D, "9:500", "2-3"),
    (&D, "0.50:90000", "0-3"),
    (&D, "6:45000", "2-3"),
    (&E, "2:4096", "0"),
    (&E, "2:20000", "0-1"),
    (&E, "2:50000", "0-1"),
];

impl Host {
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let mut first = 0;
        let node = |(at, &(cpus, mb_total, mb_free, cpus_free)): (usize, &(u32, u64, u64, u64))| {
            let own = first..first + cpus;
            first += cpus;
            Node {
                node: NodeId(u16::try_from(at).expect("few")),
                cpus_total: u64::from(cpus) * 100,
                cpus_free,
                mb_total,
                mb_free,
                distances: self.distances.get(at).map_or(Vec::new(), |d| d.to_vec()),
                cpus: own.map(CpuId).collect(),
            }
        };
        self.nodes.iter().enumerate().map(node).collect()
    }
}

/// Of a request as in `-w`.
#[must_use]
pub fn chosen(nodes: &[Node], request: &str, mode: Mode) -> Choice {
    choose(nodes, request.parse::<Request>().expect(request), mode).expect("a node")
}

#[must_use]
pub fn answer(host: &Host, request: &str, mode: Mode) -> String {
    node_list(&chosen(&host.nodes(), request, mode).nodes)
}

/// The vectors that are answered otherwise.
#[must_use]
pub fn unequal(mode: Mode) -> Vec<String> {
    let wrong = |(host, request, expected): &(&Host, &str, &str)| {
        let answer = answer(host, request, mode);
        (answer != *expected).then(|| format!("{request} on {host:?}: {answer} instead of {expected}"))
    };
    VECTORS.iter().filter_map(wrong).collect()
}
