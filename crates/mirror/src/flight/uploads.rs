//! Admits followers, as many as a node can feed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use oci::Digest;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::rate::Rate;

/// Objects sent to followers at once; parallel ranges of one object to one follower count as one. Eight followers with
/// three layers each.
const MOST_UPLOADS: usize = 24;

type Key = (IpAddr, Digest);

/// The uploads that are going on.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    /// How many streams each of them is.
    streams: HashMap<Key, usize>,
    sent: Rate,
}

/// What a node sends at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// In all, in bytes a second.
    pub sent: u64,
    pub uploads: u64,
}

/// An upload; over when it is dropped.
#[derive(Debug)]
pub struct Upload {
    uploads: Arc<Uploads>,
    key: Key,
}

impl Uploads {
    /// `None`: there are enough already.
    pub fn admit(self: &Arc<Self>, follower: IpAddr, digest: &Digest) -> Option<Upload> {
        let key = (follower, digest.clone());
        let streams = &mut self.0.lock().streams;
        if streams.len() >= MOST_UPLOADS && !streams.contains_key(&key) {
            return None;
        }
        *streams.entry(key.clone()).or_default() += 1;
        Some(Upload {
            uploads: self.clone(),
            key,
        })
    }

    pub fn load(&self, now: Instant) -> Load {
        let mut going = self.0.lock();
        Load {
            sent: going.sent.lately(now),
            uploads: going.streams.len() as u64,
        }
    }
}

impl Upload {
    /// This much of it was handed to the connection.
    pub fn sent(&self, bytes: u64) {
        self.uploads.0.lock().sent.came(Instant::now(), bytes);
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
        let others: Vec<_> = (1..MOST_UPLOADS)
            .map(|n| uploads.admit(follower(n), &digest))
            .collect();
        assert!(ranges.iter().chain(&others).all(Option::is_some));
        let one_more = || uploads.admit(follower(MOST_UPLOADS), &digest);
        assert!(one_more().is_none());
        assert!(uploads.admit(follower(0), &digest).is_some());
        ranges.truncate(1);
        assert!(one_more().is_none(), "one range is left");
        ranges.clear();
        assert!(one_more().is_some());
    }
}
