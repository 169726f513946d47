//! `peili demo`.

mod page;

use std::fmt::Display;
use std::io::{IsTerminal as _, stdin, stdout};
use std::ops::RangeInclusive;

use ::demo::{Image, Options, Output, Pages};
use tokio_util::sync::CancellationToken;

use self::page::DemoPage;
use crate::cli::DemoArgs;
use crate::fault::Faults;
use crate::{size, value};

/// Runs the demo, to its end or until `shutdown`.
pub async fn run(arguments: &DemoArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let options = options(arguments)?;
    let page = page(arguments, options.output);
    let pages = page.as_ref().map(|page| page as &dyn Pages);
    ::demo::run(&options, stdout(), pages, shutdown).await?;
    Ok(())
}

/// The page for people.
fn page(arguments: &DemoArgs, output: Output) -> Option<DemoPage> {
    let is_watched = stdin().is_terminal() && stdout().is_terminal();
    let opener = (is_watched && !arguments.no_open).then(page::opener);
    let lingers = is_watched && !arguments.no_open;
    (output == Output::Text).then(|| DemoPage::new(opener.flatten(), lingers))
}

fn options(arguments: &DemoArgs) -> Result<Options, Faults> {
    let mut faults = Faults::default();
    let nodes = faults.take("--nodes", value::number(&arguments.nodes, ::demo::NODES));
    let size = size::parse(&arguments.size).and_then(|size| within(size, ::demo::SIZE));
    let size = faults.take("--size", size);
    let layers = faults.take("--layers", value::number(&arguments.layers, ::demo::LAYERS));
    let image = match arguments.image.as_str() {
        "" => None,
        name => Some(faults.take("--image", name.parse())),
    };
    let output = match arguments.output.as_str() {
        "text" => Ok(Output::Text),
        "json" => Ok(Output::Json),
        other => Err(format!("{other:?} is neither text nor json")),
    };
    let output = faults.take("--output", output);
    let options = || {
        let image = match image {
            Some(name) => Image::Registry(name?),
            None => Image::Generated {
                size: size?,
                layers: layers?,
            },
        };
        Some(Options {
            nodes: nodes?,
            image,
            output: output?,
        })
    };
    faults.settle(options())
}

fn within<T: PartialOrd + Display>(number: T, range: RangeInclusive<T>) -> Result<T, String> {
    if range.contains(&number) {
        return Ok(number);
    }
    let (least, most) = range.into_inner();
    Err(format!("{number} is not from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn read(line: &str) -> Result<Options, Faults> {
        let line = format!("peili demo {line}");
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("understood");
        match cli.command {
            Command::Demo(arguments) => options(&arguments),
            other => panic!("another command: {other:?}"),
        }
    }

    #[test]
    fn sound_lines_are_taken() {
        let options = read("").expect("the defaults are sound");
        assert!(matches!(options.image, Image::Generated { .. }));
        let options = read("--nodes 3 --image quay.io/a/b:1 --output json").expect("sound");
        assert!(matches!(options.image, Image::Registry(_)));
        assert_eq!((options.nodes, options.output), (3, Output::Json));
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let faults = read("--nodes 1 --size 1 --layers x --output xml");
        let text = faults.expect_err("nothing of it is right").to_string();
        for flag in ["--nodes", "--size", "--layers", "--output"] {
            assert_eq!(text.matches(&format!("\n  {flag}: ")).count(), 1, "{text}");
        }
        let faults = read("--image alpine").expect_err("no registry").to_string();
        assert!(faults.contains("\n  --image: "), "{faults}");
    }
}
