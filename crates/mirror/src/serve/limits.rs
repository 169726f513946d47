//! The most connections of each port of a process, by the descriptors that it may have open.

/// Descriptors that are kept for listeners, the runtime, the store, logs and connections to containerd and registries.
const RESERVED: usize = 64;
/// With enough descriptors: connections to the registry port from other hosts, and from this one. Each takes about 20 KiB
/// while its client takes nothing, most of it buffers of hyper.
const MAX_REGISTRY_OTHERS: usize = 2048;
const MAX_REGISTRY_OWN: usize = 512;
/// The same for each other HTTP port: metrics, `/id`.
const MAX_HTTP: usize = 512;
/// The same for connections that other nodes open to the router. A cluster of 10,000 nodes keeps far below.
const MAX_ROUTER: usize = 4096;
/// However few descriptors there are, each kind of client may have this many connections.
const MIN_CONNECTIONS: usize = 8;

/// The most connections of a port, by where the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLimits {
    /// From this host.
    pub own: usize,
    /// From other hosts.
    pub others: usize,
}

/// The most connections of all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub registry: PortLimits,
    /// Of each other HTTP port; there are two at the most.
    pub http: PortLimits,
    /// That other nodes open to the router.
    pub router: usize,
}

impl ConnectionLimits {
    /// Divides the descriptors. A connection to the registry port counts twice: what answers it is a file or a connection
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
    /// As with enough descriptors for all of them.
    fn default() -> Self {
        Self::within(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Descriptors that are in use when all ports are full and each answer of the registry port has its own.
    fn in_use(limits: ConnectionLimits) -> usize {
        let ConnectionLimits {
            registry,
            http,
            router,
        } = limits;
        2 * (registry.own + registry.others) + 2 * (http.own + http.others) + router
    }

    /// With so many, no port has its least share.
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
