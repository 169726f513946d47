//! The mirror's own credentials, which clients need and which it sends to peers.

use std::io;
use std::path::Path;

use hosts::Credentials;

use crate::cli::{CredentialsArgs, Given};
use crate::fault::Faults;
use crate::value;

const FLAG: &str = "--basic-auth-dir";

/// Reads them from the environment or from the two files of a mounted secret. `None`: they are at fault, or there are
/// none, which is allowed only if the default folder does not exist or the option is empty.
pub fn read(
    arguments: &CredentialsArgs,
    given: &Given,
    faults: &mut Faults,
) -> Option<Credentials> {
    let (name, password) = (
        &arguments.basic_auth_username,
        &arguments.basic_auth_password,
    );
    let is_given = given.source("basic_auth_dir").is_some();
    if !name.is_empty() || !password.is_empty() {
        if is_given {
            faults.add(
                FLAG,
                "BASIC_AUTH_USERNAME and BASIC_AUTH_PASSWORD are set as well; keep one of the two",
            );
        }
        if password.is_empty() {
            faults.add(
                "BASIC_AUTH_PASSWORD",
                "is empty, which guards nothing; set it",
            );
            return None;
        }
        return faults.take("BASIC_AUTH_USERNAME", Credentials::new(name, password));
    }
    let folder = value::path(&arguments.basic_auth_dir)?;
    match std::fs::symlink_metadata(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_given => return None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = "does not exist, and without it the mirror would be open to all; make it, with the files \
                        username and password, or leave the option out";
            faults.add(FLAG, format!("{} {what}", folder.display()));
            return None;
        }
        _ => {}
    }
    faults.take(FLAG, value::folder(&folder))?;
    let name = faults.take(FLAG, text(&folder.join("username")));
    let password = faults.take(FLAG, text(&folder.join("password")));
    let (name, password) = (name?, password?);
    let (name, password) = (name.trim_end(), password.trim_end());
    if password.is_empty() {
        let file = folder.join("password");
        faults.add(
            FLAG,
            format!(
                "{} is empty, which guards nothing; write the password into it",
                file.display()
            ),
        );
        return None;
    }
    faults.take(FLAG, Credentials::new(name, password))
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| {
        format!(
            "cannot read {}: {error}; the folder has to hold the files username and password",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Command};

    fn read_for(line: &str) -> (Option<Credentials>, String) {
        let line = format!("peili configuration {line}");
        let cli = cli::read(line.split_whitespace()).expect("understood");
        let Command::Configuration(arguments) = cli.command else {
            panic!("another command")
        };
        let mut faults = Faults::default();
        let found = read(&arguments.credentials, &arguments.given, &mut faults);
        (found, faults.to_string())
    }

    #[test]
    fn a_folder_that_is_named_is_never_taken_for_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").expect("written");
        std::os::unix::fs::symlink("/nowhere", path("dangling")).expect("linked");
        for name in ["empty", "half", "blank", "sound"] {
            std::fs::create_dir(path(name)).expect("made");
        }
        for (file, text) in [
            ("half/username", "u"),
            ("blank/username", "u"),
            ("blank/password", "\n"),
            ("sound/username", "u\n"),
            ("sound/password", "p\n"),
        ] {
            std::fs::write(path(file), text).expect("written");
        }
        for (name, word) in [
            ("typo", "open to all"),
            ("file", "is not a folder"),
            ("file/below", "Not a directory"),
            ("dangling", "leads nowhere"),
            ("empty", "empty/username"),
            ("half", "half/password"),
            ("blank", "guards nothing"),
        ] {
            let (found, told) = read_for(&format!("--basic-auth-dir {}", path(name).display()));
            assert_eq!(found, None, "{name}");
            assert!(
                told.contains("\n  --basic-auth-dir: ") && told.contains(word),
                "{name}: {told}"
            );
        }
        let (found, told) = read_for(&format!("--basic-auth-dir {}", path("sound").display()));
        assert_eq!(found, Credentials::new("u", "p").ok(), "{told}");
        let (found, told) = read_for("--basic-auth-dir=");
        assert!(found.is_none() && !told.contains("basic-auth"), "{told}");
        let (found, told) = read_for("--basic-auth-username u");
        assert!(
            found.is_none() && told.contains("BASIC_AUTH_PASSWORD: is empty"),
            "{told}"
        );
        let line = "--basic-auth-username u --basic-auth-password p --basic-auth-dir /x";
        assert!(read_for(line).1.contains("keep one of the two"));
    }
}
