//! The output: bars while nodes pull, if there is a terminal; lines if there is none; a closing table. Or JSON lines
//! for programs.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::Page;
use crate::client::Watch;
use crate::registry::RATE;
use crate::report::{Feeder, NodeReport, Report};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Text for people.
    Text,
    /// A JSON object on each line, with a field `event`: `started`, `pulled` for each node, `finished`.
    Json,
}

/// A node's bar; at the end its message shows the sources.
const BAR: &str = "{prefix} [{bar:30}] {decimal_bytes:>10} of {decimal_total_bytes} {msg}";

/// The plan that is shown first.
pub(crate) struct Introduction {
    pub(crate) nodes: usize,
    /// A description of the pulls, in a sentence.
    pub(crate) plan: &'static str,
    /// The name of a real image.
    pub(crate) image: Option<String>,
    /// The bytes and layers of a generated image.
    pub(crate) generated: Option<(u64, u64)>,
}

pub(crate) struct Screen<W> {
    output: Output,
    out: W,
    /// Hidden unless the output is text on a terminal.
    bars: MultiProgress,
}

impl<W: Write> Screen<W> {
    pub(crate) fn new(output: Output, out: W) -> Self {
        let target = if output == Output::Text && io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            output,
            out,
            bars: MultiProgress::with_draw_target(target),
        }
    }

    pub(crate) fn introduce(&mut self, introduction: &Introduction) -> io::Result<()> {
        let nodes = introduction.nodes;
        if self.output == Output::Json {
            let (size, layers) = introduction.generated.unzip();
            return self.line(&json!({
                "event": "started", "nodes": nodes, "image": introduction.image, "size": size, "layers": layers,
                "upstream_bytes_per_second": size.map(|_| RATE),
            }));
        }
        let image = introduction.image.as_deref();
        let what = image.unwrap_or("an image");
        writeln!(
            self.out,
            "{nodes} nodes on loopback pull {what}, each through a Peili of its own."
        )?;
        if let Some((size, layers)) = introduction.generated {
            writeln!(
                self.out,
                "It was generated: {} in {layers} layers. Its registry sends at most {} a second.",
                DecimalBytes(size),
                DecimalBytes(RATE)
            )?;
        }
        writeln!(self.out, "{}\n", introduction.plan)
    }

    /// Shows where the nodes can be watched.
    pub(crate) fn page(&mut self, page: &Page) -> io::Result<()> {
        if self.output == Output::Json {
            return self.line(&json!({"event": "page", "url": page.url, "open": page.is_open}));
        }
        let where_it_is = match page.is_open {
            true => "It is open in your browser.",
            false => "Open it in a browser to watch them.",
        };
        writeln!(self.out, "The page of node 1: {} {where_it_is}\n", page.url)
    }

    /// Shows that the nodes stay for a while.
    pub(crate) fn linger(&mut self, limit: Duration) -> io::Result<()> {
        if self.output == Output::Json {
            return Ok(());
        }
        let minutes = limit.as_secs() / 60;
        writeln!(
            self.out,
            "\nThe page stays for {minutes} minutes, or until Ctrl-C."
        )
    }

    /// The bar of a node.
    pub(crate) fn bar(&self, number: usize) -> Arc<Bar> {
        let style = ProgressStyle::with_template(BAR);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::no_length().with_style(style.progress_chars("=> "));
        let bar = bar.with_prefix(format!("node {number:<2}"));
        Arc::new(Bar(self.bars.add(bar)))
    }

    /// Shows that a node is done.
    pub(crate) fn pulled(&mut self, node: &NodeReport, bar: &Bar) -> io::Result<()> {
        if self.output == Output::Json {
            let feeder = |f: &Feeder| json!({"node": f.number, "bytes": f.bytes});
            let fed_by: Vec<Value> = node.fed_by.iter().map(feeder).collect();
            return self.line(&json!({
                "event": "pulled", "node": node.number, "digest": node.digest.as_str(),
                "seconds": node.took.as_secs_f64(), "bytes": node.bytes,
                "bytes_from_upstream": node.from_upstream, "bytes_from_peers": node.from_peers,
                "fed_by": fed_by,
            }));
        }
        let text = format!(
            "{:.1} s: {} from upstream, {} from peers",
            node.took.as_secs_f64(),
            DecimalBytes(node.from_upstream),
            DecimalBytes(node.from_peers)
        );
        if self.bars.is_hidden() {
            writeln!(self.out, "node {:<2} {text}", node.number)
        } else {
            bar.0.finish_with_message(text);
            Ok(())
        }
    }

    /// Shows the end.
    pub(crate) fn finish(&mut self, report: &Report, faults: &[String]) -> io::Result<()> {
        match self.output {
            Output::Json => self.line(&json!({
                "event": "finished", "ok": faults.is_empty(), "faults": faults,
                "seconds": report.took.as_secs_f64(), "bytes": report.copy(),
                "bytes_from_upstream": report.from_upstream(), "bytes_from_peers": report.from_peers(),
            })),
            Output::Text => {
                self.table(report)?;
                self.feeds(report)?;
                if faults.is_empty() {
                    self.verdict(report)?;
                }
                Ok(())
            }
        }
    }

    fn table(&mut self, report: &Report) -> io::Result<()> {
        writeln!(
            self.out,
            "\n{:<8}{:>9}{:>17}{:>15}",
            "", "seconds", "from upstream", "from peers"
        )?;
        let mut row = |name: &str, seconds: f64, upstream: u64, peers: u64| {
            let (upstream, peers) = (
                DecimalBytes(upstream).to_string(),
                DecimalBytes(peers).to_string(),
            );
            writeln!(self.out, "{name:<8}{seconds:>9.1}{upstream:>17}{peers:>15}")
        };
        for node in &report.nodes {
            let name = format!("node {}", node.number);
            let seconds = node.took.as_secs_f64();
            row(&name, seconds, node.from_upstream, node.from_peers)?;
        }
        let seconds = report.took.as_secs_f64();
        row("all", seconds, report.from_upstream(), report.from_peers())
    }

    /// Shows the sources of each node, except for tiny amounts.
    fn feeds(&mut self, report: &Report) -> io::Result<()> {
        writeln!(self.out, "\nWho fed whom:")?;
        for node in &report.nodes {
            let mut sources = Vec::new();
            if node.from_upstream > 0 {
                sources.push(format!("upstream ({})", DecimalBytes(node.from_upstream)));
            }
            for Feeder { number, bytes } in &node.fed_by {
                if sources.is_empty() || *bytes > node.metadata {
                    sources.push(format!("node {number} ({})", DecimalBytes(*bytes)));
                }
            }
            writeln!(self.out, "node {:<2} ← {}", node.number, sources.join(", "))?;
        }
        Ok(())
    }

    fn verdict(&mut self, report: &Report) -> io::Result<()> {
        let nodes = report.nodes.len();
        let copies = report.copy().saturating_mul(nodes as u64);
        write!(
            self.out,
            "\nEvery digest verified. Upstream sent the image once; without Peili it would have sent {}",
            DecimalBytes(copies)
        )?;
        match report.sent_by_upstream {
            Some(_) => writeln!(
                self.out,
                ", in {:.1} s at best.",
                copies as f64 / RATE as f64
            ),
            None => writeln!(self.out, "."),
        }
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        self.out.write_all(format!("{value}\n").as_bytes())
    }
}

