//! Images from every kind of source, sound and damaged.

mod archives;
mod copy;
mod download;
mod faults;
mod foreign;
mod kept_files;
mod layers;
mod layouts;
mod nonblocking;
mod places;
mod policy;
mod push;
#[cfg(unix)]
mod ranges;
mod registry;
mod server;
#[cfg(unix)]
mod sources;
mod stalls;
mod support;
mod token;
mod transfer;
mod writers;
