//! `cargo xtask trial images`: starts, uses, stops and restarts services.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use super::services::{READY_TIME, SERVICES, Service};
use crate::blockbox::Blockbox;
use crate::{setup, shell};

#[derive(Args)]
pub(crate) struct Images {
    /// The blockbox to run, instead of a release build
    #[arg(long)]
    blockbox: Option<PathBuf>,
    /// Only build the images
    #[arg(long)]
    build: bool,
    /// Which services [default: all]
    #[arg(value_name = "NAME", value_parser = SERVICES.iter().map(|service| service.name).collect::<Vec<_>>())]
    names: Vec<String>,
}

/// How long a service has to end by itself, in seconds.
const STOP_SECONDS: &str = "120";

/// The pause between two checks of a service.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn run(options: Images) -> Result<ExitCode> {
    let Images {
        blockbox,
        build,
        names,
    } = options;
    setup::run()?;
    let chosen: Vec<_> = SERVICES
        .iter()
        .filter(|service| names.is_empty() || names.iter().any(|name| name == service.name))
        .collect();
    if build {
        for service in chosen {
            service.image().build()?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let program = blockbox.map_or_else(shell::release_build, Ok)?;
    let blockbox = Blockbox::prepare(&program, shell::target("trial/home"))?;
    let results: Vec<_> = chosen
        .iter()
        .map(|service| (service.name, try_out(service, &blockbox)))
        .collect();
    println!();
    for (name, result) in &results {
        match result {
            Ok(times) => println!("passed  {name:10} {times}"),
            Err(error) => println!("FAILED  {name:10} {error:#}"),
        }
    }
    let failed = results.iter().any(|(_, result)| result.is_err());
    Ok(ExitCode::from(u8::from(failed)))
}

/// Builds the image, and starts, uses, stops and restarts a sandbox of it. Returns how long the
/// parts took.
fn try_out(service: &Service, blockbox: &Blockbox) -> Result<String> {
    println!("\n==> {}", service.name);
    let image = service.image().build()?;
    let sandbox = Sandbox {
        name: format!("trial-{}", service.name),
        blockbox,
    };
    sandbox.remove();
    let mut run = vec!["run", "-d", "--name", &sandbox.name, "-m", "2G"];
    run.extend(service.options);
    let reference = format!("oci:{}:latest", image.display());
    run.push(&reference);
    blockbox.output(&run)?;
    let result = sandbox.live(service);
    if result.is_err() {
        print!("{}", sandbox.log());
    }
    sandbox.remove();
    result
}

/// A sandbox of the trial.
struct Sandbox<'a> {
    name: String,
    blockbox: &'a Blockbox,
}

impl Sandbox<'_> {
    fn live(&self, service: &Service) -> Result<String> {
        let first = self.await_ready(service).context("first start")?;
        self.expect(service.used).context("in use")?;
        let stop = self.stop(service).context("stop")?;
        self.blockbox.output(&["start", &self.name])?;
        let second = self.await_ready(service).context("second start")?;
        self.expect(service.kept).context("after a restart")?;
        self.stop(service).context("second stop")?;
        Ok(format!(
            "answers after {first} s, ends after {stop} s, answers again after {second} s"
        ))
    }

    /// Waits until the service answers. Returns how many seconds that took.
    fn await_ready(&self, service: &Service) -> Result<u64> {
        let start = Instant::now();
        loop {
            match self.exec(service.ready) {
                Ok(_) => return Ok(start.elapsed().as_secs()),
                Err(error) if start.elapsed() > READY_TIME => return Err(error),
                Err(_) => ensure!(self.state()?["status"] == "running", "it ended"),
            }
            thread::sleep(PAUSE);
        }
    }

    fn exec(&self, script: &str) -> Result<String> {
        self.blockbox
            .output(&["exec", &self.name, "/bin/sh", "-c", script])
    }

    fn expect(&self, (script, expected): (&str, &str)) -> Result<()> {
        let output = self.exec(script)?;
        ensure!(output.contains(expected), "not {expected:?} but: {output}");
        Ok(())
    }

    /// Stops the service, which must end by itself. Returns how many seconds that took.
    fn stop(&self, service: &Service) -> Result<u64> {
        let start = Instant::now();
        self.blockbox
            .output(&["stop", "--time", STOP_SECONDS, &self.name])?;
        let time = start.elapsed().as_secs();
        let state = self.state()?;
        let status = &state["exit_code"];
        ensure!(
            *status == service.status,
            "exit status {status}, not {}",
            service.status
        );
        if !self.log().contains(service.farewell) {
            bail!("the log does not end with {:?}", service.farewell);
        }
        Ok(time)
    }

    /// Returns its state.
    fn state(&self) -> Result<Value> {
        let json = self.blockbox.output(&["inspect", &self.name])?;
        let mut inspected: Value = serde_json::from_str(&json)?;
        Ok(inspected[0]["state"].take())
    }

    fn log(&self) -> String {
        let mut logs = self.blockbox.command(&["logs", "--tail", "60", &self.name]);
        logs.output().map_or_else(
            |error| error.to_string(),
            |output| {
                let [out, err] =
                    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
                format!("{out}{err}")
            },
        )
    }

    /// Removes it if it exists, running or not.
    fn remove(&self) {
        let _ = self.blockbox.output(&["rm", "-f", &self.name]);
    }
}
