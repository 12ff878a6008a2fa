//! What programs feel of a file system: how long the things take that they do all the time, with
//! nothing in the kernel's caches and with everything there.
//!
//! Nineteen workloads in two suites ([`workloads`]) run on a folder that has the shape of a system:
//! reading ones on its Python standard library (or the largest folder of libraries there is),
//! writing ones in its `/tmp` and `/dev/shm`.
//!
//! ```no_run
//! let options = blockbox_fsbench::Options::new("/");
//! let report = blockbox_fsbench::run(&options)?;
//! print!("{report}");
//! # Ok::<(), blockbox_fsbench::Error>(())
//! ```
//!
//! The program `blockbox-fsbench` is the same for the command line. Built static, it runs in any
//! image.

#![forbid(unsafe_code)]

mod caches;
mod error;
mod lookup;
mod random;
mod read;
mod report;
mod tree;
mod workload;
mod write;

use std::path::PathBuf;
use std::time::Instant;

pub use caches::ReadAhead;
pub use error::{Error, Result};
pub use report::{Report, Row};
pub use workload::{Description, Suite, workloads};

use tree::Inventory;
use workload::{Scene, Workload};

/// Options of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The root of a system.
    pub root: PathBuf,
    /// The folder to scan and read, if not the Python standard library below `root`.
    pub tree: Option<PathBuf>,
    /// The folder to write in, if not `tmp` below `root`.
    pub scratch: Option<PathBuf>,
    /// How often each workload runs, both cold and warm.
    pub rounds: u32,
    /// Whether to measure with dropped caches as well, if possible. Dropping them slows down other
    /// programs on the machine.
    pub cold: bool,
    /// What to read after the caches were dropped and before the clock starts, as a program that
    /// mounts the system may do.
    pub read_ahead: Option<ReadAhead>,
    /// The names of the workloads to run; if empty, all of them.
    pub only: Vec<String>,
}

impl Options {
    /// Returns options to run every workload five times on the system below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            tree: None,
            scratch: None,
            rounds: 5,
            cold: true,
            read_ahead: None,
            only: Vec::new(),
        }
    }
}

/// Runs the workloads in order.
///
/// Cold times are only measured if this process may drop the kernel's caches (as root of a machine,
/// not of a container).
///
/// # Errors
///
/// [`Error::NoTree`], [`Error::UnknownWorkload`], and [`Error::Io`] if a file of the tree cannot be
/// read or the scratch folder cannot be written.
pub fn run(options: &Options) -> Result<Report> {
    let chosen = workload::chosen(&options.only)?;
    let scene = Scene::new(options)?;
    let caches = options.cold && caches::may_drop();
    let read_ahead = options.read_ahead.as_ref();
    let mut rows = Vec::with_capacity(chosen.len());
    let mut read_ahead_ns = Vec::new();
    let mut empty = || {
        caches::drop_all()?;
        if let Some(read_ahead) = read_ahead {
            let start = Instant::now();
            read_ahead.fetch()?;
            read_ahead_ns.push(report::nanoseconds(start.elapsed()));
        }
        Ok(())
    };
    for (description, make) in chosen {
        let mut row = Row::new(description);
        match make(&scene) {
            Ok(mut workload) => {
                let empty = caches.then_some(&mut empty as Empty<'_>);
                measure(&mut *workload, options.rounds, empty, &mut row)?;
            }
            Err(Error::Missing(what)) => row.skipped = Some(what),
            Err(error) => return Err(error),
        }
        rows.push(row);
    }
    let Inventory {
        directories,
        files,
        bytes,
    } = &scene.tree;
    Ok(Report {
        tree: scene.tree_path.display().to_string(),
        directories: directories.len() as u64,
        files: files.len() as u64,
        bytes: *bytes,
        scratch: scene.scratch.display().to_string(),
        kernel: caches::kernel_release(),
        clock_ns: clock(),
        rounds: options.rounds,
        read_ahead_ns,
        rows,
    })
}

/// Drops the caches.
type Empty<'a> = &'a mut dyn FnMut() -> Result<()>;

fn measure(
    workload: &mut dyn Workload,
    rounds: u32,
    mut empty: Option<Empty<'_>>,
    row: &mut Row,
) -> Result<()> {
    let mut once = |empty: Option<&mut Empty<'_>>| {
        workload.prepare()?;
        empty.map_or(Ok(()), |empty| empty())?;
        let start = Instant::now();
        let operations = workload.run();
        let time = start.elapsed();
        workload.clean()?;
        Ok::<_, Error>((time, operations?))
    };
    if empty.is_none() {
        once(None)?;
    }
    for _ in 0..rounds {
        if let Some(empty) = &mut empty {
            row.cold_ns.push(report::nanoseconds(once(Some(empty))?.0));
        }
        let (time, operations) = once(None)?;
        row.warm_ns.push(report::nanoseconds(time));
        row.operations = operations;
    }
    Ok(())
}

/// Returns the least time between two different readings of the clock, in nanoseconds.
fn clock() -> u64 {
    let tick = || {
        let start = Instant::now();
        loop {
            let passed = start.elapsed();
            if !passed.is_zero() {
                return report::nanoseconds(passed);
            }
        }
    };
    (0..5).map(|_| tick()).min().unwrap_or(0)
}
