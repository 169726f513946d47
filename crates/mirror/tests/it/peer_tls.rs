//! Nodes with certificates, and nodes and clients without a valid one.

use mirror::REPORT;
use tls::testing::Authority;
use tls::{MaybeTls, PeerTls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::network::{Node, guises, start};
use super::*;

/// The limit for anything that happens soon or never.
const GENEROUS: Duration = Duration::from_secs(60);

/// A node with these certificates. `None`: any client may be its peer, over plain HTTP.
async fn node(cluster: &MemoryCluster, name: &str, tls: Option<PeerTls>) -> Node {
    let access = Access {
        peer_tls: tls,
        ..Access::default()
    };
    start(cluster, name, access).await
}

/// Requests a blob as a peer and reads until the node closes. `tls`: `None`: over plain HTTP.
async fn asked_as_peer(
    node: &Node,
    blob: &Digest,
    tls: Option<&PeerTls>,
) -> std::io::Result<String> {
    let stream = TcpStream::connect(node.address).await?;
    let mut stream = match tls {
        Some(tls) => tls.current().connect(stream).await?,
        None => MaybeTls::Plain(stream),
    };
    let request = format!(
        "GET /v2/a/b/blobs/{blob}?ns=quay.io HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{MIRRORED}: true\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn refused_connections(node: &Node) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &node.metrics).expect("text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("peili_peer_tls_connections_refused_total "));
    line.expect("a metric").parse().expect("a number")
}

#[tokio::test]
async fn a_stranger_gets_no_manifest_no_blob_and_no_entry() {
    let (cluster, ours) = (MemoryCluster::default(), Authority::new("ours"));
    let holder = node(&cluster, "holder", Some(ours.node())).await;
    let blob = holder.hold(layer()).await;
    let manifest = r#"{"schemaVersion":2,"layers":[]}"#;
    let manifest = holder.hold(Bytes::from_static(manifest.as_bytes())).await;
    let paths = [
        format!("/v2/a/b/blobs/{blob}?ns=quay.io"),
        format!("/v2/a/b/manifests/{manifest}?ns=quay.io"),
        format!("{REPORT}?digest={blob}"),
        "/link-test".to_owned(),
    ];
    for (path, headers) in paths
        .iter()
        .flat_map(|path| guises().into_iter().map(move |h| (path, h)))
    {
        for method in [http::Method::GET, http::Method::HEAD] {
            let status = holder.ask(method, path, ELSEWHERE, headers.clone()).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path} {headers:?}");
        }
    }
    assert_eq!(holder.get(&blob).await, StatusCode::OK, "its own client");
    for probe in ["/livez", "/readyz", "/v2/"] {
        let status = holder.ask(http::Method::GET, probe, ELSEWHERE, HeaderMap::new());
        assert_eq!(status.await, StatusCode::OK, "{probe}");
    }
}

#[tokio::test]
async fn only_a_certificate_of_the_authority_opens_a_connection() {
    let (cluster, ours) = (MemoryCluster::default(), Authority::new("ours"));
    let theirs = Authority::new("theirs");
    let holder = node(&cluster, "holder", Some(ours.node())).await;
    let blob = holder.hold(layer()).await;
    let answer = asked_as_peer(&holder, &blob, Some(&ours.node())).await;
    let answer = answer.expect("TLS");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.500}");

    let plain = asked_as_peer(&holder, &blob, None).await;
    let plain = plain.expect("an answer");
    assert!(plain.starts_with("HTTP/1.1 404"), "{plain:.500}");
    // It trusts the node, which does not trust it.
    let believer = PeerTls::new(Some(theirs.certificates(&[&ours, &theirs])));
    for stranger in [believer, theirs.node()] {
        let before = refused_connections(&holder);
        let answer = asked_as_peer(&holder, &blob, Some(&stranger)).await;
        assert!(answer.is_err(), "{answer:?}");
        let counted = async {
            while refused_connections(&holder) == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(GENEROUS, counted).await.expect("it is counted");
    }
}

#[tokio::test]
async fn nodes_of_one_authority_share() {
    let (cluster, ours) = (MemoryCluster::default(), Authority::new("ours"));
    let theirs = Authority::new("theirs");
    let holder = node(&cluster, "holder", Some(ours.node())).await;
    let open = node(&cluster, "open", None).await;
    // Many TLS records, and more than the kernel buffers.
    let blob = holder.hold(vec![7; 8 << 20].into()).await;
    for (tls, status) in [
        (Some(ours.node()), StatusCode::OK),
        (Some(theirs.node()), StatusCode::NOT_FOUND),
        (Some(PeerTls::new(None)), StatusCode::NOT_FOUND),
        (None, StatusCode::NOT_FOUND),
    ] {
        let told = format!("{tls:?}");
        let asker = node(&cluster, "asker", tls).await;
        assert_eq!(asker.get(&blob).await, status, "{told}");
    }
    // A node with certificates sends no requests over plain HTTP.
    let other = open.hold(Bytes::from_static(b"open")).await;
    assert_eq!(holder.get(&other).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_rotation_cuts_nobody_off_and_a_revocation_does() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (cluster, of_one, of_two) = (MemoryCluster::default(), old.node(), old.node());
    let one = node(&cluster, "one", Some(of_one.clone())).await;
    let two = node(&cluster, "two", Some(of_two.clone())).await;
    let both = [&old, &new];
    let steps = [
        (&of_one, old.certificates(&both)),
        (&of_two, new.certificates(&both)),
        (&of_one, new.certificates(&both)),
        (&of_one, new.certificates(&[&new])),
        (&of_two, new.certificates(&[&new])),
    ];
    for (number, (tls, certificates)) in steps.into_iter().enumerate() {
        tls.replace(certificates);
        for (from, to) in [(&one, &two), (&two, &one)] {
            let blob = from.hold(format!("{number} {}", from.address).into()).await;
            assert_eq!(to.get(&blob).await, StatusCode::OK, "step {number}");
        }
    }
    // Open connections are not used any more, from either end.
    of_two.replace(old.certificates(&[&old]));
    for (from, to) in [(&one, &two), (&two, &one)] {
        let blob = from.hold(format!("after {}", from.address).into()).await;
        assert_eq!(to.get(&blob).await, StatusCode::NOT_FOUND);
    }
}

/// An open connection whose authority is removed ends, even if its client keeps it.
#[tokio::test]
async fn a_revocation_ends_open_connections() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (cluster, tls) = (MemoryCluster::default(), ours.node());
    let holder = node(&cluster, "holder", Some(tls.clone())).await;
    let stream = TcpStream::connect(holder.address)
        .await
        .expect("it listens");
    let connecting = ours.node().current();
    let stream = connecting.connect(stream).await;
    let mut stream = stream.expect("TLS");
    let request = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("open");
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
    tls.replace(other.certificates(&[&other]));
    let mut rest = Vec::new();
    let ended = timeout(GENEROUS, stream.read_to_end(&mut rest)).await;
    ended.expect("it ends").expect("in order");
}
