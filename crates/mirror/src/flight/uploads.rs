//! Admits as many followers as a node can feed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use oci::Digest;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::body::client_socket::{ClientSocket, IDLE_AFTER};
use crate::flights::pull_rules::MAX_UPLOADS;
use crate::object_stream::BodyHook;
use crate::rate::RateMeter;

/// The most uploads to one address: a node that pulls three layers at a time twice, or a few nodes behind one gateway.
/// A client with made-up requests leaves slots to others.
const MAX_UPLOADS_BY_ADDRESS: usize = MAX_UPLOADS / 4;

type Key = (IpAddr, Digest);

/// The uploads in progress.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    /// The streams of each upload by number, and their clients.
    streams: HashMap<Key, HashMap<u64, Weak<ClientSocket>>>,
    last: u64,
    sent: RateMeter,
}

/// An upload. It ends when it is dropped.
#[derive(Debug)]
pub struct Upload {
    uploads: Arc<Uploads>,
    key: Key,
    number: u64,
}

impl Uploads {
    /// Admits an upload. `None`: there are `most` already whose clients accept bytes, or as many as a node serves.
    pub fn admit(
        self: &Arc<Self>,
        follower: IpAddr,
        digest: &Digest,
        most: usize,
    ) -> Option<Upload> {
        let key = (follower, digest.clone());
        let mut going = self.0.lock();
        if !going.streams.contains_key(&key) {
            if going.active() >= most {
                return None;
            }
            let of_follower = |(key, _): &(&Key, _)| key.0 == follower;
            let has_all =
                going.streams.iter().filter(of_follower).count() >= MAX_UPLOADS_BY_ADDRESS;
            let is_full = has_all || going.streams.len() >= MAX_UPLOADS;
            if is_full && !going.end_idle(|key| !has_all || key.0 == follower) {
                return None;
            }
        }
        going.last += 1;
        let number = going.last;
        let streams = going.streams.entry(key.clone()).or_default();
        streams.insert(number, Weak::new());
        Some(Upload {
            uploads: self.clone(),
            key,
            number,
        })
    }

    /// The number of followers of each object.
    pub fn followers(&self) -> HashMap<Digest, usize> {
        let mut followers = HashMap::new();
        for (_, digest) in self.0.lock().streams.keys() {
            *followers.entry(digest.clone()).or_default() += 1;
        }
        followers
    }

    /// The present rate of all uploads, in bytes per second.
    pub fn sent(&self) -> u64 {
        self.0.lock().sent.recent_rate(Instant::now())
    }
}

impl Going {
    /// The number of uploads whose clients accept bytes.
    fn active(&self) -> usize {
        let is_active =
            |streams: &&HashMap<u64, Weak<ClientSocket>>| !streams.values().all(is_idle);
        self.streams.values().filter(is_active).count()
    }

    /// Ends an upload whose client accepts no bytes. Returns whether there was one.
    fn end_idle(&mut self, may_end: impl Fn(&Key) -> bool) -> bool {
        let mut idle = self
            .streams
            .iter()
            .filter(|(key, streams)| may_end(key) && streams.values().all(is_idle));
        let idle = idle.next().map(|(key, _)| key.clone());
        idle.is_some_and(|key| self.streams.remove(&key).is_some())
    }
}

/// Whether the client of a stream has accepted no bytes for long.
fn is_idle(client: &Weak<ClientSocket>) -> bool {
    let client = client.upgrade();
    client.is_some_and(|client| client.waited() >= IDLE_AFTER)
}

impl BodyHook for Upload {
    fn sent_to(&self, client: &Arc<ClientSocket>) {
        let streams = &mut self.uploads.0.lock().streams;
        if let Some(streams) = streams.get_mut(&self.key) {
            streams.insert(self.number, Arc::downgrade(client));
        }
    }

    fn sent(&self, bytes: u64) {
        self.uploads.0.lock().sent.received(Instant::now(), bytes);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let all = &mut self.uploads.0.lock().streams;
        if let Some(streams) = all.get_mut(&self.key) {
            streams.remove(&self.number);
            if streams.is_empty() {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_one_follower_are_one_upload() {
        let uploads = Arc::new(Uploads::default());
        let digest = Digest::sha256(b"layer");
        let follower = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).expect("few")]);
        let mut ranges: Vec<_> = (0..8)
            .map(|_| uploads.admit(follower(0), &digest, usize::MAX))
            .collect();
        let others: Vec<_> = (1..MAX_UPLOADS)
            .map(|n| uploads.admit(follower(n), &digest, usize::MAX))
            .collect();
        assert!(ranges.iter().chain(&others).all(Option::is_some));
        let one_more = || uploads.admit(follower(MAX_UPLOADS), &digest, usize::MAX);
        assert!(one_more().is_none());
        assert!(uploads.admit(follower(0), &digest, usize::MAX).is_some());
        ranges.truncate(1);
        assert!(one_more().is_none(), "one range is left");
        ranges.clear();
        assert!(one_more().is_some());
    }

    #[test]
    fn one_address_leaves_places_to_others() {
        let uploads = Arc::new(Uploads::default());
        let object = |n: usize| Digest::sha256(&n.to_be_bytes());
        let (hostile, honest) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let made_up: Vec<_> = (0..MAX_UPLOADS)
            .filter_map(|n| uploads.admit(hostile, &object(n), usize::MAX))
            .collect();
        assert_eq!(made_up.len(), MAX_UPLOADS_BY_ADDRESS);
        assert!(uploads.admit(honest, &object(0), usize::MAX).is_some());
    }
}
