use super::*;

fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

fn origin(text: &str) -> Origin {
    let name: Name = format!("{text}:x").parse().expect("a name");
    name.origin
}

fn places(list: &[&str]) -> BTreeSet<Origin> {
    list.iter().map(|o| origin(o)).collect()
}

fn image(name: &str, namespace: usize, target: &str, reached: &[&str]) -> (ImageKey, Image) {
    let key = ImageKey {
        name: name.to_owned(),
        namespace,
    };
    let image = Image {
        target: digest(target),
        name: name.parse().expect("a name"),
        reached: reached.iter().map(|r| digest(r)).collect(),
    };
    (key, image)
}

fn tag(text: &str) -> TagName {
    let name: Name = text.parse().expect("a name");
    name.tag_name().expect("a tag")
}

fn listing(files: &[&str], labels: &[(&str, &[&str])], images: &[(ImageKey, Image)]) -> Listing {
    Listing {
        files: files.iter().map(|f| (digest(f), 1)).collect(),
        labels: labels.iter().map(|(d, o)| (digest(d), places(o))).collect(),
        images: images.iter().cloned().collect(),
        new: Vec::new(),
    }
}

fn origins(catalog: &Catalog, name: &str) -> Option<BTreeSet<Origin>> {
    catalog.object(&digest(name)).map(|o| o.origins)
}

/// An inventory to which a listing was applied.
fn after(listing: Listing) -> (Inventory, Catalog) {
    let (mut inventory, catalog) = (Inventory::default(), Catalog::default());
    inventory.begin_listing();
    inventory.apply(listing, &catalog);
    (inventory, catalog)
}

#[test]
fn an_object_is_on_disk_and_in_a_namespace() {
    let (_, catalog) = after(listing(
        &["both", "elsewhere"],
        &[("both", &["quay.io/a"]), ("vanished", &["quay.io/a"])],
        &[],
    ));
    assert_eq!(origins(&catalog, "both"), Some(places(&["quay.io/a"])));
    assert_eq!(origins(&catalog, "elsewhere"), None);
    assert_eq!(origins(&catalog, "vanished"), None);
}

#[test]
fn a_new_blob_is_here_before_its_labels_are() {
    let (mut inventory, catalog) = after(Listing::default());
    inventory.file(&digest("l"), Some(7), &catalog);
    assert_eq!(origins(&catalog, "l"), None, "which namespace?");
    inventory.labels(&digest("l"), Some(BTreeSet::new()), &catalog);
    assert_eq!(origins(&catalog, "l"), Some(places(&[])));
    inventory.labels(&digest("l"), Some(places(&["quay.io/a"])), &catalog);
    assert_eq!(origins(&catalog, "l"), Some(places(&["quay.io/a"])));
    inventory.file(&digest("l"), None, &catalog);
    assert_eq!(origins(&catalog, "l"), None);
    assert!(
        inventory.blobs.is_empty(),
        "nothing is kept of what is gone"
    );
}

#[test]
fn names_give_what_labels_do_not() {
    let (key, imported) = image("ghcr.io/b:1", 0, "m", &["m", "l"]);
    let (mut inventory, catalog) = after(listing(
        &["m", "l"],
        &[("m", &[]), ("l", &["quay.io/a"])],
        &[(key.clone(), imported.clone())],
    ));
    let both = Some(places(&["ghcr.io/b", "quay.io/a"]));
    assert_eq!(origins(&catalog, "m"), Some(places(&["ghcr.io/b"])));
    assert_eq!(origins(&catalog, "l"), both);

    let (second, same) = image("ghcr.io/b:2", 0, "m", &["m", "l"]);
    inventory.image(&second, Some(same), &catalog);
    inventory.image(&key, None, &catalog);
    assert_eq!(origins(&catalog, "l"), both, "another name leads to it");
    inventory.image(&second, None, &catalog);
    assert_eq!(origins(&catalog, "l"), Some(places(&["quay.io/a"])));
    assert_eq!(origins(&catalog, "m"), Some(places(&[])));
    assert!(inventory.named.is_empty());
}

#[test]
fn a_tag_follows_its_image() {
    let (mut inventory, catalog) = after(Listing::default());
    let v1 = tag("quay.io/a:1");
    let (key, old) = image("quay.io/a:1", 0, "old", &[]);
    let (_, new) = image("quay.io/a:1", 0, "new", &[]);
    inventory.image(&key, Some(old), &catalog);
    assert_eq!(catalog.resolve(&v1), Some(digest("old")));
    inventory.image(&key, Some(new), &catalog);
    assert_eq!(catalog.resolve(&v1), Some(digest("new")));
    inventory.image(&key, None, &catalog);
    assert_eq!(catalog.resolve(&v1), None);
}

#[test]
fn the_first_namespace_decides_over_a_tag() {
    let v1 = tag("quay.io/a:1");
    let (first, one) = image("quay.io/a:1", 0, "one", &[]);
    let (second, two) = image("quay.io/a:1", 1, "two", &[]);
    let (mut inventory, catalog) = after(listing(
        &[],
        &[],
        &[(second.clone(), two.clone()), (first.clone(), one.clone())],
    ));
    assert_eq!(catalog.resolve(&v1), Some(digest("one")));
    inventory.image(&first, None, &catalog);
    assert_eq!(catalog.resolve(&v1), Some(digest("two")));
    inventory.image(&first, Some(one), &catalog);
    assert_eq!(catalog.resolve(&v1), Some(digest("one")));
    inventory.image(&second, Some(two), &catalog);
    assert_eq!(catalog.resolve(&v1), Some(digest("one")));
}

