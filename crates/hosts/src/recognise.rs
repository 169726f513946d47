//! Detects which program wrote a `hosts.toml`.

/// The first characters of each file of Peili.
pub(crate) const MARKER: &str = "# Written by Peili. ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Author {
    User,
    Peili,
    Spegel,
}

/// When a file counts as Spegel's, whose files have no marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spegel {
    /// Never: without a `_backup` there is nothing of Spegel to clean up.
    Never,
    /// If the whole file has the exact form of Spegel's template, including single quotes, 200 ms and the missing last
    /// newline.
    Exactly,
    /// Also without `dial_timeout`, as in older releases, and followed by the user's hosts (`--prepend-existing`): a
    /// `_backup` shows that a mirror was here.
    Roughly,
}

pub(crate) fn author(file: &[u8], spegel: Spegel) -> Author {
    if file.starts_with(MARKER.as_bytes()) {
        return Author::Peili;
    }
    match std::str::from_utf8(file) {
        Ok(text) if has_shape_of_spegel(text, spegel) => Author::Spegel,
        _ => Author::User,
    }
}

/// Whether the text is `server`, if any, and then the targets, all separated by blank lines.
fn has_shape_of_spegel(text: &str, how: Spegel) -> bool {
    let mut blocks = text.split("\n\n").peekable();
    blocks.next_if(|block| {
        quoted(block, "server = '", "'").is_some_and(|server| server.starts_with("http"))
    });
    let Some(first) = blocks.next() else {
        return false;
    };
    match how {
        Spegel::Never => false,
        Spegel::Exactly => is_target(first, true) && blocks.all(|block| is_target(block, true)),
        Spegel::Roughly => {
            is_target(first, false) && blocks.all(|block| block.starts_with("[host."))
        }
    }
}

/// Whether these are the lines that Spegel writes for one target.
fn is_target(block: &str, with_timeout: bool) -> bool {
    let mut lines = block.split('\n').peekable();
    let Some(target) = lines.next().and_then(|line| quoted(line, "[host.'", "']")) else {
        return false;
    };
    let capabilities = [
        "capabilities = ['pull']",
        "capabilities = ['pull', 'resolve']",
    ];
    let named = target.starts_with("http://") || target.starts_with("https://");
    let capable = lines
        .next()
        .is_some_and(|line| capabilities.contains(&line));
    let timed = lines.next_if_eq(&"dial_timeout = '200ms'").is_some();
    let header = format!("[host.'{target}'.header]");
    let credentials = lines.next_if_eq(&header.as_str()).is_none()
        || lines
            .next()
            .is_some_and(|line| quoted(line, "Authorization = 'Basic ", "'").is_some());
    named && capable && (timed || !with_timeout) && credentials && lines.next().is_none()
}

/// The text between two fixed texts, if it is one line without quotes.
fn quoted<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let inner = text.strip_prefix(before)?.strip_suffix(after)?;
    (!inner.contains(['\'', '\n'])).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "server = 'https://registry-1.docker.io'\n\n[host.'http://10.0.0.1:30020']\n\
                       capabilities = ['pull', 'resolve']\ndial_timeout = '200ms'";
    const DEFAULT: &str =
        "[host.'http://127.0.0.1:5000']\ncapabilities = ['pull']\ndial_timeout = '200ms'";
    const CREDENTIALS: &str = "server = 'http://foo.bar:5000'\n\n[host.'http://127.0.0.1:5000']\n\
        capabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n[host.'http://127.0.0.1:5000'.header]\n\
        Authorization = 'Basic aGVsbG86d29ybGQ='\n\n[host.'http://127.0.0.1:5001']\n\
        capabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n[host.'http://127.0.0.1:5001'.header]\n\
        Authorization = 'Basic aGVsbG86d29ybGQ='";

    fn by(text: &str, spegel: Spegel) -> Author {
        author(text.as_bytes(), spegel)
    }

    #[test]
    fn what_spegel_writes_is_spegels() {
        for text in [ONE, DEFAULT, CREDENTIALS] {
            assert_eq!(by(text, Spegel::Exactly), Author::Spegel, "{text}");
            assert_eq!(by(text, Spegel::Roughly), Author::Spegel, "{text}");
            assert_eq!(by(text, Spegel::Never), Author::User, "{text}");
        }
        let prepended = format!("{ONE}\n\n[host.'https://office']\nca = 'ca.crt'");
        let older = ONE.replace("\ndial_timeout = '200ms'", "");
        for text in [prepended, older] {
            assert_eq!(by(&text, Spegel::Exactly), Author::User, "{text}");
            assert_eq!(by(&text, Spegel::Roughly), Author::Spegel, "{text}");
        }
    }

    #[test]
    fn what_anybody_else_writes_is_the_users() {
        for text in [
            String::new(),
            "hello = 'world'".into(),
            "server = 'https://a'".into(),
            format!("# mine\n{ONE}"),
            ONE.replace('\'', "\""),
            ONE.replace("200ms", "1s"),
            ONE.replace("'resolve'", "'resolve', 'push'"),
            format!("{DEFAULT}\nskip_verify = true"),
            format!("{DEFAULT}\n"),
            format!("{DEFAULT}\n\n# and mine"),
        ] {
            for how in [Spegel::Never, Spegel::Exactly, Spegel::Roughly] {
                assert_eq!(by(&text, how), Author::User, "{how:?}: {text}");
            }
        }
        assert_eq!(author(b"\xff", Spegel::Roughly), Author::User);
    }

    #[test]
    fn what_peili_writes_bears_its_mark() {
        assert_eq!(
            by(&format!("{MARKER}x\n{ONE}"), Spegel::Never),
            Author::Peili
        );
    }
}
