//! `blockbox port`

use std::io::Write;

use anyhow::bail;
use blockbox::net::Protocol;
use blockbox::store::Store;
use blockbox::{Error, Sandbox};
use clap::Args;

use super::output::print_json;
use super::template::{Output, print_each};

/// Show where the ports of a running sandbox are published.
#[derive(Debug, Args)]
pub(super) struct Port {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// Only this port of the sandbox
    #[arg(value_parser = guest_port, value_name = "GUEST[/udp]")]
    port: Option<(u16, Protocol)>,
    /// How to print them: table, json, or a template such as `{{.Host}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Output,
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
        let mut ports = info.state.ports;
        if let Some((guest, protocol)) = self.port {
            ports.retain(|port| (port.guest, port.protocol) == (guest, protocol));
            if ports.is_empty() {
                bail!(
                    "sandbox {:?} does not publish {guest}/{protocol}",
                    self.name
                );
            }
        }
        match &self.format {
            Output::Json => return print_json(&ports),
            Output::Template(template) => return print_each(template, &ports),
            Output::Table => {}
        }
        let mut out = std::io::stdout().lock();
        for port in &ports {
            match self.port {
                Some(_) => writeln!(out, "{}", port.host)?,
                None => writeln!(out, "{}/{} -> {}", port.guest, port.protocol, port.host)?,
            }
        }
        Ok(())
    }
}
