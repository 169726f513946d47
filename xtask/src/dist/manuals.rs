//! The manual pages and the completion scripts, which the program itself writes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::image::Program;
use crate::process;
use crate::workspace::Workspace;

/// A shell's name for `peili completions`, and the name of the script that it loads.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "peili.bash"),
    ("zsh", "_peili"),
    ("fish", "peili.fish"),
];

/// Files for users, the same for each architecture.
pub struct Manuals {
    /// The files, by the path in the tarball and in cargo-deb's folder: `man/…` or `completions/…`.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Manuals {
    /// Writes them with the program that runs on this machine; builds one if none of `programs` does.
    pub fn write(workspace: &Workspace, programs: &[Program]) -> Result<Manuals> {
        let folder = workspace.dist().join("manuals");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let man = folder.join("man");
        fs::create_dir_all(&man).with_context(|| format!("cannot make {}", man.display()))?;
        let runs_here = |program: &&Program| program.architecture.runs_here();
        let program = match programs.iter().find(runs_here) {
            Some(program) => Some(stage(&program.bytes, &folder)?),
            None => None,
        };
        let peili = || match &program {
            Some(path) => Command::new(path),
            None => workspace.cargo(["run", "--quiet", "--locked", "--package=peili", "--"]),
        };
        process::run(peili().arg("man").arg(&man))?;
        let mut files = Vec::new();
        for page in fs::read_dir(&man)? {
            let page = page?;
            let name = format!("man/{}", page.file_name().to_string_lossy());
            files.push((name, fs::read(page.path())?));
        }
        for (shell, name) in SHELLS {
            let script = process::output(peili().args(["completions", shell]))?;
            files.push((format!("completions/{name}"), script.into_bytes()));
        }
        files.sort();
        Ok(Manuals { files })
    }

    /// Writes them below a folder.
    pub fn unpack(&self, folder: &Path) -> Result<()> {
        for (name, content) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn stage(program: &[u8], folder: &Path) -> Result<PathBuf> {
    let path = folder.join("peili");
    fs::write(&path, program).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
