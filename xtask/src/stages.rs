//! Measures how long each stage of a command takes.

use std::time::{Duration, Instant};

/// The stages so far, in order.
#[derive(Default)]
pub(crate) struct Stages(Vec<(String, Duration)>);

impl Stages {
    /// Prints `name`, runs the stage and records its time.
    pub(crate) fn run<T>(&mut self, name: &str, stage: impl FnOnce() -> T) -> T {
        println!("\n==> {name}");
        self.time(name, stage)
    }

    /// Runs `stage` and records its time.
    pub(crate) fn time<T>(&mut self, name: &str, stage: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = stage();
        self.record(name, start.elapsed());
        result
    }

    /// Records a stage that ran beside others.
    pub(crate) fn record(&mut self, name: &str, time: Duration) {
        self.0.push((name.to_owned(), time));
    }

    /// Prints the table of stages and times.
    pub(crate) fn print(&self) {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        println!("\nTimes");
        for (name, time) in &self.0 {
            println!("  {name:width$}  {:8.1} s", time.as_secs_f64());
        }
    }
}
