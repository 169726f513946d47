//! The settings of the checks of upstream: which are made, and at which host.

use std::path::Path;

use hosts::ConfigPath;
use mirror::{CheckOptions, PrivatePolicies};
use oci::RegistryUrl;

use crate::cli::{CheckArgs, StoreArgs};
use crate::duration;
use crate::fault::Faults;
use crate::value;

/// The file below `--data-dir` with the repositories that were public and those that were refused.
const PROOFS_FILE: &str = "repositories.json";

/// The checks for a store that containerd fills.
#[derive(Clone, Debug)]
pub struct Checks {
    pub options: CheckOptions,
    /// The folders of containerd's hosts.toml files.
    pub config_path: ConfigPath,
    /// The registries listed by the operator.
    pub registries: Vec<RegistryUrl>,
}

pub fn read(
    arguments: &CheckArgs,
    store: &StoreArgs,
    registries: Vec<RegistryUrl>,
    data_dir: Option<&Path>,
    faults: &mut Faults,
) -> Option<Checks> {
    let tags = faults.take("--tag-policy", arguments.tag_policy.parse());
    let tag_max_age = faults.take("--tag-max-age", duration::parse(&arguments.tag_max_age));
    let entries = arguments.private.iter().map(String::as_str);
    let private = faults.take("--private", PrivatePolicies::parse(entries));
    let max_age = duration::parse(&arguments.public_proof_max_age);
    let public_proof_max_age = faults.take("--public-proof-max-age", max_age);
    let pull_layers = faults.take(
        "--pull-public-layers",
        value::boolean(&arguments.pull_public_layers),
    );
    let config_path = store.containerd_registry_config_path.parse();
    let config_path = faults.take("--containerd-registry-config-path", config_path);
    Some(Checks {
        options: CheckOptions {
            tags: tags?,
            tag_max_age: tag_max_age?,
            private: private?,
            public_proof_max_age: public_proof_max_age?,
            proofs_file: data_dir.map(|folder| folder.join(PROOFS_FILE)),
            pull_layers: pull_layers?,
        },
        config_path: config_path?,
        registries,
    })
}
