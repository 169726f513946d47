//! A process with a low limit of open files.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Mirror, get, peili};

/// The limit for anything that happens soon or never.
const GENEROUS: Duration = Duration::from_secs(30);
/// A client without an answer for this long hangs.
const HANGS: Duration = Duration::from_secs(10);

/// A mirror under `ulimit` with these arguments.
fn limited(ulimit: &str, folder: &tempfile::TempDir) -> Mirror {
    let binary = peili();
    let mut command = std::process::Command::new("sh");
    command.env_clear();
    let script = format!(r#"ulimit {ulimit} && exec "$0" "$@""#);
    command.args(["-c", &script]).arg(binary.get_program());
    Mirror::start_as(command, &folder.path().join("store"), &[])
}

/// The status of an answer to `GET /v2/`. `None`: the connection was closed without one.
fn status(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(HANGS)).expect("a limit");
    let request = "GET /v2/ HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    // A refused client may find the connection closed.
    let _ = stream.write_all(request.as_bytes());
    let mut status = [0; 12];
    match stream.read_exact(&mut status) {
        Ok(()) => Some(String::from_utf8_lossy(&status[9..]).into_owned()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer in {HANGS:?}"),
        Err(_) => None,
    }
}

/// The number of open descriptors of a mirror below `limit`; those beyond it are inherited.
fn open_descriptors(mirror: &Mirror, limit: usize) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", mirror.process.0.id()));
    let open = open.expect("it runs").filter_map(|entry| {
        let number: usize = entry.ok()?.file_name().to_str()?.parse().ok()?;
        (number < limit).then_some(number)
    });
    open.count()
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mirror = limited("-Sn 128", &folder);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", mirror.process.0.id()));
    let limits = limits.expect("it runs");
    let open_files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = open_files
        .expect("it is limited")
        .split_whitespace()
        .collect();
    assert_eq!(words[3], words[4], "soft and hard");
    assert_ne!(words[3], "128");
}

/// With 256 descriptors the ports accept fewer connections; with 28 there are still none left.
#[test]
fn silent_clients_leave_no_client_without_an_answer() {
    for (limit, most_clients) in [(256, 16 + 4), (28, 28)] {
        let folder = tempfile::tempdir().expect("a folder");
        let mirror = limited(&format!("-n {limit}"), &folder);
        let is_told = |line: &String| line.contains("\"WARN\"") && line.contains("few files");
        assert!(mirror.begun.iter().any(is_told), "{:?}", mirror.begun);
        // Each port opens a spare descriptor when it begins to serve, which an answer proves.
        assert_eq!(status(&mirror.registry).as_deref(), Some("200"));
        assert!(get(&mirror.metrics, "/livez").starts_with("HTTP/1.1 200"));
        let begun_with = open_descriptors(&mirror, limit);
        let silent: Vec<_> = (0..400)
            .map(|_| TcpStream::connect(&mirror.registry).expect("it listens"))
            .collect();
        let open = open_descriptors(&mirror, limit);
        // One more is being closed.
        let most = begun_with + most_clients + 1;
        assert!(open <= most, "{open} of {limit}, {begun_with} before");
        // A silent client may be replaced after 2 s.
        let began = Instant::now();
        while status(&mirror.registry).as_deref() != Some("200") {
            assert!(began.elapsed() < GENEROUS, "turned away for ever");
        }
        let ready = get(&mirror.metrics, "/livez");
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        drop(silent);
    }
}
