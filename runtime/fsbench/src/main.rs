//! `blockbox-fsbench`: the workloads from the command line.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use blockbox_fsbench::{Options, run, workloads};
use lexopt::prelude::*;

const HELP: &str = "\
Measure what programs feel of a file system, cold (as root) and warm.

Usage: blockbox-fsbench [OPTIONS] [ROOT]

  ROOT            the root of a system [default: /]
  --tree DIR      what to scan and read [default: the Python standard library below ROOT]
  --scratch DIR   where to write [default: tmp below ROOT]
  --rounds N      how often each workload runs [default: 5]
  --warm          leave the kernel's caches alone
  --read-ahead FILE:BYTES
                  fetch the beginning of this file or disk when the caches were emptied, before the
                  clock starts
  --only NAME     run this workload; may be given several times
  --json          print JSON
";

struct Arguments {
    options: Options,
    json: bool,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| arguments.map_or(Ok(()), execute)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blockbox-fsbench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: Arguments) -> Result<(), lexopt::Error> {
    let failed = |error: &dyn std::fmt::Display| lexopt::Error::from(error.to_string());
    let report = run(&arguments.options).map_err(|error| failed(&error))?;
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &report).map_err(|error| failed(&error))?;
        writeln!(out).map_err(|error| failed(&error))
    } else {
        write!(out, "{report}").map_err(|error| failed(&error))
    }
}

/// Parses the arguments; `None` if help was requested and printed.
fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let mut options = Options::new("/");
    let mut json = false;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("tree") => options.tree = Some(parser.value()?.into()),
            Long("scratch") => options.scratch = Some(parser.value()?.into()),
            Long("rounds") => options.rounds = parser.value()?.parse()?,
            Long("only") => options.only.push(parser.value()?.string()?),
            Long("read-ahead") => options.read_ahead = Some(parser.value()?.parse()?),
            Long("warm") => options.cold = false,
            Long("json") => json = true,
            Short('h') | Long("help") => {
                print!("{HELP}\nWorkloads:\n");
                workloads().for_each(|known| println!("  {:16} {}", known.name, known.what));
                return Ok(None);
            }
            Value(root) => options.root = root.into(),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(Arguments { options, json }))
}
