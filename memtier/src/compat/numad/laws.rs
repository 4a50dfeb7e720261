//! What holds of every answer, whatever the host and the request.

use super::{Choice, Mode, Node, Request, Taken, Why, Wish, choose};
use crate::vocab::{CpuId, NodeId};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::collections::BTreeSet;

const MODES: [Mode; 2] = [Mode::Repaired, Mode::Compat];

prop_compose! {
    /// Of any size, CPU-less and full ones among them; the free parts may even be more than there is.
    fn node()(cpus in 0..65u32, mb_total in prop_oneof![Just(0), 1..4096u64, 1..1u64 << 20], busy in 0..=1000u64, full in 0..=1000u64,
              distances in vec(0..60u16, 0..9)) -> Node {
        let cpus_total = u64::from(cpus) * 100;
        Node { node: NodeId(0), cpus_total, cpus_free: cpus_total * busy / 900, mb_total, mb_free: mb_total * full / 900, distances,
               cpus: (0..cpus).map(CpuId).collect() }
    }
}

fn host() -> impl Strategy<Value = Vec<Node>> {
    (vec(node(), 1..9), btree_set(0..2000u16, 9)).prop_map(|(mut nodes, numbers)| {
        nodes.iter_mut().zip(numbers).for_each(|(node, number)| node.node = NodeId(number));
        nodes
    })
}

/// All of one size, none full: where the repairs have nothing to repair.
fn even_host() -> impl Strategy<Value = Vec<Node>> {
    let size = (1..65u32, 200..1u64 << 20);
    (size, vec((1..=1000u64, 0..=1000u64, vec(10..60u16, 8)), 1..9)).prop_map(|((cpus, mb_total), nodes)| {
        let node = |(at, (idle, free, distances)): (u16, (u64, u64, Vec<u16>))| {
            let cpus_total = u64::from(cpus) * 100;
            let (cpus_free, mb_free) = ((cpus_total * idle / 1000).max(1), 101 + (mb_total - 101) * free / 1000);
            let cpus = (0..cpus).map(CpuId).collect();
            Node { node: NodeId(at), cpus_total, cpus_free, mb_total, mb_free, distances, cpus }
        };
        (0..).zip(nodes).map(node).collect()
    })
}

prop_compose! {
    fn request()(cpus in prop_oneof![Just(0), 0..3000u64, 0..100_000u64], mb in prop_oneof![Just(0), 0..8192u64, 0..1u64 << 22]) -> Request {
        Request { cpus, mb }
    }
}

/// What a chosen node could give, by a reckoning of our own.
fn gives(node: &Node, assumed: bool) -> Request {
    let cpus = if assumed { node.cpus_total } else { node.cpus_free.min(node.cpus_total) };
    Request { cpus, mb: node.mb_free.min(node.mb_total).saturating_sub(100) }
}

fn sum<'a>(nodes: impl Iterator<Item = &'a Node>, assumed: bool) -> Request {
    nodes.map(|n| gives(n, assumed)).fold(Request::default(), |sum, one| Request { cpus: sum.cpus + one.cpus, mb: sum.mb + one.mb })
}

