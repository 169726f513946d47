//! The status page: its contents, and their order.

mod cluster;
mod content;
mod pulls;
mod table;
mod tables;
mod tree;
mod trials;

pub use tree::tree_rows;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use doctor::{Finding, Severity};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use crate::{Cluster, Content, Status, words};

/// The style of each page, with a class for each width of a bar. It is part of the page: a browser paints nothing
/// before it has the style, so this saves a second request.
static STYLE: LazyLock<String> = LazyLock::new(|| {
    let widths = (0..=100).map(|percent| format!(".w{percent}{{width:{percent}%}}"));
    include_str!("page/style.css").to_owned() + &widths.collect::<String>()
});
/// The script of each page. It is embedded in this program; nothing is loaded from elsewhere.
pub const SCRIPT: &str = include_str!("page/script.js");

/// The `Content-Security-Policy` of the pages: their own style, script, events and search, and nothing else.
pub static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'"
    )
});

/// The icon of the page, in the page itself.
const ICON: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#2a78d0"/><path d="M8 1v14" stroke="#fff" stroke-width="2"/></svg>"##;

/// A separate page that the others link to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Node,
    Cluster,
    Content,
}

impl View {
    const ALL: [(Self, &str, &str); 3] = [
        (Self::Node, ".", "This node"),
        (Self::Cluster, "cluster", "Cluster"),
        (Self::Content, "content", "Content"),
    ];
}

/// The page of this node.
pub fn page(status: &Status) -> String {
    frame(
        View::Node,
        &status.node.name,
        &status.node.version,
        Some("events"),
        &content(status),
    )
}

/// The page of the whole cluster.
pub fn cluster(cluster: &Cluster) -> String {
    let own = cluster.nodes.first();
    let name = own.map_or("", |own| own.name.as_str());
    let version = own
        .and_then(|own| own.version.as_deref())
        .unwrap_or_default();
    let inside = cluster::cluster(cluster);
    frame(
        View::Cluster,
        name,
        version,
        Some("cluster-events"),
        &inside,
    )
}

/// The page of this node's content.
pub fn stored(content: &Content) -> String {
    let inside = content::content(content);
    frame(
        View::Content,
        &content.node,
        &content.version,
        None,
        &inside,
    )
}

/// A whole page. `events`: where the browser receives changes.
fn frame(view: View, name: &str, version: &str, events: Option<&str>, inside: &Markup) -> String {
    let icon = format!("data:image/svg+xml;base64,{}", STANDARD.encode(ICON));
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (name) " – Peili" }
                link rel="icon" href=(icon);
                style { (PreEscaped(STYLE.as_str())) }
                @if events.is_some() {
                    script src=(asset("script.js", SCRIPT)) defer {}
                }
            }
            body data-events=[events] {
                a .skip href="#main" { "Skip to content" }
                header {
                    h1 { "Peili" }
                    p { (name) " · version " (version) }
                    p #live hidden { "live" }
                    nav aria-label="Views" {
                        @for (other, path, title) in View::ALL {
                            a href=(path) aria-current=[(other == view).then_some("page")] { (title) }
                        }
                        a href="metrics" { "Metrics" }
                    }
                }
                main #main { (inside) }
            }
        }
    };
    markup.into_string()
}

/// The changing part of the page: the inside of `main`.
pub fn content(status: &Status) -> Markup {
    html! {
        (summary(status))
        section aria-labelledby="pulls" {
            h2 #pulls { "Pulls now" }
            (pulls::pulls(&status.pulls))
        }
        @let told = first_fault(status).map(|finding| finding.code);
        @let others = status.findings.iter().filter(|finding| Some(finding.code) != told);
        @if others.clone().next().is_some() {
            section aria-labelledby="warnings" {
                h2 #warnings { "Warnings" }
                @for finding in others { (finding_row(finding)) }
            }
        }
        section aria-labelledby="peers" {
            h2 #peers { "Peers" }
            (tables::peers(&status.peers))
        }
        section aria-labelledby="finished" {
            h2 #finished { "Last pulls" }
            (tables::finished(&status.finished))
        }
        section aria-labelledby="trials" {
            h2 #trials { "Trial pulls" }
            (trials::trials(&status.trials))
        }
    }
}

/// A path that changes with its content, so that browsers may cache it.
pub fn asset(name: &str, text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    format!(
        "{name}?{:02x}{:02x}{:02x}{:02x}",
        hash[0], hash[1], hash[2], hash[3]
    )
}

/// The fault that is shown first, if there is one.
fn first_fault(status: &Status) -> Option<&Finding> {
    let is_fault = |finding: &&Finding| finding.severity == Severity::Fault;
    status.findings.iter().find(is_fault)
}

/// One sentence: that it works and what it saved, or what is wrong and how to fix it.
fn summary(status: &Status) -> Markup {
    let fault = first_fault(status);
    let class = match fault.is_some() || status.node.not_ready.is_some() {
        true => "fault",
        false => "well",
    };
    html! {
        div .summary .(class) {
            @if let Some(fault) = fault {
                p .big role="status" { "Not mirroring as it should: " (fault.text) }
                p { (fault.code) @if fault.remedy.is_some() { ". What to do:" } }
                @if let Some(remedy) = &fault.remedy { pre { (remedy) } }
            } @else if let Some(why) = &status.node.not_ready {
                p .big role="status" { "Not ready: " (why) }
            } @else {
                p .big role="status" { "Mirroring. " (words::count(status.peer_count, "peer")) "." }
            }
            (figures(status))
        }
    }
}

/// The bytes pulled, their sources, and the savings.
fn figures(status: &Status) -> Markup {
    let totals = &status.totals;
    html! {
        p {
            "In the last " (words::seconds(status.node.uptime_s)) ": "
            b { (words::bytes(totals.pulled())) } " pulled, "
            b { (words::bytes(totals.upstream)) } " from upstream ("
            (words::percent(totals.upstream, totals.pulled())) ")"
            @if let Some(saved) = totals.seconds_saved {
                ", " b { (words::seconds(saved)) } " saved"
            }
            ". " (words::bytes(totals.sent)) " sent to peers."
        }
    }
}

/// The fill of a row: how much of it is there.
fn fill(part: u64, whole: u64) -> Markup {
    let percent = u128::from(part.min(whole)) * 100 / u128::from(whole.max(1));
    html! {
        @if percent > 0 { i .fill .{ "w" (percent) } {} }
    }
}

/// The first characters of a digest, which distinguish it at a glance.
fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

fn finding_row(finding: &Finding) -> Markup {
    let class = match finding.severity {
        Severity::Fault => "fault",
        Severity::Warning => "warning",
        Severity::Unknown | Severity::Ok => "note",
    };
    html! {
        div .finding .(class) {
            p { b { (finding.code) } " " (finding.text) }
            @if let Some(remedy) = &finding.remedy { pre { (remedy) } }
        }
    }
}

/// The content of an event of `events`: the inside of `main`, in one line.
pub fn event(status: &Status) -> String {
    in_one_line(content(status))
}

/// The content of an event of `cluster-events`.
pub fn cluster_event(cluster: &Cluster) -> String {
    in_one_line(cluster::cluster(cluster))
}

fn in_one_line(markup: Markup) -> String {
    // A new line would end the field (HTML, "Server-sent events"). Outside of `pre` it has no meaning, and inside it is
    // written as a character reference.
    markup
        .into_string()
        .replace('\n', "&#10;")
        .replace('\r', "")
}

#[cfg(test)]
mod accessible;
#[cfg(test)]
pub(crate) mod tests;
