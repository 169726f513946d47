//! A connection that was made already, for tonic to use once.

use std::future::{Ready, ready};
use std::io;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tower_service::Service;

pub(crate) struct Once(Option<UnixStream>);

impl Once {
    pub fn new(stream: UnixStream) -> Self {
        Self(Some(stream))
    }
}

impl Service<Uri> for Once {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "the connection was closed");
        ready(self.0.take().map(TokioIo::new).ok_or_else(closed))
    }
}
