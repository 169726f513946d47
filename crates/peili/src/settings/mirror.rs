//! The settings of the mirror: what it serves, to which clients, and how long it searches.

use hosts::NodeSecret;
use mirror::{Access, Limits, MIN_SHARE, Options, RateLimits, Reader, Secret};
use oci::{Filter, Registry, RegistryUrl};

use crate::cli::{Given, MirrorArgs};
use crate::fault::Faults;
use crate::value;
use crate::{credentials, duration, size};

/// `node_name`: the value of `--node-name`.
pub fn read(
    arguments: &MirrorArgs,
    given: &Given,
    node_name: &str,
    faults: &mut Faults,
) -> Option<Options> {
    // Faults of --mirrored-registries are reported where its URLs are parsed.
    let filter = Filter::new(&arguments.mirrored_registries, &arguments.registry_filters);
    for fault in filter.as_ref().err().into_iter().flatten() {
        if let oci::FilterError::Expression { value, source } = fault {
            faults.add(
                "--registry-filters",
                format!("{value:?} is no regular expression: {source}"),
            );
        }
    }
    for filter in arguments
        .registry_filters
        .iter()
        .filter(|filter| is_list(filter))
    {
        faults.add(
            "--registry-filters",
            format!("{filter:?} has a comma, which no image has in its name; write a space between two expressions"),
        );
    }
    let resolve_timeout = faults.take(
        "--mirror-resolve-timeout",
        duration::parse(&arguments.mirror_resolve_timeout),
    );
    let attempts = value::number(&arguments.mirror_resolve_retries, 1..=100);
    let attempts = faults.take("--mirror-resolve-retries", attempts);
    let resolve_tags = faults.take("--resolve-tags", value::boolean(&arguments.resolve_tags));
    faults.take(
        "--debug-web-enabled",
        value::boolean(&arguments.debug_web_enabled),
    );
    let default_registry = match arguments.default_registry.as_str() {
        "" => None,
        text => faults.take("--default-registry", text.parse::<Registry>()),
    };
    let node_secret = node_secret(&arguments.node_secret_file, faults);
    let authorization = credentials::read(&arguments.credentials, given, faults);
    let secret = |text: &str| Secret::new(text.to_owned());
    Some(Options {
        access: Access {
            filter: filter.ok()?,
            authorization: authorization.map(|credentials| secret(credentials.header_value())),
            node_secret: node_secret.map(|node_secret| secret(node_secret.header_value())),
            network_keys: None,
            peer_tls: None,
            own_names: own_names(node_name),
            resolve_tags: resolve_tags?,
        },
        reader: Reader { default_registry },
        limits: Limits {
            resolve_timeout: resolve_timeout?,
            attempts: attempts?,
        },
    })
}

/// The limits of the rates to and from other nodes.
pub fn rates(arguments: &MirrorArgs, faults: &mut Faults) -> Option<RateLimits> {
    let upload = faults.take("--upload-rate", rate(&arguments.upload_rate));
    let download = faults.take("--download-rate", rate(&arguments.download_rate));
    Some(RateLimits {
        upload: upload?,
        download: download?,
    })
}

/// A rate in bytes per second. `None`: no limit.
fn rate(text: &str) -> Result<Option<u64>, String> {
    if text == "0" {
        return Ok(None);
    }
    let rate = size::parse(text.strip_suffix("/s").unwrap_or(text))?;
    if rate < MIN_SHARE {
        return Err(format!(
            "{text:?} is too little for one stream; write 64KiB or more, or 0 for no limit"
        ));
    }
    Ok(Some(rate))
}

/// The names by which clients on this host may address it: the given name of the node, and the host's own.
fn own_names(node_name: &str) -> Vec<String> {
    let host = super::node_name("");
    let given = (!node_name.is_empty()).then(|| node_name.to_owned());
    given.into_iter().chain([host]).collect()
}

/// Whether an expression has a comma outside of `{1,2}` and `[…]`.
fn is_list(expression: &str) -> bool {
    let (mut depth, mut is_escaped) = (0_usize, false);
    for c in expression.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

fn node_secret(file: &str, faults: &mut Faults) -> Option<NodeSecret> {
    let file = value::path(file)?;
    faults.take("--node-secret-file", hosts::secret::ensure(&file))
}

/// The registries that are listed by name; the filter checks their form.
pub fn registries(arguments: &MirrorArgs, faults: &mut Faults) -> Vec<RegistryUrl> {
    let named = arguments
        .mirrored_registries
        .iter()
        .filter(|text| !matches!(text.as_str(), "_default" | "*"));
    let named: Vec<String> = named.cloned().collect();
    faults.list("--mirrored-registries", &named, str::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_each_second() {
        assert_eq!(rate("0"), Ok(None));
        assert_eq!(rate("50MB"), Ok(Some(50_000_000)));
        assert_eq!(rate("64KiB/s"), Ok(Some(65_536)));
        for bad in ["63KiB", "fast", "-1", "1/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_of_expressions_is_told_from_one() {
        for one in ["a{1,2}", "[a,b]", r":latest$", r"a\,b", ""] {
            assert!(!is_list(one), "{one}");
        }
        for list in [":latest$,:dev$", "a{1,2},b", ","] {
            assert!(is_list(list), "{list}");
        }
    }
}
