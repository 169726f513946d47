//! The requirements of a page for people who cannot see it, or not well (WCAG 2.2, level AA).

use std::collections::{BTreeMap, HashSet};

use super::tests::{sample, sample_cluster};
use super::*;
use crate::content::Image;

fn pages() -> [String; 3] {
    let content = Content {
        found: 1,
        listed: vec![Image::default()],
        ..Content::default()
    };
    [
        page(&sample()),
        cluster(&sample_cluster(200)),
        stored(&content),
    ]
}

/// The tags of a page with this beginning, each up to its end.
fn tags<'a>(page: &'a str, beginning: &'a str) -> impl Iterator<Item = &'a str> {
    let rest = page.split(beginning).skip(1);
    rest.filter_map(|rest| rest.split_once('>').map(|(tag, _)| tag))
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    Some(rest.split_once('"')?.0)
}

#[test]
fn headings_are_in_order() {
    for page in pages() {
        let levels = tags(&page, "<h").filter_map(|tag| tag.get(..1)?.parse::<u8>().ok());
        let levels: Vec<_> = levels.collect();
        assert_eq!(levels[0], 1);
        assert_eq!(levels.iter().filter(|level| **level == 1).count(), 1);
        let jumps = levels.windows(2).any(|pair| pair[1] > pair[0] + 1);
        assert!(!jumps && levels.len() > 1, "{levels:?}");
    }
}

#[test]
fn landmarks_and_fields_have_names_of_their_own() {
    for page in pages() {
        let ids: Vec<_> = tags(&page, "<")
            .filter_map(|tag| attribute(tag, "id"))
            .collect();
        let known: HashSet<_> = ids.iter().copied().collect();
        assert_eq!(known.len(), ids.len(), "an id is there twice: {ids:?}");
        let labelled = tags(&page, "<").filter_map(|tag| attribute(tag, "aria-labelledby"));
        for id in labelled {
            assert!(known.contains(id), "{id}");
        }
        let sections: Vec<_> = tags(&page, "<section").collect();
        let names: HashSet<_> = sections
            .iter()
            .map(|tag| attribute(tag, "aria-labelledby").expect("a name"))
            .collect();
        assert_eq!(names.len(), sections.len(), "{sections:?}");
        assert!(!page.contains("role=\"region\""), "a section is one");
        for part in ["<header>", "<main id=\"main\">", "<nav aria-label="] {
            assert_eq!(page.matches(part).count(), 1, "{part}");
        }
        for input in tags(&page, "<input") {
            let id = attribute(input, "id").expect("an id");
            assert!(page.contains(&format!("<label for=\"{id}\">")), "{id}");
        }
        for scrolled in tags(&page, "<")
            .filter(|tag| attribute(tag, "class").is_some_and(|class| class.contains("scroll")))
        {
            assert!(scrolled.contains("tabindex=\"0\""), "{scrolled}");
        }
        assert!(page.contains("<html lang=\"en\">") && !page.contains("<title></title>"));
    }
}

/// The variables of the style's first or second theme.
fn theme(number: usize) -> BTreeMap<&'static str, [f64; 3]> {
    let block = STYLE.split(":root {").nth(number + 1).expect("a theme");
    let block = block.split_once('}').expect("its end").0;
    let variables = block.split(';').filter_map(|line| line.split_once(':'));
    let colours = variables.filter_map(|(name, value)| {
        Some((
            name.trim().strip_prefix("--")?,
            colour(value.trim().strip_prefix('#')?),
        ))
    });
    colours.collect()
}

/// Red, green and blue from 0 to 1.
fn colour(hex: &str) -> [f64; 3] {
    let digits = hex.len() / 3;
    [0, 1, 2].map(|n| {
        let part = &hex[n * digits..(n + 1) * digits];
        let value = u8::from_str_radix(&part.repeat(2)[..2], 16).expect("a colour");
        f64::from(value) / 255.0
    })
}

/// The relative luminance of a colour (WCAG 2.2, "relative luminance").
fn luminance(colour: [f64; 3]) -> f64 {
    let linear = colour.map(|part| match part <= 0.04045 {
        true => part / 12.92,
        false => ((part + 0.055) / 1.055).powf(2.4),
    });
    0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}

/// The contrast of two colours (WCAG 2.2, "contrast ratio").
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
    one.max(other) / one.min(other)
}

/// Text is also read on bars, which a browser's own checks of contrast do not consider.
#[test]
fn text_stands_out_from_what_is_behind_it() {
    for (number, name) in ["light", "dark"].into_iter().enumerate() {
        let theme = theme(number);
        for (front, back) in [
            (
                "text",
                &["back", "card", "fill", "warn-back", "bad-back"][..],
            ),
            ("dim", &["back", "card", "fill"]),
            ("accent", &["back", "card", "fill"]),
            ("ok", &["back", "card"]),
            ("warn", &["back", "card"]),
            ("bad", &["back", "card"]),
            ("back", &["accent"]),
        ] {
            for back in back {
                let contrast = contrast(theme[front], theme[*back]);
                assert!(
                    contrast >= 4.5,
                    "{front} on {back} in {name}: {contrast:.2}"
                );
            }
        }
        let contrast = contrast(theme["edge"], theme["card"]);
        assert!(contrast >= 3.0, "the end of a bar in {name}: {contrast:.2}");
    }
}
