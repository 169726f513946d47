//! A small run of the demo.

use std::fs;
use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

use super::*;

const SIZE: u64 = 2 * 1024 * 1024;

fn small(output: Output) -> Options {
    Options {
        nodes: 3,
        image: Image::Generated {
            size: SIZE,
            layers: 2,
        },
        output,
    }
}

/// Cancels when it reads that a node has pulled.
struct Canceller(CancellationToken);

impl Write for Canceller {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if String::from_utf8_lossy(bytes).contains("pulled") {
            self.0.cancel();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_copy_from_upstream_all_others_from_peers() {
    let mut out = Vec::new();
    let report = run(
        &small(Output::Json),
        &mut out,
        None,
        CancellationToken::new(),
    )
    .await;
    let report = report.expect("all is well");
    let copy = report.copy();
    assert!(copy > SIZE && copy < SIZE + 16 * 1024, "{copy}");
    assert!(report.allowance() < 16 * 1024);
    for node in &report.nodes {
        assert_eq!(node.bytes, copy);
        assert_eq!(node.from_upstream + node.from_peers, copy);
        let fed: u64 = node.fed_by.iter().map(|feeder| feeder.bytes).sum();
        assert_eq!(fed, node.from_peers);
        assert!(
            node.fed_by
                .iter()
                .all(|feeder| feeder.number != node.number)
        );
    }
    assert_eq!(report.sent_by_upstream, Some(report.from_upstream()));

    let lines = String::from_utf8(out).expect("text");
    let lines = lines.lines().map(serde_json::from_str::<Value>);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>().expect("JSON lines");
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str()).collect();
    let pulled = [Some("pulled"); 3];
    assert_eq!(events[0], Some("started"));
    assert_eq!(events[1..4], pulled);
    assert_eq!(events[4..], [Some("finished")]);
    assert_eq!(lines[4]["ok"], true);
    assert_eq!(lines[4]["bytes_from_peers"], report.from_peers());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_it_leaves_nothing_behind() {
    let parent = tempfile::tempdir().expect("a folder");
    let shutdown = CancellationToken::new();
    let out = Canceller(shutdown.clone());
    let ended = run_in(parent.path(), &small(Output::Json), out, None, shutdown).await;
    assert!(matches!(ended, Err(DemoError::Interrupted)), "{ended:?}");
    let left: Vec<_> = fs::read_dir(parent.path()).expect("there").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A page whose viewer leaves after all pulls.
struct Watched {
    shown: Mutex<Vec<String>>,
    shutdown: CancellationToken,
}

#[async_trait::async_trait]
impl Pages for Watched {
    async fn serve(&self, node: ShownNode) -> io::Result<Page> {
        let pulled = node.mirror.snapshot().await.totals;
        assert_eq!(pulled.from_peers, 0, "it has pulled nothing");
        self.shown.lock().push(node.name);
        let (url, is_open) = ("http://127.0.0.1:1/".to_owned(), true);
        Ok(Page { url, is_open })
    }

    fn lingers(&self) -> Option<Duration> {
        self.shutdown.cancel();
        Some(Duration::from_secs(24 * 60 * 60))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_told_of_and_leaving_it_is_no_failure() {
    let (mut out, shutdown) = (Vec::new(), CancellationToken::new());
    let pages = Watched {
        shown: Mutex::default(),
        shutdown: shutdown.clone(),
    };
    let ended = run(&small(Output::Text), &mut out, Some(&pages), shutdown).await;
    assert_eq!(ended.expect("all is well").nodes.len(), 3);
    assert_eq!(*pages.shown.lock(), ["node-1"]);
    let text = String::from_utf8(out).expect("text");
    let told = "The page of node 1: http://127.0.0.1:1/ It is open in your browser.";
    assert!(text.contains(told), "{text}");
    assert!(text.ends_with("or until Ctrl-C.\n"), "{text}");
}

#[tokio::test]
async fn what_cannot_fit_is_not_begun() {
    let mut options = small(Output::Text);
    let (size, layers) = (1 << 50, 1);
    options.image = Image::Generated { size, layers };
    let ended = run(&options, io::sink(), None, CancellationToken::new()).await;
    let error = ended.expect_err("no such disk").to_string();
    assert!(error.contains("give a smaller --size"), "{error}");
}
