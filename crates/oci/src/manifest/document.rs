//! The JSON of a manifest, parsed as leniently as by common clients.
//!
//! A field of an unexpected type counts as absent, and of a repeated key the last value counts. Memory is bounded by
//! the descriptors with a supported digest: nothing else of the document is kept.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::Digest;

/// The fields of a manifest that a mirror needs.
#[derive(Default)]
pub(super) struct Document {
    /// The media type. Not empty.
    pub(super) media_type: Option<String>,
    pub(super) schema_version: Option<u64>,
    pub(super) config: Config,
    pub(super) manifests: List,
    pub(super) layers: List,
    /// The blobs of an artifact manifest, from release candidates of the image specification 1.1.
    pub(super) blobs: List,
    /// The layers of a Docker manifest of schema 1, the topmost first.
    pub(super) fs_layers: List,
    /// Whether there is a field `signatures`.
    pub(super) signed: bool,
}

/// A field that should be one descriptor.
#[derive(Default)]
pub(super) struct Config {
    /// Whether the field is there, whatever its value.
    pub(super) given: bool,
    /// Whether its value contains a digest, of a known algorithm or not.
    pub(super) is_descriptor: bool,
    pub(super) descriptor: Option<Descriptor>,
}

/// A field that should be a list of descriptors.
#[derive(Default)]
pub(super) struct List {
    /// Whether the field is there, whatever its value.
    pub(super) given: bool,
    /// The descriptors with a known algorithm.
    pub(super) descriptors: Vec<Descriptor>,
}

pub(super) struct Descriptor {
    pub(super) digest: Digest,
    /// The size in bytes. `None`: absent, negative or fractional.
    pub(super) size: Option<u64>,
}

impl Document {
    /// Parses a document, with or without a byte order mark.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    MediaType,
    SchemaVersion,
    Config,
    Manifests,
    Layers,
    Blobs,
    FsLayers,
    Signatures,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut document = Document::default();
        while let Some(field) = map.next_key()? {
            match field {
                Field::MediaType => document.media_type = map.next_value::<Value>()?.text(),
                Field::SchemaVersion => {
                    document.schema_version = map.next_value::<Value>()?.number();
                }
                Field::Config => document.config = map.next_value::<Value>()?.config(),
                Field::Manifests => document.manifests = map.next_value::<Value>()?.list(),
                Field::Layers => document.layers = map.next_value::<Value>()?.list(),
                Field::Blobs => document.blobs = map.next_value::<Value>()?.list(),
                Field::FsLayers => document.fs_layers = map.next_value::<Value>()?.list(),
                Field::Signatures => {
                    map.next_value::<IgnoredAny>()?;
                    document.signed = true;
                }
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(document)
    }
}

/// The parts of a JSON value that a field of a manifest can need.
enum Value {
    Text(String),
    Number(u64),
    List(Vec<Descriptor>),
    Object {
        is_descriptor: bool,
        descriptor: Option<Descriptor>,
    },
    Other,
}

impl Value {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    fn config(self) -> Config {
        let (is_descriptor, descriptor) = match self {
            Self::Object {
                is_descriptor,
                descriptor,
            } => (is_descriptor, descriptor),
            _ => (false, None),
        };
        Config {
            given: true,
            is_descriptor,
            descriptor,
        }
    }

    fn list(self) -> List {
        let descriptors = match self {
            Self::List(descriptors) => descriptors,
            _ => Vec::new(),
        };
        List {
            given: true,
            descriptors,
        }
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum DescriptorField {
    /// The field `blobSum` in schema 1.
    #[serde(alias = "blobSum")]
    Digest,
    Size,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut descriptors = Vec::new();
        while let Some(value) = seq.next_element()? {
            if let Value::Object {
                descriptor: Some(descriptor),
                ..
            } = value
            {
                descriptors.push(descriptor);
            }
        }
        Ok(Value::List(descriptors))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (mut digest, mut size) = (None, None);
        while let Some(field) = map.next_key()? {
            match field {
                DescriptorField::Digest => digest = map.next_value::<Value>()?.text(),
                DescriptorField::Size => size = map.next_value::<Value>()?.number(),
                DescriptorField::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let known = digest.as_ref().and_then(|text| text.parse().ok());
        Ok(Value::Object {
            is_descriptor: digest.is_some(),
            descriptor: known.map(|digest| Descriptor { digest, size }),
        })
    }
}
