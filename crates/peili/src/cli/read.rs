//! Parses the command line and the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::builder::UnknownArgumentValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};

use super::{Cli, Command};

/// The source of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    CommandLine,
    Environment,
}

/// The options of a command that the user has set, by their names in the code.
#[derive(Clone, Debug, Default)]
pub struct Given(BTreeMap<String, Source>);

impl Given {
    /// `None`: the option was left at its default, or given an empty value.
    pub fn source(&self, id: &str) -> Option<Source> {
        self.0.get(id).copied()
    }

    fn of(name: &str, matches: &ArgMatches) -> Self {
        let command = Cli::command();
        let options = command.find_subcommand(name).into_iter();
        let options = options.flat_map(clap::Command::get_arguments);
        let given = options.filter_map(|option| {
            let id = option.get_id().as_str();
            let source = match matches.value_source(id)? {
                ValueSource::CommandLine => Source::CommandLine,
                ValueSource::EnvVariable => Source::Environment,
                _ => return None,
            };
            let mut values = matches.get_raw(id)?;
            values
                .any(|value| !value.is_empty())
                .then(|| (id.to_owned(), source))
        });
        Self(given.collect())
    }
}

/// Parses the command line and the environment. Ends the process if they are invalid.
pub fn parse() -> Cli {
    read(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Parses this command line and the environment.
///
/// # Errors
/// They are invalid, or ask for help.
pub fn read<T>(line: impl IntoIterator<Item = T>) -> Result<Cli, clap::Error>
where
    T: Into<OsString> + Clone,
{
    let matches = command()
        .try_get_matches_from(line)
        .map_err(without_wild_guess)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    let Some((name, matches)) = matches.subcommand() else {
        return Ok(cli);
    };
    let given = Given::of(name, matches);
    let comma = |list: &mut Vec<String>| {
        *list = list.iter().flat_map(|text| split_list(text)).collect();
    };
    match &mut cli.command {
        Command::Registry(arguments) => {
            comma(&mut arguments.mirror.mirrored_registries);
            comma(&mut arguments.bootstrap.static_bootstrap_peers);
            comma(&mut arguments.checks.private);
            // An expression may contain a comma. In the environment the list is one text.
            if given.source("registry_filters") == Some(Source::Environment) {
                comma(&mut arguments.mirror.registry_filters);
            }
            arguments.given = given;
        }
        Command::Configuration(arguments) => {
            comma(&mut arguments.mirrored_registries);
            comma(&mut arguments.mirror_targets);
            arguments.given = given;
        }
        Command::Demo(_) => {
            // The log lines of its nodes would fill the screen; the demo itself shows what matters.
            if matches.value_source("log_level") == Some(ValueSource::DefaultValue) {
                cli.log_level = "ERROR".into();
            }
        }
        Command::Cleanup(_)
        | Command::CleanupWait(_)
        | Command::Images(_)
        | Command::Ui(_)
        | Command::Pull(_)
        | Command::PullTest(_)
        | Command::Status(_)
        | Command::Peers(_)
        | Command::Doctor(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Version(_) => {}
    }
    Ok(cli)
}

/// The name of the option for the log level.
const LOG_LEVEL: &str = "--log-level";

/// The command line's definition, with common other names of the log level.
pub fn command() -> clap::Command {
    let other_names = Arg::new("verbose")
        .long("verbose")
        .aliases(["debug", "quiet"])
        .action(ArgAction::SetTrue)
        .value_parser(UnknownArgumentValueParser::suggest_arg(LOG_LEVEL))
        .hide(true)
        .global(true);
    Cli::command().arg(other_names)
}

/// Removes a suggestion that is not similar to the input: clap's matching is loose.
fn without_wild_guess(mut error: clap::Error) -> clap::Error {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.trim_start_matches('-')),
        _ => None,
    };
    let is_wild = match (
        text(ContextKind::InvalidArg),
        text(ContextKind::SuggestedArg),
    ) {
        (Some(written), Some(suggested)) => {
            let changes = strsim::damerau_levenshtein(written, suggested);
            changes * 3 > written.len().max(suggested.len())
        }
        _ => false,
    };
    let is_guess = error.kind() == ErrorKind::UnknownArgument
        && text(ContextKind::SuggestedArg) != Some(LOG_LEVEL.trim_start_matches('-'));
    if is_wild && is_guess {
        error.remove(ContextKind::SuggestedArg);
        // It shows the usage of the suggested option.
        error.remove(ContextKind::Usage);
    }
    error
}

/// Splits at commas outside double quotes (RFC 4180, as Go parses lists from the environment). Empty elements are left
/// out.
fn split_list(text: &str) -> Vec<String> {
    let (mut list, mut element, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => list.push(std::mem::take(&mut element)),
            c => element.push(c),
        }
    }
    list.push(element);
    list.retain(|element| !element.trim().is_empty());
    list
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_list_in_the_environment_is_split_at_its_commas() {
        assert_eq!(
            split_list("https://a,https://b,"),
            ["https://a", "https://b"]
        );
        assert_eq!(split_list(r#""a{1,2}",b"#), ["a{1,2}", "b"]);
        assert!(split_list("").is_empty());
    }

    #[test]
    fn spegels_command_lines_are_understood() {
        let chart = "peili registry --log-level=INFO --mirror-resolve-retries=3 --mirror-resolve-timeout=20ms \
            --registry-addr=:5000 --router-addr=:5001 --metrics-addr=:9090 --mirrored-registries https://docker.io \
            https://ghcr.io --containerd-sock=/run/containerd/containerd.sock --containerd-namespace=k8s.io \
            --bootstrap-kind=dns --dns-bootstrap-domain=spegel-bootstrap.spegel.svc.cluster.local. \
            --registry-filters :latest$ --containerd-content-path=/content --debug-web-enabled=false --data-dir=/data";
        let cli = Cli::try_parse_from(chart.split_whitespace()).expect("understood");
        let Command::Registry(registry) = cli.command else {
            panic!("another command")
        };
        assert_eq!(
            registry.mirror.mirrored_registries,
            ["https://docker.io", "https://ghcr.io"]
        );
        assert_eq!(registry.mirror.registry_filters, [":latest$"]);
        let main = "peili configuration --containerd-registry-config-path /c --mirrored-registries https://docker.io \
            --mirror-targets http://10.0.0.1:30020 http://10.0.0.1:30021 --resolve-tags --prepend-existing=true";
        let cli = Cli::try_parse_from(main.split_whitespace()).expect("understood");
        let Command::Configuration(configuration) = cli.command else {
            panic!("another command")
        };
        assert_eq!(configuration.mirror_targets.len(), 2);
        assert_eq!(
            (
                &*configuration.resolve_tags,
                &*configuration.prepend_existing
            ),
            ("true", "true")
        );
        for line in [
            "peili cleanup --addr :8080 --containerd-registry-config-path=/c",
            "peili cleanup-wait --probe-endpoint=a:8080 --period=2s --threshold 3",
            "peili version --format json",
        ] {
            Cli::try_parse_from(line.split_whitespace()).expect(line);
        }
    }

    #[test]
    fn lists_with_commas_are_split_wherever_they_come_from() {
        let line = "peili registry --static-bootstrap-peers a:1,b:2 c:3, --mirrored-registries https://a,_default \
            --registry-filters a{1,2}";
        let cli = read(line.split_whitespace()).expect("understood");
        let Command::Registry(registry) = cli.command else {
            panic!("another command")
        };
        assert_eq!(
            registry.bootstrap.static_bootstrap_peers,
            ["a:1", "b:2", "c:3"]
        );
        assert_eq!(
            registry.mirror.mirrored_registries,
            ["https://a", "_default"]
        );
        assert_eq!(registry.mirror.registry_filters, ["a{1,2}"]);
    }

    #[test]
    fn what_is_given_is_what_has_a_value() {
        let line =
            "peili registry --store-limit 20GiB --registry-auth-file= --static-bootstrap-peers";
        let cli = read(line.split_whitespace()).expect("understood");
        let Command::Registry(registry) = cli.command else {
            panic!("another command")
        };
        let given = |id: &str| registry.given.source(id);
        assert_eq!(given("store_limit"), Some(Source::CommandLine));
        for id in ["registry_auth_file", "static_bootstrap_peers", "store"] {
            assert_eq!(given(id), None, "{id}");
        }
    }

    #[test]
    fn only_what_is_alike_is_suggested() {
        let told = |line: &str| read(line.split_whitespace()).expect_err(line).to_string();
        for (line, suggestion) in [
            ("peili registry --verbose", "--log-level"),
            ("peili registry --debug", "--log-level"),
            ("peili registry --registry-adr :1", "--registry-addr"),
            ("peili configuration --mirror-target x", "--mirror-targets"),
        ] {
            let told = told(line);
            assert!(told.contains(&format!("'{suggestion}'")), "{told}");
        }
        for line in ["peili registry --verify", "peili registry --resolve"] {
            let told = told(line);
            assert!(
                !told.contains("similar") && !told.contains("--resolve-tags"),
                "{told}"
            );
        }
    }

    #[test]
    fn the_definitions_hold_together() {
        command().debug_assert();
    }
}
