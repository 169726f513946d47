//! All checks, and the checks that explain their faults. docs/doctor.md has a section for each.

use crate::finding::{Category, Check, Code};

const fn code(category: Category, number: u8) -> Code {
    Code { category, number }
}

macro_rules! checks {
    ($($name:ident: $category:ident $number:literal $title:literal $(after $shown_after:literal)? $(<- $($cause:ident),+)?;)+) => {
        $(pub const $name: Check = Check {
            code: code(Category::$category, $number),
            title: $title,
            shown_after_s: 0 $(+ $shown_after)?,
            causes: &[$($($cause.code),+)?],
        };)+
        /// All checks, in the order in which they are shown.
        pub const ALL: &[Check] = &[$($name),+];
    };
}

checks! {
    CONTAINERD_ANSWERS: Containerd 1 "containerd answers";
    CONTAINERD_VERSION: Containerd 2 "version";
    CONFIG_PATH: Containerd 3 "registry config_path";
    LAYERS_KEPT: Containerd 4 "layers are kept";
    CONTENT_READABLE: Containerd 5 "content store";
    PULL_MODE: Containerd 6 "pull mode";
    IN_FORCE: Containerd 7 "configuration in force";
    CRI: Containerd 8 "CRI";
    MIRROR_ANSWERS: Mirror 1 "the mirror answers";
    MIRROR_READY: Mirror 2 "the mirror is ready" after 30 <- MIRROR_ANSWERS, CONTAINERD_ANSWERS, CONTENT_READABLE;
    DESCRIPTORS: Mirror 3 "open files" <- MIRROR_ANSWERS;
    CLOCK: Mirror 4 "clock" <- MIRROR_ANSWERS;
    HOSTS_FOLDER: Hosts 1 "registry configuration folder";
    HOSTS_READABLE: Hosts 2 "containerd can read each hosts.toml";
    HOSTS_OURS: Hosts 3 "the mirror is in hosts.toml" <- HOSTS_FOLDER;
    HOSTS_FIRST: Hosts 4 "the mirror comes first";
    HOSTS_SHADOWED: Hosts 5 "each folder is read";
    HOSTS_ADDRESS: Hosts 6 "the address leads to this node's mirror" <- MIRROR_ANSWERS;
    NODE_SECRET: Hosts 8 "node secret" <- MIRROR_ANSWERS, HOSTS_OURS;
    ASKED: Hosts 7 "containerd asks the mirror" <- CONTAINERD_ANSWERS, CONFIG_PATH, IN_FORCE, CRI, NODE_SECRET, HOSTS_FOLDER, HOSTS_READABLE, HOSTS_OURS, HOSTS_FIRST, HOSTS_ADDRESS, MIRROR_ANSWERS, TRIAL;
    PEERS_FOUND: Peers 1 "peers are found" after 30 <- MIRROR_ANSWERS, NETWORK_KEY;
    PEERS_REACHED: Peers 2 "peers can be reached" after 60 <- MIRROR_ANSWERS, PEERS_FOUND;
    PEERS_VERSION: Peers 3 "peers have the same version" after 600 <- MIRROR_ANSWERS;
    PEERS_LACKING: Peers 4 "peers have what they announce" <- MIRROR_ANSWERS;
    NETWORK_KEY: Peers 5 "network key" after 60 <- MIRROR_ANSWERS;
    SEEN_BY_PEERS: Peers 6 "peers reach this node" after 60 <- MIRROR_ANSWERS, NETWORK_KEY, PEERS_REACHED;
    UPSTREAM_REACHED: Upstream 1 "registries can be reached" after 60 <- MIRROR_ANSWERS;
    UPSTREAM_CHECKED: Upstream 2 "tags and visibility are checked" after 60 <- MIRROR_ANSWERS, UPSTREAM_REACHED;
    TRIAL: Trial 1 "a trial pull comes through the mirror" <- MIRROR_ANSWERS, CONTAINERD_ANSWERS, CONFIG_PATH, CRI, HOSTS_FOLDER, HOSTS_OURS, HOSTS_FIRST, HOSTS_ADDRESS;
}

/// The check with a code.
pub fn of(code: Code) -> Option<&'static Check> {
    ALL.iter().find(|check| check.code == code)
}
