//! containerd's `hosts.toml` files: written, combined with the user's own, and restored.
//!
//! containerd reads `<config_path>/<registry>/hosts.toml` at each pull and asks the hosts in it, in file order, before
//! the registry itself ([hosts.md]). [`configure()`] puts a mirror first in those files; [`cleanup()`] restores the
//! user's folder. Both are blocking, may be repeated at any time, and may be killed at any point: a run reads the
//! folder into a snapshot (`tree`), decides from it alone what the folder should contain (`plan`), and makes the
//! changes in steps (`steps`, `apply`). After each step another run still ends correctly.
//!
//! # The user's configuration
//! The user's own configuration is what the folder would contain without any mirror. Each run derives it from the live
//! folder and `_backup`, for each entry of the folder separately:
//!
//! - An entry with a `hosts.toml` that no mirror wrote is the user's as it is, whatever `_backup` contains: it was
//!   written later.
//! - If `hosts.toml` was written by a mirror (Peili's marker line, or Spegel's template), or is missing, the user's
//!   version is the one in `_backup`, overlaid with everything else in the live folder (for example a renewed
//!   certificate). Beside a file of Spegel, which copies without permissions and links, it is only supplemented.
//! - A missing entry is the one in `_backup`. Data in `_backup` is therefore never lost, at a price: a folder that
//!   the user removes while a mirror is configured comes back, unless it is removed from `_backup` too.
//!
//! `_backup` always contains the whole configuration of the user, including what is in force beside the mirror's. So
//! Spegel's own clean-up, which empties the folder and moves `_backup` up, also works after Peili. A `_backup` that
//! Spegel made is used as it is.
//!
//! # Which folders are mirrored
//! The folder of a registry named in `--mirrored-registries` contains Peili's file, and the user's version is only in
//! `_backup`, or, with `--prepend-existing`, after Peili's hosts. containerd reads `_default` only for a host without a
//! folder, whatever that contains. So if all registries are mirrored, through `_default`, Peili's hosts are also put
//! before the user's in each folder that the user has for a host: its configuration keeps working, and the host is
//! still mirrored. If that is impossible (invalid TOML, a folder that is a link, hosts that are not in tables of their
//! own, a file whose meaning would change: `meaning`), the folder stays unchanged, with a warning. If
//! `--prepend-existing` asks for it, for `_default` itself and named registries, it is a failure.
//!
//! # Faults of one entry
//! An entry that cannot be read, kept in `_backup` or written is left unchanged and reported; all others are processed.
//! Steps name their entry, and a failed step ends only the steps of its entry. If an entry cannot be restored,
//! `_backup` stays.
//!
//! # Several folders
//! `config_path` may be a list. containerd uses the first folder that has an entry for the host or a `_default`. So
//! Peili's files go where the user's are found, and `_default` after all of the user's hosts (`select`). Each folder
//! has its own `_backup`.
//!
//! # Order of steps
//! `_backup` is complete before the first live file changes. `hosts.toml` marks the owner of a folder. It is written
//! first when a user's folder becomes Peili's, and last when a mirror's folder changes back, so that an unfinished
//! folder counts as a mirror's. New folders are built in `_peili.tmp` and renamed into place. Files are written there
//! as well, made durable and renamed. Anything found in it at the start of a run is left over from an earlier run, and
//! is deleted.
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
