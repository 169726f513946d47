//! Any folder, any order of commands, interrupted anywhere: in the end the user's configuration is what it was.

use proptest::prelude::*;

use super::*;
use crate::Warning;
use crate::recognise::{Author, Spegel, author};
use crate::steps::{Step, StepScope};
use crate::tree::{Entry, is_file, is_folder};

const NAMES: &[&str] = &[
    "docker.io",
    "ghcr.io",
    "_default",
    "10.0.0.1:5000",
    "10.0.0.1_5000_",
    "quay.io",
    "notes.txt",
];
const REGISTRIES: &[&str] = &[
    "https://docker.io",
    "https://ghcr.io",
    "_default",
    "http://10.0.0.1:5000",
    "https://new.io",
];
const TEXTS: &[&str] = &[
    "",
    "server = 'https://a'\n[host.\"https://b\"]\nca = 'ca.crt' # why\n",
    "[host.'http://127.0.0.1:5000']\nskip_verify = true\n",
    "broken = ",
];

/// An entry of the user at one path.
#[derive(Clone, Debug)]
enum Item {
    Text(usize),
    Link(&'static str),
    Folder,
}

type Tree = Vec<(String, Item, bool)>;

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        3 => (0..TEXTS.len()).prop_map(Item::Text),
        1 => prop::sample::select(vec!["ca.crt", "quay.io", "../quay.io", "../quay.io/hosts.toml", "/nowhere", "../../outside"]).prop_map(Item::Link),
        1 => Just(Item::Folder),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let inner = prop::sample::select(vec!["hosts.toml", "ca.crt", "sub", "sub/x", "sub/sub/y"]);
    let entry = (
        prop::sample::select(NAMES),
        prop::option::weighted(0.8, inner),
        item(),
        any::<bool>(),
    );
    let path = |(name, inner, item, private): (&str, Option<&str>, Item, bool)| {
        let path = inner.map_or(name.to_owned(), |inner| format!("{name}/{inner}"));
        // Such a folder is refused; see its tests.
        let item = if path.ends_with(HOSTS) && matches!(item, Item::Folder) {
            Item::Text(1)
        } else {
            item
        };
        (path, item, private)
    };
    prop::collection::vec(entry.prop_map(path), 0..12)
}

fn build(tree: &Tree) -> Folder {
    let folder = Folder::new();
    for (path, item, private) in tree {
        let at = folder.path.join(path);
        // What conflicts with existing entries is left out.
        let parent = at.parent().expect("has one");
        if folder.exists(path) || parent.is_symlink() || fs::create_dir_all(parent).is_err() {
            continue;
        }
        let through_link = at
            .ancestors()
            .skip(1)
            .take_while(|a| *a != folder.path)
            .any(Path::is_symlink);
        if through_link {
            continue;
        }
        match item {
            Item::Text(n) => folder.put(path, TEXTS[*n]),
            Item::Link(target) => folder.link(path, target),
            Item::Folder => fs::create_dir(&at).expect("made"),
        }
        match item {
            Item::Text(_) if *private => folder.set_mode(path, 0o600),
            Item::Folder if *private => folder.set_mode(path, 0o700),
            _ => {}
        }
    }
    folder
}

