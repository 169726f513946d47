//! Commands that are shown to the developer, or run for their output.

use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The interval between checks of a command with a time limit.
const POLL: Duration = Duration::from_millis(50);

/// Runs a command with its output on the terminal.
pub fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", line(command));
    let status = command.status().with_context(|| unstartable(command))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output; its error output becomes part of the error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| unstartable(command))?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}{}",
            line(command),
            output.status,
            last_words(&output)
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}`: not UTF-8", line(command)))
}

/// Runs a command without output for at most `limit`, and returns whether it succeeded.
pub fn succeeds_within(command: &mut Command, limit: Duration) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| unstartable(command))?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        thread::sleep(POLL);
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}

/// Whether a program of this name can be started.
pub fn exists(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    !matches!(found, Err(error) if error.kind() == ErrorKind::NotFound)
}

/// The command as a developer would type it.
fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let args = command
        .get_args()
        .map(|arg| format!(" {}", arg.to_string_lossy()));
    std::iter::once(name.to_string_lossy().into_owned())
        .chain(args)
        .collect()
}

fn unstartable(command: &Command) -> String {
    format!("`{}` could not be started", line(command))
}

fn last_words(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    match errors.trim() {
        "" => String::new(),
        errors => format!(": {errors}"),
    }
}
