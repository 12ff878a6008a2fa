//! Images from every kind of source, sound and damaged.

mod archives;
mod layers;
mod layouts;
mod registry;
mod server;
#[cfg(unix)]
mod sources;
mod support;
mod transfer;
mod writers;
