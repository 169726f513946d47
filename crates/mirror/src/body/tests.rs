use std::fs::File;
use std::io::Write;

use http_body_util::BodyExt;
use oci::Digest;
use tokio::sync::watch;

use super::send_memory::{LARGE_CHUNK, SendMemory};
use super::*;
use crate::{Growing, IngestStage, Progress};

fn object() -> Vec<u8> {
    (0..LARGE_CHUNK * 3 + 1000)
        .map(|n| (n % 251) as u8)
        .collect()
}

fn file(bytes: &[u8]) -> (std::fs::File, Arc<File>) {
    let mut writer = tempfile::tempfile().expect("a temporary file");
    writer.write_all(bytes).expect("room");
    let reader = writer.try_clone().expect("a second descriptor");
    (writer, Arc::new(reader))
}

fn body(payload: Payload, parts: Vec<Part>) -> Body {
    let found = Found::blob(&Digest::sha256(b""), None, payload, Source::Local);
    of(found, parts, &SendMemory::default().own)
}

async fn read(payload: Payload, parts: Vec<Part>) -> Result<Bytes, BodyError> {
    body(payload, parts)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
}

#[tokio::test]
async fn a_file_is_sent_whole_and_in_parts() {
    let bytes = object();
    let (_writer, file) = file(&bytes);
    let size = bytes.len() as u64;
    let whole = read(Payload::File(file.clone()), vec![Part::Range(0..size)])
        .await
        .expect("readable");
    assert!(whole == bytes);
    let parts = vec![
        Part::Text("a".into()),
        Part::Range(5..10),
        Part::Text("b".into()),
        Part::Range(size - 2..size),
    ];
    let parts = read(Payload::File(file), parts).await.expect("readable");
    let expected = [b"a", &bytes[5..10], b"b", &bytes[bytes.len() - 2..]].concat();
    assert_eq!(parts, expected);
}

#[tokio::test]
async fn a_file_that_lost_its_end_breaks_the_body() {
    let (_writer, file) = file(b"short");
    let error = read(Payload::File(file), vec![Part::Range(0..100)])
        .await
        .expect_err("too short");
    assert!(matches!(error, BodyError::Read(_)), "{error}");
}

#[tokio::test]
async fn a_growing_file_is_followed_to_its_end() {
    let bytes = object();
    let (mut writer, file) = file(&[]);
    let total = Some(bytes.len() as u64);
    let (progress, follow) = watch::channel(Progress {
        written: 0,
        total,
        stage: IngestStage::Filling,
    });
    let growing = Payload::Growing(Growing::new(file, follow));
    let reading = tokio::spawn(read(growing, vec![Part::Range(10..bytes.len() as u64)]));
    let mut written = 0;
    for piece in bytes.chunks(100_000) {
        writer.write_all(piece).expect("room");
        written += piece.len() as u64;
        progress.send_modify(|p| p.written = written);
        tokio::task::yield_now().await;
    }
    progress.send_modify(|p| p.stage = IngestStage::Complete);
    assert!(reading.await.expect("no panic").expect("readable") == bytes[10..]);
}

#[tokio::test]
async fn a_writer_that_fails_or_vanishes_ends_the_body_after_what_it_wrote() {
    for vanish in [false, true] {
        let (_writer, file) = file(b"half");
        let (progress, follow) = watch::channel(Progress {
            written: 4,
            total: Some(8),
            stage: IngestStage::Filling,
        });
        if vanish {
            drop(progress);
        } else {
            progress.send_modify(|p| p.stage = IngestStage::Failed);
        }
        let payload = Payload::Growing(Growing::new(file, follow));
        let mut body = body(payload, vec![Part::Range(0..8)]);
        let first = body
            .frame()
            .await
            .expect("a frame")
            .expect("bytes")
            .into_data()
            .expect("data");
        assert_eq!(first, &b"half"[..]);
        let error = body
            .frame()
            .await
            .expect("an end")
            .expect_err("not a whole body");
        assert!(
            matches!(error, BodyError::Stunted { written: 4 }),
            "{error}"
        );
    }
}
