//! Peili on nodes with real containerds, end to end. `cargo xtask test --only e2e` runs it.

use anyhow::{Result, ensure};
use e2e::Image;

#[path = "../../../crates/kubernetes/tests/it/api_server.rs"]
#[allow(dead_code, reason = "other tests do more with it")]
mod api_server;
mod chaos;
mod checks;
mod clients;
mod container;
mod damage;
mod discard;
mod doctor;
mod doctor_clock;
mod doctor_peers;
mod doctor_trial;
mod faults;
mod flight_faults;
mod flights;
mod hosts;
mod network_key;
#[path = "../../../crates/peili/tests/it/otlp.rs"]
mod otlp;
mod page;
mod peer_tls;
mod pull;
mod pulls;
mod readme;
mod store;
mod traces;
mod trial;

/// The layers of a small image, in bytes.
const LAYERS: [usize; 4] = [2 << 20, 2 << 20, 2 << 20, 300];

/// The bytes that the upstream may send while nodes pull from each other: nothing on request, only background traffic
/// of hosts on one network.
const CHATTER: u64 = 8 << 10;

/// Creates a test for each function that takes a lab.
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

/// Creates a module of tests for one generation of containerd. An attribute before its name is applied to each test.
macro_rules! tests_on {
    ($name:ident, $($tests:tt)*) => {
        // An attribute without an effect.
        tests_on!(#[cfg(all())] $name, $($tests)*);
    };
    (#[$attribute:meta] $name:ident, $generation:ident: $($module:ident::$test:ident),* $(,)?) => {
        mod $name {
            $(
                #[test]
                #[$attribute]
                fn $test() {
                    let name = concat!(stringify!($name), "::", stringify!($test));
                    let generation = e2e::Generation::$generation;
                    e2e::run(name, async |lab| crate::$module::$test(lab, generation).await);
                }
            )*
        }
    };
}

/// Creates such a module for each generation, and one for the containerd that the developer names.
macro_rules! tests_on_each_containerd {
    ($($tests:tt)*) => {
        tests_on!(containerd_1_6, V1_6: $($tests)*);
        tests_on!(containerd_1_7, V1_7: $($tests)*);
        tests_on!(containerd_2, V2: $($tests)*);
        tests_on!(
            #[ignore = "cargo xtask test --containerd DIR runs these"]
            containerd_given, Given: $($tests)*
        );
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
    flights::cold_pull_costs_upstream_once,
    discard::eks_node_shares_untouched,
    hosts::list_hides_nothing,
    trial::trial_needs_hosts_toml,
}

tests_on! { flights_1_6, V1_6:
    flights::plain_mirror_without_flights,
    flight_faults::leader_is_cancelled,
    flight_faults::all_mirrors_die,
    flight_faults::leader_is_unauthorized,
    flight_faults::leader_gets_wrong_bytes,
}

tests_on! { flights_1_7, V1_7:
    damage::damaged_layer_costs_one_attempt,
    flights::remote_clients_lead_and_follow_nothing,
    flights::without_a_secret_nobody_else_takes_part,
    flight_faults::leader_is_cancelled,
    flight_faults::leaders_mirror_dies,
    flights::slow_node_is_known,
    flight_faults::leader_is_rate_limited,
    flight_faults::owner_dies,
}

tests_on! { pull_2, V2:
    pull::trial_pull_names_the_source_and_keeps_nothing,
    pull::trial_pull_says_why_the_registry_was_asked,
    traces::cold_pull_is_traced_over_both_nodes,
}

tests_on! { checks_1_7, V1_7:
    checks::private_image_needs_its_secret,
}

tests_on! { checks_2, V2:
    checks::moved_tag_is_fresh,
    checks::private_image_needs_its_secret,
    checks::failing_registry_costs_a_moment,
}

tests_on! { network_2, V2:
    network_key::strangers_get_nothing,
    network_key::keys_are_replaced_while_nodes_pull,
    peer_tls::clients_without_a_certificate_get_nothing,
    peer_tls::an_image_crosses_the_upstream_link_once_by_tls,
    peer_tls::certificates_are_replaced_while_nodes_pull,
}

tests_on! { flights_2, V2:
    damage::damaged_layer_costs_one_attempt,
    damage::damaged_layer_in_flights,
    flights::remote_clients_lead_and_follow_nothing,
    flights::without_a_secret_nobody_else_takes_part,
    flights::many_layers_cost_upstream_once,
    flights::parallel_ranges_cost_upstream_once,
    flights::opposite_order_blocks_nobody,
    flight_faults::leaders_containerd_dies,
    flight_faults::leaders_mirror_dies,
    flight_faults::all_mirrors_die,
    flight_faults::leader_is_unauthorized,
    flight_faults::leader_gets_wrong_bytes,
    discard::transfer_service_ignores_lists,
    page::cold_pull_is_seen_as_a_tree,
    doctor::each_prepared_fault_is_named,
    doctor_peers::each_fault_among_nodes_is_named,
}

tests! {
    hosts::cleanup_restores_the_folder,
    hosts::cleanup_restores_what_spegel_found,
    store::skopeo_pulls_from_two_registries,
    store::signature_outlives_the_registry,
    container::restricted_mirror_serves,
    readme::three_commands_work,
    clients::podman_pulls_through_registries_conf,
    clients::skopeo_pulls_through_registries_conf,
}

/// Fails unless the upstream sent the whole image.
fn ensure_all_of(image: &Image, sent: u64) -> Result<()> {
    ensure!(
        sent >= image.size(),
        "upstream sent {sent} bytes, less than {}",
        image.by_tag()
    );
    Ok(())
}

/// Fails if the upstream sent anything on request.
fn ensure_nothing(sent: u64) -> Result<()> {
    ensure!(sent <= CHATTER, "upstream sent {sent} bytes");
    Ok(())
}
