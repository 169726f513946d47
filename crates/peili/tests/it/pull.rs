//! `peili pull` and `peili images`, with fakes and a mirror.

use std::collections::BTreeMap;
use std::thread;

use super::*;

/// An answer: status, further headers, body.
type Answer = (u16, String, Vec<u8>);

/// A fake mirror that answers according to the table until the test ends.
fn stand_in(answers: BTreeMap<String, Answer>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answers = answers.clone();
            thread::spawn(move || answer(stream, &answers));
        }
    });
    address
}

fn answer(mut stream: TcpStream, answers: &BTreeMap<String, Answer>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let head: Vec<_> = lines
        .map_while(Result::ok)
        .take_while(|l| !l.is_empty())
        .collect();
    assert!(
        head.contains(&"x-peili-measured: true".to_owned()),
        "{head:?}"
    );
    let (method, target) = first.split_once(' ')?;
    let path = target.split(['?', ' ']).next()?;
    let (status, headers, body) = answers.get(path)?;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    if method == "GET" {
        stream.write_all(body).ok()?;
    }
    Some(())
}

fn digest(bytes: &[u8]) -> String {
    oci::Digest::sha256(bytes).to_string()
}

/// The answers for an image of a config and two layers, the second of which no node has.
fn image() -> BTreeMap<String, Answer> {
    let (config, layer, lacking) = (b"{}".to_vec(), vec![7; 300_000], vec![8; 1000]);
    let descriptor =
        |bytes: &[u8]| serde_json::json!({"digest": digest(bytes), "size": bytes.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(&config),
        "layers": [descriptor(&layer), descriptor(&lacking)],
    });
    let manifest = manifest.to_string().into_bytes();
    let peer = "x-peili-source: 10.0.0.7:5000\r\n".to_owned();
    let refusal = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no peer has it"}]}"#;
    let named = format!("docker-content-digest: {}\r\n", digest(&manifest));
    let blob = |bytes: &[u8]| format!("/v2/team/app/blobs/{}", digest(bytes));
    BTreeMap::from([
        (
            "/v2/team/app/manifests/1".to_owned(),
            (200, named, manifest.clone()),
        ),
        (
            format!("/v2/team/app/manifests/{}", digest(&manifest)),
            (200, "x-peili-source: local\r\n".to_owned(), manifest),
        ),
        (blob(&config), (200, peer.clone(), config)),
        (blob(&layer), (200, peer, layer)),
        (
            blob(&lacking),
            (
                404,
                "x-peili-reason: no_peer\r\n".to_owned(),
                refusal.into(),
            ),
        ),
    ])
}

#[test]
fn a_trial_pull_says_what_came_from_where_and_why() {
    let mirror = stand_in(image());
    let pull = [
        "pull",
        "quay.io/team/app:1",
        "--registry-endpoint",
        &mirror,
        "--mirror-only",
    ];
    let output = run(&[&pull[..], &["--output=json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["peers"], 300_002);
    assert_eq!(report["upstream"], 1000);
    assert_eq!(report["reasons"]["no_peer"], 1000);
    assert_eq!(report["objects"][2]["source"]["node"], "10.0.0.7:5000");
    assert_eq!(report["objects"][3]["detail"], "no peer has it");
    assert_eq!(report["objects"][3]["took_ms"], serde_json::Value::Null);
    let shown = text(&run(&pull).stdout);
    for part in [
        "10.0.0.7:5000",
        "registry (left out)",
        "no node had it (the mirror: no peer has it)",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

#[test]
fn bytes_that_are_not_what_the_digest_names_fail_a_trial_pull() {
    let mut answers = image();
    let layer = answers
        .values_mut()
        .find(|(_, _, body)| body.len() == 300_000);
    layer.expect("a layer").2[0] = 1;
    let mirror = stand_in(answers);
    let output = run(&[
        "pull",
        "quay.io/team/app:1",
        "--registry-endpoint",
        &mirror,
        "--mirror-only",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains("the bytes are not what the digest names"),
        "{told}"
    );
}

#[test]
fn a_mirror_lists_its_images() {
    let folder = tempfile::tempdir().expect("a folder");
    let mirror = Mirror::start(&folder.path().join("store"), &[]);
    let output = run(&[
        "images",
        "--metrics-endpoint",
        &mirror.metrics,
        "--output=json",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let content: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(content["listed"], serde_json::json!([]));
    assert_eq!(content["objects"], 0);
}
