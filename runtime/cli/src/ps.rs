//! `blockbox ps`

use std::collections::BTreeMap;
use std::io::Write;

use blockbox::Sandbox;
use blockbox::state::{Info, Status};
use blockbox::store::{Damaged, Store};
use clap::Args;
use serde::Serialize;

use super::damaged;
use super::network::published;
use super::output::{Table, bytes, print_json};
use super::template::{Output, print_each};
use super::time;

/// List running sandboxes.
#[derive(Debug, Args)]
pub(super) struct Ps {
    /// List all sandboxes
    #[arg(short, long)]
    all: bool,
    /// Print only the ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Only those whose name contains this (name=…), or with a label (label=NAME[=VALUE]) or a
    /// state (status=…)
    #[arg(short, long, value_parser = filter, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// How to print them: table, json, or a template such as `{{.Name}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Output,
}

#[derive(Clone, Debug)]
enum Filter {
    Name(String),
    Id(String),
    Label(String, Option<String>),
    Status(String),
}

fn filter(text: &str) -> Result<Filter, String> {
    let states = "created, starting, running, paused, stopping, exited, failed or damaged";
    let (key, value) = text
        .split_once('=')
        .ok_or("use name=…, id=…, label=… or status=…")?;
    match key {
        "name" => Ok(Filter::Name(value.to_owned())),
        "id" => Ok(Filter::Id(value.to_owned())),
        "label" => Ok(match value.split_once('=') {
            Some((name, value)) => Filter::Label(name.to_owned(), Some(value.to_owned())),
            None => Filter::Label(value.to_owned(), None),
        }),
        "status" if STATES.contains(&value) => Ok(Filter::Status(value.to_owned())),
        "status" => Err(format!("{value:?} is not a state: use {states}")),
        _ => Err(format!(
            "{key:?} is not a filter: use name, id, label or status"
        )),
    }
}

const STATES: [&str; 8] = [
    "created", "starting", "running", "paused", "stopping", "exited", "failed", DAMAGED,
];

/// The status of a sandbox whose records cannot be read.
const DAMAGED: &str = "damaged";

impl Filter {
    fn matches(&self, info: &Info) -> bool {
        match self {
            Self::Name(part) => info.spec.name.contains(part.as_str()),
            Self::Id(start) => info.spec.id.starts_with(start.as_str()),
            Self::Label(name, value) => info
                .spec
                .labels
                .get(name)
                .is_some_and(|found| value.as_ref().is_none_or(|value| found == value)),
            Self::Status(status) => info.state.status.name() == status,
        }
    }

    fn matches_damaged(&self, damaged: &Damaged) -> bool {
        match self {
            Self::Name(part) => damaged.name.contains(part.as_str()),
            Self::Id(_) | Self::Label(..) => false,
            Self::Status(status) => status == DAMAGED,
        }
    }
}

/// A sandbox in JSON.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    id: String,
    name: String,
    image: String,
    manifest_digest: String,
    command: String,
    created: String,
    status: &'static str,
    started: Option<String>,
    finished: Option<String>,
    exit_code: Option<u8>,
    error: Option<String>,
    restarts: u32,
    ports: Vec<String>,
    labels: BTreeMap<String, String>,
}

impl Row {
    fn new(info: &Info) -> Self {
        let spec = &info.spec;
        let state = &info.state;
        let args = spec.process.iter().flat_map(|process| &process.args);
        Self {
            id: spec.id.clone(),
            name: spec.name.clone(),
            image: spec.image.asked.clone(),
            manifest_digest: spec.image.manifest_digest.clone(),
            command: args.map(ToString::to_string).collect::<Vec<_>>().join(" "),
            created: time::rfc3339(spec.created_ns),
            status: state.status.name(),
            started: state.started_ns.map(time::rfc3339),
            finished: state.finished_ns.map(time::rfc3339),
            exit_code: state.exit_code,
            error: state.error.clone(),
            restarts: state.restarts,
            ports: state.ports.iter().map(published).collect(),
            labels: spec.labels.clone(),
        }
    }
}

impl Row {
    fn damaged(damaged: &Damaged) -> Self {
        Self {
            name: damaged.name.clone(),
            status: DAMAGED,
            error: Some(blockbox::vmm::with_causes(&damaged.error)),
            ..Self::default()
        }
    }
}

