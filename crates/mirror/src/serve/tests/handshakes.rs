//! Connections that begin with a TLS handshake.

use tls::testing::Authority;
use tokio::time::timeout;

use super::*;
use crate::body::client_socket::OWN_WAIT_LIMIT;
use crate::serve::port_tls::HANDSHAKE_LIMIT;

/// Advances the time, and lets data in transit arrive.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    sleep(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn a_handshake_that_stops_holds_its_connection_for_seconds_only() {
    let access = crate::Access {
        peer_tls: Some(Authority::new("ours").node()),
        ..Default::default()
    };
    let app = app_with(access).await;
    let limits = u32::try_from(OWN_WAIT_LIMIT.as_secs() / HANDSHAKE_LIMIT.as_secs());
    let most = limits.expect("a few") / 2;
    for sent in [&[22][..], &[22, 3, 1, 2, 0, 1]] {
        let mut client = TcpStream::connect(app.address).await.expect("listening");
        client.write_all(sent).await.expect("open");
        let (mut rest, mut passed) = (Vec::new(), 0);
        loop {
            tokio::select! {
                ended = client.read_to_end(&mut rest) => {
                    ended.expect("in order");
                    break;
                }
                () = pass(HANDSHAKE_LIMIT) => passed += 1,
            }
            assert!(passed < most, "it is open after {passed} limits");
        }
    }
    // Any other beginning is a request.
    let answer = app.get("/livez", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_up_a_shutdown() {
    let access = crate::Access {
        peer_tls: Some(Authority::new("ours").node()),
        ..Default::default()
    };
    let app = app_with(access).await;
    let mut silent = TcpStream::connect(app.address).await.expect("listening");
    // Accepted after the silent one, which therefore is accepted too.
    app.get("/livez", "").await;
    app.shutdown.cancel();
    let limit = Duration::from_secs(60);
    let ended = timeout(limit, app.server).await;
    ended.expect("it ends").expect("no panic");
    let rest = silent.read_to_end(&mut Vec::new()).await;
    assert_eq!(rest.expect("closed in order"), 0);
}
