//! The tree of the nodes that pull an object: the leader, the followers of each node, and the progress of each.

use maud::{Markup, html};

use super::fill;
use crate::{TreeNode, TreeSource, words};

/// Deeper branches are shown at this depth: each row names its source.
const MAX_DEPTH: usize = 8;
/// The rows seen at a glance. Further nodes are folded, and scroll in a box of their own.
const AT_A_GLANCE: usize = 12;
/// The most rows shown. Further nodes are only counted.
const MAX_ROWS: usize = 500;

/// A row of the tree.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    node: usize,
    /// The number of nodes between the leader and this one.
    depth: usize,
}

/// The nodes in the order of the rows: each after its source, the one that is ahead first.
fn rows(nodes: &[TreeNode]) -> Vec<Row> {
    let mut children = vec![Vec::new(); nodes.len()];
    let mut roots = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        match node.source {
            TreeSource::Node(source) if source < nodes.len() && source != n => {
                children[source].push(n);
            }
            _ => roots.push(n),
        }
    }
    let ahead = |n: &usize| std::cmp::Reverse(nodes[*n].offset);
    // The leader comes before complete nodes, and both before waiting ones.
    let rank = |n: &usize| match nodes[*n].source {
        TreeSource::Registry => 0,
        TreeSource::Complete => 1,
        TreeSource::Node(_) | TreeSource::Waiting => 2,
    };
    roots.sort_by_key(|n| (rank(n), children[*n].is_empty(), ahead(n)));
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
        let below = children[node].iter().rev();
        stack.extend(below.map(|child| (*child, depth + 1)));
    }
    rows
}

/// The positions of the nodes in the order of the rows, and their depths.
pub fn tree_rows(nodes: &[TreeNode]) -> Vec<(usize, usize)> {
    rows(nodes)
        .iter()
        .map(|row| (row.node, row.depth))
        .collect()
}

/// Draws a tree, at the position `id` of the page.
pub fn tree(nodes: &[TreeNode], size: u64, id: &str) -> Markup {
    let rows = rows(nodes);
    let (first, rest) = rows.split_at(rows.len().min(AT_A_GLANCE));
    let more = rest.len().saturating_sub(MAX_ROWS);
    html! {
        ol .tree aria-label="The nodes that pull this, each behind its source" {
            @for row in first { (tree_row(nodes, row, size)) }
        }
        @if !rest.is_empty() {
            p .none { (summary(nodes, size)) }
            details .rest #{ "rest-" (id) } {
                summary { "The other " (rest.len()) " nodes" }
                ol .tree .box tabindex="0" aria-label="The other nodes" {
                    @for row in rest.iter().take(MAX_ROWS) { (tree_row(nodes, row, size)) }
                }
                @if more > 0 { p .none { "and " (more) " more nodes" } }
            }
        }
    }
}

fn tree_row(nodes: &[TreeNode], row: &Row, size: u64) -> Markup {
    let node = &nodes[row.node];
    html! {
        li .row .{ "depth-" (row.depth) } .this[node.is_this_node] {
            (fill(node.offset, size))
            span .name {
                (node.name)
                @match node.source {
                    TreeSource::Registry => span .tag { "from the registry" },
                    TreeSource::Complete => span .tag { "has it" },
                    TreeSource::Waiting => span .tag .quiet { "waits" },
                    TreeSource::Node(source) => {
                        @if let Some(source) = nodes.get(source) {
                            span .from { "from " (source.name) }
                        }
                    },
                }
                @if node.is_this_node { span .tag { "this node" } }
            }
            span .figures {
                span { (words::percent(node.offset, size)) }
                @if node.rate > 0 { span { (words::rate(node.rate)) } }
            }
        }
    }
}

/// A sentence on a tree that is too large to be seen at a glance.
fn summary(nodes: &[TreeNode], size: u64) -> String {
    let count = |holds: fn(&TreeNode) -> bool| nodes.iter().filter(|node| holds(node)).count();
    let leading = count(|node| node.source == TreeSource::Registry);
    let complete = nodes.iter().filter(|node| node.offset >= size).count();
    let last = nodes
        .iter()
        .filter(|node| node.offset < size)
        .min_by_key(|node| node.offset);
    let last = last.map(|node| {
        format!(
            ", {} is last at {}",
            node.name,
            words::percent(node.offset, size)
        )
    });
    format!(
        "{} nodes: {leading} pull from the registry, {complete} have all{}.",
        nodes.len(),
        last.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(source: TreeSource, offset: u64) -> TreeNode {
        TreeNode {
            source,
            offset,
            ..TreeNode::default()
        }
    }

    fn shown(nodes: &[TreeNode]) -> Vec<(usize, usize)> {
        tree_rows(nodes)
    }

    #[test]
    fn each_node_is_behind_its_source_and_who_leads_comes_first() {
        use TreeSource::{Complete, Node, Registry, Waiting};
        let tree = [
            node(Complete, 9),
            node(Node(4), 5),
            node(Node(4), 8),
            node(Node(2), 7),
            node(Registry, 8),
            node(Waiting, 0),
        ];
        assert_eq!(
            shown(&tree),
            [(4, 0), (2, 1), (3, 2), (1, 1), (0, 0), (5, 0)]
        );
    }

    /// Nodes report at different moments, so two may each name the other as its source.
    #[test]
    fn what_does_not_hang_together_is_left_out_and_nothing_hangs() {
        use TreeSource::{Node, Registry};
        let ring = [
            node(Node(1), 1),
            node(Node(0), 1),
            node(Registry, 2),
            node(Node(9), 1),
            node(Node(4), 1),
        ];
        assert_eq!(shown(&ring), [(2, 0), (3, 0), (4, 0)]);
    }

    #[test]
    fn of_a_thousand_nodes_some_are_seen_at_a_glance_and_some_are_folded_in() {
        let source = |n: usize| {
            n.checked_sub(1)
                .map_or(TreeSource::Registry, TreeSource::Node)
        };
        let nodes: Vec<_> = (0..1000_usize)
            .map(|n| node(source(n), 1000 - n as u64))
            .collect();
        let shown = tree(&nodes, 1000, "x").into_string();
        assert_eq!(shown.matches("<li").count(), AT_A_GLANCE + MAX_ROWS);
        let folded = shown.find("<details").expect("the rest is folded in");
        assert_eq!(shown[..folded].matches("<li").count(), AT_A_GLANCE);
        assert!(shown.contains("and 488 more nodes"), "{shown}");
        assert!(
            shown.contains("1000 nodes: 1 pull from the registry, 1 have all"),
            "{shown}"
        );
    }
}
