//! Descriptions of failed requests: which host, what failed, and what the operator can do. No text contains a URL's
//! query, which may carry a signature.

use std::error::Error;
use std::io;
use std::time::Duration;

use mirror::UpstreamError;
use oci::Origin;
use rustls::{AlertDescription, CertificateError, InvalidMessage};
use url::Url;

use crate::policy::Refused;

pub(crate) fn protocol(origin: &Origin, text: &str) -> UpstreamError {
    UpstreamError::Protocol(origin.clone(), text.to_owned())
}

pub(crate) fn unreachable(origin: &Origin, text: &str) -> UpstreamError {
    UpstreamError::Unreachable(origin.clone(), text.to_owned())
}

pub(crate) fn failed(origin: &Origin, text: &str) -> UpstreamError {
    UpstreamError::Failed(origin.clone(), text.to_owned())
}

/// Changes the fault of a host that a registry led to: it does not show whether the registry itself can be reached.
pub(crate) fn of_another_host(error: UpstreamError) -> UpstreamError {
    match error {
        UpstreamError::Unreachable(origin, what) => UpstreamError::Failed(origin, what),
        other => other,
    }
}

pub(crate) fn silence(origin: &Origin, limit: Duration) -> UpstreamError {
    failed(origin, &format!("not a byte in {limit:?}"))
}

pub(crate) fn forbidden(origin: &Origin, refused: &Refused) -> UpstreamError {
    UpstreamError::Forbidden(origin.clone(), refused.to_string())
}

/// Whether the connection ended before the first byte of an answer, as a kept one does if the server has closed it
/// meanwhile.
pub(crate) fn closed_unanswered(error: &reqwest::Error) -> bool {
    if error.is_connect() || error.is_timeout() {
        return false;
    }
    causes(error).any(|cause| {
        let http = cause.downcast_ref::<hyper::Error>();
        let io = cause.downcast_ref::<io::Error>();
        http.is_some_and(|e| e.is_incomplete_message() || e.is_canceled() || e.is_closed())
            || io.is_some_and(|e| {
                use io::ErrorKind::{
                    BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof,
                };
                let kinds = [
                    BrokenPipe,
                    ConnectionAborted,
                    ConnectionReset,
                    UnexpectedEof,
                ];
                kinds.contains(&e.kind())
            })
    })
}

/// Whether a connection ended without the last message of TLS.
pub(crate) fn is_end(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof)
    })
}

/// The error of a request without an answer.
pub(crate) fn of_request(origin: &Origin, url: &Url, error: reqwest::Error) -> UpstreamError {
    let error = error.without_url();
    if let Some(refused) = causes(&error).find_map(|cause| cause.downcast_ref::<Refused>()) {
        return forbidden(origin, refused);
    }
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    if closed_unanswered(&error) {
        let advice = match url.scheme() {
            "http" => format!("; {EXPECTS_TLS}"),
            _ => String::new(),
        };
        let text = format!("{host}:{port} closes the connection without an answer{advice}");
        return protocol(origin, &text);
    }
    let was_connected = !error.is_connect();
    let is_silent = error.is_connect() && error.is_timeout();
    let silent = "nobody answers there: check the address and what filters the way to it, or set HTTPS_PROXY";
    let advice = advice(&error).or(is_silent.then_some(silent));
    let advice = advice.map(|advice| format!("; {advice}"));
    let text = format!(
        "{host}:{port}: {}{}",
        words(&error),
        advice.unwrap_or_default()
    );
    match was_connected {
        true => failed(origin, &text),
        false => unreachable(origin, &text),
    }
}

/// The error of a body that broke off.
pub(crate) fn of_body(origin: &Origin, error: reqwest::Error) -> UpstreamError {
    failed(origin, &words(&error.without_url()))
}

/// The possible cause of a fault of a registry that is called without TLS.
pub(crate) const EXPECTS_TLS: &str =
    "if it speaks TLS, list it as https://HOST in --mirrored-registries";

/// The texts that the HTTP client puts around the cause of a failure.
const WRAPPERS: [&str; 4] = [
    "error sending request",
    "client error (Connect)",
    "client error (SendRequest)",
    "dns error",
];

/// An error with its causes. A cause that the text before it ends with is not repeated.
fn words(error: &reqwest::Error) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let words = cause.to_string();
        if WRAPPERS.contains(&words.as_str()) {
            continue;
        }
        if text.is_empty() {
            text = words;
        } else if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
    }
    text
}

/// What the operator can do, if the causes show it.
fn advice(error: &reqwest::Error) -> Option<&'static str> {
    causes(error).find_map(|cause| {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return of_tls(tls);
        }
        let io = cause.downcast_ref::<io::Error>()?;
        if let Some(tls) = within(io) {
            return of_tls(tls);
        }
        match io.kind() {
            io::ErrorKind::ConnectionRefused => {
                Some("nothing listens there: check the port and whether the registry runs")
            }
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                Some("this node has no route to it: check the network, or set HTTPS_PROXY")
            }
            _ => None,
        }
    })
}

/// An error of TLS is inside one or two I/O errors, and not listed as a cause there.
fn within(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    let outer = || within(inner.downcast_ref::<io::Error>()?);
    inner.downcast_ref::<rustls::Error>().or_else(outer)
}

fn of_tls(error: &rustls::Error) -> Option<&'static str> {
    use CertificateError as Fault;
    Some(match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS: if it is meant to be called without, list it as http://HOST in --mirrored-registries"
        }
        rustls::Error::InvalidCertificate(fault) => match fault {
            Fault::UnknownIssuer | Fault::BadSignature => {
                "add the certificate of its authority to this node's trust store, or name a file with it in \
                 SSL_CERT_FILE, and restart"
            }
            Fault::Expired | Fault::ExpiredContext { .. } => {
                "renew its certificate, and check this node's clock"
            }
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => "check this node's clock",
            Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
                "its certificate needs the name or address that it is called by as a subject alternative name"
            }
            _ => "its certificate has to be made anew",
        },
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a client certificate, which is not supported"
        }
        rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion,
        )
        | rustls::Error::PeerIncompatible(_) => {
            "it has no version of TLS or no cipher in common with this node: it needs TLS 1.2 with ECDHE and AES-GCM, \
             or later"
        }
        _ => return None,
    })
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |error| (*error).source())
}
