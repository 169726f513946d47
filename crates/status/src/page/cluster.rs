//! The whole cluster: its nodes, and the tree of each object that is being pulled.

use maud::{Markup, html};

use super::table::Column::{Bar, Number, Text};
use super::table::{Row, Table};
use super::{fill, short, tree};
use crate::cluster::{Cluster, Flight, Member};
use crate::words;

pub fn cluster(cluster: &Cluster) -> Markup {
    let answered = cluster
        .nodes
        .iter()
        .filter(|node| node.error.is_none())
        .count();
    let sum = |of: fn(&Member) -> u64| cluster.nodes.iter().map(of).fold(0, u64::saturating_add);
    let (peers, upstream) = (sum(|node| node.peers), sum(|node| node.upstream));
    let pulled = peers.saturating_add(upstream);
    html! {
        div .summary {
            p .big role="status" {
                @if cluster.count == 1 { "One node, this one." }
                @else { (cluster.count) " nodes, " (answered) " answered." }
            }
            p {
                "Since their mirrors started: " b { (words::bytes(pulled)) } " pulled, "
                b { (words::bytes(upstream)) } " from upstream (" (words::percent(upstream, pulled)) ")."
            }
        }
        section aria-labelledby="flights" {
            h2 #flights { "Being pulled" }
            @if cluster.flights.is_empty() {
                p .none {
                    "Nothing that this node pulls too. What other nodes pull, they tell to this one only with --page-access anywhere."
                }
            }
            @for flight in &cluster.flights { (flight_row(flight)) }
        }
        section aria-labelledby="nodes" {
            h2 #nodes { "Nodes" }
            (nodes(&cluster.nodes))
        }
    }
}

fn flight_row(flight: &Flight) -> Markup {
    let size = flight.size.unwrap_or_default();
    let id = short(&flight.digest);
    html! {
        details .row #{ "flight-" (id) } open {
            summary {
                span .name {
                    @if let Some(image) = &flight.image { (image) " " }
                    code { (id) }
                }
                span .figures {
                    span { (words::bytes(size)) }
                    span { (flight.tree.len()) " nodes" }
                }
            }
            div .objects { (tree::tree(&flight.tree, size, id)) }
        }
    }
}

fn nodes(nodes: &[Member]) -> Markup {
    let fastest = nodes.iter().map(|node| node.rate).max().unwrap_or(0);
    let rows = nodes.iter().map(|node| Row {
        name: html! {
            (node.name)
            @if node.is_this_node { span .tag { "this node" } }
        },
        hint: Some(node.address.clone()),
        cells: match node.error {
            Some(_) => vec![state(node)],
            None => vec![
                state(node),
                html! {
                    @if node.pulling > 0 {
                        (fill(node.rate, fastest)) span { (node.pulling) ", " (words::rate(node.rate)) }
                    }
                },
                html! { (words::bytes(node.local)) },
                html! { (words::bytes(node.peers)) },
                html! { (words::bytes(node.upstream)) },
                html! { (node.version.as_deref().unwrap_or("–")) },
                html! { (words::seconds(node.uptime_s)) },
            ],
        },
    });
    let table = Table {
        heading: "nodes",
        is_boxed: true,
        columns: &[
            Text("Name"),
            Text("State"),
            Bar("Pulling"),
            Number("Here"),
            Number("Peers"),
            Number("Upstream"),
            Text("Version"),
            Number("Up for"),
        ],
    };
    table.of(&rows.collect::<Vec<_>>())
}

fn state(node: &Member) -> Markup {
    html! {
        @if let Some(error) = &node.error {
            span .bad { (error) }
        } @else if !node.is_ready {
            span .bad { "not ready" }
        } @else if node.is_slow {
            span .warn { "slow" }
        } @else {
            span .ok { "ok" }
        }
    }
}
