//! numad's placement advice on made-up hosts: the original's answers, and where ours differ and why.

use memtier::compat::numad::{Choice, Mode, Request, Unplaceable, Why, choose, node_list};
use memtier::vocab::NodeId;
use memtier_tests::numad::{A, B, C, Host, TWO, answer, chosen, unequal};

#[test]
fn the_originals_answers() {
    assert_eq!(unequal(Mode::Compat), [""; 0]);
}

/// On the uneven E too: the small node is either large enough or must be helped by the only node with CPUs to spare.
/// What an uneven host does change is in `nodes_of_their_own_size`.
#[test]
fn the_repaired_answers_to_the_same() {
    assert_eq!(unequal(Mode::Repaired), [""; 0]);
}

#[track_caller]
fn differ(host: &Host, request: &str, compat: &str, repaired: &str) {
    assert_eq!(answer(host, request, Mode::Compat), compat, "{request} by the original");
    assert_eq!(answer(host, request, Mode::Repaired), repaired, "{request} repaired");
}

/// E with CPUs to spare on the large node.
const IDLE_E: Host = Host { nodes: &[(8, 16384, 12000, 800), (8, 65536, 60000, 800)], distances: TWO };
const IDLE_E_TURNED: Host = Host { nodes: &[(8, 65536, 60000, 800), (8, 16384, 12000, 800)], distances: TWO };

#[test]
fn nodes_of_their_own_size() {
    // More than the first node has: the original thinks that no node has more.
    differ(&IDLE_E, "2:20000", "0-1", "1");
    differ(&IDLE_E, "2:59900", "0-1", "1");
    // The other way round both see that one will do.
    differ(&IDLE_E_TURNED, "2:20000", "0", "0");
    // Four CPUs and twelve. Eight are more than the first has, and busy or not, one node is enough for them.
    let uneven = Host { nodes: &[(4, 32768, 30000, 400), (12, 32768, 30000, 1200)], distances: TWO };
    differ(&uneven, "8:1000", "0-1", "1");
    // The small node has so many idle CPUs that it scores best, but one like it does not suffice.
    let many_cpus = Host { nodes: &[(32, 32768, 30000, 3200), (8, 65536, 60000, 800)], distances: TWO };
    differ(&many_cpus, "4:40000", "0-1", "1");
}

#[test]
fn less_than_the_reserve_is_nothing_not_less_than_nothing() {
    // 40 MiB free: when all is found, the original looks for 60 more, on a third node.
    let nodes = &[(8, 4096, 40, 800), (8, 4096, 1200, 100), (8, 4096, 1200, 50)];
    let full = Host { nodes, distances: &[&[10, 15, 20], &[15, 10, 20], &[20, 20, 10]] };
    differ(&full, "8.5:1080", "0-2", "0-1");
    // Memory alone is asked for: the full node is no part of the answer.
    let full = Host { nodes: &[(8, 4096, 90, 800), (8, 4096, 4000, 0)], distances: TWO };
    differ(&full, "0:200", "0-1", "1");
    differ(&full, "1:200", "0-1", "0-1");
}

/// Node 2 has no CPUs, and much memory near node 0.
const CXL: Host = Host {
    nodes: &[(8, 16384, 9000, 700), (8, 16384, 8000, 800), (0, 131_072, 130_000, 0)],
    distances: &[&[10, 20, 14], &[20, 10, 24], &[14, 24, 10]],
};

#[test]
fn a_node_without_cpus_only_lends_memory() {
    // Where all CPUs are busy, the original sees memory only.
    let busy = Host { nodes: &[(8, 16384, 9000, 0), (8, 16384, 8000, 0), (0, 131_072, 130_000, 0)], ..CXL };
    differ(&busy, "0:5000", "2", "0");
    // It is nearer than node 1, and not needed.
    differ(&CXL, "2:12000", "0,2", "0-1");
    // It is needed.
    differ(&CXL, "2:40000", "0-2", "0-2");
    // Nor does it help where CPUs are lacking.
    let nodes = &[(8, 16384, 9000, 800), (8, 16384, 8000, 300), (0, 131_072, 130_000, 0)];
    differ(&Host { nodes, ..CXL }, "11:10", "0-2", "0-1");
    let lone = Host { nodes: &[(0, 4096, 4000, 0), (4, 4096, 50, 0)], distances: TWO };
    differ(&lone, "0:1000", "0", "0-1");
    let choice = chosen(&lone.nodes(), "0:1000", Mode::Repaired);
    assert_eq!(choice.taken.iter().map(|t| t.why).collect::<Vec<_>>(), [Why::Memory, Why::Runs]);
    assert_eq!(choice.centre, NodeId(1));
}

