//! `blockbox erofs check`: reports all damage of an image.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use erofs_reader::CheckOptions;
use serde::Serialize;

use super::super::output::{Format, print_json, printable};
use super::super::progress::Shown;
use super::inspect::Below;
use super::source::Source;

/// Check an image for all kinds of damage. The exit status is 0 if there is none, 1 if there is, 2
/// if the file is not an image.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    source: Source,
    /// Print only findings at this path and below it; the whole image is checked
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Also read all contents, which takes as long as extracting them and finds data that does not
    /// decompress
    #[arg(long)]
    contents: bool,
    #[command(flatten)]
    shown: Shown,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Default, Serialize)]
struct CheckReport {
    clean: bool,
    inodes: u64,
    directories: u64,
    names: u64,
    bytes: u64,
    findings: Vec<FindingReport>,
    truncated: bool,
}

#[derive(Serialize)]
struct FindingReport {
    severity: String,
    path: Option<String>,
    nid: Option<u64>,
    offset: Option<u64>,
    problem: String,
}

impl CheckReport {
    /// Returns the report for a file that could not be opened, so nothing else was checked.
    fn of_no_image(problem: String) -> Self {
        let finding = FindingReport {
            severity: erofs_reader::Severity::Error.to_string(),
            path: None,
            nid: None,
            offset: None,
            problem,
        };
        Self {
            findings: vec![finding],
            ..Self::default()
        }
    }
}

impl Check {
    pub(super) fn execute(self) -> anyhow::Result<ExitCode> {
        // Without contents, only a part of the image is read.
        let total = self.source.bytes().filter(|_| self.contents);
        let what = format!("checking {}", self.source.image.display());
        let work = self.shown.work(what, total);
        let mut report = match self.source.open_damaged(&work.meter()) {
            Ok(image) => image.check_with(&CheckOptions::default().contents(self.contents)),
            Err(error) => {
                let problem = format!("{error:#}");
                eprintln!("blockbox: {problem}");
                if self.format == Format::Json {
                    print_json(&CheckReport::of_no_image(problem))?;
                }
                return Ok(ExitCode::from(2));
            }
        };
        work.finish();
        if let Some(path) = &self.path {
            let below = Below::new(path);
            report.findings.retain(|finding| {
                finding
                    .path
                    .as_deref()
                    .is_some_and(|path| below.contains(path))
            });
        }
        let status = if report.is_clean() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
        if self.format == Format::Json {
            print_json(&CheckReport {
                clean: report.is_clean(),
                inodes: report.inodes,
                directories: report.directories,
                names: report.names,
                bytes: report.bytes,
                findings: report
                    .findings
                    .iter()
                    .map(|finding| FindingReport {
                        severity: finding.severity.to_string(),
                        path: finding.path.as_deref().map(printable),
                        nid: finding.nid.map(erofs_reader::Nid::get),
                        offset: finding.offset,
                        problem: finding.problem.to_string(),
                    })
                    .collect(),
                truncated: report.truncated,
            })?;
            return Ok(status);
        }
        let mut out = io::stdout().lock();
        for finding in &report.findings {
            writeln!(out, "{finding}")?;
        }
        if report.truncated {
            writeln!(out, "and more")?;
        }
        let (inodes, names) = (report.inodes, report.names);
        let found = report.findings.len();
        writeln!(out, "{inodes} inodes, {names} names, {found} findings")?;
        Ok(status)
    }
}