/// Describes a state as docker does.
fn status(info: &Info) -> String {
    let state = &info.state;
    let since = |ns: Option<u64>| ns.map(time::ago).unwrap_or_default();
    match state.status {
        Status::Running => format!("Up {}", since(state.started_ns)),
        Status::Paused => format!("Up {} (Paused: host disk full)", since(state.started_ns)),
        Status::Starting if state.restarts > 0 => format!("Restarting ({})", state.restarts),
        Status::Exited => match state.exit_code {
            Some(code) => format!("Exited ({code}) {} ago", since(state.finished_ns)),
            None => format!("Exited {} ago", since(state.finished_ns)),
        },
        Status::Failed => format!("Failed {} ago", since(state.finished_ns)),
        Status::Created => "Created".to_owned(),
        Status::Starting => "Starting".to_owned(),
        Status::Stopping => "Stopping".to_owned(),
        other => other.name().to_owned(),
    }
}

impl Ps {
    fn id<'a>(&self, info: &'a Info) -> &'a str {
        match self.no_trunc {
            true => &info.spec.id,
            false => info.spec.short_id(),
        }
    }

    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        // A filter by state includes sandboxes that do not run.
        let by_status = |filter: &Filter| matches!(filter, Filter::Status(_));
        let all = self.all || self.filter.iter().any(by_status);
        let listing = Sandbox::list(store)?;
        damaged::warn(&listing.damaged);
        let (states, others): (Vec<_>, Vec<_>) =
            self.filter.iter().partition(|filter| by_status(filter));
        let chosen = |matches: &dyn Fn(&Filter) -> bool| {
            others.iter().all(|filter| matches(filter))
                && (states.is_empty() || states.iter().any(|filter| matches(filter)))
        };
        let mut sandboxes = listing.found;
        sandboxes.retain(|info| {
            (all || info.state.status.is_active()) && chosen(&|filter| filter.matches(info))
        });
        let mut damaged = listing.damaged;
        damaged.retain(|damaged| all && chosen(&|filter| filter.matches_damaged(damaged)));
        // The newest first, as docker.
        sandboxes.sort_by_key(|info| std::cmp::Reverse(info.spec.created_ns));
        if self.quiet {
            let mut out = std::io::stdout().lock();
            for info in &sandboxes {
                writeln!(out, "{}", self.id(info))?;
            }
            // Without its record a sandbox has a name, but no id.
            for damaged in &damaged {
                writeln!(out, "{}", damaged.name)?;
            }
            return Ok(());
        }
        let mut rows: Vec<Row> = sandboxes.iter().map(Row::new).collect();
        rows.extend(damaged.iter().map(Row::damaged));
        match &self.format {
            Output::Json => print_json(&rows),
            Output::Template(template) => print_each(template, &rows),
            Output::Table => {
                let header = [
                    "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "WRITTEN", "NAME",
                ];
                let mut table = Table::new(header);
                let infos = sandboxes.iter().map(Some).chain(std::iter::repeat(None));
                for (row, info) in rows.into_iter().zip(infos) {
                    // A sandbox that is being removed may have no disk.
                    let written = Sandbox::open(store, &row.name)
                        .and_then(|sandbox| sandbox.allocated_bytes())
                        .map_or_else(|_| "-".to_owned(), bytes);
                    table.row([
                        info.map_or("-", |info| self.id(info)).to_owned(),
                        row.image,
                        match self.no_trunc {
                            true => clean(&row.command),
                            false => shortened(&row.command),
                        },
                        info.map_or_else(
                            || "-".to_owned(),
                            |info| format!("{} ago", time::ago(info.spec.created_ns)),
                        ),
                        info.map_or_else(|| "Damaged".to_owned(), status),
                        row.ports.join(", "),
                        written,
                        row.name,
                    ]);
                }
                table.print()
            }
        }
    }
}

/// Returns a command in one line, without control characters.
fn clean(command: &str) -> String {
    let shown = command.chars();
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Returns the beginning of a command, cleaned as by [`clean`].
fn shortened(command: &str) -> String {
    const MOST: usize = 24;
    let clean = clean(command);
    if clean.chars().count() <= MOST {
        return clean;
    }
    let begin: String = clean.chars().take(MOST - 1).collect();
    format!("{begin}…")
}
