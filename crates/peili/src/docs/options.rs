//! docs/options.md: the options of each command.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::{cell, settle};
use crate::cli;

const HEAD: &str = "\
# Options
Each option can be given on the command line or as an environment variable. The command line wins. A list takes several
values after one option; in the environment its values are separated by commas. `peili COMMAND --help` prints the same. A test
writes this page from the command line's definition.
";

const TABLE: &str = "| option | environment | default | meaning |\n|---|---|---|---|\n";

fn page() -> String {
    let mut command = cli::command();
    command.build();
    let mut page = HEAD.to_owned();
    page.push_str("\n## All commands\n\n");
    page.push_str(TABLE);
    for option in command.get_arguments().filter(|option| is_shown(option)) {
        page.push_str(&row(option));
    }
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in command.get_subcommands().filter(shown) {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        // Writing to a text does not fail.
        let _ = writeln!(page, "\n## peili {}\n{about}.", command.get_name());
        page.push('\n');
        page.push_str(TABLE);
        for option in options(command) {
            page.push_str(&row(option));
        }
    }
    page
}

/// The visible options of a command, without those of all commands.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    let options = command.get_arguments().filter(|option| is_shown(option));
    options.filter(|option| !option.is_global_set())
}

fn is_shown(option: &Arg) -> bool {
    !option.is_hide_set() && option.get_id() != "help" && option.get_id() != "version"
}

fn row(option: &Arg) -> String {
    let name = match option.get_long() {
        Some(long) => format!("`--{long}`"),
        None => format!("`{}`", option.get_id().as_str().to_uppercase()),
    };
    let environment = option.get_env().map(|name| format!("`{}`", name.display()));
    let defaults = option.get_default_values().iter();
    let defaults: Vec<_> = defaults.map(|value| value.to_string_lossy()).collect();
    let is_switch = !option.get_action().takes_values();
    let default = match defaults.join(" ") {
        text if text.is_empty() || is_switch => String::new(),
        text => format!("`{text}`"),
    };
    let help = option.get_long_help().or(option.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    format!(
        "| {name} | {} | {default} | {} |\n",
        environment.unwrap_or_default(),
        cell(&help)
    )
}

#[test]
fn options_page_is_as_the_command_line_is() {
    settle("docs/options.md", &page());
}

/// Every option of every command.
pub fn all() -> Vec<String> {
    let mut command = cli::command();
    command.build();
    let names = command.get_subcommands().flat_map(Command::get_arguments);
    names
        .filter_map(|option| option.get_long().map(str::to_owned))
        .collect()
}
