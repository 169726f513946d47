//! `peili man`: the manual pages, from the same definitions as `--help`.

use std::path::Path;

use anyhow::Context as _;

use crate::cli::{self, ManArgs};

/// Writes `peili.1` and a page for each command into a folder.
///
/// # Errors
/// The folder cannot be created or written.
pub fn run(arguments: &ManArgs) -> anyhow::Result<()> {
    write(&arguments.folder)
}

fn write(folder: &Path) -> anyhow::Result<()> {
    let what = || format!("cannot write manual pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(what)?;
    clap_mangen::generate_to(cli::command(), folder).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_options() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path()).expect("written");
        let page = |name: &str| {
            let page = std::fs::read_to_string(folder.path().join(name)).expect(name);
            // roff writes a hyphen as an escape.
            page.replace("\\-", "-")
        };
        let overview = page("peili.1");
        for command in cli::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            let name = command.get_name();
            assert!(overview.contains(&format!("peili-{name}(1)")), "{name}");
            let page = page(&format!("peili-{name}.1"));
            for option in command.get_arguments().filter(|o| !o.is_hide_set()) {
                if let Some(long) = option.get_long() {
                    assert!(page.contains(&format!("--{long}")), "{name} --{long}");
                }
            }
        }
    }
}
