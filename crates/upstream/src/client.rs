//! The HTTP clients: TLS by rustls with ring, the system's root certificates or else Mozilla's, which are
//! built in, no redirects of their own.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use url::Url;

use crate::CredentialsError;
use crate::policy::Reach;
use crate::registries::Limits;
use crate::resolve::{Names, Vetted};

/// Connections kept for the next request, for each host …
const IDLE_CONNECTIONS: usize = 4;
/// … and for how long. Registries behind load balancers close them after a minute or so.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Why upstream registries cannot be talked to at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot read certificates from {path}; it has to be a file of PEM certificates")]
    Certificates {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// A client for each [`Reach`]. Their connections are apart: one that was made to an address inside is never reused
/// for a call that may not go there.
pub(crate) struct Clients([reqwest::Client; Reach::ALL.len()]);

impl Clients {
    pub(crate) fn of(&self, reach: Reach) -> &reqwest::Client {
        let [public, private, loopback] = &self.0;
        match reach {
            Reach::Public => public,
            Reach::Private => private,
            Reach::Loopback => loopback,
        }
    }

    pub(crate) fn new(
        names: &Arc<dyn Names>,
        ca_file: Option<&Path>,
        proxies: Option<&BTreeSet<String>>,
        limits: &Limits,
    ) -> Result<Self, SetupError> {
        let tls = tls(ca_file)?;
        let build = |reach| {
            let vetted = Vetted {
                names: names.clone(),
                reach,
                proxies: Arc::new(proxies.cloned().unwrap_or_default()),
            };
            let builder = reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(Arc::new(vetted))
                .redirect(redirect::Policy::none())
                .connect_timeout(limits.connect)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_idle_timeout(IDLE_TIME)
                .user_agent(concat!("peili/", env!("CARGO_PKG_VERSION")));
            let builder = if proxies.is_some() {
                builder
            } else {
                builder.no_proxy()
            };
            builder.build().map_err(SetupError::Client)
        };
        let [public, private, loopback] = Reach::ALL;
        Ok(Self([build(public)?, build(private)?, build(loopback)?]))
    }
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "some of the system's certificates cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        // An image with nothing but this binary in it has no certificates of a system.
        tracing::debug!("the system has no root certificates; those built in are used");
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    }
    if let Some(path) = ca_file {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| certificate_fault(path, error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| certificate_fault(path, error))?;
    if found.is_empty() {
        let none = io::Error::new(io::ErrorKind::InvalidData, "no certificate in it");
        return Err(certificate_fault(path, none));
    }
    Ok(found)
}

fn certificate_fault(
    path: &Path,
    source: impl std::error::Error + Send + Sync + 'static,
) -> SetupError {
    SetupError::Certificates {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// The hosts of the proxies that the environment names, by the variables that the HTTP client reads.
pub(crate) fn proxies_of_environment() -> BTreeSet<String> {
    let names = ["http_proxy", "https_proxy", "all_proxy"];
    let upper = names.map(str::to_ascii_uppercase);
    let values = names.into_iter().chain(upper.iter().map(String::as_str));
    values
        .filter_map(|name| proxy_host(&std::env::var(name).ok()?))
        .collect()
}

fn proxy_host(value: &str) -> Option<String> {
    let url = if value.contains("://") {
        Url::parse(value)
    } else {
        Url::parse(&format!("http://{value}"))
    };
    // In lower case also where the URL's scheme is none of the web's.
    Some(url.ok()?.host_str()?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_known_by_host() {
        for (value, host) in [
            ("http://user:pw@proxy.corp:3128/", Some("proxy.corp")),
            ("Proxy.Corp:3128", Some("proxy.corp")),
            ("socks5://proxy.corp", Some("proxy.corp")),
            ("10.0.0.1:3128", Some("10.0.0.1")),
            ("", None),
        ] {
            assert_eq!(proxy_host(value).as_deref(), host, "{value}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_a_fault() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(matches!(
            tls(Some(file.path())),
            Err(SetupError::Certificates { .. })
        ));
        std::fs::write(
            file.path(),
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .expect("written");
        assert!(matches!(
            tls(Some(file.path())),
            Err(SetupError::Certificates { .. })
        ));
        assert!(tls(None).is_ok());
    }
}
