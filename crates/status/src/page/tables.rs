//! The tables of peers and of the last pulls.

use maud::{Markup, html};

use super::fill;
use crate::{Finished, Peer, PeerState, words};

pub fn peers(peers: &[Peer]) -> Markup {
    if peers.is_empty() {
        return html! { p .none { "None yet." } };
    }
    let fastest = peers.iter().filter_map(|peer| peer.rate).max().unwrap_or(1);
    html! {
        div .scroll tabindex="0" role="region" aria-label="Peers" {
            table {
                thead {
                    tr {
                        th scope="col" { "Name" }
                        th scope="col" { "State" }
                        th scope="col" { "Rate" }
                        th scope="col" .number { "Received" }
                        th scope="col" .number { "Sent" }
                        th scope="col" { "Version" }
                        th scope="col" { "Last error" }
                    }
                }
                tbody {
                    @for peer in peers {
                        tr {
                            th scope="row" title=(peer.address) { (peer.name) }
                            td { (state(peer.state)) }
                            td .bar {
                                @if let Some(rate) = peer.rate {
                                    (fill(rate, fastest)) span { (words::rate(rate)) }
                                }
                            }
                            td .number { (words::bytes(peer.received)) }
                            td .number { (words::bytes(peer.sent)) }
                            td { (peer.version.as_deref().unwrap_or("–")) }
                            td {
                                @if let Some((error, ago)) = &peer.last_error {
                                    (error) ", " (words::seconds(*ago)) " ago"
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn state(state: PeerState) -> Markup {
    let class = match state {
        PeerState::Ok => "ok",
        PeerState::BackOff | PeerState::Suspected => "bad",
        PeerState::Legacy | PeerState::Gone => "dim",
    };
    html! { span .(class) { (words::state(state)) } }
}

pub fn finished(pulls: &[Finished]) -> Markup {
    if pulls.is_empty() {
        return html! { p .none { "None yet." } };
    }
    html! {
        div .scroll tabindex="0" role="region" aria-label="Last pulls" {
            table {
                thead {
                    tr {
                        th scope="col" { "Image" }
                        th scope="col" { "When" }
                        th scope="col" .number { "Took" }
                        th scope="col" .number { "Here" }
                        th scope="col" .number { "Peers" }
                        th scope="col" .number { "Upstream" }
                        th scope="col" { "Why from upstream" }
                    }
                }
                tbody {
                    @for pull in pulls {
                        tr {
                            th scope="row" { (pull.image) }
                            td { (words::seconds(pull.ago)) " ago" }
                            td .number { (words::milliseconds(pull.took)) }
                            td .number { (words::bytes(pull.local)) }
                            td .number { (words::bytes(pull.peers)) }
                            td .number { (words::bytes(pull.upstream)) }
                            td {
                                @for (reason, bytes) in &pull.reasons {
                                    div { (words::bytes(*bytes)) ": " (words::reason(reason)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
