//! Signatures by cosign, which is not installed by these tools: a release is signed where its key is.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Signs each file; the signature is beside it, as `<file>.sigstore.json`.
///
/// `key`: the value of cosign's `--key`, a file or the URI of a key service. Nothing is uploaded to a transparency log:
/// this works without a network, and verifiers have the public key.
pub fn files<'p>(key: &str, files: impl Iterator<Item = &'p Path>) -> Result<()> {
    require_cosign()?;
    for file in files {
        let mut bundle = file.as_os_str().to_owned();
        bundle.push(".sigstore.json");
        let mut sign = Command::new("cosign");
        sign.args(["sign-blob", "--yes", "--key", key])
            .args(["--use-signing-config=false", "--tlog-upload=false"])
            .arg("--bundle")
            .arg(bundle)
            .arg(file);
        process::run(&mut sign)?;
    }
    Ok(())
}

/// Fails unless cosign is on the PATH, before anything is built for it.
pub fn require_cosign() -> Result<()> {
    if !process::exists("cosign") {
        bail!(
            "--sign needs cosign 3 on the PATH. It is built by: \
             go install github.com/sigstore/cosign/v3/cmd/cosign@latest"
        );
    }
    Ok(())
}
