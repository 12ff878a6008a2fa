//! `blockbox net`

use std::io::Write;
use std::time::Duration;

use blockbox::Sandbox;
use blockbox::net::{Denial, Mode, Remedy, Status};
use blockbox::store::Store;
use clap::Args;
use serde_json::{Value, json};

use super::output::{Table, bytes, print_json, printable};
use super::template::Output;
use super::{network, time};

/// Show the network activity of a running sandbox: its connections, and what was denied, why, and
/// which option would allow it.
#[derive(Debug, Args)]
pub(super) struct Net {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// How to print it: table, json, or a template such as `{{.DenialsTotal}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Output,
}

impl Net {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let sandbox = Sandbox::open(store, &self.name)?;
        let mode = sandbox.info()?.spec.network.mode;
        let status = sandbox.network()?;
        match &self.format {
            Output::Json => print_json(&document(mode, &status)?),
            Output::Template(template) => {
                let text = template.render(&document(mode, &status)?)?;
                writeln!(std::io::stdout(), "{text}")?;
                Ok(())
            }
            Output::Table => print(mode, &status),
        }
    }
}

/// Returns the status in JSON, with a sentence for each denial.
fn document(mode: Mode, status: &Status) -> anyhow::Result<Value> {
    let mut document = serde_json::to_value(status)?;
    document["mode"] = serde_json::to_value(mode)?;
    let denials = document["denials"].as_array_mut().into_iter().flatten();
    for (value, denial) in denials.zip(&status.denials) {
        value["explanation"] = json!(denial.reason.to_string());
        value["flag"] = json!(flag(denial));
    }
    Ok(document)
}

/// Returns the option of `run` that would allow it.
fn flag(denial: &Denial) -> Option<String> {
    Some(match denial.remedy.as_ref()? {
        Remedy::Allow(rule) => format!("--allow {rule}"),
        Remedy::HostPort(port) => format!("--host-port {port}"),
        Remedy::RemoveDeny(rule) => format!("no --deny {rule}"),
        Remedy::Mode(mode) => format!("--network {}", name(*mode)),
        _ => return None,
    })
}

fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::None => "none",
        Mode::All => "all",
        _ => "public",
    }
}

fn print(mode: Mode, status: &Status) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "network {}: {} connections and {} exchanges of datagrams so far, {} sent, {} received, {} names looked up",
        name(mode),
        status.tcp_total,
        status.udp_total,
        bytes(status.sent),
        bytes(status.received),
        status.dns_total,
    )?;
    for port in &status.ports {
        writeln!(out, "published {}", network::published(port))?;
    }
    drop(out);
    if !status.flows.is_empty() {
        println!();
        let header = [
            "PROTOCOL", "GUEST", "", "OUTSIDE", "NAME", "SENT", "RECEIVED", "AGE",
        ];
        let mut table = Table::new(header);
        for flow in &status.flows {
            let arrow = if flow.inbound { "<-" } else { "->" };
            table.row([
                flow.protocol.to_string(),
                flow.guest.to_string(),
                arrow.to_owned(),
                flow.remote.to_string(),
                shown(flow.name.as_deref()),
                bytes(flow.sent),
                bytes(flow.received),
                format!("{:?}", Duration::from_secs(flow.seconds)),
            ]);
        }
        table.print()?;
    }
    if !status.denials.is_empty() {
        println!(
            "\ndenied {} times; the last, and what would allow each:",
            status.denials_total
        );
        let header = [
            "WHEN",
            "COUNT",
            "PROTOCOL",
            "DESTINATION",
            "NAME",
            "WHY",
            "ALLOW WITH",
        ];
        let mut table = Table::new(header);
        for denial in &status.denials {
            let protocol = denial.protocol.map(|protocol| protocol.to_string());
            let destination = denial.destination.map(|address| address.to_string());
            table.row([
                format!(
                    "{} ago",
                    time::ago(denial.time.saturating_mul(1_000_000_000))
                ),
                denial.count.to_string(),
                protocol.unwrap_or_else(|| "name".to_owned()),
                shown(destination.as_deref()),
                shown(denial.name.as_deref()),
                printable(denial.reason.to_string().as_bytes()),
                shown(flag(denial).as_deref()),
            ]);
        }
        table.print()?;
    }
    Ok(())
}

/// A guest's strings may hold any bytes.
fn shown(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| printable(text.as_bytes()))
}
