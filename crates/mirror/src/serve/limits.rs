//! The most connections of each port of a process, derived from its limit of descriptors.

/// The descriptors reserved for listeners, the runtime, the store, logs and connections to containerd and registries.
const RESERVED: usize = 64;
/// The most connections to the registry port from other hosts, and from this one, if there are enough descriptors. Each
/// takes about 20 KiB while its client does not read, most of it buffers of hyper.
const MAX_REGISTRY_OTHERS: usize = 2048;
const MAX_REGISTRY_OWN: usize = 512;
/// The same for each other HTTP port: metrics, `/id`.
const MAX_HTTP: usize = 512;
/// The same for connections of other nodes to the router. A cluster of 10,000 nodes needs far fewer.
const MAX_ROUTER: usize = 4096;
/// The least number of connections of each kind of client, however few descriptors there are.
const MIN_CONNECTIONS: usize = 8;

/// The most connections of a port, by the client's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLimits {
    /// Those from this host.
    pub own: usize,
    /// Those from other hosts.
    pub others: usize,
}

/// The most connections of all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub registry: PortLimits,
    /// Those of each other HTTP port; there are at most two.
    pub http: PortLimits,
    /// Those of other nodes to the router.
    pub router: usize,
}

impl ConnectionLimits {
    /// Divides the descriptors. A connection to the registry port counts twice: its answer needs a file or a connection
    /// to a peer. About an eighth is left for connections that this node opens to others.
    pub fn within(descriptors: usize) -> Self {
        let shared = descriptors.saturating_sub(RESERVED);
        let share = |part: usize, most: usize| (shared / part).clamp(MIN_CONNECTIONS, most);
        Self {
            registry: PortLimits {
                own: share(12, MAX_REGISTRY_OWN),
                others: share(6, MAX_REGISTRY_OTHERS),
            },
            http: PortLimits {
                own: share(32, MAX_HTTP),
                others: share(32, MAX_HTTP),
            },
            router: share(4, MAX_ROUTER),
        }
    }
}

impl Default for ConnectionLimits {
    /// The limits if there are enough descriptors for all of them.
    fn default() -> Self {
        Self::within(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The descriptors in use when all ports are full and each answer of the registry port has its own.
    fn in_use(limits: ConnectionLimits) -> usize {
        let ConnectionLimits {
            registry,
            http,
            router,
        } = limits;
        2 * (registry.own + registry.others) + 2 * (http.own + http.others) + router
    }

    /// The descriptors from which no port is limited to its minimum.
    const ENOUGH: usize = RESERVED + 32 * MIN_CONNECTIONS;

    proptest! {
        #[test]
        fn full_ports_leave_descriptors_for_this_nodes_own_connections(descriptors in ENOUGH..100_000_usize) {
            let limits = ConnectionLimits::within(descriptors);
            let left = descriptors - in_use(limits);
            prop_assert!(left >= RESERVED + (descriptors - RESERVED) / 9, "{left} of {descriptors}");
        }
    }

    /// The lowest soft limit that systems set.
    #[test]
    fn with_few_descriptors_some_are_left() {
        let left = 256 - in_use(ConnectionLimits::within(256));
        assert!(left > RESERVED, "{left}");
    }

    #[test]
    fn enough_descriptors_give_what_is_documented_and_few_give_some() {
        let full = ConnectionLimits::default();
        assert_eq!((full.registry.own, full.registry.others), (512, 2048));
        assert_eq!(
            (full.http.own, full.http.others, full.router),
            (512, 512, 4096)
        );
        let none = ConnectionLimits::within(0);
        assert_eq!(
            (none.registry.own, none.registry.others),
            (MIN_CONNECTIONS, MIN_CONNECTIONS)
        );
        assert_eq!(none.router, MIN_CONNECTIONS);
    }
}
