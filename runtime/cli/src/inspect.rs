//! `blockbox inspect`

use std::io::Write;
use std::process::ExitCode;

use blockbox::Sandbox;
use blockbox::state::Status;
use blockbox::store::Store;
use blockbox::volume::Volume;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::each::each;
use super::image;
use super::output::print_json;
use super::template::Output;
use super::time;

/// Show details of sandboxes, images and volumes.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The sandboxes, by name or id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// How to print them: json, or a template such as `{{.State.Status}}`
    #[arg(short, long, default_value = "json", value_name = "FORMAT")]
    format: Output,
    /// The kind of object [default: the first kind that has the name]
    #[arg(long = "type", value_enum)]
    kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "container")]
    Sandbox,
    Image,
    Volume,
}

impl Inspect {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let mut found = Vec::new();
        let status = each(&self.names, |name| {
            let value = inspected(store, self.kind, name)?;
            if let Output::Template(template) = &self.format {
                writeln!(std::io::stdout(), "{}", template.render(&value)?)?;
            } else {
                found.push(value);
            }
            Ok(())
        })?;
        if !matches!(self.format, Output::Template(_)) {
            print_json(&found)?;
        }
        Ok(status)
    }
}

fn inspected(store: &Store, kind: Option<Kind>, name: &str) -> anyhow::Result<Value> {
    match kind {
        Some(Kind::Sandbox) => sandbox(store, name),
        Some(Kind::Image) => image::inspected(store, name),
        Some(Kind::Volume) => Ok(serde_json::to_value(Volume::open(store, name)?.info()?)?),
        None => {
            let found = sandbox(store, name);
            let none = |error: &anyhow::Error| {
                matches!(error.downcast_ref(), Some(blockbox::Error::NoSandbox(_)))
            };
            if !found.as_ref().is_err_and(none) {
                return found;
            }
            let others = [Kind::Image, Kind::Volume].into_iter();
            let mut others = others.filter_map(|kind| inspected(store, Some(kind), name).ok());
            others.next().map_or(found, Ok)
        }
    }
}

fn sandbox(store: &Store, name: &str) -> anyhow::Result<Value> {
    let sandbox = Sandbox::open(store, name)?;
    let info = sandbox.info()?;
    let mut value = serde_json::to_value(&info.spec)?;
    let mut state = serde_json::to_value(&info.state)?;
    readable(&mut value, "created_ns", "created");
    readable(&mut state, "started_ns", "started");
    readable(&mut state, "finished_ns", "finished");
    if let Value::Object(fields) = &mut state {
        let running = matches!(info.state.status, Status::Running | Status::Paused);
        fields.insert("running".to_owned(), json!(running));
    }
    if let Value::Object(fields) = &mut value {
        let folder = store.sandbox(sandbox.name());
        fields.insert("state".to_owned(), state);
        fields.insert("folder".to_owned(), json!(folder));
        fields.insert(
            "written_bytes".to_owned(),
            json!(sandbox.allocated_bytes()?),
        );
    }
    Ok(value)
}

/// Replaces nanoseconds with a readable time.
fn readable(value: &mut Value, from: &str, to: &str) {
    if let Value::Object(fields) = value
        && let Some(ns) = fields.remove(from)
    {
        let time = ns.as_u64().map(time::rfc3339);
        fields.insert(to.to_owned(), json!(time));
    }
}
