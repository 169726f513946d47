//! The whole cluster: its nodes, and the tree of each object that is being pulled.

use maud::{Markup, html};

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
        div .summary role="status" {
            p .big {
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
    html! {
        div .scroll .box tabindex="0" role="region" aria-label="Nodes" {
            table {
                thead {
                    tr {
                        th scope="col" { "Name" }
                        th scope="col" { "State" }
                        th scope="col" { "Pulling" }
                        th scope="col" .number { "Here" }
                        th scope="col" .number { "Peers" }
                        th scope="col" .number { "Upstream" }
                        th scope="col" { "Version" }
                        th scope="col" .number { "Up for" }
                    }
                }
                tbody {
                    @for node in nodes {
                        tr {
                            th scope="row" title=(node.address) {
                                (node.name)
                                @if node.is_this_node { span .tag { "this node" } }
                            }
                            td { (state(node)) }
                            @if node.error.is_some() {
                                td colspan="4" {}
                            } @else {
                                td .bar {
                                    @if node.pulling > 0 {
                                        (fill(node.rate, fastest))
                                        span { (node.pulling) ", " (words::rate(node.rate)) }
                                    }
                                }
                                td .number { (words::bytes(node.local)) }
                                td .number { (words::bytes(node.peers)) }
                                td .number { (words::bytes(node.upstream)) }
                            }
                            td { (node.version.as_deref().unwrap_or("–")) }
                            td .number { @if node.error.is_none() { (words::seconds(node.uptime)) } }
                        }
                    }
                }
            }
        }
    }
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
