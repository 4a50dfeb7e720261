//! Which node's memory goes to which node when a process is bound.

use super::Spread;
use crate::vocab::NodeId;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// One call of migrate_pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub from: NodeId,
    pub to: NodeId,
}

/// From the node that holds most to the target that holds least, as if each call moved everything, until nothing is left
/// outside; of equals the higher number. The original looks for its next source until the same one comes up twice, which as
/// reckoned here can only be when nothing is left. With every node a target it reads before its array; here that is no move.
#[must_use]
pub fn moves(spread: &Spread, targets: &[NodeId]) -> Vec<Move> {
    let mut mb = spread.mb.clone();
    let mut targets: BTreeMap<NodeId, u64> = targets.iter().map(|target| (*target, mb.remove(target).unwrap_or(0))).collect();
    let mut moves = Vec::new();
    while let Some((&from, &most)) = mb.iter().max_by_key(|(node, mb)| (**mb, **node)) {
        let Some((&to, least)) = targets.iter_mut().min_by_key(|(node, mb)| (**mb, Reverse(**node))) else { break };
        mb.remove(&from);
        *least += most;
        moves.push(Move { from, to });
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(mb: &[(u16, u64)], targets: &[u16]) -> Vec<(u16, u16)> {
        let spread = Spread { mb: mb.iter().map(|&(node, mb)| (NodeId(node), mb)).collect(), interleaved: false };
        let targets: Vec<NodeId> = targets.iter().map(|n| NodeId(*n)).collect();
        moves(&spread, &targets).into_iter().map(|m| (m.from.0, m.to.0)).collect()
    }

    #[test]
    fn most_goes_to_least() {
        assert_eq!(told(&[(0, 100), (1, 200)], &[1]), [(0, 1)]);
        assert_eq!(told(&[(0, 100), (1, 200), (2, 300)], &[0]), [(2, 0), (1, 0)]);
        // 300 to the empty node 3; then node 2 holds least.
        assert_eq!(told(&[(0, 300), (1, 200), (2, 50)], &[2, 3]), [(0, 3), (1, 2)]);
        // Equals: the higher number, on both sides.
        assert_eq!(told(&[(0, 100), (1, 100)], &[2, 3]), [(1, 3), (0, 2)]);
        assert_eq!(told(&[(0, 100), (70, 1)], &[0, 70]), []);
        assert_eq!(told(&[], &[0]), []);
        assert_eq!(told(&[(0, 100)], &[]), []);
    }
}
