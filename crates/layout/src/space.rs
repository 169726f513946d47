//! Enforces the limit: what is held, what is reserved for intakes, and what is removed to make room. Pure.

use std::collections::{BTreeSet, HashMap};

use oci::Digest;

/// The most bytes of a small object: manifests and configs are smaller, layers worth removing are larger.
pub(crate) const SMALL: u64 = 64 * 1024;
/// Small objects are kept while they take at most one part in this many of the limit.
pub(crate) const SMALL_SHARE: u64 = 8;

/// There is no room, even if everything removable were removed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The accounts of the store. All sizes are in bytes of content, without the overhead of the file system.
#[derive(Debug)]
pub(crate) struct Space {
    limit: u64,
    held: u64,
    /// The bytes that intakes may still need.
    promised: u64,
    /// The reserved bytes for which there is room already.
    claimed: u64,
    /// Counts uses. An order needs no wall clock, which could be set back.
    clock: u64,
    objects: HashMap<Digest, Entry>,
    small: Group,
    large: Group,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    used: u64,
}

#[derive(Debug, Default)]
struct Group {
    bytes: u64,
    by_use: BTreeSet<(u64, Digest)>,
}

impl Space {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            held: 0,
            promised: 0,
            claimed: 0,
            clock: 0,
            objects: HashMap::new(),
            small: Group::default(),
            large: Group::default(),
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes of the objects that are here.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        self.objects.get(digest).map(|entry| entry.size)
    }

    /// When the object was last used, as a position in the order of uses.
    pub(crate) fn used(&self, digest: &Digest) -> u64 {
        self.objects.get(digest).map_or(0, |entry| entry.used)
    }

    /// The value of [`Self::used`] for the next object that is used.
    pub(crate) fn next_use(&self) -> u64 {
        self.clock + 1
    }

    /// The objects, the most recently used first.
    pub(crate) fn by_last_use(&self) -> Vec<Digest> {
        let mut uses: Vec<_> = self.small.by_use.iter().collect();
        uses.extend(&self.large.by_use);
        uses.sort_unstable();
        uses.iter()
            .rev()
            .map(|(_, digest)| digest.clone())
            .collect()
    }

    /// Adds an object, as just used.
    pub(crate) fn insert(&mut self, digest: Digest, size: u64) {
        self.remove(&digest);
        self.clock += 1;
        let used = self.clock;
        self.held += size;
        self.objects.insert(digest.clone(), Entry { size, used });
        let group = self.group(size);
        group.bytes += size;
        group.by_use.insert((used, digest));
    }

    pub(crate) fn remove(&mut self, digest: &Digest) {
        if let Some(Entry { size, used }) = self.objects.remove(digest) {
            self.held -= size;
            let group = self.group(size);
            group.bytes -= size;
            group.by_use.remove(&(used, digest.clone()));
        }
    }

    /// Records a use.
    pub(crate) fn touch(&mut self, digest: &Digest) {
        if let Some(size) = self.size(digest) {
            self.insert(digest.clone(), size);
        }
    }

    /// Reserves `bytes` more for intakes. Nothing is removed before they are claimed. Fails if they would not fit even
    /// if everything were removed.
    pub(crate) fn promise(&mut self, bytes: u64) -> Result<(), Full> {
        if bytes > self.limit.saturating_sub(self.promised) {
            return Err(Full);
        }
        self.promised += bytes;
        Ok(())
    }

    /// Makes room for `bytes` of what is reserved. Returns the objects to remove for that, which no longer count.
    pub(crate) fn claim(&mut self, bytes: u64) -> Vec<Digest> {
        self.claimed += bytes;
        debug_assert!(self.claimed <= self.promised);
        let mut going = Vec::new();
        while self.held + self.claimed > self.limit {
            let Some(digest) = self.next_victim() else {
                break;
            };
            self.remove(&digest);
            going.push(digest);
        }
        going
    }

    /// Takes back a reservation, and what was claimed of it.
    pub(crate) fn release(&mut self, promised: u64, claimed: u64) {
        self.promised -= promised;
        self.claimed -= claimed;
    }

    fn next_victim(&self) -> Option<Digest> {
        let (small, large) = (self.small.by_use.first(), self.large.by_use.first());
        let small_first = self.small.bytes > self.limit / SMALL_SHARE;
        let (first, second) = if small_first {
            (small, large)
        } else {
            (large, small)
        };
        first.or(second).map(|(_, digest)| digest.clone())
    }

    fn group(&mut self, size: u64) -> &mut Group {
        if size <= SMALL {
            &mut self.small
        } else {
            &mut self.large
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(n: u8) -> Digest {
        Digest::sha256(&[n])
    }

    const LARGE: u64 = 10 * SMALL;

    fn reserve(space: &mut Space, bytes: u64) -> Result<Vec<Digest>, Full> {
        space.promise(bytes)?;
        Ok(space.claim(bytes))
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut space = Space::new(3 * LARGE);
        for n in 0..3 {
            space.insert(digest(n), LARGE);
        }
        space.touch(&digest(0));
        assert_eq!(space.by_last_use(), [0, 2, 1].map(digest));
        assert_eq!(reserve(&mut space, 1), Ok(vec![digest(1)]));
        assert_eq!(reserve(&mut space, LARGE), Ok(vec![digest(2)]));
        assert_eq!(space.held(), LARGE);
    }

    #[test]
    fn small_ones_stay_until_they_take_more_than_their_share() {
        let limit = 80 * SMALL;
        let mut space = Space::new(limit);
        for n in 0..10 {
            space.insert(digest(n), SMALL);
        }
        space.insert(digest(100), 70 * SMALL);
        assert_eq!(
            reserve(&mut space, 1),
            Ok(vec![digest(100)]),
            "ten are an eighth"
        );
        space.release(1, 1);
        space.insert(digest(10), SMALL);
        space.insert(digest(101), 69 * SMALL);
        assert_eq!(
            reserve(&mut space, 1),
            Ok(vec![digest(0)]),
            "eleven are more"
        );
    }

    #[test]
    fn what_is_promised_is_not_promised_twice() {
        let mut space = Space::new(100);
        space.insert(digest(0), 10);
        assert_eq!(reserve(&mut space, 60), Ok(vec![]));
        assert_eq!(reserve(&mut space, 41), Err(Full));
        assert_eq!(space.held(), 10, "a refusal removes nothing");
        assert_eq!(space.promise(40), Ok(()));
        assert_eq!(space.held(), 10, "a promise removes nothing");
        assert_eq!(space.claim(30), []);
        assert_eq!(space.claim(10), [digest(0)]);
        space.release(60, 60);
        assert_eq!(reserve(&mut space, 60), Ok(vec![]));
    }

    /// The same rules, as a list from least to most recently used.
    #[derive(Default)]
    struct Model {
        objects: Vec<(Digest, u64)>,
        reserved: u64,
    }

    impl Model {
        fn reserve(&mut self, limit: u64, bytes: u64) -> Result<Vec<Digest>, Full> {
            if self.reserved + bytes > limit {
                return Err(Full);
            }
            self.reserved += bytes;
            let mut gone = Vec::new();
            while self.held() + self.reserved > limit {
                let small = |(_, size): &(Digest, u64)| *size <= SMALL;
                let small_bytes: u64 = self.objects.iter().filter(|o| small(o)).map(|o| o.1).sum();
                let wanted = small_bytes > limit / SMALL_SHARE;
                let at = self.objects.iter().position(|o| small(o) == wanted);
                gone.push(self.objects.remove(at.unwrap_or(0)).0);
            }
            Ok(gone)
        }

        fn held(&self) -> u64 {
            self.objects.iter().map(|o| o.1).sum()
        }

        fn take(&mut self, digest: &Digest) -> Option<(Digest, u64)> {
            let at = self.objects.iter().position(|o| o.0 == *digest)?;
            Some(self.objects.remove(at))
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        TakeIn(u8, u64),
        Touch(u8),
        Remove(u8),
        Promise(u64),
        Return,
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = prop_oneof![0..=SMALL, SMALL..=4 * LARGE];
        prop_oneof![
            4 => (0u8..24, size.clone()).prop_map(|(n, size)| Step::TakeIn(n, size)),
            2 => (0u8..24).prop_map(Step::Touch),
            1 => (0u8..24).prop_map(Step::Remove),
            1 => size.prop_map(Step::Promise),
            1 => Just(Step::Return),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_the_model_and_keeps_the_limit(
            limit in 0..=20 * LARGE,
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let (mut space, mut model) = (Space::new(limit), Model::default());
            let mut promises = Vec::new();
            for step in steps {
                match step {
                    Step::TakeIn(n, size) => {
                        let told = reserve(&mut space, size);
                        prop_assert_eq!(&told, &model.reserve(limit, size));
                        if told.is_ok() {
                            space.release(size, size);
                            space.insert(digest(n), size);
                            model.reserved -= size;
                            model.take(&digest(n));
                            model.objects.push((digest(n), size));
                        }
                    }
                    Step::Touch(n) => {
                        space.touch(&digest(n));
                        let object = model.take(&digest(n));
                        model.objects.extend(object);
                    }
                    Step::Remove(n) => {
                        space.remove(&digest(n));
                        model.take(&digest(n));
                    }
                    Step::Promise(bytes) => {
                        let told = reserve(&mut space, bytes);
                        prop_assert_eq!(&told, &model.reserve(limit, bytes));
                        promises.extend(told.is_ok().then_some(bytes));
                    }
                    Step::Return => {
                        if let Some(bytes) = promises.pop() {
                            space.release(bytes, bytes);
                            model.reserved -= bytes;
                        }
                    }
                }
                prop_assert_eq!(space.held(), model.held());
                prop_assert!(space.held() + space.claimed <= limit);
            }
        }
    }
}
