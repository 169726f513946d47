//! The two files, read again when they change.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Cache;
use crate::configuration::Configuration;
use crate::hosts::Hosts;
use crate::servers::Dns;

/// The interval between checks of the files, which happen only at lookups. They have a few hundred bytes, so they are
/// read whole and compared: times and sizes do not show every change.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The most bytes read of a file.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// The file with this host's name, whose domain is searched if resolv.conf names none (resolv.conf(5), `domain`).
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

pub(crate) struct Files {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    cache: Cache,
    state: Mutex<Option<State>>,
}

struct State {
    read: Texts,
    checked: Instant,
    configured: Arc<Configured>,
}

/// The contents of the files. A file that cannot be read counts as empty.
#[derive(PartialEq, Eq)]
struct Texts {
    hosts: Vec<u8>,
    resolv_conf: Vec<u8>,
    hostname: Vec<u8>,
}

/// The configuration in the files.
pub(crate) struct Configured {
    pub(crate) hosts: Hosts,
    pub(crate) dns: Dns,
}

impl Files {
    pub(crate) fn new(hosts: PathBuf, resolv_conf: PathBuf, cache: Cache) -> Self {
        Self {
            hosts,
            resolv_conf,
            cache,
            state: Mutex::new(None),
        }
    }

    /// The present configuration, at most a second old.
    pub(crate) async fn configured(&self) -> Arc<Configured> {
        let mut state = self.state.lock().await;
        if let Some(state) = &*state
            && state.checked.elapsed() < CHECK_INTERVAL
        {
            return state.configured.clone();
        }
        let read = self.read().await;
        let checked = Instant::now();
        let configured = match &*state {
            Some(state) if state.read == read => state.configured.clone(),
            _ => Arc::new(self.configure(&read)),
        };
        *state = Some(State {
            read,
            checked,
            configured: configured.clone(),
        });
        configured
    }

    fn configure(&self, texts: &Texts) -> Configured {
        let hostname = String::from_utf8_lossy(&texts.hostname);
        let domain = hostname.trim().split_once('.').map(|(_, domain)| domain);
        let configuration = Configuration::parse(&texts.resolv_conf, domain);
        tracing::debug!(?configuration, "resolver configuration");
        Configured {
            hosts: Hosts::parse(&texts.hosts),
            dns: Dns::new(configuration, self.cache),
        }
    }

    async fn read(&self) -> Texts {
        let paths = (self.hosts.clone(), self.resolv_conf.clone());
        let reading = tokio::task::spawn_blocking(move || Texts {
            hosts: read(&paths.0),
            resolv_conf: read(&paths.1),
            hostname: read(Path::new(HOSTNAME)),
        });
        reading.await.unwrap_or(Texts {
            hosts: Vec::new(),
            resolv_conf: Vec::new(),
            hostname: Vec::new(),
        })
    }
}

fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::debug!(path = %path.display(), %error, "a file for the resolution of names is not there");
    }
    bytes
}
