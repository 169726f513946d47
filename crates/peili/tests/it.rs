//! The binary, as its users start it.

#[path = "it/configuration.rs"]
mod configuration;
#[path = "it/descriptors.rs"]
mod descriptors;
#[path = "it/kubectl.rs"]
mod kubectl;
#[path = "it/otlp.rs"]
mod otlp;
#[path = "it/pull.rs"]
mod pull;
#[path = "it/traces.rs"]
mod traces;

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

fn peili() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peili"));
    // The environment of the test may set options.
    command.env_clear().env("COLUMNS", "100");
    command
}

fn run(arguments: &[&str]) -> Output {
    peili().args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_says_what_there_is() {
    for command in [
        "registry",
        "configuration",
        "cleanup",
        "cleanup-wait",
        "images",
        "pull",
        "pull-test",
        "completions",
        "demo",
        "version",
    ] {
        let output = run(&[command, "--help"]);
        assert!(output.status.success());
        insta::assert_snapshot!(format!("help-{command}"), text(&output.stdout));
    }
}

#[test]
fn a_faulty_configuration_is_told_whole_and_starts_nothing() {
    let output = run(&[
        "registry",
        "--bootstrap-kind",
        "carrier-pigeon",
        "--registry-addr",
        "5000",
        "--store-limit=x",
        "--store=layout",
    ]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    for flag in [
        "--bootstrap-kind",
        "--registry-addr",
        "--store-limit",
        "--store-path",
    ] {
        assert!(
            told.contains(&format!("\n  {flag}: ")),
            "{flag} is not in {told}"
        );
    }
    assert_eq!(run(&["registry", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(
        run(&["--log-level", "LOUD", "version"]).status.code(),
        Some(2)
    );
    assert_eq!(
        run(&["configuration"]).status.code(),
        Some(2),
        "a target is needed"
    );
}

#[test]
fn an_address_of_another_host_is_not_said_to_be_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    for flag in ["--registry-addr", "--metrics-addr", "--router-addr"] {
        let mut command = peili();
        command.args(["registry", "--basic-auth-dir=", "--store=layout"]);
        for other in ["--registry-addr", "--metrics-addr", "--router-addr"] {
            let address = if other == flag {
                "192.0.2.1:5000"
            } else {
                "127.0.0.1:0"
            };
            command.args([other, address]);
        }
        command.arg("--store-path").arg(folder.path().join("store"));
        let output = command.output().expect("it starts");
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains(&format!("cannot listen on {flag} 192.0.2.1:5000")),
            "{told}"
        );
        assert!(told.contains("this host has no such address"), "{told}");
        assert!(!told.contains("free the port"), "{told}");
    }
}

#[test]
fn a_port_on_loopback_that_ends_sharing_is_told_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = |more: &[&str]| {
        let mirror = Mirror::start(&folder.path().join("store"), more);
        let lines = mirror.begun.iter();
        lines
            .filter(|line| {
                line.contains("\"WARN\"") && line.contains("can be reached from this host alone")
            })
            .cloned()
            .collect::<Vec<_>>()
    };
    let with_peers = told(&["--bootstrap-kind=static"]);
    assert_eq!(with_peers.len(), 2, "{with_peers:?}");
    assert!(
        with_peers[0].contains("--registry-addr 127.0.0.1:0"),
        "{with_peers:?}"
    );
    assert_eq!(told(&[]), [] as [String; 0], "a single host shares nothing");
}

#[test]
fn lists_come_from_the_environment_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = peili()
        .args(["configuration", "--basic-auth-dir="])
        .env("CONTAINERD_REGISTRY_CONFIG_PATH", folder.path())
        .env("MIRRORED_REGISTRIES", "https://docker.io,https://quay.io")
        .env("MIRROR_TARGETS", "http://10.0.0.1:5000")
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    for registry in ["docker.io", "quay.io"] {
        let file = folder.path().join(registry).join("hosts.toml");
        let hosts = std::fs::read_to_string(file).expect("written");
        assert!(hosts.contains("http://10.0.0.1:5000"), "{hosts}");
    }
}

/// Ends the process whatever the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mirror on free loopback ports.
struct Mirror {
    process: Running,
    /// The log lines until it ran.
    begun: Vec<String>,
    log: Lines<BufReader<ChildStderr>>,
    registry: String,
    metrics: String,
}

impl Mirror {
    fn start(store: &Path, more: &[&str]) -> Self {
        Self::start_as(peili(), store, more)
    }

    /// `command`: a program that runs the binary with the following arguments.
    fn start_as(mut command: Command, store: &Path, more: &[&str]) -> Self {
        let any = "127.0.0.1:0";
        let mut child = command
            .args([
                "registry",
                "--basic-auth-dir=",
                "--store=layout",
                "--node-name=n1",
            ])
            .args(["--registry-addr", any, "--router-addr", any])
            .args(["--metrics-addr", any])
            .arg("--store-path")
            .arg(store)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = child.stderr.take().expect("piped");
        let process = Running(child);
        let mut log = BufReader::new(log).lines();
        let mut begun = Vec::new();
        while !begun
            .last()
            .is_some_and(|line: &String| line.contains("\"started\""))
        {
            begun.push(log.next().expect("it runs").expect("text"));
        }
        let started = begun.last().expect("the line above");
        let started: serde_json::Value = serde_json::from_str(started).expect("a log line is JSON");
        Self {
            process,
            begun,
            log,
            registry: address(&started, "registry"),
            metrics: address(&started, "metrics"),
        }
    }

    /// Bootstrapping is one round, limited to seconds; each request waits for the previous one.
    fn wait_for(&self, status: &str) {
        while !get(&self.registry, "/readyz").starts_with(&format!("HTTP/1.1 {status}")) {}
    }

    fn terminate(&self) {
        terminate(&self.process);
    }
}

fn terminate(running: &Running) {
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
}

#[test]
fn it_runs_alone_says_ready_and_ends_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mirror = Mirror::start(&folder.path().join("store"), &["--shutdown-delay=0s"]);
    mirror.wait_for("200");
    assert!(get(&mirror.registry, "/v2/").starts_with("HTTP/1.1 200"));
    assert!(get(&mirror.registry, "/v2/a/blobs/sha256:0").starts_with("HTTP/1.1 400"));
    let metrics = get(&mirror.metrics, "/metrics");
    for metric in [
        "http_request_duration_seconds_count",
        "peili_node_info{node=\"n1\",version=",
        "peili_bytes_total{source=\"upstream\"} 0",
    ] {
        assert!(metrics.contains(metric), "{metric} is not in {metrics}");
    }
    mirror.terminate();
    let rest: Vec<String> = mirror.log.map_while(Result::ok).collect();
    assert!(
        mirror.process.0.wait().expect("it ends").success(),
        "{rest:?}"
    );
    assert!(
        !rest.iter().any(|line| line.contains("\"ERROR\"")),
        "{rest:?}"
    );
}

