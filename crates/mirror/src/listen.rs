//! Addresses to listen on, as on the command line.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// The most connections in the kernel's queue.
pub(crate) const BACKLOG: i32 = 1024;

/// `ADDRESS:PORT` as in Go: without an address it means all, of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// `None`: all addresses, IPv4 and IPv6.
    pub ip: Option<IpAddr>,
    /// The port. 0: any free one.
    pub port: u16,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not ADDRESS:PORT; write :5000 for all addresses, 10.0.0.1:5000, or [::1]:5000")]
pub struct ListenAddressError(String);

impl ListenAddress {
    /// The sockets of the address. If there are two, one of them is enough: a host may lack a family.
    pub fn sockets(self) -> Vec<SocketAddr> {
        let both = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let ips = self.ip.map_or(both.to_vec(), |ip| vec![ip]);
        ips.into_iter()
            .map(|ip| SocketAddr::new(ip, self.port))
            .collect()
    }

    /// Opens the port. A port on all addresses is one socket for both families, or for IPv4 on a host without IPv6.
    ///
    /// # Errors
    /// The port is in use, or the address is not this host's.
    pub fn bind(self) -> io::Result<TcpListener> {
        let Some(ip) = self.ip else {
            let all = |ip: IpAddr| listen(SocketAddr::new(ip, self.port));
            return match all(Ipv6Addr::UNSPECIFIED.into()) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    all(Ipv4Addr::UNSPECIFIED.into())
                }
                bound => bound,
            };
        };
        listen(SocketAddr::new(ip, self.port))
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let fault = || ListenAddressError(text.into());
        if let Some(port) = text.strip_prefix(':') {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            let port = port.parse().ok().filter(|_| digits).ok_or_else(fault)?;
            return Ok(Self { ip: None, port });
        }
        let socket: SocketAddr = text.parse().map_err(|_| fault())?;
        Ok(Self {
            ip: Some(socket.ip()),
            port: socket.port(),
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[test]
    fn texts() {
        for text in [
            ":5001",
            "10.0.0.1:5001",
            "[::1]:5001",
            "0.0.0.0:0",
            "[::]:65535",
        ] {
            assert_eq!(
                text.parse::<ListenAddress>().expect("sound").to_string(),
                text
            );
        }
        for text in [
            "",
            "5001",
            ":",
            ":70000",
            "::1:5001",
            "localhost:5001",
            "10.0.0.1",
            ":+5",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text:?} was taken");
        }
    }

    #[tokio::test]
    async fn all_addresses_means_both_families() {
        let all: ListenAddress = ":0".parse().expect("sound");
        let listener = all.bind().expect("a free port");
        let local = listener.local_addr().expect("bound");
        TcpStream::connect((Ipv4Addr::LOCALHOST, local.port()))
            .await
            .expect("IPv4");
        if local.is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, local.port()))
                .await
                .expect("IPv6");
        }
        let taken = ListenAddress {
            ip: None,
            port: local.port(),
        };
        assert_eq!(
            taken.bind().expect_err("taken").kind(),
            io::ErrorKind::AddrInUse
        );
    }
}
