//! The binary as its users start it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

fn peili() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peili"));
    // Whoever runs the tests may have set what the options are read from.
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

#[test]
fn it_runs_alone_says_ready_and_ends_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let any = "127.0.0.1:0";
    let mut child = peili()
        .args([
            "registry",
            "--basic-auth-dir=",
            "--store=layout",
            "--bootstrap-kind=static",
        ])
        .args([
            "--registry-addr",
            any,
            "--router-addr",
            any,
            "--metrics-addr",
            any,
            "--store-path",
        ])
        .arg(folder.path().join("store"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let log = child.stderr.take().expect("piped");
    let mut running = Running(child);
    let mut lines = BufReader::new(log).lines();
    let started = lines
        .find_map(|line| line.ok().filter(|line| line.contains("peili runs")))
        .expect("it runs");
    let started: serde_json::Value = serde_json::from_str(&started).expect("a log line is JSON");
    let (registry, metrics) = (address(&started, "registry"), address(&started, "metrics"));
    // Bootstrapping is one round, bounded by seconds; each request waits for the one before.
    while !get(&registry, "/readyz").starts_with("HTTP/1.1 200") {}
    assert!(get(&registry, "/v2/").starts_with("HTTP/1.1 200"));
    assert!(get(&registry, "/v2/a/blobs/sha256:0").starts_with("HTTP/1.1 400"));
    let metrics = get(&metrics, "/metrics");
    assert!(
        metrics.contains("http_request_duration_seconds_count"),
        "{metrics}"
    );
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(running.0.wait().expect("it ends").success(), "{rest:?}");
    assert!(
        !rest.iter().any(|line| line.contains("\"ERROR\"")),
        "{rest:?}"
    );
}

fn address(line: &serde_json::Value, field: &str) -> String {
    line[field].as_str().expect("an address").to_owned()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
