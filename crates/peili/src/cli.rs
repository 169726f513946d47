//! The command line: the options of Spegel's releases and main branch, and Peili's own. Values are texts here.
//! [`crate::settings`] gives them a meaning, and finds all faults before anything starts.

mod other_commands;
mod read;

use clap::{Args, Parser, Subcommand};

pub use other_commands::{
    CleanupArgs, CleanupWaitArgs, CompletionsArgs, DemoArgs, DoctorArgs, ImagesArgs, ManArgs,
    PullArgs, PullTestArgs, ShowArgs, StatusArgs, UiArgs, VersionArgs,
};
#[cfg(test)]
pub use read::read;
pub use read::{Given, Source, command, parse};

#[derive(Debug, Parser)]
#[command(name = "peili", about, version)]
pub struct Cli {
    /// Least level of log lines: DEBUG, INFO, WARN or ERROR.
    #[arg(long, env = "LOG_LEVEL", default_value = "INFO", global = true)]
    pub log_level: String,
    /// Form of log lines: json or text.
    #[arg(long, env = "LOG_FORMAT", default_value = "json", global = true)]
    pub log_format: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the mirror of this node.
    Registry(Box<RegistryArgs>),
    /// Write containerd's hosts.toml files, so that it asks the mirror first.
    Configuration(ConfigurationArgs),
    /// Put containerd's configuration back as it was, and answer /readyz until stopped.
    Cleanup(CleanupArgs),
    /// Wait until all nodes have cleaned up.
    CleanupWait(CleanupWaitArgs),
    /// Check whether this node's containerd asks this node's mirror. The chart's test runs it.
    PullTest(PullTestArgs),
    /// Find out what is wrong on this node, and what to do.
    Doctor(DoctorArgs),
    /// Show what the mirror of this node is doing and what it has saved.
    Status(StatusArgs),
    /// Show the peers of this node's mirror.
    Peers(ShowArgs),
    /// Open the status page of a mirror in Kubernetes on this host, with your own kubectl.
    Ui(UiArgs),
    /// Show the images that this node holds and announces to peers.
    Images(ImagesArgs),
    /// Pull an image through the mirror of this node and show where each object came from, how fast and why. Nothing is kept.
    Pull(PullArgs),
    /// Show Peili at work: a cluster on loopback that pulls an image from upstream once.
    Demo(DemoArgs),
    /// Print a script by which a shell completes Peili's command lines.
    Completions(CompletionsArgs),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(ManArgs),
    /// Print the version.
    Version(VersionArgs),
}

/// What `registry` takes from the environment beside its options.
const ENVIRONMENT: &str = "\
Environment, for requests to registries:
  SSL_CERT_FILE, SSL_CERT_DIR
          A file, and a folder, of certificate authorities that replace the system's.
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
          Proxies to registries, and hosts that are reached without a proxy. Peers are always reached without a proxy.";

#[derive(Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub struct RegistryArgs {
    /// What was not left at its default.
    #[arg(skip)]
    pub given: Given,
    #[command(flatten)]
    pub bootstrap: BootstrapArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub mirror: MirrorArgs,
    #[command(flatten)]
    pub checks: CheckArgs,
    #[command(flatten)]
    pub node: NodeArgs,
    /// Address of metrics and health.
    #[arg(long, env = "METRICS_ADDR", default_value = ":9090")]
    pub metrics_addr: String,
    /// Who may see the status page and the API at the address of metrics: loopback (clients on this host, kubectl
    /// port-forward among them) or anywhere.
    #[arg(long, env = "PAGE_ACCESS", default_value = "loopback")]
    pub page_access: String,
    /// Endpoint to which traces of pulls are sent by OTLP over HTTP, as in http://collector:4318; empty: none. The other
    /// variables of OpenTelemetry apply too.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        default_value = "",
        hide_default_value = true
    )]
    pub otlp_endpoint: String,
    /// Folder that keeps over restarts the node's identity, the peers that it knew, and what registries said of
    /// repositories.
    #[arg(long, env = "DATA_DIR", default_value = "", hide_default_value = true)]
    pub data_dir: String,
    /// File with the key that the nodes of this network share, one word of 32 characters or more, as openssl rand -hex 32
    /// makes it. Nodes without the key, Spegel's among them, are then no peers and get nothing. During a rotation, a second
    /// line has the other key. The file is read again when it changes.
    #[arg(
        long,
        env = "NETWORK_KEY_FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub network_key_file: String,
    /// Folder with tls.crt, tls.key and ca.crt, as cert-manager writes them into a Secret. Nodes then ask and serve each other
    /// by TLS only, and only nodes with a certificate of an authority in ca.crt are peers, whatever name it has. The files are
    /// read again when they change.
    #[arg(
        long,
        env = "PEER_TLS_DIR",
        default_value = "",
        hide_default_value = true
    )]
    pub peer_tls_dir: String,
    /// Address at which peers connect over libp2p.
    #[arg(long, env = "ROUTER_ADDR", default_value = ":5001")]
    pub router_addr: String,
    /// Address of the registry, for containerd and for peers. At 127.0.0.1 it serves only this host, and peers on other hosts
    /// get nothing from it.
    #[arg(long, env = "REGISTRY_ADDR", default_value = ":5000")]
    pub registry_addr: String,
    /// How long connections are still accepted after SIGTERM, while clients learn that this mirror is about to stop.
    #[arg(long, env = "SHUTDOWN_DELAY", default_value = "5s")]
    pub shutdown_delay: String,
    /// How long requests in progress may take to finish once no more connections are accepted.
    #[arg(long, env = "DRAIN_TIMEOUT", default_value = "10s")]
    pub drain_timeout: String,
}

