//! A program with a wrong clock, while the clock of the machine is unchanged.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use e2e::{Lab, output};

/// How far it is ahead, in seconds.
pub const AHEAD: u64 = 3600;

/// Overrides the C library's time. Only the time of day is wrong; measured durations are right.
const SOURCE: &str = "
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, \"clock_gettime\");
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME)
        time->tv_sec += AHEAD;
    return result;
}
";

/// Runs a command with a clock that is [`AHEAD`].
pub fn ahead(mut command: Command, lab: &Lab) -> Result<Command> {
    command.env("LD_PRELOAD", library(lab)?);
    Ok(command)
}

fn library(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.folder("clock")?;
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SOURCE)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", &format!("-DAHEAD={AHEAD}"), "-o"]);
    output(compiler.args([&library, &source]).arg("-ldl"))?;
    Ok(library)
}