/// A node's progress.
pub(crate) struct Bar(ProgressBar);

impl Watch for Bar {
    fn size(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn more(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

#[cfg(test)]
mod tests {
    use oci::Digest;

    use super::*;

    fn node(number: usize, from_upstream: u64, fed_by: &[(usize, u64)]) -> NodeReport {
        let feeder = |&(number, bytes): &(usize, u64)| Feeder { number, bytes };
        NodeReport {
            number,
            digest: Digest::sha256(b"image"),
            took: Duration::from_secs(1),
            bytes: 3_000_000,
            metadata: 2_000,
            from_upstream,
            from_peers: fed_by.iter().map(|(_, bytes)| bytes).sum(),
            fed_by: fed_by.iter().map(feeder).collect(),
        }
    }

    #[test]
    fn draws_who_fed_whom() {
        let report = Report {
            nodes: vec![
                node(1, 3_000_000, &[]),
                node(2, 0, &[(3, 1_998_000), (1, 1_000_000), (4, 2_000)]),
                node(3, 1_000, &[(1, 2_999_000)]),
                node(4, 0, &[(1, 2_000)]),
            ],
            took: Duration::from_secs(1),
            sent_by_upstream: None,
        };
        let mut screen = Screen::new(Output::Text, Vec::new());
        screen.finish(&report, &[]).expect("written");
        let text = String::from_utf8(screen.out).expect("text");
        let drawing = "Who fed whom:\n\
                       node 1  ← upstream (3.00 MB)\n\
                       node 2  ← node 3 (2.00 MB), node 1 (1.00 MB)\n\
                       node 3  ← upstream (1.00 kB), node 1 (3.00 MB)\n\
                       node 4  ← node 1 (2.00 kB)\n\n";
        assert!(text.contains(drawing), "{text}");
    }
}
