//! `blockbox events`

use std::io::Write;
use std::time::Duration;

use blockbox::events::{Event, Events as Reader};
use blockbox::store::Store;
use clap::Args;

use super::template::Output;
use super::time;

/// How often to check for new events.
const LOOK: Duration = Duration::from_millis(100);

/// Show what happens to sandboxes, as it happens.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Show events since a time (2026-01-31T12:00:00Z), or since a duration ago (10m)
    #[arg(long, value_parser = time::since, value_name = "TIME")]
    since: Option<u64>,
    /// Stop at this time; a time in the past stops at once
    #[arg(long, value_parser = time::since, value_name = "TIME")]
    until: Option<u64>,
    /// Only events of a sandbox (name=…), or of a kind (event=…)
    #[arg(short, long, value_parser = filter, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// How to print them: table, json, or a template such as `{{.Action}}`
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Output,
}

#[derive(Clone, Debug)]
enum Filter {
    Sandbox(String),
    Action(String),
}

fn filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some(("name" | "container" | "sandbox", value)) => Ok(Filter::Sandbox(value.to_owned())),
        Some(("event", value)) => Ok(Filter::Action(value.to_owned())),
        _ => Err("use name=… or event=…".to_owned()),
    }
}

impl Events {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let mut events = match (self.since, self.until) {
            (None, None) => Reader::new(store)?,
            _ => Reader::all(store)?,
        };
        loop {
            while let Some(event) = events.next_event()? {
                let after = self.since.is_none_or(|since| event.time_ns >= since);
                let before = self.until.is_none_or(|until| event.time_ns <= until);
                if after && before && self.matches(&event) {
                    self.print(&event)?;
                }
            }
            if self.until.is_some_and(|until| until <= time::now()) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn matches(&self, event: &Event) -> bool {
        self.filter.iter().all(|filter| match filter {
            Filter::Sandbox(name) => event.name == *name || event.id.starts_with(name),
            Filter::Action(action) => event.action == *action,
        })
    }

    fn print(&self, event: &Event) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match &self.format {
            Output::Json => writeln!(out, "{}", serde_json::to_string(event)?)?,
            Output::Template(template) => {
                writeln!(out, "{}", template.render(&serde_json::to_value(event)?)?)?;
            }
            Output::Table => {
                let mut more = vec![
                    format!("image={}", event.image),
                    format!("name={}", event.name),
                ];
                more.extend(
                    event
                        .attributes
                        .iter()
                        .map(|(name, value)| format!("{name}={value}")),
                );
                let time = time::rfc3339(event.time_ns);
                let (action, id) = (&event.action, &event.id);
                writeln!(out, "{time} sandbox {action} {id} ({})", more.join(", "))?;
            }
        }
        out.flush()?;
        Ok(())
    }
}
