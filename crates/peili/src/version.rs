//! `peili version`.

use crate::cli::VersionArgs;
use crate::fault::Faults;

pub fn run(arguments: &VersionArgs) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match arguments.format.as_str() {
        "text" => println!("peili {version}"),
        "json" => println!(r#"{{"name":"peili","version":"{version}"}}"#),
        other => {
            let mut faults = Faults::default();
            faults.add("--format", format!("{other:?} is neither text nor json"));
            return Err(faults.into());
        }
    }
    Ok(())
}
