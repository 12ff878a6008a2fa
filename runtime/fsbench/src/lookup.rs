//! Workloads that look names up.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, iter};

use crate::error::{Error, Result};
use crate::random::Random;
use crate::read::{list, on_threads};
use crate::workload::{Scene, Workload};

/// How many names are looked up.
const LOOKUPS: usize = 10_000;

pub(crate) struct Readdir<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) threads: usize,
}

impl Workload for Readdir<'_> {
    fn run(&mut self) -> Result<u64> {
        let folders = &self.scene.tree.directories;
        let work = || folders.iter().try_for_each(|folder| list(folder).map(drop));
        on_threads(self.threads, work)?;
        Ok((folders.len() * self.threads) as u64)
    }
}

/// Reads the attributes of paths.
pub(crate) struct Stats {
    paths: Vec<PathBuf>,
    threads: usize,
}

impl Stats {
    pub(crate) fn misses(scene: &Scene, threads: usize) -> Self {
        Self {
            paths: missing(scene).take(LOOKUPS).collect(),
            threads,
        }
    }

    pub(crate) fn mixed(scene: &Scene) -> Self {
        let mut random = Random(2);
        let hits = iter::repeat_with(|| random.of(&scene.tree.files).path.clone());
        Self {
            paths: hits
                .zip(missing(scene))
                .flat_map(|(hit, miss)| [hit, miss])
                .take(LOOKUPS)
                .collect(),
            threads: 1,
        }
    }
}

/// Returns missing names in existing directories.
fn missing(scene: &Scene) -> impl Iterator<Item = PathBuf> {
    let folders = scene.tree.directories.iter().cycle();
    folders
        .enumerate()
        .map(|(number, folder)| folder.join(format!("no-such-module-{number}.py")))
}

impl Workload for Stats {
    fn run(&mut self) -> Result<u64> {
        let next = AtomicUsize::new(0);
        on_threads(self.threads, || {
            while let Some(path) = self.paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                match fs::symlink_metadata(path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(Error::io(path)(error));
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
        Ok(self.paths.len() as u64)
    }
}
