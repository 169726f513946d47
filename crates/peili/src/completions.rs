//! `peili completions`: the script with which a shell completes Peili's command lines.

use std::io::Write;

use clap_complete::Shell;

use crate::cli::{self, CompletionsArgs};

/// Prints the completion script of a shell.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(arguments: &CompletionsArgs) -> anyhow::Result<()> {
    std::io::stdout().write_all(&script(arguments.shell))?;
    Ok(())
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "peili", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_completes_each_command_and_option() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).expect("text");
            for command in cli::command()
                .get_subcommands()
                .filter(|c| !c.is_hide_set())
            {
                let name = command.get_name();
                assert!(script.contains(name), "{shell}: {name}");
                for option in command.get_arguments().filter(|o| !o.is_hide_set()) {
                    let Some(long) = option.get_long() else {
                        continue;
                    };
                    let written = match shell {
                        Shell::Fish => format!("-l {long}"),
                        _ => format!("--{long}"),
                    };
                    assert!(script.contains(&written), "{shell}: {name} --{long}");
                }
            }
        }
    }
}
