//! The options of commands other than `registry` and `configuration`.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
pub struct CleanupArgs {
    /// Address at which /readyz says whether all is put back.
    #[arg(long, env = "ADDR")]
    pub addr: String,
    /// Name of this node, reported by /readyz while the clean-up is incomplete. Empty: the host name.
    #[arg(long, env = "NODE_NAME", default_value = "", hide_default_value = true)]
    pub node_name: String,
    /// containerd's config_path: a folder, or several with colons between.
    #[arg(
        long,
        env = "CONTAINERD_REGISTRY_CONFIG_PATH",
        default_value = "/etc/containerd/certs.d"
    )]
    pub containerd_registry_config_path: String,
}

#[derive(Args, Debug)]
pub struct CleanupWaitArgs {
    /// host:port whose addresses, all of them, have to answer /readyz.
    #[arg(long, env = "PROBE_ENDPOINT")]
    pub probe_endpoint: String,
    /// How many times in a row.
    #[arg(long, env = "THRESHOLD", default_value = "3")]
    pub threshold: String,
    /// Time between two rounds.
    #[arg(long, env = "PERIOD", default_value = "2s")]
    pub period: String,
}

#[derive(Args, Debug)]
pub struct PullTestArgs {
    /// host:port whose addresses, all of them, are asked for /metrics.
    #[arg(long, env = "METRICS_ENDPOINT", default_value = "127.0.0.1:9090")]
    pub metrics_endpoint: String,
    /// The node that this command runs on; empty: its host name.
    #[arg(long, env = "NODE_NAME", default_value = "", hide_default_value = true)]
    pub node_name: String,
    /// The longest time since containerd's last request to the mirror.
    #[arg(long, env = "WITHIN", default_value = "5m")]
    pub within: String,
}

// Which mirror is asked, and how its answer is shown. A doc comment would become the description of each command.
#[derive(Args, Clone, Debug)]
pub struct AskArgs {
    /// host:port of the mirror's metrics.
    #[arg(long, env = "METRICS_ENDPOINT", default_value = "127.0.0.1:9090")]
    pub metrics_endpoint: String,
    /// text, or json as the API has it.
    #[arg(long, default_value = "text")]
    pub output: String,
}

#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub ask: AskArgs,
    /// containerd's socket; empty: as the mirror has it, else /run/containerd/containerd.sock.
    #[arg(
        long,
        env = "CONTAINERD_SOCK",
        default_value = "",
        hide_default_value = true
    )]
    pub containerd_sock: String,
    /// containerd's content store; empty: as the mirror has it, else where containerd says it is.
    #[arg(
        long,
        env = "CONTAINERD_CONTENT_PATH",
        default_value = "",
        hide_default_value = true
    )]
    pub containerd_content_path: String,
    /// containerd's configuration file; empty: as the mirror has it, else /etc/containerd/config.toml.
    #[arg(
        long,
        env = "CONTAINERD_CONFIG",
        default_value = "",
        hide_default_value = true
    )]
    pub containerd_config: String,
    /// containerd's config_path, a folder or several with colons between; empty: as the mirror has it, else
    /// /etc/containerd/certs.d.
    #[arg(
        long,
        env = "CONTAINERD_REGISTRY_CONFIG_PATH",
        default_value = "",
        hide_default_value = true
    )]
    pub containerd_registry_config_path: String,
    /// Run the doctor in the mirror of each node of the cluster, with your own kubectl.
    #[arg(long, conflicts_with_all = ["pre", "wait"])]
    pub cluster: bool,
    /// Pull --image in a pod on one node, then on another, with your own kubectl, and say whether the second got it from
    /// nodes.
    #[arg(long, requires = "image", conflicts_with_all = ["cluster", "pre", "wait"])]
    pub trial: bool,
    /// --trial: an image that the nodes do not have, with its registry.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub image: String,
    /// --cluster, --trial: the namespace of the release.
    #[arg(long, default_value = "peili")]
    pub namespace: String,
    /// Check a node before the installation: whether the mirror will work there.
    #[arg(long)]
    pub pre: bool,
    /// Look again every second until nothing is at fault, for this long, as in 1m.
    #[arg(long, default_value = "0")]
    pub wait: String,
}

#[derive(Args, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    pub ask: AskArgs,
    /// Show it again every second, until interrupted.
    #[arg(long)]
    pub watch: bool,
}

#[derive(Args, Debug)]
pub struct PullArgs {
    /// The image with its registry, as in docker.io/library/alpine:3.
    pub reference: String,
    /// host:port of the mirror's registry port.
    #[arg(long, env = "REGISTRY_ENDPOINT", default_value = "127.0.0.1:5000")]
    pub registry_endpoint: String,
    /// Secret by which the mirror knows this node's containerd, if it has one: without it the mirror takes this command
    /// for a client of another host.
    #[arg(
        long,
        env = "NODE_SECRET_FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub node_secret_file: String,
    /// containerd's config_path, to ask the registry where containerd would: a folder, or several with colons between.
    #[arg(
        long,
        env = "CONTAINERD_REGISTRY_CONFIG_PATH",
        default_value = "/etc/containerd/certs.d"
    )]
    pub containerd_registry_config_path: String,
    /// Do not ask the registry: what the mirror does not give is listed with the reason, and not pulled.
    #[arg(long)]
    pub mirror_only: bool,
    /// text or json.
    #[arg(long, default_value = "text")]
    pub output: String,
}

#[derive(Args, Debug)]
pub struct UiArgs {
    /// The node whose mirror is shown; empty: the first by name.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub node: String,
    /// The namespace of the release.
    #[arg(long, default_value = "peili")]
    pub namespace: String,
    /// Port on this host.
    #[arg(long, default_value = "9090")]
    pub port: String,
    /// Port of the mirror's metrics.
    #[arg(long, default_value = "9090")]
    pub metrics_port: String,
}

#[derive(Args, Debug)]
pub struct ImagesArgs {
    /// List what has this text in its name or digest.
    #[arg(default_value = "", hide_default_value = true)]
    pub search: String,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    pub show: ShowArgs,
    /// Show all nodes, and who pulls from whom.
    #[arg(long)]
    pub cluster: bool,
}

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How many nodes.
    #[arg(long, default_value = "6")]
    pub nodes: String,
    /// How large the generated image is.
    #[arg(long, default_value = "128MiB")]
    pub size: String,
    /// How many layers it has.
    #[arg(long, default_value = "4")]
    pub layers: String,
    /// An image of a real registry to pull instead, as in docker.io/library/alpine:3. Needs the network.
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with_all = ["size", "layers"])]
    pub image: String,
    /// Do not open the status page in a browser, and end when all is pulled.
    #[arg(long)]
    pub no_open: bool,
    /// text, or json for a JSON object a line.
    #[arg(long, default_value = "text")]
    pub output: String,
}

#[derive(Args, Debug)]
pub struct VersionArgs {
    /// text or json.
    #[arg(long, default_value = "text")]
    pub format: String,
}

#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub struct ManArgs {
    /// Folder for the pages; made if it is missing.
    pub folder: PathBuf,
}
