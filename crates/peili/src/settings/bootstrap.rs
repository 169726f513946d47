//! The settings by which the node finds its first peers.

use swarm::{Bootstrap, HttpBootstrap, IdForm, PeerAddress};

use crate::cli::BootstrapArgs;
use crate::fault::Faults;
use crate::value;

/// Without a kind, the node looks for no peers.
pub fn read(arguments: &BootstrapArgs, faults: &mut Faults) -> Option<Bootstrap> {
    match arguments.bootstrap_kind.as_str() {
        "dns" if arguments.dns_bootstrap_domain.is_empty() => {
            faults.add(
                "--dns-bootstrap-domain",
                "is needed with --bootstrap-kind dns",
            );
            None
        }
        "dns" => Some(Bootstrap::Dns {
            domain: arguments.dns_bootstrap_domain.clone(),
        }),
        "http" => http_bootstrap(arguments, faults).map(Bootstrap::Http),
        "static" => {
            let peers = &arguments.static_bootstrap_peers;
            let peers = faults.list("--static-bootstrap-peers", peers, str::parse::<PeerAddress>);
            Some(Bootstrap::Static { peers })
        }
        "" => Some(Bootstrap::Static { peers: Vec::new() }),
        other => {
            faults.add(
                "--bootstrap-kind",
                format!("{other:?} is none of dns, http and static; a single host needs none"),
            );
            None
        }
    }
}

fn http_bootstrap(arguments: &BootstrapArgs, faults: &mut Faults) -> Option<HttpBootstrap> {
    let (peer, url) = (
        &arguments.http_bootstrap_peer,
        &arguments.http_bootstrap_url,
    );
    let mut endpoints = Vec::new();
    if !peer.is_empty() {
        endpoints.extend(faults.take(
            "--http-bootstrap-peer",
            HttpBootstrap::endpoint_of_peer(peer),
        ));
    }
    if !url.is_empty() {
        endpoints.extend(faults.take("--http-bootstrap-url", HttpBootstrap::endpoint(url)));
    }
    let certificates = value::path(&arguments.http_bootstrap_cert_dir);
    if let Some(folder) = &certificates {
        faults.take("--http-bootstrap-cert-dir", value::folder(folder));
    }
    let serve = match arguments.http_bootstrap_addr.as_str() {
        "" => None,
        address => Some(faults.take("--http-bootstrap-addr", address.parse())?),
    };
    if peer.is_empty() && url.is_empty() && serve.is_none() {
        faults.add(
            "--http-bootstrap-url",
            "is needed with --bootstrap-kind http, or --http-bootstrap-addr",
        );
        return None;
    }
    Some(HttpBootstrap {
        endpoints,
        serve,
        form: if peer.is_empty() {
            IdForm::List
        } else {
            IdForm::One
        },
        certificates,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::validate;

    #[test]
    fn a_single_host_needs_no_kind() {
        let settings = validate("").expect("sound");
        let Bootstrap::Static { peers } = settings.bootstrap else {
            panic!("another kind: {:?}", settings.bootstrap);
        };
        assert!(peers.is_empty());
        let text = validate("--bootstrap-kind udp")
            .expect_err("no kind")
            .to_string();
        assert!(
            text.contains("--bootstrap-kind: \"udp\" is none of"),
            "{text}"
        );
    }

    #[test]
    fn a_peer_of_a_release_is_asked_as_a_release_answers() {
        let line = "--bootstrap-kind http --http-bootstrap-peer http://a:1";
        let settings = validate(line).expect("sound");
        let Bootstrap::Http(http) = settings.bootstrap else {
            panic!("another kind: {:?}", settings.bootstrap);
        };
        assert!(matches!(http.form, IdForm::One));
    }
}
