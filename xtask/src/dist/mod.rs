//! `cargo xtask dist`: everything that a release consists of, without a container engine.

mod architecture;
mod archive;
mod chart;
mod deb;
mod image;
mod manuals;
mod program;
mod release;
mod sbom;
mod sign;
mod tarball;
mod tools;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

use crate::workspace::Workspace;
use architecture::Architecture;
use image::Program;
use manuals::Manuals;
use release::Release;
pub use release::SOURCE;

/// The list of checksums for `sha256sum --check`.
const CHECKSUMS: &str = "SHA256SUMS";

/// What to make, and of what.
#[derive(clap::Args)]
pub struct Args {
    /// Make these alone
    #[arg(long, value_name = "KIND", num_args = 1..)]
    only: Vec<Kind>,
    /// Pack this static program instead of building one; once for each architecture
    #[arg(long, value_name = "FILE")]
    binary: Vec<PathBuf>,
    /// Profile of cargo's to build with; dev is for trials
    #[arg(long, default_value = "release", conflicts_with = "binary")]
    profile: String,
    /// Folder for the artifacts [default: artifacts in the target folder's dist]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Sign all artifacts with cosign and this key: a file, or the URI of a key service
    #[arg(long, value_name = "KEY")]
    sign: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The static program for each architecture
    Binary,
    /// The container image, as an archive of an OCI image layout
    Image,
    /// The program with its systemd units
    Tarball,
    /// The Debian package
    Deb,
    /// The SBOM
    Sbom,
    /// The Helm chart's archive
    Chart,
}

/// Makes the artifacts, and ends with a line for each.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    if args.sign.is_some() {
        sign::require_cosign()?;
    }
    let release = Release::of(workspace)?;
    let mut artifacts = Artifacts::create(workspace, args.out.as_deref())?;
    let mut remarks = Vec::new();
    if Kind::value_variants()
        .iter()
        .any(|&kind| kind != Kind::Chart && args.wants(kind))
    {
        let programs = if args.binary.is_empty() {
            build(workspace, &args.profile, &mut remarks)?
        } else {
            read(&args.binary)?
        };
        if args.wants(Kind::Image) {
            let image = image::write(&release, &programs)?;
            let name = format!("peili-{}-image.tar", release.version);
            artifacts.add(&name, &image.archive)?;
            remarks.push(format!("image: {}@{}", release.image_name(), image.digest));
        }
        let manuals = match args.wants(Kind::Tarball) || args.wants(Kind::Deb) {
            true => Manuals::write(workspace, &programs)?,
            false => Manuals { files: Vec::new() },
        };
        for program in &programs {
            pack(workspace, args, &release, program, &manuals, &mut artifacts)?;
        }
    }
    if args.wants(Kind::Chart) {
        let chart = chart::write(workspace.root(), &release)?;
        artifacts.add(&chart.file_name, &chart.archive)?;
    }
    artifacts.add_checksums()?;
    if let Some(key) = &args.sign {
        sign::files(key, artifacts.paths())?;
    }
    artifacts.summarise(&remarks);
    Ok(())
}

impl Args {
    fn wants(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.contains(&kind)
    }
}

/// Makes the artifacts that exist for each architecture.
fn pack(
    workspace: &Workspace,
    args: &Args,
    release: &Release,
    program: &Program,
    manuals: &Manuals,
    artifacts: &mut Artifacts,
) -> Result<()> {
    let architecture = program.architecture;
    let name = tarball::folder_name(release, architecture);
    if args.wants(Kind::Binary) {
        let file = format!("peili-linux-{}", architecture.name);
        artifacts.add(&file, &program.bytes)?;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(artifacts.folder.join(&file), mode)?;
    }
    if args.wants(Kind::Tarball) {
        let tarball = tarball::write(workspace.root(), release, program, manuals)?;
        artifacts.add(&format!("{name}.tar.gz"), &tarball)?;
    }
    if args.wants(Kind::Deb) {
        let file = artifacts.folder.join(deb::file_name(release, architecture));
        deb::write(workspace, release, program, manuals, &file)?;
        artifacts.files.push(file);
    }
    if args.wants(Kind::Sbom) {
        let sbom = sbom::write(workspace, release, architecture)?;
        artifacts.add(&format!("{name}.cdx.json"), &sbom)?;
    }
    Ok(())
}

/// Builds the program for each architecture that this machine can build for; the others become remarks.
fn build(workspace: &Workspace, profile: &str, remarks: &mut Vec<String>) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for architecture in &architecture::ALL {
        let missing = architecture.missing(workspace)?;
        if missing.is_empty() {
            let path = program::build(workspace, architecture, profile)?;
            programs.push(read_program(&path)?);
        } else {
            let name = architecture.name;
            remarks.push(format!(
                "LEFT OUT: {name}, for which this machine lacks {}",
                missing.join(" and ")
            ));
        }
    }
    if programs.is_empty() {
        bail!("nothing can be built here. {}", remarks.join(". "));
    }
    Ok(programs)
}

/// Reads programs that the developer has built, in the order of [`architecture::ALL`].
fn read(paths: &[PathBuf]) -> Result<Vec<Program>> {
    let mut programs: Vec<Program> = Vec::new();
    for path in paths {
        let program = read_program(path)?;
        if programs
            .iter()
            .any(|other| other.architecture == program.architecture)
        {
            bail!(
                "--binary {}: there is one for {} already",
                path.display(),
                program.architecture.name
            );
        }
        programs.push(program);
    }
    programs.sort_by_key(|program| position(program.architecture));
    Ok(programs)
}

fn position(architecture: &Architecture) -> Option<usize> {
    architecture::ALL
        .iter()
        .position(|known| known == architecture)
}

fn read_program(path: &Path) -> Result<Program> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let architecture = architecture::of_static_program(&bytes)
        .with_context(|| format!("{} is no static program", path.display()))?;
    Ok(Program {
        architecture,
        bytes,
    })
}

/// The files that were made, in the order of their making.
struct Artifacts {
    folder: PathBuf,
    files: Vec<PathBuf>,
}

impl Artifacts {
    fn create(workspace: &Workspace, folder: Option<&Path>) -> Result<Artifacts> {
        let usual = || workspace.dist().join("artifacts");
        let folder = folder.map_or_else(usual, Path::to_owned);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        Ok(Artifacts {
            folder,
            files: Vec::new(),
        })
    }

    fn add(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        self.files.push(path);
        Ok(())
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    fn add_checksums(&mut self) -> Result<()> {
        let mut lines = String::new();
        for path in &self.files {
            let content =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let digest = hex::encode(Sha256::digest(&content));
            lines.push_str(&format!("{digest}  {}\n", name(path)));
        }
        self.add(CHECKSUMS, lines.as_bytes())
    }

    fn summarise(&self, remarks: &[String]) {
        println!("\n=== {}", self.folder.display());
        for path in &self.files {
            let size = fs::metadata(path).map_or(0, |file| file.len());
            println!("{:>12} bytes  {}", size, name(path));
        }
        for remark in remarks {
            println!("{remark}");
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod settings_tests;
