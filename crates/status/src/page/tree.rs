//! The tree of the nodes that pull an object: who leads, who streams from whom, how far each is.

use maud::{Markup, html};

use super::fill;
use crate::{TreeNode, words};

/// Deeper branches are shown at this depth: the order of the rows still tells who is behind whom.
const MAX_DEPTH: usize = 8;
/// More nodes are counted, not shown.
const MAX_ROWS: usize = 500;

/// A row of the tree.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    node: usize,
    /// Branches between the leader and this node. In a chain nothing branches, however long it is.
    depth: usize,
}

/// The nodes in the order in which they are shown: each behind its source, the one that is ahead first.
fn rows(nodes: &[TreeNode]) -> Vec<Row> {
    let mut children = vec![Vec::new(); nodes.len()];
    let mut roots = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        match node.source {
            Some(source) if source < nodes.len() && source != n => children[source].push(n),
            _ => roots.push(n),
        }
    }
    let ahead = |n: &usize| std::cmp::Reverse(nodes[*n].offset);
    roots.sort_by_key(ahead);
    for list in &mut children {
        list.sort_by_key(ahead);
    }
    let mut rows = Vec::new();
    let mut stack: Vec<_> = roots.into_iter().rev().map(|n| (n, 0)).collect();
    while let Some((node, depth)) = stack.pop() {
        rows.push(Row {
            node,
            depth: depth.min(MAX_DEPTH),
        });
        let branches = usize::from(children[node].len() > 1);
        let below = children[node].iter().rev();
        stack.extend(below.map(|child| (*child, depth + branches)));
    }
    rows
}

pub fn tree(nodes: &[TreeNode], size: u64) -> Markup {
    let rows = rows(nodes);
    let more = rows.len().saturating_sub(MAX_ROWS);
    html! {
        ol .tree aria-label="The nodes that pull this, each behind its source" {
            @for row in rows.iter().take(MAX_ROWS) {
                @let node = &nodes[row.node];
                li .row .{ "depth-" (row.depth) } .this[node.is_this_node] {
                    (fill(node.offset, size))
                    span .name {
                        (node.name)
                        @if node.source.is_none() { span .tag { "registry" } }
                        @if node.is_this_node { span .tag { "this node" } }
                    }
                    span .figures {
                        span { (words::percent(node.offset, size)) }
                        span { (words::rate(node.rate)) }
                    }
                }
            }
        }
        @if more > 0 { p .none { "and " (more) " more nodes" } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(source: Option<usize>, offset: u64) -> TreeNode {
        TreeNode {
            source,
            offset,
            ..TreeNode::default()
        }
    }

    fn shown(nodes: &[TreeNode]) -> Vec<(usize, usize)> {
        rows(nodes)
            .iter()
            .map(|row| (row.node, row.depth))
            .collect()
    }

    #[test]
    fn a_chain_is_flat_and_branches_are_indented() {
        let chain = [node(None, 9), node(Some(0), 8), node(Some(1), 7)];
        assert_eq!(shown(&chain), [(0, 0), (1, 0), (2, 0)]);
        let tree = [
            node(None, 9),
            node(Some(0), 5),
            node(Some(0), 8),
            node(Some(2), 7),
        ];
        assert_eq!(shown(&tree), [(0, 0), (2, 1), (3, 1), (1, 1)]);
    }

    /// Nodes report at different moments, so two may each name the other as its source.
    #[test]
    fn what_does_not_hang_together_is_left_out_and_nothing_hangs() {
        let ring = [
            node(Some(1), 1),
            node(Some(0), 1),
            node(None, 2),
            node(Some(9), 1),
            node(Some(4), 1),
        ];
        assert_eq!(shown(&ring), [(2, 0), (3, 0), (4, 0)]);
    }

    #[test]
    fn a_thousand_nodes_are_shown_in_part() {
        let nodes: Vec<_> = (0..1000_usize)
            .map(|n| node(n.checked_sub(1), 1000))
            .collect();
        let shown = tree(&nodes, 1000).into_string();
        assert_eq!(shown.matches("<li").count(), MAX_ROWS);
        assert!(shown.contains("and 500 more nodes"));
    }
}
