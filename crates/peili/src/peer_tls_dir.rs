//! The folder of the certificates between nodes (`--peer-tls-dir`): read at the start, and again whenever it has
//! changed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tls::{PeerCertificates, PeerTls};
use tokio::time::{MissedTickBehavior, interval};

use crate::secret_file;

/// The interval between reads of the files. Kubernetes shows a changed Secret in pods by replacing a symbolic link, up
/// to a minute later.
const READ_EVERY: Duration = Duration::from_secs(2);
/// The most bytes of each file: enough for some hundred certificates.
const MAX_FILE: u64 = 512 * 1024;
/// A certificate that expires within this time should have been replaced: cert-manager does so when a third of its
/// lifetime is left.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// The contents of the files.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<u8>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The certificates in force, and their folder.
#[derive(Clone, Debug)]
pub struct PeerTlsDir {
    folder: PathBuf,
    pub tls: PeerTls,
    /// The contents in force.
    contents: Option<Contents>,
}

/// The remaining validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validity {
    Long,
    Short,
    Over,
}

impl PeerTlsDir {
    /// Reads the folder. If one of its files is missing, this node has no certificate: until they exist, it has no
    /// peers and accepts none.
    ///
    /// # Errors
    /// They exist but cannot be read, or are not certificates with their key.
    pub fn open(folder: PathBuf) -> Result<Self> {
        let contents = read(&folder)?;
        let certificates = contents.as_ref().map(|contents| parse(&folder, contents));
        let certificates = certificates.transpose()?;
        match &certificates {
            Some(certificates) => tell_refused(certificates),
            None => tracing::warn!(
                folder = %folder.display(),
                "a file of --peer-tls-dir is not there, so this node has no peers, and pulls go upstream; the folder needs \
                 tls.crt, tls.key and ca.crt; leave the option out to share with whoever connects"
            ),
        }
        let tls = PeerTls::new(certificates);
        Ok(Self {
            folder,
            tls,
            contents,
        })
    }

    /// Updates the certificates from the folder, reports their expiry, and sets its metric. Never returns.
    pub async fn watch(mut self, expiry: Gauge) {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut fault, mut told_fault, mut told_validity) = (None, None, Validity::Long);
        loop {
            self.tell_validity(&expiry, &mut told_validity);
            ticks.tick().await;
            let folder = self.folder.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || read(&folder)).await else {
                continue;
            };
            let found = self.take(found);
            // Files that are replaced one by one do not match for a moment.
            let lasts = found == fault;
            fault = found;
            if lasts && fault != told_fault {
                if let Some(fault) = &fault {
                    tracing::warn!(
                        fault,
                        "cannot use --peer-tls-dir; keeping the previous certificates"
                    );
                }
                told_fault.clone_from(&fault);
            }
        }
    }

    /// Puts new certificates in force. Returns the fault of the folder if the old ones stay.
    fn take(&mut self, found: Result<Option<Contents>>) -> Option<String> {
        let contents = match found {
            Ok(Some(contents)) => contents,
            // That there never were any was reported at the start.
            Ok(None) if self.tls.current().certificates.is_none() => return None,
            Ok(None) => return Some(format!("a file of {} is missing", self.folder.display())),
            Err(error) => return Some(format!("{error:#}")),
        };
        if self.contents.as_ref() == Some(&contents) {
            return None;
        }
        match parse(&self.folder, &contents) {
            Ok(certificates) => {
                tracing::info!("new certificates of --peer-tls-dir are in force");
                tell_refused(&certificates);
                self.tls.replace(certificates);
                self.contents = Some(contents);
                None
            }
            Err(error) => Some(format!("{error:#}")),
        }
    }

    fn tell_validity(&self, expiry: &Gauge, told: &mut Validity) {
        let Some(certificates) = self.tls.current().certificates else {
            return;
        };
        let not_after = certificates.not_after;
        let since_epoch = not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since_epoch.as_secs();
        expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        let validity = validity(not_after, SystemTime::now());
        if validity != *told {
            match validity {
                Validity::Long => {}
                Validity::Short => tracing::warn!(
                    expires_at = seconds,
                    "the certificate in --peer-tls-dir expires within 7 days, and peers refuse it then; replace it"
                ),
                Validity::Over => tracing::warn!(
                    expired_at = seconds,
                    "the certificate in --peer-tls-dir has expired, so peers refuse it; replace it"
                ),
            }
            *told = validity;
        }
    }
}

fn validity(not_after: SystemTime, now: SystemTime) -> Validity {
    match not_after.duration_since(now) {
        Err(_) => Validity::Over,
        Ok(left) if left < EXPIRES_SOON => Validity::Short,
        Ok(_) => Validity::Long,
    }
}

/// Logs if peers will refuse the certificate.
fn tell_refused(certificates: &PeerCertificates) {
    if let Some(why) = &certificates.refused_for {
        tracing::warn!(
            why,
            "peers that trust ca.crt of --peer-tls-dir alone refuse its tls.crt; it has to be signed by an authority in \
             ca.crt, for servers and clients (extended key usages serverAuth and clientAuth, or none)"
        );
    }
}

/// Registers `peili_peer_certificate_expiration_timestamp_seconds`.
pub fn register(registry: &mut Registry) -> Gauge {
    let expiry = Gauge::default();
    registry.register(
        "peili_peer_certificate_expiration_timestamp_seconds",
        "When the certificate in --peer-tls-dir expires, in Unix time; 0: there is none, and so no peers",
        expiry.clone(),
    );
    expiry
}

fn parse(folder: &Path, contents: &Contents) -> Result<PeerCertificates> {
    let Contents {
        certificate,
        key,
        authorities,
    } = contents;
    let parsed = PeerCertificates::parse(certificate, key, authorities);
    parsed.with_context(|| format!("{} holds no certificate of a node", folder.display()))
}

/// Reads the folder. `None`: a file does not exist. Blocking.
fn read(folder: &Path) -> Result<Option<Contents>> {
    // Kubernetes replaces all files of a Secret at once through this symbolic link. Following it first gives matching
    // files.
    let folder = match folder.join("..data").canonicalize() {
        Ok(current) => current,
        Err(_) => folder.to_owned(),
    };
    let file = |name| secret_file::read(&folder.join(name), MAX_FILE);
    let (certificate, key, authorities) = (file("tls.crt")?, file("tls.key")?, file("ca.crt")?);
    let (Some(certificate), Some(key), Some(authorities)) = (certificate, key, authorities) else {
        return Ok(None);
    };
    Ok(Some(Contents {
        certificate,
        key,
        authorities,
    }))
}

#[cfg(test)]
mod tests;
