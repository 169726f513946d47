//! The changes to containerd's configuration.

use super::*;

#[test]
fn one_registry_that_cannot_be_written_costs_the_others_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    std::fs::create_dir_all(first.join("docker.io/hosts.toml")).expect("made");
    std::fs::create_dir_all(second.join("quay.io")).expect("made");
    std::fs::write(second.join("quay.io/ca.crt"), "certificate").expect("written");
    let list = format!("{}:{}", first.display(), second.display());
    let output = run(&[
        "configuration",
        "--basic-auth-dir=",
        "--mirror-targets=http://127.0.0.1:5000",
        "--containerd-registry-config-path",
        &list,
    ]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in [
        "docker.io/hosts.toml is a folder",
        "1 of the files for containerd could not be written",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    for file in ["quay.io/hosts.toml", "_default/hosts.toml"] {
        let hosts = std::fs::read_to_string(second.join(file)).expect("written");
        assert!(hosts.contains("127.0.0.1:5000"), "{hosts}");
    }
    assert!(!folder.path().join(&list).exists());
}

#[test]
fn cleanup_says_why_it_is_not_done_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("certs.d");
    std::fs::write(&path, "no folder").expect("a file");
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a free port")
        .to_string();
    let mut command = peili();
    command
        .args(["cleanup", "--node-name=n1", "--addr", &address])
        .arg("--containerd-registry-config-path")
        .arg(&path)
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let log = child.stderr.take().expect("piped");
    let mut running = Running(child);
    let mut log = BufReader::new(log).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("cannot restore containerd's configuration; retrying")));
    let answer = get(&address, "/readyz");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("n1: "), "{answer}");
    std::fs::remove_file(&path).expect("a file");
    assert!(log.any(|line| line.contains("configuration is restored; serving")));
    assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200"));
    terminate(&running);
    assert!(running.0.wait().expect("it ends").success());
}

#[test]
fn one_registry_that_cannot_be_written_is_named_and_may_be_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("docker.io/hosts.toml")).expect("a folder");
    for (more, code) in [(None, 1), (Some("--allow-partial"), 0)] {
        let output = peili()
            .args(["configuration", "--basic-auth-dir="])
            .args([
                "--mirrored-registries",
                "https://docker.io",
                "https://quay.io",
            ])
            .args(["--mirror-targets", "http://10.0.0.1:5000"])
            .arg("--containerd-registry-config-path")
            .arg(folder.path())
            .args(more)
            .output()
            .expect("it starts");
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains("docker.io/hosts.toml is a folder"), "{told}");
        assert!(folder.path().join("quay.io/hosts.toml").is_file(), "{told}");
    }
}

#[test]
fn configuration_that_watches_writes_again_what_somebody_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("_default/hosts.toml");
    let mut command = peili();
    command
        .args(["configuration", "--basic-auth-dir=", "--watch"])
        .args(["--mirror-targets", "http://10.0.0.1:5000"])
        .arg("--containerd-registry-config-path")
        .arg(folder.path())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let log = child.stderr.take().expect("piped");
    let mut running = Running(child);
    let mut log = BufReader::new(log).lines().map_while(Result::ok);
    let mut until = |what: &str| assert!(log.any(|line| line.contains(what)), "{what}");
    until("watching until stopped");
    let written = std::fs::read_to_string(&file).expect("written");
    std::fs::remove_file(&file).expect("ours");
    until("hosts.toml files were changed");
    until("written");
    assert_eq!(std::fs::read_to_string(&file).expect("again"), written);
    terminate(&running);
    assert!(running.0.wait().expect("it ends").success());
}
