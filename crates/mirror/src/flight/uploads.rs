//! Admits as many followers as a node can feed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use oci::Digest;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::flights::pulling::MAX_UPLOADS;
use crate::object_stream::BodyHook;
use crate::rate::RateMeter;

type Key = (IpAddr, Digest);

/// The uploads in progress.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    /// The number of streams of each upload.
    streams: HashMap<Key, usize>,
    sent: RateMeter,
}

/// An upload. It ends when it is dropped.
#[derive(Debug)]
pub struct Upload {
    uploads: Arc<Uploads>,
    key: Key,
}

impl Uploads {
    /// Admits an upload. `None`: there are too many.
    pub fn admit(self: &Arc<Self>, follower: IpAddr, digest: &Digest) -> Option<Upload> {
        let key = (follower, digest.clone());
        let streams = &mut self.0.lock().streams;
        if streams.len() >= MAX_UPLOADS && !streams.contains_key(&key) {
            return None;
        }
        *streams.entry(key.clone()).or_default() += 1;
        Some(Upload {
            uploads: self.clone(),
            key,
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

    /// What is sent now, in bytes per second.
    pub fn sent(&self) -> u64 {
        self.0.lock().sent.recent_rate(Instant::now())
    }
}

impl BodyHook for Upload {
    fn sent(&self, bytes: u64) {
        self.uploads.0.lock().sent.received(Instant::now(), bytes);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let all = &mut self.uploads.0.lock().streams;
        if let Some(streams) = all.get_mut(&self.key) {
            *streams -= 1;
            if *streams == 0 {
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
            .map(|_| uploads.admit(follower(0), &digest))
            .collect();
        let others: Vec<_> = (1..MAX_UPLOADS)
            .map(|n| uploads.admit(follower(n), &digest))
            .collect();
        assert!(ranges.iter().chain(&others).all(Option::is_some));
        let one_more = || uploads.admit(follower(MAX_UPLOADS), &digest);
        assert!(one_more().is_none());
        assert!(uploads.admit(follower(0), &digest).is_some());
        ranges.truncate(1);
        assert!(one_more().is_none(), "one range is left");
        ranges.clear();
        assert!(one_more().is_some());
    }
}
