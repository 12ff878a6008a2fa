//! A sandbox's network: the gateway process beside the machine, and the guest's settings.

mod gateway;
pub(crate) mod helper;
mod settings;

pub(crate) use gateway::Gateway;
pub(crate) use settings::describe;
