//! Rendered objects, and where to look in them.

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

/// All objects of one rendering, in the order in which Helm writes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects(pub Vec<Object>);

/// One Kubernetes object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(pub Value);

/// # Errors
/// The text is no YAML.
pub fn parse(text: &str) -> Result<Objects> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| anyhow!("{error}"))
        .context("what Helm renders is no YAML")?;
    let objects = documents.into_iter().filter(|document| !document.is_null());
    Ok(Objects(objects.map(Object).collect()))
}

impl Objects {
    /// The object of a kind whose name ends like this.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn get(&self, kind: &str, name_end: &str) -> Result<&Object> {
        let mut found = self.all(kind).filter(|o| o.name().ends_with(name_end));
        match (found.next(), found.next()) {
            (Some(object), None) => Ok(object),
            (None, _) => Err(anyhow!(
                "there is no {kind} …{name_end}: {:?}",
                self.names()
            )),
            _ => Err(anyhow!(
                "there are several {kind} …{name_end}: {:?}",
                self.names()
            )),
        }
    }

    pub fn all(&self, kind: &str) -> impl Iterator<Item = &Object> {
        self.0.iter().filter(move |object| object.kind() == kind)
    }

    /// Kind and name of each object.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .0
            .iter()
            .map(|object| format!("{} {}", object.kind(), object.name()))
            .collect();
        names.sort();
        names
    }

    /// The mirror's DaemonSet.
    ///
    /// # Errors
    /// There is none.
    pub fn mirror(&self) -> Result<&Object> {
        self.get("DaemonSet", "peili")
    }
}

impl Object {
    pub fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// What a JSON pointer leads to; null where it leads nowhere.
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The specification of the object's pods: its own, if it is a pod.
    pub fn pod(&self) -> &Value {
        let template = self.at("/spec/template/spec");
        if template.is_null() {
            self.at("/spec")
        } else {
            template
        }
    }

    /// A container or init container.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn container(&self, name: &str) -> Result<&Value> {
        ["initContainers", "containers"]
            .iter()
            .filter_map(|list| self.pod()[list].as_array())
            .flatten()
            .find(|container| container["name"] == name)
            .with_context(|| format!("{} {} has no container {name}", self.kind(), self.name()))
    }

    /// A container's arguments.
    ///
    /// # Errors
    /// There is no such container.
    pub fn arguments(&self, container: &str) -> Result<Vec<&str>> {
        let container = self.container(container)?;
        let list = container["args"].as_array().into_iter().flatten();
        Ok(list.filter_map(Value::as_str).collect())
    }
}
