//! `blockbox stats` and `top`

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use blockbox::store::Store;
use blockbox::{Error, Sandbox, Stats as Used};
use clap::Args;
use serde::Serialize;

use super::damaged;
use super::output::{Table, bytes, print_json};
use super::template::{Output, print_each};

/// How often figures are read.
const ROUND: Duration = Duration::from_secs(1);

/// Show what running sandboxes use, repeatedly.
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// The sandboxes, by name or id [default: all running ones]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Show the figures once
    #[arg(long)]
    no_stream: bool,
    /// How to print it: table, json, or a template such as `{{.Name}} {{.CpuPercent}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Output,
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    /// In percent of one CPU.
    cpu_percent: f64,
    memory_bytes: u64,
    memory_limit_bytes: u64,
    memory_percent: f64,
    network_received_bytes: u64,
    network_sent_bytes: u64,
    disk_read_bytes: u64,
    disk_written_bytes: u64,
    processes: u32,
}

impl Row {
    fn new(id: &str, name: &str, now: &Used, before: Option<&Used>) -> Self {
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let used = now.memory_total.saturating_sub(now.memory_available);
        // Without an earlier reading: since the guest started.
        let (busy, time) = before.map_or((0, 0), |before| (before.cpu_busy_ns, before.uptime_ns));
        let percent = |part: f64, whole: f64| {
            if whole > 0.0 {
                (part / whole * 1e4).round() / 100.0
            } else {
                0.0
            }
        };
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            cpu_percent: percent(since(now.cpu_busy_ns, busy), since(now.uptime_ns, time)),
            memory_bytes: used,
            memory_limit_bytes: now.memory_total,
            memory_percent: percent(used as f64, now.memory_total as f64),
            network_received_bytes: now.network_received,
            network_sent_bytes: now.network_sent,
            disk_read_bytes: now.disk_read,
            disk_written_bytes: now.disk_written,
            processes: now.processes,
        }
    }
}

impl Stats {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let mut before: HashMap<String, Used> = HashMap::new();
        if self.names.is_empty() {
            damaged::warn(&Sandbox::list(store)?.damaged);
        }
        if self.no_stream {
            // Read twice, so that the CPU's figure is current.
            self.look(store, &mut before)?;
            std::thread::sleep(ROUND / 2);
        }
        loop {
            let started = Instant::now();
            let rows = self.look(store, &mut before)?;
            self.print(&rows)?;
            if self.no_stream {
                return Ok(());
            }
            std::thread::sleep(ROUND.saturating_sub(started.elapsed()));
        }
    }

    fn look(&self, store: &Store, before: &mut HashMap<String, Used>) -> anyhow::Result<Vec<Row>> {
        let sandboxes: Vec<Sandbox> = if self.names.is_empty() {
            Sandbox::list(store)?
                .found
                .into_iter()
                .filter(|info| info.state.status.is_active())
                .filter_map(|info| Sandbox::open(store, &info.spec.name).ok())
                .collect()
        } else {
            let open = |name: &String| Sandbox::open(store, name);
            self.names.iter().map(open).collect::<Result<_, _>>()?
        };
        let mut rows = Vec::new();
        for sandbox in sandboxes {
            let used = match sandbox.stats() {
                // A sandbox that was not named explicitly may end at any time.
                Err(_) if self.names.is_empty() => continue,
                Err(Error::NotRunning(_)) => Used::default(),
                used => used?,
            };
            let id = sandbox.info()?.spec.short_id().to_owned();
            rows.push(Row::new(&id, sandbox.name(), &used, before.get(&id)));
            before.insert(id, used);
        }
        Ok(rows)
    }

    fn print(&self, rows: &[Row]) -> anyhow::Result<()> {
        match &self.format {
            Output::Json => print_json(&rows),
            Output::Template(template) => print_each(template, rows),
            Output::Table => {
                if !self.no_stream && std::io::stdout().is_terminal() {
                    // Moves the cursor to the top left corner and clears the screen.
                    write!(std::io::stdout(), "\x1b[H\x1b[J")?;
                }
                let header = [
                    "ID",
                    "NAME",
                    "CPU %",
                    "MEMORY / LIMIT",
                    "NETWORK IN / OUT",
                    "DISK IN / OUT",
                    "PROCESSES",
                ];
                let mut table = Table::new(header);
                for row in rows {
                    let pair = |one, other| format!("{} / {}", bytes(one), bytes(other));
                    table.row([
                        row.id.clone(),
                        row.name.clone(),
                        format!("{:.2}", row.cpu_percent),
                        pair(row.memory_bytes, row.memory_limit_bytes),
                        pair(row.network_received_bytes, row.network_sent_bytes),
                        pair(row.disk_read_bytes, row.disk_written_bytes),
                        row.processes.to_string(),
                    ]);
                }
                table.print()
            }
        }
    }
}

/// List the processes of a running sandbox.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// How to print them: table, json, or a template such as `{{.Pid}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Output,
}

impl Top {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let processes = Sandbox::open(store, &self.name)?.processes()?;
        match &self.format {
            Output::Json => print_json(&processes),
            Output::Template(template) => print_each(template, &processes),
            Output::Table => {
                let header = ["PID", "PARENT", "UID", "STATE", "MEMORY", "CPU", "COMMAND"];
                let mut table = Table::new(header);
                for process in processes {
                    let seconds = Duration::from_nanos(process.cpu_ns).as_secs_f64();
                    table.row([
                        process.pid.to_string(),
                        process.parent.to_string(),
                        process.uid.to_string(),
                        process.state,
                        bytes(process.memory),
                        format!("{seconds:.2} s"),
                        super::output::printable(process.command.as_bytes()),
                    ]);
                }
                table.print()
            }
        }
    }
}
