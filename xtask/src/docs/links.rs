//! Links in Markdown pages, outside code.

/// Changes each link of a page.
pub fn rewrite(page: &str, change: impl Fn(&str) -> String) -> String {
    let mut changed = String::new();
    let mut is_code = false;
    for line in page.split_inclusive('\n') {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            changed.push_str(line);
            continue;
        }
        let mut rest = line;
        while let Some(start) = rest.find("](") {
            let (before, after) = rest.split_at(start + 2);
            changed.push_str(before);
            let end = after.find(')').unwrap_or(after.len());
            changed.push_str(&change(&after[..end]));
            rest = &after[end..];
        }
        changed.push_str(rest);
    }
    changed
}

/// The path in the workspace of a link in the page `from`.
pub fn resolve(from: &str, link: &str) -> String {
    let mut path: Vec<_> = from.split('/').collect();
    path.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path.join("/")
}

/// The anchors of a page's headings, as in GitHub and mdbook.
#[cfg(test)]
pub fn anchors(page: &str) -> Vec<String> {
    let mut is_code = false;
    let headings = page.lines().filter(|line| {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        !is_code && line.starts_with('#')
    });
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}
