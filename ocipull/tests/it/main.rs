//! Images from every kind of source, sound and damaged.

mod archives;
mod layers;
mod layouts;
mod registry;
mod server;
mod support;
mod transfer;
