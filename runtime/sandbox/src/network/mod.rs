//! A sandbox's network: the gateway, a process beside the machine, and what the guest is told of
//! it.

mod gateway;
pub(crate) mod helper;
mod settings;

pub(crate) use gateway::Gateway;
pub(crate) use settings::describe;
