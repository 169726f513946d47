//! One trace for a pull over two nodes, and the log level.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::otlp::{collect, spans};
use super::*;

/// Answers requests with `answer`, until the test ends.
fn serve(answer: impl Fn(&str, Vec<u8>) -> Vec<u8> + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().ok()?);
                let (mut head, mut line) = (String::new(), String::new());
                while reader.read_line(&mut line).ok()? > 2 {
                    head.push_str(&std::mem::take(&mut line));
                }
                let length = head.to_lowercase();
                let length = length
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |l| l.parse().expect("a length"))];
                reader.read_exact(&mut body).ok()?;
                let body = answer(head.lines().next()?, body);
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                )
                .ok()?;
                stream
                    .write_all(if head.starts_with("HEAD") { &[] } else { &body })
                    .ok()
            });
        }
    });
    address
}

fn ask(address: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
    )
    .expect("open");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    text(&answer)
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn a_pull_over_two_nodes_is_one_trace() {
    let folder = tempfile::tempdir().expect("a folder");
    let layer = vec![7; 3_000_000];
    let digest = oci::Digest::sha256(&layer).to_string();
    let upstream = serve(move |_, _| layer.clone());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let collector = listener.local_addr().expect("bound");
    let requests = collect(listener);
    let node = |name: &str, peers: &str| {
        let registries = format!("--mirrored-registries=http://{upstream}");
        let endpoint = format!("--otlp-endpoint=http://{collector}");
        let peers = format!("--static-bootstrap-peers={peers}");
        let options = [
            "--shutdown-delay=0s",
            "--flights=off",
            "--bootstrap-kind=static",
        ];
        let options = [&options[..], &[&peers, &registries, &endpoint]].concat();
        Mirror::start(&folder.path().join(name), &options)
    };
    let holder = node("a", "");
    let started: serde_json::Value =
        serde_json::from_str(holder.begun.last().expect("a line")).expect("JSON");
    let asker = node("b", &format!("127.0.0.1:{}", started["router_port"]));
    let path = format!("/v2/team/app/blobs/{digest}?ns={upstream}");
    let secret = "authorization: Basic czNjcmV0\r\n";
    assert!(ask(&holder.registry, &path, secret).starts_with("HTTP/1.1 200"));
    assert!(ask(&holder.registry, &path, "").starts_with("HTTP/1.1 200"));
    // It is announced a moment later.
    let measured = "x-peili-measured: true\r\n";
    while !ask(&asker.registry, &path, measured).starts_with("HTTP/1.1 200") {}
    let parent = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
    let pulled = ask(&asker.registry, &format!("{path}&token=s3cret"), &parent);
    assert!(pulled.starts_with("HTTP/1.1 200"), "{}", &pulled[..200]);
    for mut mirror in [holder, asker] {
        mirror.terminate();
        assert!(mirror.process.0.wait().expect("it ends").success());
    }
    let exported: Vec<_> = requests.try_iter().collect();
    for bytes in &exported {
        for secret in ["czNjcmV0", "s3cret"] {
            assert!(!text(bytes).contains(secret), "{secret}");
        }
    }
    let all = exported
        .iter()
        .flat_map(|bytes| spans(bytes).expect("OTLP"));
    let trace = u128::from_str_radix(TRACE, 16)
        .expect("hexadecimal")
        .to_be_bytes();
    let spans: Vec<_> = all.filter(|span| span.trace == trace).collect();
    let mut by_name: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for span in &spans {
        assert!(span.start <= span.end, "{span:?}");
        by_name.entry(&*span.name).or_default().push(span);
    }
    let only = |name: &str| *by_name[name].first().expect(name);
    let (asked, requests) = (only("ask peer"), &by_name["request"]);
    let own = 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes();
    let first = requests
        .iter()
        .find(|span| span.parent == own)
        .expect("the asker's");
    assert_eq!(asked.parent, first.id);
    assert_eq!(only("lookup").parent, first.id);
    for step in ["connect", "first byte", "transfer"] {
        assert_eq!(only(step).parent, asked.id, "{step}");
    }
    assert!(
        requests.iter().any(|span| span.parent == asked.id),
        "the holder's: {spans:?}"
    );
}

#[test]
fn a_signal_changes_the_level_of_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mirror = Mirror::start(&folder.path().join("store"), &["--log-level=INFO"]);
    let pid = rustix::process::Pid::from_child(&mirror.process.0);
    let (sender, lines) = channel();
    let log = mirror.log;
    thread::spawn(move || {
        log.map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    let signal_and_wait = |signal, wanted: &str| {
        rustix::process::kill_process(pid, signal).expect("it runs");
        let limit = Duration::from_secs(30);
        while !lines.recv_timeout(limit).expect(wanted).contains(wanted) {}
    };
    signal_and_wait(rustix::process::Signal::USR1, "\"level\":\"DEBUG\"");
    signal_and_wait(rustix::process::Signal::USR2, "as at the start");
    mirror.process.0.kill().expect("it runs");
}

#[test]
fn the_log_can_be_text() {
    let output = run(&[
        "--log-format=text",
        "pull-test",
        "--metrics-endpoint=127.0.0.1:1",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let faulty = run(&["--log-format=xml", "version"]);
    assert_eq!(faulty.status.code(), Some(2));
    assert!(text(&faulty.stderr).contains("--log-format: "));
}
