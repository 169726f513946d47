//! Asks name servers.
//!
//! The library asks servers in an order of its own, and accepts the first refusal as the answer. libc and Go keep the
//! order of the file, and go on to the next server after silence, SERVFAIL and REFUSED. Hosts with an internal server
//! before a public one depend on that, so here each server has its own resolver.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt as _};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::configuration::Configuration;
use crate::{Cache, NameError};

/// The limit for the addresses of one family once those of the other are there (RFC 8305, section 3): some name servers
/// never answer for IPv6.
const FAMILY_DELAY: Duration = Duration::from_millis(300);
/// A server is asked when the one before it has been silent for this long.
const NEXT_SERVER_DELAY: Duration = Duration::from_millis(500);
/// A server that is silent for this long no longer prevents a later one from answering that a name is unknown …
const PATIENCE: Duration = Duration::from_secs(2);
/// … and it is asked last for this long.
const ASKED_LAST: Duration = Duration::from_secs(30);

/// DNS as configured.
pub(crate) struct Dns {
    configuration: Configuration,
    servers: Vec<Server>,
}

/// The answer to a question.
enum Said {
    Addresses(Vec<IpAddr>),
    /// The name does not exist, or has no address of this family.
    None,
    Failed(NetError),
}

/// The state of one server's answer.
enum Heard {
    /// No answer for [`PATIENCE`]; one may still come.
    Silence,
    Answer(Said),
}

impl Dns {
    pub(crate) fn new(configuration: Configuration, cache: Cache) -> Self {
        let servers = configuration.servers.iter();
        let servers = servers.map(|address| NameServerConfig::udp_and_tcp(*address));
        Self::by(servers.collect(), configuration, cache)
    }

    fn by(servers: Vec<NameServerConfig>, configuration: Configuration, cache: Cache) -> Self {
        let servers = servers.into_iter();
        let servers = servers.map(|server| Server::new(server, &configuration, cache));
        Self {
            servers: servers.collect(),
            configuration,
        }
    }

    /// The addresses of the first candidate name that has any.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let mut failure = None;
        for name in self.configuration.candidates(host) {
            match self.both_families(&name).await {
                Said::Addresses(addresses) => return Ok(addresses),
                Said::None => {}
                Said::Failed(error) => failure = failure.or(Some(error)),
            }
        }
        let servers = self.servers.iter().map(|s| s.address.to_string());
        let servers = servers.collect::<Vec<_>>().join(", ");
        let name = host.to_owned();
        Err(match failure {
            Some(error) => NameError::Failed {
                name,
                servers,
                reason: error.to_string(),
            },
            None => NameError::Unknown { name, servers },
        })
    }

    async fn both_families(&self, name: &Name) -> Said {
        if self.configuration.ipv4_only {
            return self.ask(name, RecordType::A).await;
        }
        let v4 = pin!(self.ask(name, RecordType::A));
        let v6 = pin!(self.ask(name, RecordType::AAAA));
        match select(v4, v6).await {
            Either::Left((v4, v6)) => {
                let v6 = second(&v4, v6).await;
                merge(v4, v6)
            }
            Either::Right((v6, v4)) => {
                let v4 = second(&v6, v4).await;
                merge(v4, v6)
            }
        }
    }

    /// Asks the servers in order, the next one when one is slow or has failed. Addresses count from the first server
    /// that has them; a negative answer counts when all servers before have failed or are silent.
    async fn ask(&self, name: &Name, family: RecordType) -> Said {
        let mut servers: Vec<&Server> = self.servers.iter().collect();
        servers.sort_by_key(|server| server.is_asked_last());
        let mut heard: Vec<Option<Heard>> = servers.iter().map(|_| None).collect();
        let mut waiting = servers.iter().enumerate();
        let (mut asked, mut silent) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut ask_next = true;
        loop {
            if ask_next && let Some((place, server)) = waiting.next() {
                asked.push(async move { (place, server.ask(name, family).await) });
                silent.push(async move {
                    sleep(PATIENCE).await;
                    place
                });
            }
            tokio::select! {
                Some((place, said)) = asked.next() => {
                    if matches!(said, Said::Addresses(_)) {
                        return said;
                    }
                    ask_next = matches!(said, Said::Failed(_));
                    heard[place] = Some(Heard::Answer(said));
                }
                Some(place) = silent.next() => {
                    ask_next = false;
                    if heard[place].is_none() {
                        servers[place].ask_last();
                        heard[place] = Some(Heard::Silence);
                    }
                }
                () = sleep(NEXT_SERVER_DELAY), if waiting.len() > 0 => ask_next = true,
                // There is no server at all.
                else => return Said::None,
            }
            if let Some(said) = decide(&mut heard) {
                return said;
            }
        }
    }
}

