//! Asking peers over HTTP who they are.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Identity};
use url::Url;

use super::{CertificateError, SourceError, id, resolve};
use crate::{HttpBootstrap, PeerAddress};

/// Spegel's names, and those of a Kubernetes TLS secret.
const CA_FILE: &str = "ca.crt";
const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";

/// For one endpoint, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// In bytes; what a few dozen peers need.
const MAX_ANSWER: usize = 256 * 1024;

pub(crate) struct HttpSource {
    client: Client,
    endpoints: Vec<Url>,
}

impl HttpSource {
    pub(super) fn new(config: &HttpBootstrap) -> Result<Self, CertificateError> {
        let mut builder = Client::builder()
            .timeout(REQUEST_TIMEOUT)
            // Peers are in the cluster.
            .no_proxy()
            .dns_resolver(Arc::new(Resolver));
        if rustls_native_certs::load_native_certs().certs.is_empty() {
            // A client without any root certificate cannot be built, not even for plain http.
            let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
            let built_in = built_in.filter_map(|root| Certificate::from_der(root).ok());
            builder = builder.tls_certs_merge(built_in);
        }
        if let Some(folder) = &config.certificates {
            let unusable = |source| CertificateError::Unusable {
                path: folder.clone(),
                source,
            };
            if let Some(pem) = read(&folder.join(CA_FILE))? {
                let roots = Certificate::from_pem_bundle(&pem).map_err(unusable)?;
                if roots.is_empty() {
                    let path = folder.join(CA_FILE);
                    return Err(CertificateError::NoCertificate { path });
                }
                builder = builder.tls_certs_only(roots);
            }
            let certificate = read(&folder.join(CERTIFICATE_FILE))?;
            match (certificate, read(&folder.join(KEY_FILE))?) {
                (Some(certificate), Some(key)) => {
                    let pem = [certificate, key].concat();
                    builder = builder.identity(Identity::from_pem(&pem).map_err(unusable)?);
                }
                (None, None) => {}
                _ => return Err(CertificateError::Incomplete(folder.clone())),
            }
        }
        Ok(Self {
            client: builder.build().map_err(CertificateError::Client)?,
            endpoints: config.endpoints.clone(),
        })
    }

    /// Asks all endpoints at once. One that fails does not hide the others.
    pub(super) async fn peers(&self) -> (Vec<PeerAddress>, Option<SourceError>) {
        let (mut peers, mut error) = (Vec::new(), None);
        for answer in join_all(self.endpoints.iter().map(|url| self.ask(url))).await {
            match answer {
                Ok(found) => peers.extend(found),
                Err(why) => error = Some(why),
            }
        }
        (peers, error)
    }

    async fn ask(&self, endpoint: &Url) -> Result<Vec<PeerAddress>, SourceError> {
        let url = endpoint.to_string();
        let failed = |source: reqwest::Error| SourceError::Get {
            url: url.clone(),
            source: source.without_url(),
        };
        let request = self.client.get(endpoint.clone());
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(SourceError::Status { url, status });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                let limit = MAX_ANSWER;
                return Err(SourceError::TooLong { url, limit });
            }
            body.extend_from_slice(&chunk);
        }
        id::parse(&body).map_err(|source| SourceError::Answer { url, source })
    }
}

/// `None` where the file is not there or empty.
fn read(path: &Path) -> Result<Option<Vec<u8>>, CertificateError> {
    match fs::read(path) {
        Ok(bytes) => Ok((!bytes.is_empty()).then_some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CertificateError::Read {
            path: path.into(),
            source,
        }),
    }
}

/// The resolver of everything here: a static binary has no other.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let resolver = resolve::resolver()?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            // Port 0: the URL's.
            let sockets: Vec<_> = found.iter().map(|ip| (ip, 0).into()).collect();
            let addresses: Addrs = Box::new(sockets.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> Result<HttpSource, CertificateError> {
        // Fails where another test came first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("writable");
        }
        HttpSource::new(&HttpBootstrap {
            certificates: Some(folder.path().into()),
            ..HttpBootstrap::default()
        })
    }

    #[test]
    fn certificates_are_optional_and_checked() {
        assert!(with(&[]).is_ok());
        let error = with(&[(CERTIFICATE_FILE, "x")]).err();
        assert!(matches!(error, Some(CertificateError::Incomplete(_))));
        let error = with(&[(CA_FILE, "no certificate")]).err();
        assert!(matches!(
            error,
            Some(CertificateError::NoCertificate { .. })
        ));
        let error = with(&[(CERTIFICATE_FILE, "x"), (KEY_FILE, "y")]).err();
        assert!(matches!(error, Some(CertificateError::Unusable { .. })));
    }
}
