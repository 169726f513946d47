//! Many nodes in one process, in virtual time.

mod members;
mod net;
mod slots;