/// The common answer of the servers, once it is certain. They are in order of precedence.
fn decide(heard: &mut [Option<Heard>]) -> Option<Said> {
    let mut all_failed = true;
    for heard in &*heard {
        match heard {
            Some(Heard::Answer(Said::None)) => return Some(Said::None),
            Some(Heard::Silence) => all_failed = false,
            Some(Heard::Answer(_)) => {}
            None => return None,
        }
    }
    let first = heard.first_mut().filter(|_| all_failed)?;
    match first.take()? {
        Heard::Answer(said) => Some(said),
        Heard::Silence => None,
    }
}

/// The answer for the other family, if it comes in time.
async fn second(first: &Said, other: impl Future<Output = Said>) -> Said {
    match first {
        Said::Addresses(_) => timeout(FAMILY_DELAY, other).await.unwrap_or(Said::None),
        _ => other.await,
    }
}

fn merge(v4: Said, v6: Said) -> Said {
    match (v4, v6) {
        (Said::Addresses(mut all), Said::Addresses(more)) => {
            all.extend(more);
            Said::Addresses(all)
        }
        (Said::Addresses(all), _) | (_, Said::Addresses(all)) => Said::Addresses(all),
        (Said::Failed(error), _) | (_, Said::Failed(error)) => Said::Failed(error),
        (Said::None, Said::None) => Said::None,
    }
}

struct Server {
    address: IpAddr,
    resolver: Result<TokioResolver, NetError>,
    /// When it was last found to be silent.
    silent: Mutex<Option<Instant>>,
}

impl Server {
    fn new(server: NameServerConfig, configuration: &Configuration, cache: Cache) -> Self {
        let address = server.ip;
        let config = ResolverConfig::from_name_servers(vec![server]);
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        let options = builder.options_mut();
        options.timeout = configuration.timeout;
        // The library counts the attempts after the first.
        options.attempts = configuration.attempts.saturating_sub(1);
        options.edns0 = configuration.edns0;
        options.use_hosts_file = ResolveHosts::Never;
        if cache == Cache::Unused {
            options.cache_size = 0;
        }
        Self {
            address,
            resolver: builder.build(),
            silent: Mutex::new(None),
        }
    }

    async fn ask(&self, name: &Name, family: RecordType) -> Said {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(error) => return Said::Failed(error.clone()),
        };
        match resolver.lookup(name.clone(), family).await {
            Ok(found) => {
                let addresses = found.answers().iter();
                let addresses: Vec<_> = addresses.filter_map(|r| r.data.ip_addr()).collect();
                match addresses.is_empty() {
                    true => Said::None,
                    false => Said::Addresses(addresses),
                }
            }
            Err(error) if error.is_no_records_found() => Said::None,
            Err(error) => Said::Failed(error),
        }
    }

    fn is_asked_last(&self) -> bool {
        self.silent
            .lock()
            .is_some_and(|at| at.elapsed() < ASKED_LAST)
    }

    fn ask_last(&self) {
        *self.silent.lock() = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests;
