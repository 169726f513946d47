//! The chart: what it renders, what it refuses, and that both are as the docs say.

mod configurations;
mod dashboard;
mod leaving;
mod lint;
mod platforms;
mod pods;
mod port_case;
mod readiness;
mod refusals;
mod rules;
mod schemas;
mod snapshots;
mod spegel;
mod values;
