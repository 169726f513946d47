//! Checks that the options in the units and their sample of settings exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The environment variables of the command line.
fn options() -> BTreeSet<String> {
    let source = read("crates/peili/src/cli.rs");
    source
        .split("env = \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// The variables in lines that begin with `prefix`, such as `prefixNAME=value`; sentences do not count.
fn variables(text: &str, prefix: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix(prefix)?.split_once('='))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.contains(' '))
        .collect()
}

#[test]
fn every_setting_of_the_units_is_an_option() {
    let options = options();
    let sample = variables(&read("packaging/peili.default"), "#");
    assert!(sample.contains("STATIC_BOOTSTRAP_PEERS"), "{sample:?}");
    for unit in ["peili.service", "peili-configuration.service"] {
        let unit = read(&format!("packaging/{unit}"));
        let defaults = variables(&unit, "Environment=");
        assert!(defaults.contains("NODE_SECRET_FILE"), "{defaults:?}");
        let unknown: Vec<_> = defaults
            .union(&sample)
            .filter(|name| !options.contains(*name))
            .collect();
        assert!(unknown.is_empty(), "no option has these: {unknown:?}");
    }
}

#[test]
fn both_units_are_sandboxed_alike() {
    // The configuration unit has no network, and is the only one that writes containerd's folder.
    let own = [
        "ReadWritePaths=/etc/containerd -/etc/docker/certs.d",
        "PrivateNetwork=yes",
    ];
    let sandbox = |unit: &str| -> BTreeSet<String> {
        let unit = read(&format!("packaging/{unit}"));
        let lines = unit.lines().filter(|line| {
            [
                "Protect",
                "Private",
                "Restrict",
                "Capability",
                "NoNew",
                "Memory",
                "ReadWrite",
            ]
            .iter()
            .any(|prefix| line.starts_with(prefix))
        });
        lines
            .filter(|line| !line.starts_with("RestrictAddressFamilies"))
            .map(str::to_owned)
            .collect()
    };
    let mut expected = sandbox("peili.service");
    assert!(expected.contains("CapabilityBoundingSet="), "{expected:?}");
    expected.extend(own.map(str::to_owned));
    assert_eq!(sandbox("peili-configuration.service"), expected);
}
