//! The basis of the chart's tests: Helm run with values, and the objects that it renders.

mod objects;
mod render;
mod tools;

pub use objects::{Object, Objects, parse};
pub use render::{Helm, Render};
pub use tools::{chart, fixture, promtool, validate, workspace};

/// The oldest and the newest Kubernetes that the chart supports and that schemas are there for.
pub const OLDEST: &str = "1.26.0";
pub const NEWEST: &str = "1.37.0";
/// The first Kubernetes whose NodePorts keep to their own node.
pub const SAME_NODE: &str = "1.34.0";
