//! The processor architectures that Peili is built for, and what this machine lacks to build for one.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use oci_spec::image::Arch;

use crate::process;
use crate::workspace::Workspace;

/// A processor architecture, with its name for each kind of artifact.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// The name in container images and Debian packages.
    pub name: &'static str,
    pub oci: Arch,
    pub rust_target: &'static str,
    /// The name in Rust's `std::env::consts::ARCH`.
    machine: &'static str,
    elf_machine: elf::Machine,
    /// The compiler that links for it on a machine of another architecture, and its Debian package.
    cross_compiler: &'static str,
    cross_package: &'static str,
}

pub static ALL: [Architecture; 2] = [
    Architecture {
        name: "amd64",
        oci: Arch::Amd64,
        rust_target: "x86_64-unknown-linux-gnu",
        machine: "x86_64",
        elf_machine: elf::EM_X86_64,
        cross_compiler: "x86_64-linux-gnu-gcc",
        cross_package: "gcc-x86-64-linux-gnu",
    },
    Architecture {
        name: "arm64",
        oci: Arch::ARM64,
        rust_target: "aarch64-unknown-linux-gnu",
        machine: "aarch64",
        elf_machine: elf::EM_AARCH64,
        cross_compiler: "aarch64-linux-gnu-gcc",
        cross_package: "gcc-aarch64-linux-gnu",
    },
];

impl Architecture {
    /// The C compiler that builds and links for it here.
    pub fn compiler(&self) -> &'static str {
        if self.runs_here() {
            "cc"
        } else {
            self.cross_compiler
        }
    }

    /// Whether this machine runs its programs.
    pub fn runs_here(&self) -> bool {
        self.machine == std::env::consts::ARCH
    }

    /// What must be installed before this machine can build for it. Empty: nothing.
    pub fn missing(&self, workspace: &Workspace) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        let mut rustc = Command::new("rustc");
        rustc.current_dir(workspace.root()).args([
            "--print",
            "target-libdir",
            "--target",
            self.rust_target,
        ]);
        let folder = process::output(&mut rustc)?;
        if !has_std(Path::new(folder.trim())) {
            let target = self.rust_target;
            missing.push(format!(
                "Rust's standard library for {target} (rustup target add {target})"
            ));
        }
        if !process::exists(self.compiler()) {
            missing.push(format!(
                "{} (Debian's package {})",
                self.compiler(),
                self.cross_package
            ));
        }
        Ok(missing)
    }
}

fn has_std(folder: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(folder) else {
        return false;
    };
    files
        .flatten()
        .any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

/// The architecture of a program, which must run without any other file.
///
/// # Errors
/// It is not a 64-bit ELF program, is for an architecture that is not in [`ALL`], or needs a dynamic linker.
pub fn of_static_program(bytes: &[u8]) -> Result<&'static Architecture> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    let Some(architecture) = ALL.iter().find(|known| known.elf_machine == machine) else {
        bail!(
            "for the ELF machine {}, and Peili is built for amd64 and arm64",
            machine.0
        );
    };
    let segments = header.program_headers(endian, bytes)?;
    for segment in segments {
        if let Some(interpreter) = segment.interpreter(endian, bytes)? {
            bail!(
                "needs {}, which an empty image lacks; build it with `cargo xtask dist`, or with \
                 RUSTFLAGS=-Ctarget-feature=+crt-static and --target {}",
                String::from_utf8_lossy(interpreter),
                architecture.rust_target
            );
        }
    }
    Ok(architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_dynamic_linker_is_refused() {
        let own = std::env::current_exe().expect("this test's program");
        let own = std::fs::read(own).expect("read");
        let error = of_static_program(&own).expect_err("tests are linked dynamically");
        assert!(
            error.to_string().contains("which an empty image lacks"),
            "{error}"
        );
    }

    #[test]
    fn a_static_program_is_known_by_its_header() {
        let header = |machine: elf::Machine| {
            let mut bytes = vec![0; 64];
            bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            bytes[18..20].copy_from_slice(&machine.0.to_le_bytes());
            bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
            bytes
        };
        for architecture in &ALL {
            let found = of_static_program(&header(architecture.elf_machine));
            assert_eq!(found.expect("known"), architecture);
        }
        let error = of_static_program(&header(elf::EM_S390)).expect_err("not built for");
        assert!(error.to_string().contains("machine 22"), "{error}");
        assert!(of_static_program(b"#!/bin/sh\n").is_err());
    }
}