fn chosen<'a>(nodes: &'a [Node], choice: &'a Choice) -> impl Iterator<Item = &'a Node> {
    nodes.iter().filter(|n| choice.nodes.contains(&n.node))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn an_answer_is_ascending_known_and_never_empty(nodes in host(), request in request()) {
        for mode in MODES {
            let Ok(choice) = choose(&nodes, request, mode) else {
                prop_assert!(mode == Mode::Repaired && nodes.iter().all(|n| n.cpus.is_empty()));
                continue;
            };
            prop_assert!(!choice.nodes.is_empty());
            prop_assert!(choice.nodes.is_sorted_by(|a, b| a < b), "{:?}", choice.nodes);
            prop_assert!(choice.nodes.iter().all(|n| nodes.iter().any(|known| known.node == *n)));
            let taken: BTreeSet<NodeId> = choice.taken.iter().map(|t| t.node).collect();
            prop_assert!(choice.nodes.iter().eq(taken.iter()) && taken.len() == choice.taken.len());
        }
    }

    #[test]
    fn any_numbers_are_reckoned_with(cpus_total: u64, cpus_free: u64, mb_total: u64, mb_free: u64, cpus: u64, mb: u64, lists in vec(0..2u32, 1..5),
                                  slack_percent in 0..101u64) {
        let node = |(at, cpus): (u16, &u32)| Node { node: NodeId(at), cpus_total, cpus_free, mb_total, mb_free, distances: vec![],
            cpus: (0..*cpus).map(CpuId).collect() };
        let nodes: Vec<Node> = (0..).zip(&lists).map(node).collect();
        for mode in MODES {
            let _ = choose(&nodes, Wish { request: Request { cpus, mb }, assume_enough_cpus: false, slack_percent }, mode);
        }
        let _ = super::seen(&nodes);
    }

    #[test]
    fn something_of_the_answer_can_run(nodes in host(), request in request()) {
        if let Ok(choice) = choose(&nodes, request, Mode::Repaired) {
            prop_assert!(chosen(&nodes, &choice).any(|n| !n.cpus.is_empty()));
            let somewhere = nodes.iter().any(|n| !n.cpus.is_empty() && n.mb_total > 0);
            prop_assert!(!somewhere || chosen(&nodes, &choice).any(|n| n.mb_total > 0));
            let centre = nodes.iter().find(|n| n.node == choice.centre).expect("known");
            prop_assert!(!centre.cpus.is_empty());
        }
    }

    /// Memory of nodes without CPUs is the last resort: the others have none left beside it.
    #[test]
    fn cpu_less_nodes_come_last(nodes in host(), request in request()) {
        let Ok(choice) = choose(&nodes, request, Mode::Repaired) else { return Ok(()) };
        if chosen(&nodes, &choice).any(|n| n.cpus.is_empty()) {
            let with_cpus = sum(nodes.iter().filter(|n| !n.cpus.is_empty()), choice.assumed_enough_cpus);
            prop_assert!(with_cpus.mb < request.mb, "{with_cpus:?}");
        }
    }

    /// The request is met, or all that could help is in; and what is said to be lacking is lacking.
    #[test]
    fn enough_or_everything(nodes in host(), request in request()) {
        let Ok(choice) = choose(&nodes, request, Mode::Repaired) else { return Ok(()) };
        let assumed = choice.assumed_enough_cpus;
        let given = sum(chosen(&nodes, &choice), assumed);
        let lacking = Request { cpus: request.cpus.saturating_sub(given.cpus), mb: request.mb.saturating_sub(given.mb) };
        prop_assert_eq!(choice.lacking, lacking);
        let others = sum(nodes.iter().filter(|n| !choice.nodes.contains(&n.node)), assumed);
        prop_assert!(lacking.mb == 0 || others.mb == 0, "{others:?}");
        prop_assert!(lacking.cpus == 0 || others.cpus == 0, "{others:?}");
    }

    /// Without the last node something would be lacking.
    #[test]
    fn no_node_too_many(nodes in host(), request in request()) {
        let Ok(choice) = choose(&nodes, request, Mode::Repaired) else { return Ok(()) };
        let Some((Taken { node: last, .. }, others @ [_, ..])) = choice.taken.split_last() else { return Ok(()) };
        let others = || nodes.iter().filter(|n| others.iter().any(|t| t.node == n.node));
        let without = sum(others(), choice.assumed_enough_cpus);
        let runs = others().any(|n| !n.cpus.is_empty()) && others().any(|n| n.mb_total > 0);
        prop_assert!(without.cpus < request.cpus || without.mb < request.mb || !runs, "{last} is too many");
    }

    /// From the same centre, more memory and CPUs take the same nodes and perhaps more.
    #[test]
    fn more_asked_for_is_not_fewer_nodes_from_one_centre(nodes in host(), request in request(), more in request()) {
        let larger = Request { cpus: request.cpus + more.cpus, mb: request.mb + more.mb };
        let (Ok(one), Ok(two)) = (choose(&nodes, request, Mode::Repaired), choose(&nodes, larger, Mode::Repaired)) else { return Ok(()) };
        // Ties of distance are broken by magnitudes, which change with the request.
        let centre = nodes.iter().find(|n| n.node == one.centre).expect("known");
        let distances: BTreeSet<u16> = centre.distances.iter().copied().take(nodes.len()).filter(|d| *d > 0).collect();
        let alike = one.centre == two.centre && one.assumed_enough_cpus == two.assumed_enough_cpus;
        // One that is only there so that something can run gives nothing, and others may do that too.
        let alike = alike && one.taken.iter().all(|t| !matches!(t.why, Why::Runs | Why::Nothing));
        if distances.len() < nodes.len() || !alike {
            return Ok(());
        }
        prop_assert!(one.nodes.iter().all(|n| two.nodes.contains(n)), "{:?} {:?}", one.nodes, two.nodes);
    }

    /// More room on a node never makes it less attractive.
    #[test]
    fn what_is_free_only_attracts(one in node(), request in request(), cpus in 0..1000u64, mb in 0..100_000u64) {
        let score = |node: &Node| choose(std::slice::from_ref(node), request, Mode::Compat).expect("a node").scores[0].magnitude;
        let freer = Node { cpus_free: one.cpus_free + cpus, mb_free: one.mb_free + mb, ..one.clone() };
        prop_assert!(score(&freer) >= score(&one));
    }

    #[test]
    fn on_even_hosts_nothing_was_repaired(nodes in even_host(), request in request(), assume_enough_cpus: bool, slack_percent in 0..91u64) {
        let wish = Wish { request, assume_enough_cpus, slack_percent };
        let answer = |mode| choose(&nodes, wish, mode).expect("CPUs everywhere").nodes;
        prop_assert_eq!(answer(Mode::Repaired), answer(Mode::Compat));
    }
}