#[test]
fn after_sigterm_it_is_unready_and_serves_on_until_a_second_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut mirror = Mirror::start(&folder.path().join("store"), &["--shutdown-delay=1h"]);
    mirror.wait_for("200");
    mirror.terminate();
    mirror.wait_for("503");
    assert!(get(&mirror.registry, "/readyz").ends_with("shutting down"));
    assert!(get(&mirror.registry, "/v2/").starts_with("HTTP/1.1 200"));
    mirror.terminate();
    let ended = mirror.process.0.wait().expect("it ends");
    assert_eq!(ended.code(), Some(143));
}

#[test]
fn a_service_manager_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let mut command = peili();
    command
        .env("NOTIFY_SOCKET", &path)
        .args(["registry", "--basic-auth-dir=", "--bootstrap-kind=static"])
        .args(["--shutdown-delay=0s", "--registry-addr=127.0.0.1:0"])
        .args(["--router-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0"])
        .args(["--store=layout", "--store-path"])
        .arg(folder.path().join("store"))
        .stderr(Stdio::null());
    let running = Running(command.spawn().expect("it starts"));
    let until = |state: &str| {
        let mut message = [0; 1024];
        loop {
            let length = socket.recv(&mut message).expect("told");
            if text(&message[..length]).lines().any(|line| line == state) {
                return;
            }
        }
    };
    until("READY=1");
    until("STATUS=ready");
    terminate(&running);
    until("STOPPING=1");
}

fn address(line: &serde_json::Value, field: &str) -> String {
    line[field].as_str().expect("an address").to_owned()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
