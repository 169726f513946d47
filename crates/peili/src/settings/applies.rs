//! Options that have no effect with the chosen store or kind of bootstrap. They are refused: the user expects an
//! effect.

use crate::cli::{Given, RegistryArgs, Source};
use crate::fault::Faults;

/// An option, by its name in the code and its flag.
type Flag = (&'static str, &'static str);

/// A value of the choosing option, and the options that apply only to it.
type Choice = (&'static str, &'static [Flag]);

const STORES: [Choice; 2] = [
    (
        "containerd",
        &[
            ("containerd_sock", "--containerd-sock"),
            ("containerd_namespace", "--containerd-namespace"),
            ("containerd_content_path", "--containerd-content-path"),
            ("containerd_config", "--containerd-config"),
            (
                "containerd_registry_config_path",
                "--containerd-registry-config-path",
            ),
            ("retain_for", "--retain-for"),
            ("retain_bytes", "--retain-bytes"),
            ("retain_disk_percent", "--retain-disk-percent"),
            ("tag_policy", "--tag-policy"),
            ("tag_max_age", "--tag-max-age"),
            ("private", "--private"),
            ("public_proof_max_age", "--public-proof-max-age"),
            ("pull_public_layers", "--pull-public-layers"),
        ],
    ),
    (
        "layout",
        &[
            ("store_path", "--store-path"),
            ("store_limit", "--store-limit"),
            ("registry_auth_file", "--registry-auth-file"),
        ],
    ),
];

const KINDS: [Choice; 3] = [
    ("dns", &[("dns_bootstrap_domain", "--dns-bootstrap-domain")]),
    (
        "http",
        &[
            ("http_bootstrap_addr", "--http-bootstrap-addr"),
            ("http_bootstrap_peer", "--http-bootstrap-peer"),
            ("http_bootstrap_url", "--http-bootstrap-url"),
            ("http_bootstrap_cert_dir", "--http-bootstrap-cert-dir"),
        ],
    ),
    (
        "static",
        &[("static_bootstrap_peers", "--static-bootstrap-peers")],
    ),
];

/// Records each given option without effect. An invalid choice is reported elsewhere.
pub fn check(arguments: &RegistryArgs, faults: &mut Faults) {
    refuse(
        "--store",
        &arguments.store.store,
        &STORES,
        &arguments.given,
        faults,
    );
    let kind = &arguments.bootstrap.bootstrap_kind;
    refuse("--bootstrap-kind", kind, &KINDS, &arguments.given, faults);
}

fn refuse(chooser: &str, chosen: &str, choices: &[Choice], given: &Given, faults: &mut Faults) {
    if !chosen.is_empty() && !choices.iter().any(|(name, _)| *name == chosen) {
        return;
    }
    let others = choices.iter().filter(|(name, _)| *name != chosen);
    for (name, options) in others {
        for (id, flag) in *options {
            let leave_out = match given.source(id) {
                None => continue,
                Some(Source::CommandLine) => "leave it out".to_owned(),
                Some(Source::Environment) => {
                    format!("remove {} from the environment", id.to_uppercase())
                }
            };
            let what_to_do = match chosen {
                "" => format!("set {chooser} {name}, or {leave_out}"),
                chosen => format!("with {chooser} {chosen} {leave_out}"),
            };
            faults.add(flag, format!("is for {chooser} {name}; {what_to_do}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;
    use crate::settings::tests::validate;

    #[test]
    fn what_says_nothing_is_refused_all_at_once() {
        let text = validate(
            "--store layout --store-path /nowhere/store --bootstrap-kind dns --dns-bootstrap-domain a.b --containerd-sock /x \
             --retain-for 0 --containerd-namespace k8s.io --static-bootstrap-peers a:1 --http-bootstrap-addr :1",
        );
        let text = text.expect_err("five options say nothing").to_string();
        for fault in [
            "--containerd-sock: is for --store containerd; with --store layout leave it out",
            "--retain-for: is for --store containerd",
            "--containerd-namespace: is for --store containerd",
            "--static-bootstrap-peers: is for --bootstrap-kind static; with --bootstrap-kind dns leave it out",
            "--http-bootstrap-addr: is for --bootstrap-kind http",
        ] {
            assert!(
                text.contains(&format!("\n  {fault}")),
                "{fault} is not in {text}"
            );
        }
        assert_eq!(text.matches("\n  ").count(), 5, "{text}");
        let text = validate(
            "--store-limit 20GiB --store-path /x --registry-auth-file /nowhere --static-bootstrap-peers a:1",
        );
        let text = text.expect_err("they say nothing").to_string();
        for fault in [
            "--store-limit: is for --store layout; with --store containerd leave it out",
            "--store-path: is for --store layout",
            "--registry-auth-file: is for --store layout",
            "--static-bootstrap-peers: is for --bootstrap-kind static; set --bootstrap-kind static, or leave it out",
        ] {
            assert!(
                text.contains(&format!("\n  {fault}")),
                "{fault} is not in {text}"
            );
        }
        assert_eq!(text.matches("\n  ").count(), 4, "{text}");
    }

    /// The help of an option says whether it applies to one choice only.
    #[test]
    fn each_option_for_one_choice_is_known() {
        let command = Cli::command();
        let registry = command.find_subcommand("registry").expect("there");
        for (name, options) in STORES.iter().chain(&KINDS) {
            let help = |id: &str| {
                let option = registry.get_arguments().find(|a| a.get_id() == id);
                let option = option.unwrap_or_else(|| panic!("no option {id}"));
                option
                    .get_help()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            };
            let listed: BTreeSet<&str> = options.iter().map(|(id, _)| *id).collect();
            let of_help = registry.get_arguments().filter(|a| {
                let help = a.get_help().map(ToString::to_string).unwrap_or_default();
                help.starts_with(name)
            });
            for option in of_help {
                assert!(listed.contains(option.get_id().as_str()), "{option}");
            }
            for (id, flag) in *options {
                assert_eq!(*flag, format!("--{}", id.replace('_', "-")));
                assert!(help(id).starts_with(name), "{flag}");
            }
        }
    }
}