#[derive(Args, Debug)]
pub struct NodeArgs {
    /// Name of this node, for the metrics and in Kubernetes; empty: its host name.
    #[arg(long, env = "NODE_NAME", default_value = "", hide_default_value = true)]
    pub node_name: String,
    /// How Kubernetes is told that this node's mirror works: taint (a startup taint is removed), condition (the node
    /// condition peili.dev/MirrorReady is set) or off.
    #[arg(long, env = "NODE_READINESS", default_value = "off")]
    pub node_readiness: String,
    /// taint: the key of the startup taint.
    #[arg(
        long,
        env = "NODE_READINESS_TAINT",
        default_value = "peili.dev/mirror-not-ready"
    )]
    pub node_readiness_taint: String,
    /// taint: how long the node keeps the taint if the mirror does not get ready.
    #[arg(long, env = "NODE_READINESS_TIMEOUT", default_value = "5m")]
    pub node_readiness_timeout: String,
}

#[derive(Args, Debug)]
pub struct BootstrapArgs {
    /// Where the first peers come from: dns, http or static. Without this option the node looks for no peers, as on a
    /// single host.
    #[arg(
        long,
        env = "BOOTSTRAP_KIND",
        default_value = "",
        hide_default_value = true
    )]
    pub bootstrap_kind: String,
    /// dns: name whose A and AAAA records are the peers' addresses.
    #[arg(
        long,
        env = "DNS_BOOTSTRAP_DOMAIN",
        default_value = "",
        hide_default_value = true
    )]
    pub dns_bootstrap_domain: String,
    /// http: address at which this node answers /id with its own addresses; empty: none.
    #[arg(
        long,
        env = "HTTP_BOOTSTRAP_ADDR",
        default_value = "",
        hide_default_value = true
    )]
    pub http_bootstrap_addr: String,
    /// http: base URL of a peer's bootstrap address, /id is appended (Spegel's releases).
    #[arg(
        long,
        env = "HTTP_BOOTSTRAP_PEER",
        default_value = "",
        hide_default_value = true
    )]
    pub http_bootstrap_peer: String,
    /// http: full URL of a bootstrap address (Spegel's main branch).
    #[arg(
        long,
        env = "HTTP_BOOTSTRAP_URL",
        default_value = "",
        hide_default_value = true
    )]
    pub http_bootstrap_url: String,
    /// http: folder with ca.crt, tls.crt and tls.key for https.
    #[arg(
        long,
        env = "HTTP_BOOTSTRAP_CERT_DIR",
        default_value = "",
        hide_default_value = true
    )]
    pub http_bootstrap_cert_dir: String,
    /// static: peers as host:port, or as multiaddresses with or without /p2p/ID, separated by spaces or commas. One that
    /// runs is enough.
    #[arg(long, env = "STATIC_BOOTSTRAP_PEERS", num_args = 0..)]
    pub static_bootstrap_peers: Vec<String>,
}

