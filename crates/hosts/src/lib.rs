//! containerd's `hosts.toml` files: written, kept beside the user's own, and put back.
//!
//! containerd reads `<config_path>/<registry>/hosts.toml` anew at each pull and asks the hosts named there, in file
//! order, before the registry itself ([hosts.md]). [`configure()`] puts a mirror first in those files; [`cleanup()`]
//! leaves the folder as the user had it. Both are blocking, may be repeated at any time, and may be killed at any
//! point: a run reads the folder into a snapshot (`tree`), decides from it alone what should stand there (`plan`),
//! and carries that out in steps (`steps`, `apply`) after each of which another run still ends right.
//!
//! # What is the user's
//! The user's own configuration is what the folder would hold without any mirror. It is worked out anew from the
//! live folder and `_backup` on each run, for each entry of the folder by itself:
//!
//! - An entry with a `hosts.toml` that no mirror wrote is the user's as it stands, whatever `_backup` says: somebody
//!   has written it since.
//! - Where `hosts.toml` was written by a mirror (Peili's marker line, or Spegel's template), or is missing, the
//!   user's version is the one in `_backup`, overlaid with whatever else lies in the live folder (a renewed
//!   certificate, say); beside a file of Spegel's, which copies without rights and links, only supplemented.
//! - An entry that is missing is the one in `_backup`. Data in `_backup` is therefore never lost, at a price: a folder
//!   that the user removes while a mirror is configured comes back, unless it is removed from `_backup` too.
//!
//! `_backup` always holds the whole of the user's configuration, also what is in force beside ours: so Spegel's
//! own clean-up, which empties the folder and moves `_backup` up, ends right after us too. A `_backup` that Spegel
//! made is taken over as it is.
//!
//! # Which folders are mirrored
//! A registry that is named in `--mirrored-registries` has our file in its folder, and what the user had there is in
//! `_backup` alone, or with `--prepend-existing` behind our hosts. containerd looks into `_default` only for a host
//! without a folder, whatever is or is not in that. So where all registries are mirrored, through `_default`, our hosts
//! also go in front of the user's in each folder that the user has for a host, always: what was configured for one
//! host keeps working and does not take that host out of the mirror. Where that cannot be done (TOML that is broken, a
//! folder that is a link, hosts that are not in tables of their own, a file that would mean something else: `meaning`), the
//! folder stays as it is, with a warning. Where `--prepend-existing` asks for it, for `_default` itself and registries
//! that are named, it is a failure.
//!
//! # Faults of one entry
//! An entry that cannot be read, kept in `_backup` or written is left as it is and reported; all others are done. Steps
//! carry the entry that they are for, and the first that fails ends the steps of its entry alone. Where an entry cannot
//! be put back, `_backup` stays.
//!
//! # Several folders
//! `config_path` may be a list. containerd takes the first folder that has an entry for the host or a `_default`. So our
//! files go where the user's are found, and `_default` behind all of the user's hosts (`select`). Each folder has a
//! `_backup` of its own.
//!
//! # Order of steps `_backup` is complete before the first live file changes. `hosts.toml` marks the owner of a folder.
//! It is written first when a user's folder becomes ours, and last when a mirror's folder changes back, so that a
//! half-done folder counts as a mirror's. New folders are built in `_peili.tmp` and renamed into place. Files are
//! written there as well, made durable and renamed; anything found in it at the start of a run is left over from an
//! earlier run, and is deleted.
//!
//! [hosts.md]: https://github.com/containerd/containerd/blob/main/docs/hosts.md

mod advice;
mod apply;
mod configuration;
mod error;
mod folders;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inspect;
mod meaning;
mod merge;
mod mirrored;
mod next_host;
mod plan;
pub mod probe;
mod recognise;
mod render;
mod report;
mod root;
mod run;
mod scan;
pub mod secret;
mod select;
mod steps;
mod tree;
mod unusable;
mod users;
mod want;

pub use configuration::{
    Configuration, Credentials, CredentialsError, Mirrored, Target, TargetError,
};
pub use error::{FileFault, HostsError};
pub use folders::{ConfigPath, ConfigPathError};
pub use inspect::{InspectedFile, InspectedFolder, inspect};
pub use next_host::{NextHost, NextHostError, next_host};
pub use report::{Failure, Report, Warning};
pub use run::{cleanup, configure};
pub use secret::{NODE_SECRET_HEADER, NodeSecret, SecretError};
