//! The repositories of trial images, apart from all other content.

use oci::Origin;

/// The first component of the repositories of trial images. It has no other use.
pub const TRIAL_REPOSITORY: &str = "peili-mirror-trial";

/// Whether content of this origin belongs to a trial image. Peers are not told of such content.
pub(crate) fn is_trial(origin: &Origin) -> bool {
    let parts = origin.repository.as_str().split_once('/');
    parts.is_some_and(|(first, _)| first == TRIAL_REPOSITORY)
}
