use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::config::ConnectionConfig;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::*;

/// How a name server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It knows `known.test`, by IPv4.
    Good,
    /// It knows no name.
    Ignorant,
    /// It answers SERVFAIL.
    Failing,
    /// It answers REFUSED.
    Refusing,
    Silent,
    /// As `Good`, but it never answers for IPv6.
    SilentForV6,
}

const KNOWN: &[u8] = b"\x05known\x04test\x00";
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// Name servers on loopback, and the questions to each.
struct NameServers {
    servers: Vec<NameServerConfig>,
    asked: Vec<Arc<Mutex<Vec<Vec<u8>>>>>,
    /// The tasks end with this value.
    tasks: JoinSet<()>,
}

impl NameServers {
    async fn of(manners: &[Manner]) -> Self {
        let mut name_servers = Self {
            servers: Vec::new(),
            asked: Vec::new(),
            tasks: JoinSet::new(),
        };
        for manner in manners.iter().copied() {
            let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let socket = UdpSocket::bind(loopback).await.expect("a port");
            let mut udp = ConnectionConfig::udp();
            udp.port = socket.local_addr().expect("bound").port();
            let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![udp]);
            name_servers.servers.push(server);
            let asked = Arc::new(Mutex::new(Vec::new()));
            name_servers.asked.push(asked.clone());
            name_servers.tasks.spawn(async move {
                let mut packet = [0; 512];
                while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                    asked.lock().push(question(&packet[..length]).to_vec());
                    if let Some(answer) = answer(&packet[..length], manner) {
                        socket.send_to(&answer, from).await.expect("sent");
                    }
                }
            });
        }
        name_servers
    }

    fn dns(&self, resolv_conf: &str) -> Dns {
        let configuration = Configuration::parse(resolv_conf.as_bytes(), None);
        Dns::by(self.servers.clone(), configuration, Cache::Unused)
    }
}

/// The name in a question, followed by the type.
fn question(packet: &[u8]) -> &[u8] {
    let end = packet[12..].iter().position(|b| *b == 0).expect("a name") + 13;
    &packet[12..end + 2]
}

/// Makes an answer (RFC 1035, section 4.1).
fn answer(packet: &[u8], manner: Manner) -> Option<Vec<u8>> {
    let question = question(packet);
    let (name, kind) = question.split_at(question.len() - 2);
    let is_v6 = kind == [0, 28];
    let is_known = name.eq_ignore_ascii_case(KNOWN);
    let (code, has_answer) = match manner {
        Manner::Silent => return None,
        Manner::SilentForV6 if is_v6 => return None,
        Manner::Good | Manner::SilentForV6 if is_known => (0, !is_v6),
        Manner::Good | Manner::SilentForV6 | Manner::Ignorant => (NXDOMAIN, false),
        Manner::Failing => (SERVFAIL, false),
        Manner::Refusing => (REFUSED, false),
    };
    let mut answer = packet[..2].to_vec();
    answer.extend([0x84, 0x80 | code, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    answer.extend(question);
    answer.extend([0, 1]);
    if has_answer {
        // The name by a pointer, A, IN, a minute, four bytes: 10.0.0.7.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 7]);
    }
    Some(answer)
}

const FOUND: &[IpAddr] = &[IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7))];

#[tokio::test]
async fn one_good_server_is_enough_wherever_it_stands() {
    use Manner::{Failing, Good, Ignorant, Refusing, Silent, SilentForV6};
    for manners in [
        &[Good][..],
        &[Good, Silent],
        &[Silent, Good],
        &[Silent, Silent, Good],
        &[Failing, Good],
        &[Refusing, Good],
        &[Failing, Refusing, Good],
        // An internal server before a public one.
        &[Good, Ignorant],
        &[SilentForV6],
    ] {
        let name_servers = NameServers::of(manners).await;
        let found = name_servers.dns("").addresses("known.test").await;
        assert_eq!(found.as_deref(), Ok(FOUND), "{manners:?}");
    }
}

#[tokio::test]
async fn a_name_is_unknown_when_a_server_says_so_and_those_before_it_say_nothing() {
    use Manner::{Failing, Good, Ignorant, Refusing, Silent};
    for manners in [
        &[Good][..],
        &[Failing, Ignorant],
        &[Refusing, Failing, Ignorant],
        &[Silent, Ignorant],
    ] {
        let name_servers = NameServers::of(manners).await;
        let fault = name_servers.dns("").addresses("other.test").await;
        let fault = fault.expect_err("unknown");
        assert!(
            matches!(fault, NameError::Unknown { .. }),
            "{manners:?}: {fault}"
        );
    }
}

#[tokio::test]
async fn a_failure_names_the_servers_and_the_reason() {
    let name_servers = NameServers::of(&[Manner::Failing, Manner::Refusing]).await;
    let fault = name_servers.dns("").addresses("known.test").await;
    let text = fault.expect_err("nobody answers").to_string();
    for word in ["known.test", "127.0.0.1, 127.0.0.1", "/etc/resolv.conf"] {
        assert!(text.contains(word), "{word} in: {text}");
    }
}

#[tokio::test]
async fn a_server_found_silent_is_asked_last() {
    let name_servers = NameServers::of(&[Manner::Silent, Manner::Ignorant]).await;
    let dns = name_servers.dns("");
    dns.addresses("one.test").await.expect_err("unknown");
    let last: Vec<_> = dns.servers.iter().map(Server::is_asked_last).collect();
    assert_eq!(last, [true, false]);
}

#[tokio::test]
async fn the_search_list_is_gone_through() {
    let name_servers = NameServers::of(&[Manner::Good]).await;
    let dns = name_servers.dns("search a.test test");
    assert_eq!(dns.addresses("known").await.as_deref(), Ok(FOUND));
    let names: Vec<_> = name_servers.asked[0]
        .lock()
        .iter()
        .map(|q| q[..q.len() - 2].to_vec())
        .collect();
    assert!(
        names.contains(&b"\x05known\x01a\x04test\x00".to_vec()),
        "{names:?}"
    );
    let fault = dns.addresses("known.").await.expect_err("absolute");
    assert!(matches!(fault, NameError::Unknown { .. }), "{fault}");
    let fault = dns.addresses("a..b").await.expect_err("no name");
    assert!(matches!(fault, NameError::Unknown { .. }), "{fault}");
}
