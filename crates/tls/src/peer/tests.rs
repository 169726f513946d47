use std::time::{Duration, SystemTime};

use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;
use crate::testing::Authority;

/// Whether each end receives a byte of the other.
async fn talk(client: &PeerTls, server: &PeerTls) -> bool {
    let (near, far) = tokio::io::duplex(1024);
    let (client, server) = (client.current(), server.current());
    let asking = async {
        let mut stream = client.connect(near).await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let answering = async {
        let mut stream = server.accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.flush().await
    };
    let (asked, answered) = tokio::join!(asking, answering);
    asked.is_ok() && answered.is_ok()
}

#[tokio::test]
async fn certificates_of_one_authority_are_enough_and_others_are_not() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (one, two) = (ours.node(), ours.node());
    assert!(talk(&one, &two).await);
    let stranger = theirs.node();
    let believer = PeerTls::new(Some(theirs.certificates(&[&ours, &theirs])));
    let absent = PeerTls::new(None);
    for other in [&stranger, &believer, &absent] {
        assert!(!talk(other, &two).await);
        assert!(!talk(&one, other).await);
    }
}

#[tokio::test]
async fn what_a_certificate_may_be_used_for_counts() {
    let ours = Authority::new("ours");
    let good = ours.node();
    let with = |usages: &[ExtendedKeyUsagePurpose]| {
        let files = ours.sign(&[&ours], |params| {
            params.extended_key_usages = usages.to_vec();
        });
        files.parse()
    };
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    for (usages, is_client, is_server) in [
        (vec![ServerAuth, ClientAuth], true, true),
        (vec![ServerAuth], false, true),
        (vec![ClientAuth], true, false),
        (vec![CodeSigning], false, false),
    ] {
        let certificates = with(&usages);
        let is_told = certificates.refused_for.is_some();
        assert_eq!(is_told, !(is_client && is_server), "{usages:?}");
        let tls = PeerTls::new(Some(certificates));
        assert_eq!(talk(&tls, &good).await, is_client, "{usages:?} as a client");
        assert_eq!(talk(&good, &tls).await, is_server, "{usages:?} as a server");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_told() {
    let ours = Authority::new("ours");
    let files = ours.sign(&[&ours], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let expired = files.parse();
    let told = expired.refused_for.as_deref().expect("a reason");
    assert!(told.contains("expired"), "{told}");
    assert!(expired.not_after < SystemTime::now());
    let (expired, good) = (PeerTls::new(Some(expired)), ours.node());
    assert!(!talk(&expired, &good).await && !talk(&good, &expired).await);
}

#[tokio::test]
async fn a_rotation_of_the_authority_cuts_nobody_off() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (one, two) = (old.node(), old.node());
    let before = one.current();
    let both = [&old, &new];
    let steps: [(&PeerTls, &Authority, &[&Authority]); 6] = [
        (&one, &old, &both),
        (&two, &old, &both),
        (&two, &new, &both),
        (&one, &new, &both),
        (&one, &new, &[&new]),
        (&two, &new, &[&new]),
    ];
    for (number, (node, by, trusted)) in steps.into_iter().enumerate() {
        node.replace(by.certificates(trusted));
        assert!(
            talk(&one, &two).await && talk(&two, &one).await,
            "step {number}"
        );
    }
    // The removal of an authority ends its connections; the replacement of a certificate does not.
    let limit = Duration::from_secs(60);
    timeout(limit, one.revoked(&before)).await.expect("at once");
    assert_eq!(one.current().revocations, 1);
}

#[test]
fn files_that_do_not_belong_together_are_told_by_name() {
    let ours = Authority::new("ours");
    let (files, other) = (ours.sign(&[&ours], |_| {}), ours.sign(&[&ours], |_| {}));
    let parse = |certificate: &str, key: &str, authorities: &str| {
        let [certificate, key, authorities] = [certificate, key, authorities].map(str::as_bytes);
        let parsed = PeerCertificates::parse(certificate, key, authorities);
        parsed.map(|_| ()).map_err(|error| error.to_string())
    };
    let (certificate, key, ca) = (&*files.certificate, &*files.key, &*files.authorities);
    assert_eq!(parse(certificate, key, ca), Ok(()));
    for (parsed, word) in [
        (parse("", key, ca), "tls.crt holds no certificate"),
        (parse(key, key, ca), "tls.crt holds no certificate"),
        (parse(certificate, "", ca), "tls.key holds no private key"),
        (parse(certificate, &other.key, ca), "the key in tls.key"),
        (parse(certificate, key, ""), "ca.crt holds no certificate"),
    ] {
        let told = parsed.expect_err(word);
        assert!(told.contains(word), "{told}");
    }
}
