//! `Content-Encoding` of answers for which `identity` was asked. The label proves nothing: some registries put it on
//! bytes that are as they should be (moby/moby#17595), others encode in spite of the request (quay/quay#1310). The bytes
//! and the digest decide.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use lru::LruCache;
use oci::{Digest, Hasher};
use parking_lot::Mutex;

/// What gzip begins with (RFC 1952, section 2.3.1), deflate included.
const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
/// RFC 8878, section 3.1.1.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Bytes that are decoded at a time. Deflate makes at most 1032 of one, so 4 MiB come of them.
const DECODED_AT_ONCE: usize = 4 * 1024;
/// Objects of which is remembered whether they are encoded.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// What is sent under a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object itself.
    Plain,
    /// The object in gzip.
    Gzip,
}

impl Form {
    fn other(self) -> Self {
        match self {
            Self::Plain => Self::Gzip,
            Self::Gzip => Self::Plain,
        }
    }
}

/// Whether an answer is labelled as encoded with gzip. All other labels, known or not, change nothing.
pub(crate) fn is_labelled(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| {
        let names = value.as_bytes().split(|b| *b == b',');
        names
            .map(<[u8]>::trim_ascii)
            .any(|name| name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip"))
    })
}

/// A JSON document, decoded where it is in gzip: JSON never begins as gzip does. Bytes that do not decode into at most
/// `limit` bytes are left as they are.
pub(crate) fn document(bytes: Bytes, limit: u64) -> Bytes {
    decoded(&bytes, limit).unwrap_or(bytes)
}

/// Bytes that are gzip, decoded. `None` where they are not, or have more than `limit` bytes decoded.
pub(crate) fn decoded(bytes: &[u8], limit: u64) -> Option<Bytes> {
    let mut found = Vec::new();
    let mut decoder = Decoder::new();
    for part in bytes
        .starts_with(GZIP)
        .then_some(bytes)?
        .chunks(DECODED_AT_ONCE)
    {
        found.extend_from_slice(&decoder.push(part).ok()?);
        if found.len() as u64 > limit {
            return None;
        }
    }
    found.extend_from_slice(&decoder.end().ok()?);
    (found.len() as u64 <= limit).then(|| found.into())
}

/// Which form the beginning of a labelled body has, where that can be told without the rest of it; else the likelier one.
/// A layer that is gzip already is in gzip twice when it was encoded on the way. What else is gzip is most likely a
/// layer that was never encoded, as layers of plain tar are rare.
pub(crate) fn likely_form(beginning: &[u8]) -> Form {
    if !beginning.starts_with(GZIP) {
        return Form::Plain;
    }
    let inner = Decoder::new().push(&beginning[..beginning.len().min(DECODED_AT_ONCE)]);
    match inner {
        Ok(inner) if inner.starts_with(GZIP) || inner.starts_with(ZSTD) => Form::Gzip,
        _ => Form::Plain,
    }
}

/// What a small labelled body may decode to, in bytes, while its form is found out.
const MAX_DECODED: usize = 16 * 1024 * 1024;

/// Which form a whole labelled body has that is to be the object of this digest. `None`: neither.
pub(crate) fn form_of(body: &[u8], digest: &Digest) -> Option<Form> {
    if digest.verifies(body) {
        return Some(Form::Plain);
    }
    let mut hasher = Hasher::new(digest);
    let mut decoder = Decoder::new();
    let mut decoded = 0;
    for part in body.chunks(DECODED_AT_ONCE) {
        let found = decoder.push(part).ok()?;
        decoded += found.len();
        if decoded > MAX_DECODED {
            return None;
        }
        hasher.update(&found);
    }
    hasher.update(&decoder.end().ok()?);
    (hasher.finish() == *digest).then_some(Form::Gzip)
}

/// Gzip in pieces.
pub(crate) struct Decoder(MultiGzDecoder<Vec<u8>>);

