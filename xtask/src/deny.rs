//! The step `deny`: cargo-deny checks the dependencies with the rules of deny.toml.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// Pinned, so that new lints come with a commit.
const VERSION: &str = "0.20.2";

/// The limit for fetching the advisory database, after which it counts as unreachable.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// The host of the advisory database, and the limit for connecting to it.
const DATABASE: (&str, u16) = ("github.com", 443);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Checks licences, bans and sources offline, and advisories if their database is available. Returns what was not
/// checked.
///
/// # Errors
/// A rule is broken, or the host of the advisory database is reachable but the database is not available.
pub fn run(workspace: &Workspace) -> Result<Option<String>> {
    install(workspace)?;
    // Every crate of the lock file, including those of other platforms: the rest then works offline.
    process::run(&mut workspace.cargo(["fetch", "--locked"]))?;
    process::run(cargo_deny(workspace).args([
        "--offline",
        "check",
        "licenses",
        "bans",
        "sources",
    ]))?;

    if !process::succeeds_within(cargo_deny(workspace).args(["fetch", "db"]), FETCH_LIMIT)? {
        let (host, _) = DATABASE;
        if is_reachable() {
            bail!(
                "advisories: {host} can be reached, and the database cannot be fetched; `cargo deny fetch db` says why"
            );
        }
        println!("advisories: NOT CHECKED, this machine does not reach {host}");
        return Ok(Some(format!("advisories NOT CHECKED: no way to {host}")));
    }
    process::run(cargo_deny(workspace).args(["--offline", "check", "advisories"]))?;
    Ok(None)
}

fn is_reachable() -> bool {
    let Ok(mut addresses) = DATABASE.to_socket_addrs() else {
        return false;
    };
    addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok())
}

fn cargo_deny(workspace: &Workspace) -> Command {
    let mut command = Command::new(workspace.tools().join("bin/cargo-deny"));
    command.current_dir(workspace.root());
    command
}

/// Builds cargo-deny into the target folder unless the pinned version is there.
fn install(workspace: &Workspace) -> Result<()> {
    let present = process::output(cargo_deny(workspace).arg("--version"));
    if present.is_ok_and(|version| version.trim() == format!("cargo-deny {VERSION}")) {
        return Ok(());
    }
    // Unoptimised: it builds in a third of the time and runs for two seconds.
    let mut install = workspace.cargo(["install", "cargo-deny", "--locked", "--debug", "--force"]);
    process::run(
        install
            .args(["--version", VERSION, "--root"])
            .arg(workspace.tools()),
    )
}
