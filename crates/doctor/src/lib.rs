//! Diagnoses a node's mirror: what is wrong, why, and what to do.
//!
//! Pure: [`Facts`] are gathered elsewhere, [`diagnose`] converts them to a [`Report`]. Each [`Finding`] has a code that
//! is documented in `docs/doctor.md`, a severity, and a remedy with the exact lines to write. Of findings with one
//! cause, only the cause is reported.

pub mod checks;
mod facts;
mod finding;
mod report;
mod rules;
mod settled;

pub use facts::{
    AddressAnswer, Advice, Answered, Containerd, ContainerdPaths, Facts, HostsFile, HostsFolder,
    KeyFile, Mirror, Peer, Registry, Trial,
};
pub use finding::{Category, Check, Code, Finding, Severity};
pub use report::Report;
pub use settled::Settled;

/// Derives findings from the facts.
pub fn diagnose(facts: &Facts) -> Report {
    let containerd = rules::containerd(facts);
    if !facts.is_installed {
        return Report::new(containerd);
    }
    let findings = containerd
        .into_iter()
        .chain(rules::hosts(facts))
        .chain(rules::mirror(facts))
        .chain(rules::peers(facts))
        .chain(rules::upstream(facts))
        .chain(rules::trial(facts));
    Report::new(findings)
}
