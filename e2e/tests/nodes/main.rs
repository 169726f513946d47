//! Peili on nodes with real containerds, end to end. `cargo xtask test --only e2e` runs it.

use anyhow::{Result, ensure};
use e2e::Image;

mod faults;
mod hosts;
mod pulls;
mod store;

/// What a small image looks like: its layers in bytes.
const LAYERS: [usize; 4] = [2 << 20, 2 << 20, 2 << 20, 300];

/// What the upstream may send (bytes) while nodes pull from each other: nothing that they asked
/// for, only what hosts on one network say without being asked.
const CHATTER: u64 = 8 << 10;

/// Makes a test of each function that takes a lab.
macro_rules! tests {
    ($($module:ident::$test:ident),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                let name = concat!(stringify!($module), "::", stringify!($test));
                e2e::run(name, crate::$module::$test);
            }
        )*
    };
}

/// Makes a module of tests for each generation of containerd.
macro_rules! tests_on_each_containerd {
    ($($module:ident::$test:ident),* $(,)?) => {
        tests_on_each_containerd!(@ containerd_1_6, V1_6, $($module::$test),*);
        tests_on_each_containerd!(@ containerd_1_7, V1_7, $($module::$test),*);
        tests_on_each_containerd!(@ containerd_2, V2, $($module::$test),*);
    };
    (@ $name:ident, $generation:ident, $($module:ident::$test:ident),*) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    let name = concat!(stringify!($name), "::", stringify!($test));
                    let generation = e2e::Generation::$generation;
                    e2e::run(name, async |lab| crate::$module::$test(lab, generation).await);
                }
            )*
        }
    };
}

tests_on_each_containerd! {
    pulls::others_take_nothing_from_upstream,
    pulls::imported_image_is_served,
    pulls::removed_image_is_pulled_upstream,
    faults::cut_off_holder_is_replaced,
    faults::cut_off_only_holder_costs_no_pull,
    faults::upstream_gone,
    faults::mirror_stopped,
    faults::mirror_stopped_mid_transfer,
    faults::mirror_restarted,
    faults::containerd_restarted,
}

tests! {
    hosts::cleanup_restores_the_folder,
    hosts::cleanup_restores_what_spegel_found,
    store::skopeo_pulls_from_two_registries,
}

/// Fails unless what the upstream sent is the whole image.
fn ensure_all_of(image: &Image, sent: u64) -> Result<()> {
    ensure!(
        sent >= image.size(),
        "upstream sent {sent} bytes, less than {}",
        image.by_tag()
    );
    Ok(())
}

/// Fails if the upstream sent anything that was asked for.
fn ensure_nothing(sent: u64) -> Result<()> {
    ensure!(sent <= CHATTER, "upstream sent {sent} bytes");
    Ok(())
}
