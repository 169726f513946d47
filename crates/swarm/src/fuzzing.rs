//! Parsers of this crate for the crate `fuzz`.

/// A peer's answer to `/id`.
pub fn id(bytes: &[u8]) {
    let _ = crate::bootstrap::parse_id(bytes);
}

/// A stream of datagrams, read to its end or first fault. No datagram exceeds the limit.
pub fn frames(bytes: &[u8]) {
    let read = crate::datagrams::read_all(futures::io::Cursor::new(bytes));
    futures::executor::block_on(read);
}
