//! Asks peers over HTTP for their ids and addresses.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use names::Names;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, redirect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use super::{CertificateError, SourceError, id};
use crate::{HttpBootstrap, PeerAddress};

/// The file names of Spegel, and of a Kubernetes TLS secret.
const CA_FILE: &str = "ca.crt";
const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";

/// The limit for one endpoint, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// The most bytes of an answer: enough for a few dozen peers.
const MAX_ANSWER: usize = 256 * 1024;

pub(crate) struct HttpSource {
    client: Client,
    endpoints: Vec<Url>,
}

impl HttpSource {
    pub(super) fn new(config: &HttpBootstrap, names: Arc<Names>) -> Result<Self, CertificateError> {
        let folder = config.certificates.as_deref();
        let roots = roots(folder, &config.endpoints)?;
        let identity = folder.map(identity).transpose()?.flatten();
        let tls = tls::client(roots, identity).map_err(|source| match folder {
            Some(folder) => unusable(folder, source),
            None => CertificateError::Tls(source),
        })?;
        let client = Client::builder()
            .timeout(REQUEST_TIMEOUT)
            // Peers are in the cluster.
            .no_proxy()
            // The configuration says who is asked, and who sees the node's certificate.
            .redirect(redirect::Policy::none())
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(Resolver(names)))
            .build()
            .map_err(CertificateError::Client)?;
        Ok(Self {
            client,
            endpoints: config.endpoints.clone(),
        })
    }

    /// Asks all endpoints at once. A failed one does not hide the others.
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
        if status.is_redirection() {
            return Err(SourceError::Redirect { url, status });
        }
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

/// The certificates in the folder only, or the system's if none are there and some are needed.
fn roots(folder: Option<&Path>, endpoints: &[Url]) -> Result<tls::Roots, CertificateError> {
    let file = folder.map(|folder| folder.join(CA_FILE));
    let pem = file.as_deref().map(read).transpose()?.flatten();
    if let (Some(file), Some(pem)) = (file, pem) {
        let mut roots = tls::Roots::none();
        roots.add_pem(&file, &pem)?;
        return Ok(roots);
    }
    Ok(match endpoints.iter().any(|url| url.scheme() == "https") {
        true => tls::Roots::of_system(),
        false => tls::Roots::none(),
    })
}

fn identity(folder: &Path) -> Result<Option<tls::Identity>, CertificateError> {
    let certificate = read(&folder.join(CERTIFICATE_FILE))?;
    let (certificate, key) = match (certificate, read(&folder.join(KEY_FILE))?) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(None),
        _ => return Err(CertificateError::Incomplete(folder.into())),
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.map_err(|source| unusable(folder, source))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|source| unusable(folder, source))?;
    Ok(Some(tls::Identity { chain, key }))
}

fn unusable(
    folder: &Path,
    source: impl std::error::Error + Send + Sync + 'static,
) -> CertificateError {
    CertificateError::Unusable {
        path: folder.into(),
        source: Box::new(source),
    }
}

/// Reads a file. `None`: it is missing or empty.
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

/// Resolves the names of peers as all others are.
struct Resolver(Arc<Names>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.0.clone();
        Box::pin(async move {
            let found = names.addresses(name.as_str()).await?;
            // Port 0: the URL's.
            let sockets = found.into_iter().map(|ip| (ip, 0).into());
            let addresses: Addrs = Box::new(sockets);
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use names::Cache;

    use super::*;

    fn with(files: &[(&str, &str)]) -> Result<HttpSource, CertificateError> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("writable");
        }
        let config = HttpBootstrap {
            certificates: Some(folder.path().into()),
            ..HttpBootstrap::default()
        };
        HttpSource::new(&config, Arc::new(Names::of_system(Cache::Unused)))
    }

    #[test]
    fn certificates_are_optional_and_checked() {
        assert!(with(&[]).is_ok());
        let error = with(&[(CERTIFICATE_FILE, "x")]).err();
        assert!(matches!(error, Some(CertificateError::Incomplete(_))));
        let error = with(&[(CA_FILE, "no certificate")]).err();
        assert!(matches!(error, Some(CertificateError::Roots(_))));
        let error = with(&[(CERTIFICATE_FILE, "x"), (KEY_FILE, "y")]).err();
        assert!(matches!(error, Some(CertificateError::Unusable { .. })));
    }
}
