//! Certificates of mirrors, and clients that use TLS.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tls::Identity;
use tls::testing::NodeFiles;

/// A mirror answers or closes the connection long before this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes the files as Kubernetes mounts a Secret: a link to a link to a folder; the second link is replaced.
pub fn publish(folder: &Path, files: &NodeFiles) -> Result<()> {
    fs::create_dir_all(folder)?;
    let name = format!("..{}", fs::read_dir(folder)?.count());
    let next = folder.join(&name);
    fs::create_dir(&next)?;
    let texts = [
        ("tls.crt", &files.certificate),
        ("tls.key", &files.key),
        ("ca.crt", &files.authorities),
    ];
    for (file, text) in texts {
        fs::write(next.join(file), text)?;
    }
    symlink(&name, folder.join("..next"))?;
    fs::rename(folder.join("..next"), folder.join("..data"))?;
    for (file, _) in texts {
        if !folder.join(file).is_symlink() {
            symlink(Path::new("..data").join(file), folder.join(file))?;
        }
    }
    Ok(())
}

/// Sends a request over TLS, with the certificate of these files or without one, to any server. Returns the raw answer.
///
/// # Errors
/// There is no answer: the server refuses the client.
pub fn ask_by_tls(
    stream: TcpStream,
    path: &str,
    headers: &[(&str, &str)],
    files: Option<&NodeFiles>,
) -> Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let identity = files.map(|files| {
        Identity::of_pem(
            (Path::new("tls.crt"), files.certificate.as_bytes()),
            (Path::new("tls.key"), files.key.as_bytes()),
        )
    });
    let config = tls::client_without_verification(identity.transpose()?)?;
    let name = ServerName::from(stream.peer_addr()?.ip());
    let connection = ClientConnection::new(Arc::new(config), name)?;
    let mut secured = StreamOwned::new(connection, stream);
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    secured.write_all((request + "\r\n").as_bytes())?;
    let mut answer = Vec::new();
    secured
        .read_to_end(&mut answer)
        .context("the server refuses the client")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