#[derive(Args, Debug)]
pub struct StoreArgs {
    /// Where this node's content is: containerd, or layout for a host without containerd.
    #[arg(long, env = "STORE", default_value = "containerd")]
    pub store: String,
    /// containerd's socket.
    #[arg(
        long,
        env = "CONTAINERD_SOCK",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub containerd_sock: String,
    /// containerd's namespaces whose images are shared, separated by commas.
    #[arg(long, env = "CONTAINERD_NAMESPACE", default_value = "k8s.io")]
    pub containerd_namespace: String,
    /// containerd's content store; empty: where containerd says it is.
    #[arg(
        long,
        env = "CONTAINERD_CONTENT_PATH",
        default_value = "",
        hide_default_value = true
    )]
    pub containerd_content_path: String,
    /// containerd's configuration file, read by the checks at the start.
    #[arg(
        long,
        env = "CONTAINERD_CONFIG",
        default_value = "/etc/containerd/config.toml"
    )]
    pub containerd_config: String,
    /// containerd's config_path, for the same checks and to find the registry behind the mirror: one folder, or several
    /// separated by colons.
    #[arg(
        long,
        env = "CONTAINERD_REGISTRY_CONFIG_PATH",
        default_value = "/etc/containerd/certs.d"
    )]
    pub containerd_registry_config_path: String,
    /// containerd: how long layers that containerd would discard after unpacking (discard_unpacked_layers) are kept and
    /// shared, as in 10m; 0: not at all.
    #[arg(long, env = "RETAIN_FOR", default_value = "0")]
    pub retain_for: String,
    /// containerd: the most bytes of retained layers. The oldest are released first, also when the disk is full.
    #[arg(long, env = "RETAIN_BYTES", default_value = "10GiB")]
    pub retain_bytes: String,
    /// containerd: no layers are retained while more than this percentage of the disk is in use. A kubelet removes images
    /// from 85 down to 80.
    #[arg(long, env = "RETAIN_DISK_PERCENT", default_value = "80")]
    pub retain_disk_percent: String,
    /// layout: folder of the OCI image layout that holds the content. The default in a systemd service is the folder store
    /// in its state folder.
    #[arg(
        long,
        env = "STORE_PATH",
        default_value = "",
        hide_default_value = true
    )]
    pub store_path: String,
    /// The service's state folder, which systemd names.
    #[arg(long, env = "STATE_DIRECTORY", default_value = "", hide = true)]
    pub state_directory: String,
    /// layout: the most bytes of the store, with a unit, as in 20GiB. The least recently used objects are removed first.
    #[arg(long, env = "STORE_LIMIT", default_value = "20GiB")]
    pub store_limit: String,
    /// layout: a docker config.json with credentials of upstream registries.
    #[arg(
        long,
        env = "REGISTRY_AUTH_FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub registry_auth_file: String,
}

#[derive(Args, Debug)]
pub struct MirrorArgs {
    /// Registries that are mirrored, as https://host[:port] or http://host[:port]; _default: all others too. If none is
    /// named, all are mirrored.
    #[arg(long, env = "MIRRORED_REGISTRIES", num_args = 0..)]
    pub mirrored_registries: Vec<String>,
    /// Regular expressions. Images whose registry/name:tag matches one of them are not mirrored.
    #[arg(long, env = "REGISTRY_FILTERS", num_args = 0..)]
    pub registry_filters: Vec<String>,
    /// Whether nodes that pull the same object at the same time pull it from upstream only once: on, or off for a plain
    /// mirror.
    #[arg(long, env = "FLIGHTS", default_value = "on")]
    pub flights: String,
    /// How long to look for a peer before the client is sent upstream.
    #[arg(long, env = "MIRROR_RESOLVE_TIMEOUT", default_value = "250ms")]
    pub mirror_resolve_timeout: String,
    /// How many peers may fail to give an object before the client is sent upstream.
    #[arg(long, env = "MIRROR_RESOLVE_RETRIES", default_value = "3")]
    pub mirror_resolve_retries: String,
    /// The most that this node sends to other nodes, in bytes per second with a unit, as in 50MB; at least 64KiB; 0: no
    /// limit. It does not apply to the node's own containerd.
    #[arg(long, env = "UPLOAD_RATE", default_value = "0")]
    pub upload_rate: String,
    /// The most that this node receives from other nodes, in the same form.
    #[arg(long, env = "DOWNLOAD_RATE", default_value = "0")]
    pub download_rate: String,
    /// Whether requests by tag are answered. If false, only requests by digest are.
    #[arg(long, env = "RESOLVE_TAGS", default_value = "true", num_args = 0..=1, default_missing_value = "true")]
    pub resolve_tags: String,
    /// Registry for requests that name none. Docker's registry-mirrors needs docker.io. Clients can instead put the
    /// registry first in the path, as in 127.0.0.1:5000/quay.io/app; a port follows an underscore there:
    /// 127.0.0.1:5000/10.0.0.1_5000/app.
    #[arg(
        long,
        env = "DEFAULT_REGISTRY",
        default_value = "",
        hide_default_value = true
    )]
    pub default_registry: String,
    /// File with the secret by which the mirror recognises this node's containerd. The configuration command makes it.
    #[arg(
        long,
        env = "NODE_SECRET_FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub node_secret_file: String,
    #[command(flatten)]
    pub credentials: CredentialsArgs,
    /// Accepted for compatibility with Spegel. Has no effect.
    #[arg(long, env = "DEBUG_WEB_ENABLED", default_value = "true", num_args = 0..=1, default_missing_value = "true")]
    pub debug_web_enabled: String,
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// containerd: who says what a tag points at: fresh (upstream; this node and its peers only where it cannot be
    /// reached), peers (this node and its peers, as in Spegel) or upstream (clients are sent there).
    #[arg(long, env = "TAG_POLICY", default_value = "fresh")]
    pub tag_policy: String,
    /// containerd: for how long the digest of a tag is used before upstream is asked again.
    #[arg(long, env = "TAG_MAX_AGE", default_value = "30s")]
    pub tag_max_age: String,
    /// containerd: who gets images that upstream does not give to an anonymous client: auto (nobody; but everybody while
    /// upstream cannot be reached, if it has not refused them before), share (everybody, as in Spegel) or protect (nobody). For
    /// one registry or a part of it: registry.example/team=share. Several are separated by spaces.
    #[arg(long, env = "PRIVATE", num_args = 0..)]
    pub private: Vec<String>,
    /// containerd: for how long a repository that was public counts as public while upstream gives no answer.
    #[arg(long, env = "PUBLIC_PROOF_MAX_AGE", default_value = "24h")]
    pub public_proof_max_age: String,
    /// containerd 2.1 and later: the mirror fetches the layers of public images that this node pulls from upstream, and
    /// passes them to containerd. If false, containerd itself pulls them, after its other layers.
    #[arg(long, env = "PULL_PUBLIC_LAYERS", default_value = "true", num_args = 0..=1, default_missing_value = "true")]
    pub pull_public_layers: String,
}

