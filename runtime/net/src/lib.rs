//! The user-mode network gateway of a sandbox.
//!
//! One gateway serves one guest: it reads Ethernet frames from the machine monitor's socket, plays
//! the guest's router and name server, and makes the guest's connections with plain sockets of the
//! host, as a [`Config`] allows. It needs no root, no tap device and no helper program, and runs on
//! one thread.
//!
//! ```no_run
//! use std::os::unix::net::UnixStream;
//!
//! use blockbox_net::{Config, Gateway, Mode};
//!
//! let (frames, monitors_end) = UnixStream::pair()?;
//! let (control, ours) = UnixStream::pair()?;
//! let config = Config::new().mode(Mode::Public).publish(["8080:80".parse()?]);
//! let (gateway, bound) = Gateway::new(config, frames, control)?;
//! println!("published at {}", bound.ports[0].host);
//! // Give `monitors_end` to QEMU or libkrun, and ask for the status over `ours`.
//! # let _ = (monitors_end, ours);
//! gateway.run()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate's README has the design, the threat model and the limits.

mod config;
pub mod confine;
mod control;
mod denial;
mod dns;
mod echo;
mod error;
mod frame;
mod gateway;
pub mod helper;
pub mod host_resolver;
mod link;
mod packet;
mod policy;
mod ports;
mod reassembly;
mod scope;
mod shared;
mod tcp;
mod token;
mod udp;

pub use blockbox_protocol::network::{
    BoundPort, HostEntry, MacAddress, MacAddressError, Mode, Protocol, Publish, PublishError, Rule,
    RuleError,
};

pub use self::config::{Addresses, Config, Limits, Nameserver, ResolverData};
pub use self::control::{FlowStatus, Request, Response, Status};
pub use self::denial::{Denial, Reason, Remedy};
pub use self::error::Error;
pub use self::gateway::{Bound, Gateway};
pub use self::scope::Scope;
