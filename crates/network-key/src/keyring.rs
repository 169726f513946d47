//! The keys in force, shared by all users.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::NetworkKeys;

/// The keys in force. Clones share them: a replacement is visible to all.
#[derive(Clone)]
pub struct Keyring(Arc<watch::Sender<Arc<NetworkKeys>>>);

impl Keyring {
    pub fn new(keys: NetworkKeys) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(keys))))
    }

    pub fn current(&self) -> Arc<NetworkKeys> {
        self.0.borrow().clone()
    }

    pub fn replace(&self, keys: NetworkKeys) {
        self.0.send_replace(Arc::new(keys));
    }

    /// Notifies of each replacement from now on.
    pub fn changes(&self) -> watch::Receiver<Arc<NetworkKeys>> {
        self.0.subscribe()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.current()).finish()
    }
}
