//! Decides which registries and repositories are mirrored: `--mirrored-registries` and `--registry-filters`.

use crate::{Key, NameError, Origin, Registry, RegistryUrl, TagName};

#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("--mirrored-registries {value:?}: {source}")]
    MirroredRegistry { value: String, source: NameError },
    #[error("--registry-filters {value:?}: {source}")]
    Expression {
        value: String,
        source: Box<regex::Error>,
    },
}

/// Admits content that belongs to a mirrored registry and matches no filter expression.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `None`: all registries.
    registries: Option<Vec<Registry>>,
    /// The expressions for `registry/repository[:tag]` of excluded content.
    excluded: Vec<regex::Regex>,
}

impl Filter {
    /// # Errors
    /// All faults of both lists.
    pub fn new(mirrored: &[String], excluded: &[String]) -> Result<Self, Vec<FilterError>> {
        let mut faults = Vec::new();
        let mut registries = Some(Vec::new()).filter(|_| !mirrored.is_empty());
        for value in mirrored {
            if matches!(value.as_str(), "_default" | "*") {
                registries = None;
                continue;
            }
            match value.parse::<RegistryUrl>() {
                Ok(url) => registries
                    .iter_mut()
                    .for_each(|list| list.push(url.registry.clone())),
                Err(source) => {
                    faults.push(FilterError::MirroredRegistry {
                        value: value.clone(),
                        source,
                    });
                }
            }
        }
        let mut expressions = Vec::new();
        for value in excluded {
            match regex::Regex::new(value) {
                Ok(expression) => expressions.push(expression),
                Err(source) => faults.push(FilterError::Expression {
                    value: value.clone(),
                    source: Box::new(source),
                }),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            registries,
            excluded: expressions,
        })
    }

    pub fn admits(&self, origin: &Origin) -> bool {
        self.admits_registry(&origin.registry) && !self.excludes(&origin.to_string())
    }

    pub fn admits_tag(&self, name: &TagName) -> bool {
        self.admits_registry(&name.origin.registry) && !self.excludes(&name.to_string())
    }

    /// Whether a key of content from these origins may be announced: a digest if one of its origins is admitted.
    pub fn admits_key(&self, key: &Key, mut origins: impl Iterator<Item = Origin>) -> bool {
        match key {
            Key::Tag(name) => self.admits_tag(name),
            Key::Digest(_) => origins.any(|o| self.admits(&o)),
        }
    }

    fn admits_registry(&self, registry: &Registry) -> bool {
        self.registries
            .as_ref()
            .is_none_or(|list| list.contains(registry))
    }

    fn excludes(&self, text: &str) -> bool {
        self.excluded
            .iter()
            .any(|expression| expression.is_match(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;

    fn filter(mirrored: &[&str], excluded: &[&str]) -> Filter {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        Filter::new(&own(mirrored), &own(excluded)).expect("sound lists")
    }

    fn name(text: &str) -> Name {
        text.parse().expect("well-formed")
    }

    #[test]
    fn registries_are_a_list_of_what_is_let_in() {
        let quay = name("quay.io/a/b:1");
        assert!(filter(&[], &[]).admits(&quay.origin));
        assert!(filter(&["https://quay.io"], &[]).admits(&quay.origin));
        assert!(!filter(&["https://ghcr.io"], &[]).admits(&quay.origin));
        assert!(filter(&["https://ghcr.io", "_default"], &[]).admits(&quay.origin));
        assert!(filter(&["_default", "https://ghcr.io"], &[]).admits(&quay.origin));
    }

    #[test]
    fn expressions_are_a_list_of_what_is_kept_out() {
        let latest = filter(&[], &[":latest$"]);
        assert!(!latest.admits_tag(&name("quay.io/a/b:latest").tag_name().expect("tagged")));
        assert!(latest.admits_tag(&name("quay.io/a/b:1").tag_name().expect("tagged")));
        assert!(!filter(&[], &["^quay\\.io/a/"]).admits(&name("quay.io/a/b:1").origin));
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let faults = Filter::new(&["docker.io".into(), "ftp://x".into()], &["(".into()])
            .expect_err("three faults");
        assert_eq!(faults.len(), 3);
        assert!(faults[0].to_string().contains("docker.io"));
    }
}
