//! `blockbox port`

use std::io::Write;

use anyhow::bail;
use blockbox::net::Protocol;
use blockbox::store::Store;
use blockbox::{Error, Sandbox};
use clap::Args;

/// Show where the ports of a running sandbox are published.
#[derive(Debug, Args)]
pub(super) struct Port {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// Only this port of the sandbox
    #[arg(value_parser = guest_port, value_name = "GUEST[/udp]")]
    port: Option<(u16, Protocol)>,
}

fn guest_port(text: &str) -> Result<(u16, Protocol), String> {
    let (port, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((port, "udp")) => (port, Protocol::Udp),
        Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
    };
    let port = port
        .parse()
        .map_err(|_| format!("{port:?} is not a port"))?;
    Ok((port, protocol))
}

impl Port {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let info = Sandbox::open(store, &self.name)?.info()?;
        if !info.state.status.is_active() {
            return Err(Error::NotRunning(self.name).into());
        }
        let mut out = std::io::stdout().lock();
        let Some((guest, protocol)) = self.port else {
            for port in &info.state.ports {
                writeln!(out, "{}/{} -> {}", port.guest, port.protocol, port.host)?;
            }
            return Ok(());
        };
        let ports = info.state.ports.iter();
        let mut found = ports
            .filter(|port| (port.guest, port.protocol) == (guest, protocol))
            .peekable();
        if found.peek().is_none() {
            bail!(
                "sandbox {:?} does not publish {guest}/{protocol}",
                self.name
            );
        }
        for port in found {
            writeln!(out, "{}", port.host)?;
        }
        Ok(())
    }
}
