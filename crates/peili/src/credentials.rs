//! The mirror's own credentials, which guard it and which it shows to peers.

use std::path::Path;

use hosts::Credentials;

use crate::cli::CredentialsArgs;
use crate::fault::Faults;

/// From the environment or from the two files of a mounted secret; `None`: there are none, or they are at fault.
pub fn read(arguments: &CredentialsArgs, faults: &mut Faults) -> Option<Credentials> {
    let (name, password) = (
        &arguments.basic_auth_username,
        &arguments.basic_auth_password,
    );
    if !name.is_empty() || !password.is_empty() {
        return faults.take("BASIC_AUTH_USERNAME", Credentials::new(name, password));
    }
    let folder = Path::new(&arguments.basic_auth_dir);
    if arguments.basic_auth_dir.is_empty() || !folder.exists() {
        return None;
    }
    let text = |file: &str| {
        let path = folder.join(file);
        std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let name = faults.take("--basic-auth-dir", text("username"));
    let password = faults.take("--basic-auth-dir", text("password"));
    let (name, password) = (name?, password?);
    faults.take(
        "--basic-auth-dir",
        Credentials::new(name.trim_end(), password.trim_end()),
    )
}
