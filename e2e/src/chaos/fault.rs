//! The possible faults.

use std::fmt;

use super::bad_server::Behaviour;

/// The number of a node, from 0.
pub type NodeNumber = usize;

/// Something that breaks for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// The affected node; meaningless for a fault of all nodes or of the registry.
    pub node: NodeNumber,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// containerd is killed, and started again at the end.
    ContainerdKilled,
    /// The registry's process is killed, and started again at the end.
    RegistryKilled,
    /// The node's link is cut.
    LinkCut,
    /// The registry's link is cut.
    RegistryCut,
    /// The node's link is slow, in both directions.
    LinkSlow,
    /// The registry's link is slow.
    RegistrySlow,
    /// Packets to the node are lost; its own arrive.
    InboundDropped,
    /// The node's packets are lost; those to it arrive.
    OutboundDropped,
    /// The file system of containerd's folders is full.
    StoreFull,
    /// The mirror is killed, and started again at the end.
    MirrorKilled,
    /// All mirrors are killed at once, and started again at the end.
    AllMirrorsKilled,
    /// The mirror may open hardly more descriptors than it has.
    NoDescriptors,
    /// A host opens more connections to the mirror than it has descriptors for, and sends nothing.
    SilentClients,
    /// The file system of the mirror's data folder is full.
    DataFull,
    /// The mirror's data folder cannot be written.
    DataReadOnly,
    /// The node removes the images that it is serving.
    ImagesRemoved,
    /// The node's copy of a layer is damaged on the disk.
    LayerDamaged,
    /// Members that claim to hold everything behave in this way.
    HostilePeers(Behaviour),
    /// A member requests the lead of every object, and then does nothing.
    HangingLeads,
    /// A member sends forged, made-up or random messages.
    ForgedMessages,
}

/// The target of a fault: two faults of one target never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    Node(NodeNumber),
    Registry,
    Hostile,
}

/// Each kind, and how often it is drawn.
const KINDS: &[(Kind, usize)] = &[
    (Kind::ContainerdKilled, 3),
    (Kind::RegistryKilled, 2),
    (Kind::LinkCut, 4),
    (Kind::RegistryCut, 2),
    (Kind::LinkSlow, 3),
    (Kind::RegistrySlow, 2),
    (Kind::InboundDropped, 3),
    (Kind::OutboundDropped, 3),
    (Kind::StoreFull, 2),
    (Kind::MirrorKilled, 6),
    (Kind::AllMirrorsKilled, 2),
    (Kind::NoDescriptors, 4),
    (Kind::SilentClients, 3),
    (Kind::DataFull, 2),
    (Kind::DataReadOnly, 2),
    (Kind::ImagesRemoved, 4),
    (Kind::LayerDamaged, 4),
    (Kind::HangingLeads, 3),
    (Kind::ForgedMessages, 4),
    (Kind::HostilePeers(Behaviour::Garbage), 2),
    (Kind::HostilePeers(Behaviour::Truncated), 2),
    (Kind::HostilePeers(Behaviour::Endless), 2),
    (Kind::HostilePeers(Behaviour::Trickling), 2),
    (Kind::HostilePeers(Behaviour::WrongBytes), 2),
    (Kind::HostilePeers(Behaviour::WrongSize), 2),
    (Kind::HostilePeers(Behaviour::Byteless), 2),
    (Kind::HostilePeers(Behaviour::Silent), 2),
    (Kind::HostilePeers(Behaviour::Reset), 2),
];

impl Kind {
    /// All kinds, each as often as it is to be drawn.
    pub fn weighted() -> Vec<Kind> {
        let repeated = |&(kind, times): &(Kind, usize)| std::iter::repeat_n(kind, times);
        KINDS.iter().flat_map(repeated).collect()
    }

    /// Whether it also happens in the run without mirrors, for comparison.
    pub fn happens_without_mirrors(self) -> bool {
        match self {
            Kind::ContainerdKilled
            | Kind::RegistryKilled
            | Kind::LinkCut
            | Kind::RegistryCut
            | Kind::LinkSlow
            | Kind::RegistrySlow
            | Kind::InboundDropped
            | Kind::OutboundDropped
            | Kind::StoreFull => true,
            Kind::MirrorKilled
            | Kind::AllMirrorsKilled
            | Kind::NoDescriptors
            | Kind::SilentClients
            | Kind::DataFull
            | Kind::DataReadOnly
            | Kind::ImagesRemoved
            | Kind::LayerDamaged
            | Kind::HostilePeers(_)
            | Kind::HangingLeads
            | Kind::ForgedMessages => false,
        }
    }

    /// The target of the fault.
    pub fn target(self, node: NodeNumber) -> FaultTarget {
        match self {
            Kind::RegistryKilled | Kind::RegistryCut | Kind::RegistrySlow => FaultTarget::Registry,
            Kind::HostilePeers(_) | Kind::HangingLeads | Kind::ForgedMessages => {
                FaultTarget::Hostile
            }
            _ => FaultTarget::Node(node),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::ContainerdKilled => "containerd killed",
            Kind::RegistryKilled => "registry killed",
            Kind::LinkCut => "link cut",
            Kind::RegistryCut => "registry cut off",
            Kind::LinkSlow => "link slow",
            Kind::RegistrySlow => "registry slow",
            Kind::InboundDropped => "link half-open: node receives nothing",
            Kind::OutboundDropped => "link half-open: node sends nothing",
            Kind::StoreFull => "containerd's folder full",
            Kind::MirrorKilled => "mirror killed",
            Kind::AllMirrorsKilled => "all mirrors killed",
            Kind::NoDescriptors => "mirror out of descriptors",
            Kind::SilentClients => "1,100 silent clients",
            Kind::DataFull => "data folder full",
            Kind::DataReadOnly => "data folder read-only",
            Kind::ImagesRemoved => "images removed while served",
            Kind::LayerDamaged => "layer damaged on disk",
            Kind::HangingLeads => "hostile member: leads that hang",
            Kind::ForgedMessages => "hostile member: forged messages",
            Kind::HostilePeers(Behaviour::Honest) => "hostile peers: 404",
            Kind::HostilePeers(Behaviour::Garbage) => "hostile peers: garbage for an answer",
            Kind::HostilePeers(Behaviour::Truncated) => "hostile peers: truncated bodies",
            Kind::HostilePeers(Behaviour::Endless) => "hostile peers: endless bodies",
            Kind::HostilePeers(Behaviour::Trickling) => "hostile peers: trickling bodies",
            Kind::HostilePeers(Behaviour::WrongBytes) => "hostile peers: wrong bytes",
            Kind::HostilePeers(Behaviour::WrongSize) => "hostile peers: wrong sizes",
            Kind::HostilePeers(Behaviour::Byteless) => "hostile peers: 200 and no byte",
            Kind::HostilePeers(Behaviour::Silent) => "hostile peers: no answer",
            Kind::HostilePeers(Behaviour::Reset) => "hostile peers: reset in the middle",
        })
    }
}
