//! Access to an object, from the moment that it is here.

use std::sync::Arc;

use super::*;

/// A reader that opens an object while it is being committed finds it absent or private.
#[tokio::test]
async fn a_private_object_is_private_from_the_moment_that_it_is_here() {
    let root = folder();
    let store = Arc::new(open(root.path()));
    let private = || from(&tag_name("quay.io/a/b:1"), Visibility::Private);
    for n in 0..32 {
        let content = bytes(n, 1000);
        let digest = Digest::sha256(&content);
        let (opener, opened) = (store.clone(), digest.clone());
        let opening = std::thread::spawn(move || {
            loop {
                if let Some(object) = opener.open(&opened).expect("readable") {
                    return object.visibility;
                }
            }
        });
        take_in(&store, &content, private()).await;
        assert_eq!(opening.join().expect("no panic"), Visibility::Private);
        assert!(store.catalog().visibility(&digest).is_some());
    }
}
