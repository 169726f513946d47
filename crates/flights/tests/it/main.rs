//! Many nodes in one process, in virtual time.

mod cluster;
mod coordinators;
mod flights;
mod leads;
mod members;
mod net;
mod pulling;
mod scenarios;
mod schedules;
mod shards;
mod slots;
