//! Reads when a certificate expires (RFC 5280, section 4.1.2.5).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode as _, ErrorKind, Reader as _, SliceReader, Tag, Tagged as _};

/// The time after which a certificate is no longer valid.
///
/// # Errors
/// It is not a certificate.
pub(crate) fn not_after(certificate: &[u8]) -> der::Result<SystemTime> {
    let certificate = AnyRef::from_der(certificate)?;
    let signed = nth(elements(certificate.value())?, 0)?;
    let mut fields = elements(signed.value())?;
    // The version comes first, unless it is version 1; then the serial number, the signature algorithm, the issuer and
    // the validity.
    if fields
        .first()
        .is_some_and(|first| first.tag().is_context_specific())
    {
        fields.remove(0);
    }
    let end = nth(elements(nth(fields, 3)?.value())?, 1)?;
    let since_epoch: Duration = match end.tag() {
        Tag::UtcTime => end.decode_as::<UtcTime>()?.to_unix_duration(),
        _ => end.decode_as::<GeneralizedTime>()?.to_unix_duration(),
    };
    Ok(UNIX_EPOCH + since_epoch)
}

/// The elements of a sequence.
fn elements(value: &[u8]) -> der::Result<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(value)?;
    let mut all = Vec::new();
    while !reader.is_finished() {
        all.push(AnyRef::decode(&mut reader)?);
    }
    Ok(all)
}

fn nth(elements: Vec<AnyRef<'_>>, n: usize) -> der::Result<AnyRef<'_>> {
    let found = elements.into_iter().nth(n);
    found.ok_or_else(|| ErrorKind::Failed.into())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn both_forms_of_a_date_are_read_and_other_bytes_are_an_error() {
        let key = KeyPair::generate().expect("a key");
        // From 2050 on, certificates use the longer form of the year.
        for (year, expected) in [(2031, 1_924_992_000), (2061, 2_871_763_200)] {
            let mut params = CertificateParams::default();
            params.not_after = date_time_ymd(year, 1, 1);
            let made = params.self_signed(&key).expect("a certificate");
            let read = not_after(made.der()).expect("a date");
            assert_eq!(read, UNIX_EPOCH + Duration::from_secs(expected));
            for length in 0..made.der().len() {
                assert!(not_after(&made.der()[..length]).is_err(), "{length} bytes");
            }
        }
        assert!(not_after(&[0x30, 0]).is_err());
    }
}
