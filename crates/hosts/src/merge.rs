//! Combines the mirror's hosts and the user's in one file.

use std::ops::Range;

use oci::{RegistryUrl, Scheme};
use toml_edit::{Document, DocumentMut, Item, Key, Table, Value};

use crate::render;
use crate::{Configuration, Target};

/// A fault in the user's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TextFault {
    /// The line and column, counted from 1.
    pub(crate) position: Option<(usize, usize)>,
    pub(crate) message: String,
}

/// Whether containerd can read this file as TOML.
pub(crate) fn check(bytes: &[u8]) -> Result<(), TextFault> {
    parse(bytes).map(drop)
}

/// Parses the file as a text and as TOML.
pub(crate) fn parse(bytes: &[u8]) -> Result<(&str, Document<&str>), TextFault> {
    let text = utf8(bytes)?;
    let document = Document::parse(text).map_err(|e| not_toml(text, &e))?;
    Ok((text, document))
}

/// The user's file with the targets before its hosts. Everything else stays: `server` and its settings, hosts with all
/// their keys in their order, comments. A table of the user for one of the targets moves to the front and keeps the
/// keys that the mirror does not set.
pub(crate) fn prepend(
    configuration: &Configuration,
    targets: &[&Target],
    upstream: Option<&RegistryUrl>,
    bytes: &[u8],
) -> Result<String, TextFault> {
    let (text, document) = parse(bytes)?;
    check_hosts(text, &document)?;
    let mut document = document.into_mut();
    let mut ours = String::new();
    for target in targets {
        ours.push('\n');
        match take(&mut document, target) {
            Some((key, table)) => {
                ours.push_str(&theirs_made_ours(configuration, target, &key, table));
            }
            None => ours.push_str(&render::table(configuration, target)),
        }
    }
    // Without a server containerd asks the registry over https, with the real host of Docker Hub.
    if let Some(upstream) = upstream
        && upstream.scheme == Scheme::Http
        && !document.contains_key("server")
    {
        document.insert("server", Item::Value(literal(&format!("'{upstream}'"))));
    }
    let (root, tables) = split(&document).ok_or_else(|| TextFault {
        position: None,
        message:
            "mixes hosts with other settings; put `server` and its settings before the first table"
                .into(),
    })?;
    let gap = if tables.is_empty() || tables.starts_with('\n') {
        ""
    } else {
        "\n"
    };
    Ok(format!("{}{root}{ours}{gap}{tables}", render::head()))
}

/// Lines that make containerd read the certificates of Docker's pattern, `*.crt` and `*.cert` with `*.key`, which it
/// reads by itself only in a folder without `hosts.toml`.
pub(crate) fn certificates<'a>(names: &(impl Iterator<Item = &'a str> + Clone)) -> String {
    let quote = |name: &str| Value::from(name).to_string();
    let list = |elements: Vec<String>| elements.join(", ");
    let authorities: Vec<_> = names
        .clone()
        .filter(|n| n.ends_with(".crt"))
        .map(quote)
        .collect();
    let pairs: Vec<_> = names
        .clone()
        .filter_map(|name| {
            let key = format!("{}.key", name.strip_suffix(".cert")?);
            // Without a key file, the certificate's file contains both.
            let key = names.clone().find(|n| *n == key).unwrap_or(name);
            Some(format!("[{}, {}]", quote(name), quote(key)))
        })
        .collect();
    let mut text = String::new();
    if !authorities.is_empty() {
        text.push_str(&format!("ca = [{}]\n", list(authorities)));
    }
    if !pairs.is_empty() {
        text.push_str(&format!("client = [{}]\n", list(pairs)));
    }
    text
}

