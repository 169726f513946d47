//! The name of this node, and how Kubernetes learns that its mirror works.

use kubernetes::{Config, Mode, ServiceAccount};
use oci::Registry;

use crate::cli::NodeArgs;
use crate::duration;
use crate::fault::Faults;

/// The readiness of this node in Kubernetes.
#[derive(Debug)]
pub struct NodeReadiness {
    pub config: Config,
    pub account: ServiceAccount,
    /// The registry of trial images.
    pub registry: Registry,
}

/// The given name, or else the host's.
pub fn node_name(given: &str) -> String {
    match given {
        "" => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        given => given.to_owned(),
    }
}

/// `None`: it is off, or at fault. `mirrored`: the value of `--mirrored-registries`, whose own faults are reported
/// elsewhere; `store`: that of `--store`.
pub fn readiness(
    arguments: &NodeArgs,
    mirrored: &[String],
    store: &str,
    faults: &mut Faults,
) -> Option<NodeReadiness> {
    const FLAG: &str = "--node-readiness";
    let timeout = duration::parse(&arguments.node_readiness_timeout);
    let timeout = faults.take("--node-readiness-timeout", timeout);
    let mode = faults.take(FLAG, Mode::parse(&arguments.node_readiness))??;
    if store != "containerd" {
        faults.add(
            FLAG,
            "is for --store containerd: the kubelet pulls by its CRI",
        );
    }
    if arguments.node_name.is_empty() {
        faults.add(
            "--node-name",
            "is needed with --node-readiness: the name of the node's object in Kubernetes",
        );
    }
    if arguments.node_readiness_taint.is_empty() {
        faults.add(
            "--node-readiness-taint",
            "is the key of a taint; it is empty",
        );
    }
    let account = faults.take(FLAG, ServiceAccount::in_cluster());
    Some(NodeReadiness {
        config: Config {
            node: arguments.node_name.clone(),
            mode,
            taint: arguments.node_readiness_taint.clone(),
            timeout: timeout?,
        },
        account: account?,
        registry: mirror::trial_registry(mirrored).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use crate::settings::tests::validate;

    #[test]
    fn readiness_is_off_at_first_and_needs_a_node_in_kubernetes() {
        let settings = validate("--bootstrap-kind static").expect("sound");
        assert!(settings.node_readiness.is_none() && !settings.node_name.is_empty());
        let line = "--bootstrap-kind static --store layout --store-path /x --node-readiness taint \
                    --node-readiness-timeout soon";
        let text = validate(line).expect_err("not in a pod").to_string();
        for fault in [
            "--node-readiness-timeout: \"soon\" is not a duration",
            "--node-readiness: is for --store containerd",
            "--node-readiness: KUBERNETES_SERVICE_HOST is not set",
            "--node-name: is needed with --node-readiness",
        ] {
            assert!(text.contains(fault), "{fault} is not in {text}");
        }
        let text = validate("--bootstrap-kind static --node-readiness yes");
        let text = text.expect_err("no mode").to_string();
        assert!(
            text.contains("--node-readiness: \"yes\" is none of"),
            "{text}"
        );
    }
}