impl Decoder {
    pub(crate) fn new() -> Self {
        Self(MultiGzDecoder::new(Vec::new()))
    }

    /// Decodes a piece of at most [`DECODED_AT_ONCE`] bytes.
    fn push(&mut self, part: &[u8]) -> io::Result<Bytes> {
        self.0.write_all(part)?;
        self.0.flush()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }

    fn end(&mut self) -> io::Result<Bytes> {
        self.0.try_finish()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }
}

/// The object under a label, piece by piece. It is checked against its digest, as its form may be a guess.
pub(crate) struct Unlabelled {
    form: Form,
    decoder: Decoder,
    hasher: Hasher,
    digest: Digest,
}

impl Unlabelled {
    pub(crate) fn new(form: Form, digest: &Digest) -> Self {
        Self {
            form,
            decoder: Decoder::new(),
            hasher: Hasher::new(digest),
            digest: digest.clone(),
        }
    }

    /// Takes the next bytes of a body from `input`, and gives the next of the object, which may be none.
    pub(crate) fn next(&mut self, input: &mut Bytes) -> io::Result<Bytes> {
        let bytes = match self.form {
            Form::Plain => std::mem::take(input),
            Form::Gzip => {
                let part = input.split_to(input.len().min(DECODED_AT_ONCE));
                self.decoder.push(&part)?
            }
        };
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    /// The last bytes of the object, and whether it is the one that its digest names.
    pub(crate) fn end(mut self) -> io::Result<(Bytes, bool)> {
        let bytes = match self.form {
            Form::Plain => Bytes::new(),
            Form::Gzip => self.decoder.end()?,
        };
        self.hasher.update(&bytes);
        Ok((bytes, self.hasher.finish() == self.digest))
    }
}

/// Which form the objects have that a guess was wrong about.
pub(crate) struct Forms(Mutex<LruCache<Digest, Form>>);

impl Forms {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MAX_REMEMBERED)))
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Form> {
        self.0.lock().get(digest).copied()
    }

    /// The object is not what came of it in this form.
    pub(crate) fn was_wrong(&self, digest: &Digest, form: Form) {
        self.0.lock().put(digest.clone(), form.other());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;

    use super::*;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    }

    #[test]
    fn only_gzip_by_its_two_names_is_a_label() {
        for (value, expected) in [
            ("gzip", true),
            ("X-GZip", true),
            ("identity, gzip", true),
            ("", false),
            ("identity", false),
            ("br", false),
            ("aws-chunked", false),
        ] {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(CONTENT_ENCODING, value.clone())]);
            assert_eq!(is_labelled(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn a_document_is_decoded_where_it_is_encoded() {
        let json = Bytes::from_static(b"{}");
        assert_eq!(document(json.clone(), 10), json);
        assert_eq!(document(gzip(&json).into(), 10), json);
        let bomb = Bytes::from(gzip(&[0; 100_000]));
        assert_eq!(document(bomb.clone(), 10_000), bomb);
        let mut broken = gzip(&json);
        broken.truncate(12);
        assert_eq!(document(broken.clone().into(), 10), broken);
    }

    #[test]
    fn the_form_is_told_by_the_digest_or_else_guessed() {
        let tar = [b'a'; 10_000];
        let (layer, twice) = (gzip(&tar), gzip(&gzip(&tar)));
        let (plain, zipped) = (Digest::sha256(&tar), Digest::sha256(&layer));
        assert_eq!(form_of(&tar, &plain), Some(Form::Plain));
        assert_eq!(form_of(&layer, &zipped), Some(Form::Plain));
        assert_eq!(form_of(&layer, &plain), Some(Form::Gzip));
        assert_eq!(form_of(&twice, &zipped), Some(Form::Gzip));
        assert_eq!(form_of(&twice, &plain), None);
        assert_eq!(likely_form(&tar), Form::Plain);
        assert_eq!(likely_form(&layer), Form::Plain);
        assert_eq!(likely_form(&twice), Form::Gzip);
    }
}
