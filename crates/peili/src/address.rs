//! Listens on the addresses of the command line.

use std::io;
use std::net::IpAddr;

use anyhow::anyhow;
use mirror::ListenAddress;
use rustix::io::Errno;
use tokio::net::TcpListener;

/// Opens the port of an option.
///
/// # Errors
/// It cannot be opened. The error says what the operator can do.
pub fn bind(flag: &str, address: ListenAddress) -> anyhow::Result<TcpListener> {
    address
        .bind()
        .map_err(|error| refused(flag, address, &error))
}

/// Why the address of an option cannot be listened on, and what the operator can do.
pub fn refused(flag: &str, address: ListenAddress, error: &io::Error) -> anyhow::Error {
    let advice = match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => "free the port, or choose another",
        Some(Errno::ADDRNOTAVAIL) => {
            "this host has no such address: write :PORT for all that it has, or one that `ip address` lists"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "a port below 1024 takes root or CAP_NET_BIND_SERVICE: choose another port"
        }
        Some(Errno::AFNOSUPPORT) => "this host lacks that family of addresses: write :PORT",
        _ => "choose another address",
    };
    anyhow!("cannot listen on {flag} {address}: {error}; {advice}")
}

/// Whether only this host can connect to it.
pub fn is_loopback(address: ListenAddress) -> bool {
    let ips = address.sockets();
    ips.iter().all(|socket| match socket.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.to_canonical().is_loopback(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ListenAddress {
        text.parse().expect("well-formed")
    }

    #[tokio::test]
    async fn advice_fits_the_cause() {
        let taken = bind("--x", address("127.0.0.1:0")).expect("free");
        let taken = taken.local_addr().expect("bound").to_string();
        for (text, word) in [
            (&*taken, "free the port"),
            ("192.0.2.1:0", "no such address"),
        ] {
            let told = bind("--x", address(text)).expect_err(text).to_string();
            assert!(told.contains(word) && told.contains("--x"), "{told}");
            assert_eq!(
                told.contains("free the port"),
                word == "free the port",
                "{told}"
            );
        }
        let denied = refused("--x", address(":80"), &Errno::ACCESS.into());
        assert!(denied.to_string().contains("below 1024"), "{denied}");
    }

    #[test]
    fn loopback_is_told_from_all_addresses() {
        for (text, expected) in [
            ("127.0.0.1:0", true),
            ("127.8.8.8:0", true),
            ("[::1]:0", true),
            ("[::ffff:127.0.0.1]:0", true),
            (":0", false),
            ("0.0.0.0:0", false),
            ("10.0.0.1:0", false),
        ] {
            assert_eq!(is_loopback(address(text)), expected, "{text}");
        }
    }
}