#[derive(Args, Debug)]
pub struct CredentialsArgs {
    /// Folder with the files username and password. Clients then need these credentials. A folder that is given must exist;
    /// the default folder need not.
    #[arg(
        long,
        env = "BASIC_AUTH_DIR",
        default_value = "/etc/secrets/basic-auth"
    )]
    pub basic_auth_dir: String,
    /// The same from the environment, which a list of processes does not show.
    #[arg(
        long,
        env = "BASIC_AUTH_USERNAME",
        default_value = "",
        hide = true,
        hide_env_values = true
    )]
    pub basic_auth_username: String,
    #[arg(
        long,
        env = "BASIC_AUTH_PASSWORD",
        default_value = "",
        hide = true,
        hide_env_values = true
    )]
    pub basic_auth_password: String,
}

#[derive(Args, Debug)]
pub struct ConfigurationArgs {
    /// What was not left at its default.
    #[arg(skip)]
    pub given: Given,
    /// containerd's config_path: the folder of its registry configuration, or several separated by colons. Existing
    /// folders are used, and each entry is written where containerd looks first.
    #[arg(
        long,
        env = "CONTAINERD_REGISTRY_CONFIG_PATH",
        default_value = "/etc/containerd/certs.d"
    )]
    pub containerd_registry_config_path: String,
    /// Registries that are mirrored, as https://host[:port] or http://host[:port]; _default: all others too. If none is
    /// named, all are mirrored.
    #[arg(long, env = "MIRRORED_REGISTRIES", num_args = 0..)]
    pub mirrored_registries: Vec<String>,
    /// Mirrors in the order in which containerd asks them, this node's first, as http://host:port.
    #[arg(long, env = "MIRROR_TARGETS", num_args = 0..)]
    pub mirror_targets: Vec<String>,
    /// Whether containerd asks mirrors for tags. If false, it asks only for digests.
    #[arg(long, env = "RESOLVE_TAGS", default_value = "true", num_args = 0..=1, default_missing_value = "true")]
    pub resolve_tags: String,
    /// Keep the hosts that are configured for a registry, behind the mirrors. If all registries are mirrored, hosts that are
    /// configured for a single registry are always kept.
    #[arg(long, env = "PREPEND_EXISTING", default_value = "false", num_args = 0..=1, default_missing_value = "true")]
    pub prepend_existing: String,
    /// File with the secret by which the mirror recognises this node's containerd. A missing file is made.
    #[arg(
        long,
        env = "NODE_SECRET_FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub node_secret_file: String,
    #[command(flatten)]
    pub credentials: CredentialsArgs,
    /// End with exit code 0 even if some registries could not be written. Each is still reported as an error, and its pulls
    /// do not use the mirror.
    #[arg(long, env = "ALLOW_PARTIAL", default_value = "false", num_args = 0..=1, default_missing_value = "true")]
    pub allow_partial: String,
    /// Keep running until SIGTERM, and write the files again whenever another program has changed them.
    #[arg(long, env = "WATCH", default_value = "false", num_args = 0..=1, default_missing_value = "true")]
    pub watch: String,
}