#[test]
fn hosts_on_which_nothing_runs() {
    assert_eq!(choose(&[], Request::default(), Mode::Repaired), Err(Unplaceable::NoNodes));
    assert_eq!(choose(&[], Request::default(), Mode::Compat), Err(Unplaceable::NoNodes));
    let memory = Host { nodes: &[(0, 4096, 4000, 0)], distances: &[&[10]] };
    let asked = Request { cpus: 100, mb: 10 };
    assert_eq!(choose(&memory.nodes(), asked, Mode::Repaired), Err(Unplaceable::NoCpus));
    // The original's empty set of CPUs.
    assert_eq!(answer(&memory, "1:10", Mode::Compat), "0");
    // CPUs without memory do run.
    let cpus = Host { nodes: &[(4, 0, 0, 400)], distances: &[&[10]] };
    assert_eq!(answer(&cpus, "1:10", Mode::Repaired), "0");
    // Given the choice, there is memory in the answer.
    let mixed = Host { nodes: &[(4, 0, 0, 400), (4, 4096, 4000, 100)], distances: TWO };
    assert_eq!(answer(&mixed, "0:0", Mode::Repaired), "1");
    assert_eq!(answer(&mixed, "1:0", Mode::Repaired), "1");
    assert_eq!(answer(&mixed, "4:0", Mode::Repaired), "0-1");
    let busy = Host { nodes: &[(4, 0, 0, 400), (4, 4096, 4000, 0)], distances: TWO };
    assert_eq!(answer(&busy, "1:0", Mode::Repaired), "0-1");
}

#[test]
fn sparse_and_large_node_numbers() {
    let mut nodes = C.nodes();
    for (node, number) in nodes.iter_mut().zip([1, 31, 64, 300]) {
        node.node = NodeId(number);
    }
    for mode in [Mode::Compat, Mode::Repaired] {
        assert_eq!(node_list(&chosen(&nodes, "1:2048", mode).nodes), "300");
        assert_eq!(node_list(&chosen(&nodes, "12:70000", mode).nodes), "64,300");
        assert_eq!(node_list(&chosen(&nodes, "32:10", mode).nodes), "1,31,64,300");
    }
}

/// Without distances all others are equally far.
#[test]
fn distances_that_nobody_told() {
    let untold = Host { distances: &[], ..C };
    assert_eq!(answer(&untold, "1:2048", Mode::Repaired), "3");
    assert_eq!(answer(&untold, "12:70000", Mode::Repaired), "2-3");
    let nought = Host { distances: &[&[0, 0], &[0, 0]], ..B };
    let choice = chosen(&nought.nodes(), "17:100", Mode::Repaired);
    assert_eq!(choice.taken.iter().map(|t| t.distance).collect::<Vec<_>>(), [10, 20]);
}

#[test]
fn the_answer_says_how_it_came_about() {
    let Choice { nodes, centre, scores, scored_over, taken, assumed_enough_cpus, lacking } =
        chosen(&A.nodes(), "17:100", Mode::Repaired);
    assert_eq!((nodes.len(), centre, scores.len(), scored_over), (2, NodeId(0), 2, 2));
    let seen: Vec<(u16, u64, u64, Why)> = taken.iter().map(|t| (t.distance, t.lacked.cpus, t.lacked.mb, t.why)).collect();
    assert_eq!(seen, [(10, 1700, 100, Why::MemoryAndCpus), (20, 200, 0, Why::Cpus)]);
    assert_eq!((assumed_enough_cpus, lacking), (false, Request::default()));
    // More than there is: all that can give, and how much is lacking.
    let choice = chosen(&A.nodes(), "40:60000", Mode::Repaired);
    assert!(choice.assumed_enough_cpus);
    assert_eq!((choice.nodes.len(), choice.lacking), (2, Request { cpus: 800, mb: 10_200 }));
}
