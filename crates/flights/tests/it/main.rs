//! Many nodes in one process, in virtual time.

mod cluster;
mod desks;
mod districts;
mod flights;
mod leads;
mod members;
mod net;
mod pulling;
mod scenarios;
mod schedules;
mod slots;
