//! What is low, and what only seems to be.

use super::*;

const STEP: Duration = Duration::from_millis(100);

struct Flow {
    baseline: ThroughputBaseline,
    now: Instant,
}

impl Flow {
    fn new() -> Self {
        let (baseline, now) = (ThroughputBaseline::default(), Instant::now());
        Self { baseline, now }
    }

    /// Bytes come at so many a second for each of so many new objects, for so long, and are waited for so much of the
    /// time, in percent. Says how many of them were low at the end.
    fn of(&mut self, path: &Path, objects: usize, rate: u64, seconds: u32, waited: u32) -> usize {
        let mut objects: Vec<_> = std::iter::repeat_with(Window::default)
            .take(objects)
            .collect();
        let mut low = 0;
        for _ in 0..seconds * 10 {
            self.now += STEP;
            let (now, waited) = (self.now, STEP * waited / 100);
            let received = |object| {
                self.baseline
                    .received((path, object), now, rate / 10, waited)
            };
            low = objects
                .iter_mut()
                .map(received)
                .filter(|is_low| *is_low)
                .count();
        }
        low
    }
}

fn registry(name: &str) -> Path {
    Path::Registry(name.parse().expect("a registry"))
}

#[test]
fn far_less_than_the_best_is_low() {
    let mut flow = Flow::new();
    assert_eq!(flow.of(&Path::Peers, 1, 1_000, 10, 100), 0);
    assert_eq!(flow.of(&Path::Peers, 1, 400, 10, 100), 0);
    assert_eq!(
        flow.of(&Path::Peers, 1, 100, 2, 100),
        0,
        "that may be chance"
    );
    assert_eq!(flow.of(&Path::Peers, 1, 100, 10, 100), 1);
    // What is better for a while is what the node can get.
    assert_eq!(flow.of(&Path::Peers, 1, 2_000, 10, 100), 0);
    assert_eq!(flow.of(&Path::Peers, 1, 400, 10, 100), 1);
    assert_eq!(
        flow.of(&Path::Peers, 1, 400, 600, 100),
        0,
        "it was long ago"
    );
    let history = flow.baseline.0.peek(&Path::Peers).expect("remembered");
    assert!(history.alone.0.len() <= 61 && history.window.marks.len() < 60);
}

#[test]
fn what_stops_for_seconds_and_goes_on_is_not_low() {
    let mut flow = Flow::new();
    let mut object = Window::default();
    let mut low = 0;
    for tenth in 0..300 {
        flow.now += STEP;
        // Of ten seconds nothing comes for five.
        let bytes = if tenth % 100 < 50 { 100 } else { 1 };
        low +=
            u32::from(
                flow.baseline
                    .received((&Path::Peers, &mut object), flow.now, bytes, STEP),
            );
    }
    assert_eq!(low, 0);
}

#[test]
fn what_the_client_does_not_take_is_not_low() {
    let mut flow = Flow::new();
    flow.of(&Path::Peers, 1, 1_000, 10, 100);
    assert_eq!(flow.of(&Path::Peers, 1, 10, 10, 50), 0);
    // Each waits for half of the time, and at the same moments.
    assert_eq!(flow.of(&Path::Peers, 3, 10, 10, 50), 0);
}

#[test]
fn ways_are_not_compared_with_each_other() {
    let mut flow = Flow::new();
    assert_eq!(flow.of(&Path::Peers, 1, 100_000, 10, 100), 0);
    assert_eq!(flow.of(&registry("fast.example"), 1, 10_000, 10, 100), 0);
    assert_eq!(flow.of(&registry("slow.example"), 1, 1_000, 10, 100), 0);
    assert_eq!(flow.of(&registry("fast.example"), 1, 5_000, 10, 100), 0);
    assert_eq!(flow.of(&registry("fast.example"), 1, 1_000, 10, 100), 1);
    assert_eq!(flow.of(&Path::Peers, 1, 20_000, 10, 100), 1);
}

#[test]
fn all_together_and_each_have_to_be_low() {
    let (mut flow, path) = (Flow::new(), registry("registry.example"));
    // The registry gives so much on each connection.
    assert_eq!(flow.of(&path, 10, 1_000, 10, 100), 0);
    assert_eq!(flow.of(&path, 1, 1_000, 10, 100), 0, "the last of an image");
    assert_eq!(flow.of(&path, 10, 100, 10, 100), 10);
    // The link gives so much in all.
    assert_eq!(flow.of(&path, 1, 10_000, 10, 100), 0);
    assert_eq!(flow.of(&path, 10, 1_000, 10, 100), 0);
}

#[test]
fn who_comes_late_gets_bytes_in_two_ways() {
    let name: Registry = "registry.example".parse().expect("a registry");
    let path = |led_for| Path::of(led_for, Some(&name));
    assert_eq!(path(None), Some(Path::Peers));
    assert_eq!(path(Some(FRESH)), Some(registry("registry.example")));
    assert_eq!(path(Some(FRESH * 2)), None);
    assert_eq!(Path::of(Some(FRESH), None), None);
}