#[test]
fn a_name_with_a_digest_is_no_tag() {
    let name = format!("quay.io/a:1@{}", digest("m"));
    let (_, catalog) = after(listing(&[], &[], &[image(&name, 0, "m", &[])]));
    assert!(catalog.tags().is_empty());
}

#[test]
fn what_is_found_out_during_a_listing_is_newer_than_it() {
    let (gone_key, gone) = image("quay.io/gone:1", 0, "m", &[]);
    let (come_key, come) = image("quay.io/come:1", 0, "m", &[]);
    let (mut inventory, catalog) = after(listing(
        &["stays", "goes"],
        &[("stays", &["quay.io/a"]), ("goes", &["quay.io/a"])],
        &[(gone_key.clone(), gone.clone())],
    ));
    inventory.begin_listing();
    // The listing is older than these changes.
    let looked = listing(
        &["stays", "goes"],
        &[("stays", &["quay.io/a"]), ("goes", &["quay.io/a"])],
        &[(gone_key.clone(), gone)],
    );
    inventory.file(&digest("comes"), Some(1), &catalog);
    inventory.labels(&digest("comes"), Some(places(&["quay.io/b"])), &catalog);
    inventory.file(&digest("goes"), None, &catalog);
    inventory.image(&gone_key, None, &catalog);
    inventory.image(&come_key, Some(come), &catalog);
    inventory.apply(looked, &catalog);
    assert_eq!(origins(&catalog, "stays"), Some(places(&["quay.io/a"])));
    assert_eq!(origins(&catalog, "comes"), Some(places(&["quay.io/b"])));
    assert_eq!(origins(&catalog, "goes"), None);
    assert_eq!(catalog.resolve(&tag("quay.io/gone:1")), None);
    assert_eq!(catalog.resolve(&tag("quay.io/come:1")), Some(digest("m")));
}

#[test]
fn a_listing_repairs_what_nobody_told() {
    let (key, named) = image("quay.io/a:1", 0, "m", &["m"]);
    let (mut inventory, catalog) = after(listing(
        &["m", "l"],
        &[("m", &[]), ("l", &["quay.io/a"])],
        &[(key, named)],
    ));
    inventory.begin_listing();
    inventory.apply(listing(&["m"], &[("m", &["quay.io/b"])], &[]), &catalog);
    assert_eq!(origins(&catalog, "m"), Some(places(&["quay.io/b"])));
    assert_eq!(origins(&catalog, "l"), None);
    assert!(catalog.tags().is_empty());
    // There was no other change, so none is reported.
    let mut changes = catalog.changes();
    inventory.begin_listing();
    inventory.apply(listing(&["m"], &[("m", &["quay.io/b"])], &[]), &catalog);
    assert!(changes.try_recv().is_err());
}

mod orders {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        File(u8, bool),
        Labels(u8, Option<u8>),
        Image(u8, usize, Option<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..4, any::<bool>()).prop_map(|(d, there)| Step::File(d, there)),
            (0u8..4, prop::option::of(0u8..3)).prop_map(|(d, o)| Step::Labels(d, o)),
            (0u8..3, 0usize..2, prop::option::of(0u8..4))
                .prop_map(|(n, ns, t)| Step::Image(n, ns, t)),
        ]
    }

    fn take(inventory: &mut Inventory, step: &Step, catalog: &Catalog) {
        let blob = |d: &u8| digest(&d.to_string());
        match step {
            Step::File(d, there) => inventory.file(&blob(d), there.then_some(1), catalog),
            Step::Labels(d, place) => {
                let place = place.map(|p| places(&[&format!("quay.io/{p}")]));
                inventory.labels(&blob(d), place, catalog);
            }
            Step::Image(n, namespace, target) => {
                let name = format!("ghcr.io/{n}:1");
                let target = target.map(|t| t.to_string());
                let with = |t: &String| image(&name, *namespace, t, &[t, "0"]).1;
                let key = ImageKey {
                    name: name.clone(),
                    namespace: *namespace,
                };
                inventory.image(&key, target.as_ref().map(with), catalog);
            }
        }
    }

    proptest! {
        /// Changes in any order: the catalog is what a listing of the result would make it.
        #[test]
        fn end_as_a_listing_would(steps in prop::collection::vec(step(), 0..40)) {
            let (mut inventory, catalog) = after(Listing::default());
            for step in &steps {
                take(&mut inventory, step, &catalog);
            }
            let listing = Listing {
                files: inventory.blobs.iter().filter_map(|(d, b)| Some((d.clone(), b.size?))).collect(),
                labels: inventory.blobs.iter().filter_map(|(d, b)| Some((d.clone(), b.labels.clone()?))).collect(),
                images: inventory.images.clone(),
                new: Vec::new(),
            };
            let (_, listed) = after(listing);
            let sorted = |catalog: &Catalog| {
                let objects: BTreeMap<_, _> = catalog
                    .digests()
                    .into_iter()
                    .filter_map(|d| Some((d.clone(), catalog.object(&d)?.origins)))
                    .collect();
                (objects, catalog.tags().into_iter().collect::<BTreeMap<_, _>>())
            };
            prop_assert_eq!(sorted(&catalog), sorted(&listed));
        }
    }
}
