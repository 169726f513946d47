//! A minimal HTTP client for the tests, which connects from inside a host's namespace.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::network::Host;

/// The limit for a server to send the next bytes.
const READ_LIMIT: Duration = Duration::from_secs(20);

impl Host {
    /// Sends a request over a separate connection, and returns the status of the response once that has ended.
    pub fn request(&self, method: &str, to: SocketAddr, path: &str) -> Result<u16> {
        self.ask(method, to, path, &[]).map(|(status, _)| status)
    }

    /// Does the same with further headers.
    pub fn request_with(
        &self,
        method: &str,
        to: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<u16> {
        let answer = self.ask(method, to, path, headers);
        answer.map(|(status, _)| status)
    }

    /// Requests content, and returns the status and the body of the response.
    pub fn get(&self, to: SocketAddr, path: &str) -> Result<(u16, Vec<u8>)> {
        self.ask("GET", to, path, &[])
    }

    fn ask(
        &self,
        method: &str,
        to: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Vec<u8>)> {
        let mut stream = self.connect(to)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        let headers = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers: String = headers.collect();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{headers}\r\n"
        )?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response)?;
        let status = status(&response);
        let status =
            status.with_context(|| format!("no response to {method} http://{to}{path}"))?;
        let head = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let body = head.map_or_else(Vec::new, |end| response.split_off(end + 4));
        Ok((status, body))
    }
}

fn status(response: &[u8]) -> Option<u16> {
    let line = response.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line)
        .ok()?
        .strip_prefix("HTTP/1.1 ")?
        .get(..3)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_parsed() {
        assert_eq!(
            status(b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nbody"),
            Some(404)
        );
        assert_eq!(status(b""), None);
        assert_eq!(status(b"HTTP/1.1 x\r\n"), None);
    }
}