/// containerd 2 recognises a host only in a table header of its own, and nothing can be put before other forms.
fn check_hosts(text: &str, document: &Document<&str>) -> Result<(), TextFault> {
    let fault = |span: Option<Range<usize>>| TextFault {
        position: span.map(|span| position(text, span.start)),
        message: "a host is not in a table of its own; write it as [host.\"https://…\"]".into(),
    };
    let Some((key, item)) = document.as_table().get_key_value("host") else {
        return Ok(());
    };
    let hosts = item
        .as_table()
        .filter(|t| !t.is_dotted())
        .ok_or_else(|| fault(key.span()))?;
    for name in hosts.iter().filter_map(|(name, _)| hosts.key(name)) {
        let table = hosts.get(name.get()).and_then(Item::as_table);
        let table = table
            .filter(|t| !t.is_dotted())
            .ok_or_else(|| fault(name.span()))?;
        if let Some((key, header)) = table.get_key_value("header")
            && !header.is_table_like()
        {
            return Err(TextFault {
                position: key.span().map(|span| position(text, span.start)),
                message: "header is not a table; write it as [host.\"https://…\".header]".into(),
            });
        }
    }
    Ok(())
}

/// Removes the user's table for this target from the document and returns it.
fn take(document: &mut DocumentMut, target: &Target) -> Option<(Key, Table)> {
    let hosts = document.get_mut("host")?.as_table_mut()?;
    let same = |name: &str| {
        let name = name.trim_end_matches('/');
        let name = name.strip_suffix("/v2").unwrap_or(name);
        name.parse::<Target>().is_ok_and(|theirs| theirs == *target)
    };
    let name = hosts
        .iter()
        .map(|(name, _)| name)
        .find(|name| same(name))?
        .to_owned();
    match hosts.remove_entry(&name)? {
        (key, Item::Table(table)) => Some((key, table)),
        _ => None,
    }
}

/// The text of a user's table for one of the targets, with the mirror's keys set.
fn theirs_made_ours(
    configuration: &Configuration,
    target: &Target,
    key: &Key,
    mut table: Table,
) -> String {
    table.insert(
        "capabilities",
        Item::Value(literal(render::capabilities(configuration))),
    );
    if !table.contains_key("dial_timeout") {
        table.insert("dial_timeout", Item::Value(literal(render::DIAL_TIMEOUT)));
    }
    let headers = configuration.headers(target);
    if !headers.is_empty() {
        let header = table
            .entry("header")
            .or_insert_with(|| Item::Table(Table::new()));
        for (name, value) in headers {
            // check_hosts has checked that this is some kind of table.
            if let Some(header) = header.as_table_like_mut() {
                header.insert(name, Item::Value(literal(&format!("'{value}'"))));
            }
        }
    }
    forget_position(&mut table);
    let mut hosts = Table::new();
    hosts.set_implicit(true);
    hosts.insert_formatted(key, Item::Table(table));
    let mut alone = DocumentMut::new();
    alone.insert("host", Item::Table(hosts));
    alone.to_string().trim_start_matches('\n').to_owned()
}

/// Clears the positions, which order the tables of the document that they were read from.
fn forget_position(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        if let Some(inner) = item.as_table_mut() {
            forget_position(inner);
        }
    }
}

/// The text before the first table, and the rest, with the comments above the table.
fn split(document: &DocumentMut) -> Option<(String, String)> {
    let mut root = document.clone();
    root.retain(|_, item| match item {
        Item::Table(table) => table.is_dotted(),
        Item::ArrayOfTables(_) => false,
        Item::Value(_) | Item::None => true,
    });
    root.set_trailing("");
    let root = root.to_string();
    let tables = document.to_string().strip_prefix(&root)?.to_owned();
    Some((root, tables))
}

/// A value in its given notation: the writer would choose other quotes.
fn literal(toml: &str) -> Value {
    toml.parse().unwrap_or_else(|_| Value::from(toml))
}

fn utf8(bytes: &[u8]) -> Result<&str, TextFault> {
    std::str::from_utf8(bytes).map_err(|e| {
        let valid = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
        TextFault {
            position: Some(position(&valid, valid.len())),
            message: "is not UTF-8, which TOML has to be".into(),
        }
    })
}

fn not_toml(text: &str, error: &toml_edit::TomlError) -> TextFault {
    TextFault {
        position: error.span().map(|span| position(text, span.start)),
        message: format!("is not TOML: {}", error.message().replace('\n', ", ")),
    }
}

/// The line and column of an offset in bytes, both counted from 1, columns in characters.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests;
