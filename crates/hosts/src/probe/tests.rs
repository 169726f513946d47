use std::future::pending;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Endpoint, Names, ProbeError, round, wait};

/// A limit far above anything here.
const GENEROUS: Duration = Duration::from_secs(30);
const PERIOD: Duration = Duration::from_millis(1);

fn times(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().expect("well-formed")
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test]
async fn waits_until_all_rounds_in_a_row_were_good() {
    // Ready, not ready, then ready for good: three consecutive good rounds begin with the third request.
    let listener = TcpListener::bind(loopback()).await.expect("bound");
    let address = listener.local_addr().expect("known");
    let server = tokio::spawn(async move {
        for asked in 1_u32.. {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.expect("read");
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            let status = if asked == 2 { "500 No" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("answered");
            if asked == 5 {
                return asked;
            }
        }
        0
    });
    let endpoint = endpoint(&address.to_string());
    let waited = timeout(GENEROUS, wait(&endpoint, PERIOD, times(3), pending()));
    waited.await.expect("in time").expect("all good");
    assert_eq!(
        timeout(GENEROUS, server)
            .await
            .expect("in time")
            .expect("no panic"),
        5
    );
}

#[tokio::test]
async fn a_node_that_is_not_ready_is_named_in_its_own_words() {
    let listener = TcpListener::bind(loopback()).await.expect("bound");
    let address = listener.local_addr().expect("known");
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.expect("read");
        let answer = "HTTP/1.1 503 No\r\ncontent-length: 19\r\n\r\nn1: read-only\nmore\n";
        stream.write_all(answer.as_bytes()).await.expect("answered");
    };
    let endpoint = endpoint(&address.to_string());
    let names = Names::new(&endpoint);
    let (answer, ()) = tokio::join!(round(&endpoint, &names), server);
    let fault = answer.expect_err("not ready");
    let expected = format!("1 of 1 not ready: {address}: 503 Service Unavailable: n1: read-only");
    assert_eq!(fault, expected);
}

#[tokio::test]
async fn gives_up_when_told_to() {
    let listener = TcpListener::bind(loopback()).await.expect("bound");
    let address = listener.local_addr().expect("known");
    drop(listener);
    let (stop, stopped) = oneshot::channel::<()>();
    let endpoint = endpoint(&address.to_string());
    let waiting = tokio::spawn(async move {
        wait(&endpoint, PERIOD, times(1), async {
            let _ = stopped.await;
        })
        .await
    });
    stop.send(()).expect("still waiting");
    let ended = timeout(GENEROUS, waiting)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(matches!(ended, Err(ProbeError::Interrupted(_))));
}

#[test]
fn endpoints() {
    for good in [
        "cleanup.ns.svc.cluster.local.:8080",
        "10.0.0.1:80",
        "[::1]:8080",
        "localhost:1",
    ] {
        assert_eq!(endpoint(good).to_string(), good);
    }
    for bad in [
        "",
        "host",
        ":80",
        "host:0",
        "host:65536",
        "::1:80",
        "[::1]",
        "[x]:1",
        "http://a:1",
        "a b:1",
    ] {
        let fault = bad.parse::<Endpoint>().expect_err(bad).to_string();
        assert!(fault.contains("has to be host:port"), "{fault}");
    }
}

#[tokio::test]
async fn a_name_resolves_by_the_systems_means() {
    let names = |text: &str| Names::new(&text.parse().expect("well-formed"));
    let found = names("localhost:80")
        .addresses()
        .await
        .expect("in the hosts file");
    assert!(
        found.iter().all(IpAddr::is_loopback) && !found.is_empty(),
        "{found:?}"
    );
    assert_eq!(
        names("[::1]:80").addresses().await,
        Ok(vec![IpAddr::from(Ipv6Addr::LOCALHOST)])
    );
}