/// The registries, and whether the user's hosts are kept.
type Wish = (Vec<&'static str>, bool);

fn wish() -> impl Strategy<Value = Wish> {
    (
        prop::sample::subsequence(REGISTRIES.to_vec(), 0..=REGISTRIES.len()),
        any::<bool>(),
    )
}

fn wished(folder: &Folder, (registries, prepend_existing): &Wish) -> Configuration {
    Configuration {
        prepend_existing: *prepend_existing,
        ..folder.configuration(registries)
    }
}

#[derive(Clone, Debug)]
enum Command {
    Configure(Wish),
    Cleanup,
    /// Ended after this share of the steps, in 256ths.
    ConfigureCutOff(Wish, u8),
    CleanupCutOff(u8),
    SpegelConfigures(Vec<&'static str>),
    SpegelPrepends(Vec<&'static str>),
    SpegelCleansUp,
}

fn command() -> impl Strategy<Value = Command> {
    let spegels = prop::sample::subsequence(
        vec!["https://docker.io", "https://old.io", "_default"],
        0..=3,
    );
    prop_oneof![
        2 => wish().prop_map(Command::Configure),
        1 => Just(Command::Cleanup),
        4 => (wish(), any::<u8>()).prop_map(|(wish, share)| Command::ConfigureCutOff(wish, share)),
        2 => any::<u8>().prop_map(Command::CleanupCutOff),
        1 => spegels.clone().prop_map(Command::SpegelConfigures),
        1 => spegels.prop_map(Command::SpegelPrepends),
        1 => Just(Command::SpegelCleansUp),
    ]
}

fn without_hosts(entry: &Entry) -> Entry {
    let mut rest = entry.clone();
    rest.remove(Path::new(HOSTS));
    rest
}

fn cut_off(folder: &Folder, steps: &[Step], share: u8) {
    let kept = steps.len() * usize::from(share) / 256;
    let failed = apply::run(&folder.path, &steps[..kept]).expect("carried out");
    assert!(failed.is_empty(), "{failed:?}");
}

/// The executed steps if the step with this number fails: no further ones of its entry, and none that need all entries
/// to be done. `None`: the step is not for one entry.
fn failing_at(steps: &[Step], number: usize) -> Option<Vec<Step>> {
    let mut scope = &StepScope::Whole;
    let mut failed = None;
    let mut kept = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        if let Step::For(next) = step {
            scope = next;
        } else if n == number {
            match scope {
                StepScope::Entry(entry) => failed = Some(entry),
                StepScope::Whole | StepScope::Finish => return None,
            }
        }
        let left_out = match scope {
            StepScope::Whole => false,
            StepScope::Entry(entry) => failed == Some(entry),
            StepScope::Finish => failed.is_some(),
        };
        if !left_out {
            kept.push(step.clone());
        }
    }
    failed.map(|_| kept)
}

fn carry_out(folder: &Folder, command: &Command) {
    match command {
        Command::Configure(wish) => {
            let report = configure(&wished(folder, wish)).expect("configured");
            // A broken file is the user's responsibility.
            assert!(wish.1 || report.failures.is_empty(), "{report:?}");
        }
        Command::Cleanup => drop(folder.cleanup()),
        Command::ConfigureCutOff(wish, share) => {
            let plan = folder.configure_plan(&wished(folder, wish));
            cut_off(folder, &plan.steps, *share);
        }
        Command::CleanupCutOff(share) => {
            cut_off(folder, &folder.cleanup_plan().steps, *share);
        }
        Command::SpegelConfigures(registries) => folder.spegel_configures(registries),
        Command::SpegelPrepends(registries) => folder.spegel_prepends(registries),
        Command::SpegelCleansUp => folder.spegel_cleans_up(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_clean_up_gives_the_user_back_what_was_there(
        tree in tree(),
        commands in prop::collection::vec(command(), 1..7),
    ) {
        let folder = build(&tree);
        let before = folder.snapshot();
        for command in &commands {
            carry_out(&folder, command);
        }
        folder.cleanup();
        prop_assert_eq!(folder.snapshot(), before);
    }

    #[test]
    fn whatever_happened_configuring_ends_the_same_and_spegel_can_clean_up(
        tree in tree(),
        commands in prop::collection::vec(command(), 1..5),
        wish in wish(),
    ) {
        let folder = build(&tree);
        let before = folder.snapshot();
        let fresh = build(&tree);
        let failures = |folder: &Folder| {
            let report = configure(&wished(folder, &wish)).expect("configured");
            let inner = |failure: &crate::Failure| failure.path.strip_prefix(&folder.path).map(Path::to_owned);
            report.failures.iter().map(inner).collect::<Vec<_>>()
        };
        let failed = failures(&fresh);
        for command in &commands {
            carry_out(&folder, command);
        }
        prop_assert_eq!(failures(&folder), failed);
        prop_assert_eq!(folder.snapshot(), fresh.snapshot());
        let again = folder.configure_plan(&wished(&folder, &wish));
        prop_assert_eq!(again.steps, []);
        folder.spegel_cleans_up();
        prop_assert_eq!(folder.snapshot(), before);
    }

    #[test]
    fn with_default_each_folder_of_the_users_is_mirrored_or_warned_of(
        tree in tree(),
        named in prop::option::of(Just("https://docker.io")),
        prepend_existing in any::<bool>(),
    ) {
        let folder = build(&tree);
        let before = folder.snapshot().live;
        let wish = (named.into_iter().chain(["*"]).collect(), prepend_existing);
        let report = configure(&wished(&folder, &wish)).expect("configured");
        let after = folder.snapshot().live;
        for (name, entry) in before.iter().filter(|(_, entry)| !is_file(entry)) {
            let path = folder.path.join(name).join(HOSTS);
            // Also through a link.
            let is_ours = fs::read(&path).is_ok_and(|file| author(&file, Spegel::Never) == Author::Peili);
            let is_failed = report.failures.iter().any(|failure| failure.path == folder.path.join(name));
            if is_failed {
                prop_assert!(prepend_existing, "asked for by nobody: {:?}", report);
                prop_assert_eq!(&after[name], entry);
                continue;
            }
            let is_warned_of = report.warnings.iter().any(|warning| {
                matches!(warning, Warning::NotMirrored(fault) if fault.path == path)
            });
            prop_assert_eq!(is_ours, !is_warned_of, "{:?}: {:?}", name, report);
            if is_warned_of {
                prop_assert_eq!(&after[name], entry);
            } else if is_folder(entry) && name != "_default" && name != "docker.io" {
                prop_assert_eq!(without_hosts(&after[name]), without_hosts(entry));
            }
        }
    }

    #[test]
    fn every_step_may_be_the_last(tree in tree(), wish in wish(), spegel in prop::option::of(any::<bool>())) {
        let folder = build(&tree);
        let before = folder.snapshot();
        for steps in 0.. {
            match spegel {
                Some(true) => folder.spegel_prepends(&REGISTRIES[..3]),
                Some(false) => folder.spegel_configures(&REGISTRIES[..3]),
                None => {}
            }
            let plan = folder.configure_plan(&wished(&folder, &wish));
            if steps == plan.steps.len() {
                break;
            }
            apply::run(&folder.path, &plan.steps[..steps]).expect("carried out");
            folder.cleanup();
            prop_assert_eq!(&folder.snapshot(), &before, "after {} of {:?}", steps, plan.steps);
        }
        configure(&wished(&folder, &wish)).expect("configured");
        let configured = folder.snapshot();
        let plan = folder.cleanup_plan();
        for steps in 0..plan.steps.len() {
            apply::run(&folder.path, &plan.steps[..steps]).expect("carried out");
            configure(&wished(&folder, &wish)).expect("configured again");
            prop_assert_eq!(&folder.snapshot(), &configured, "after {} of {:?}", steps, plan.steps);
        }
    }

    #[test]
    fn every_step_of_an_entry_may_fail(tree in tree(), wish in wish()) {
        let folder = build(&tree);
        let before = folder.snapshot();
        let apply = |steps: &[Step]| {
            let failed = apply::run(&folder.path, steps).expect("carried out");
            assert!(failed.is_empty(), "{failed:?}");
        };
        let steps = folder.configure_plan(&wished(&folder, &wish)).steps;
        for number in 0..steps.len() {
            let Some(rest) = failing_at(&steps, number) else { continue };
            apply(&rest);
            folder.cleanup();
            prop_assert_eq!(&folder.snapshot(), &before, "step {} of {:?}", number, steps);
        }
        configure(&wished(&folder, &wish)).expect("configured");
        let configured = folder.snapshot();
        let steps = folder.cleanup_plan().steps;
        for number in 0..steps.len() {
            let Some(rest) = failing_at(&steps, number) else { continue };
            apply(&rest);
            prop_assert!(folder.exists(BACKUP), "what is left to do is lost");
            configure(&wished(&folder, &wish)).expect("configured again");
            prop_assert_eq!(&folder.snapshot(), &configured, "step {} of {:?}", number, steps);
        }
    }
}
