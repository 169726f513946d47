//! The metrics of node readiness.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::readiness::State;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    /// The label value: `passed` or `failed`.
    result: &'static str,
}

/// The metrics. Each is described where it is registered.
#[derive(Debug)]
pub(crate) struct Metrics {
    state: Family<StateLabels, Gauge>,
    trials: Family<ResultLabels, Counter>,
    timeouts: Counter,
    api_errors: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            state: Family::default(),
            trials: Family::default(),
            timeouts: Counter::default(),
            api_errors: Counter::default(),
        };
        registry.register(
            "peili_node_readiness",
            "1 for the state that the node's readiness is in, 0 for all others",
            metrics.state.clone(),
        );
        registry.register(
            "peili_node_readiness_trials",
            "Trial pulls through the mirror, by result",
            metrics.trials.clone(),
        );
        registry.register(
            "peili_node_readiness_timeouts",
            "Times that the mirror did not get ready within --node-readiness-timeout",
            metrics.timeouts.clone(),
        );
        registry.register(
            "peili_node_readiness_api_errors",
            "Requests to the API server that failed or were refused, conflicts included",
            metrics.api_errors.clone(),
        );
        metrics.set_state(State::Unknown);
        metrics
    }

    pub fn set_state(&self, now: State) {
        for state in State::ALL {
            let labels = StateLabels {
                state: state.name(),
            };
            self.state
                .get_or_create(&labels)
                .set(i64::from(state == now));
        }
    }

    pub fn trial(&self, passed: bool) {
        let result = if passed { "passed" } else { "failed" };
        self.trials.get_or_create(&ResultLabels { result }).inc();
    }

    pub fn timed_out(&self) {
        self.timeouts.inc();
    }

    pub fn api_error(&self) {
        self.api_errors.inc();
    }
}
