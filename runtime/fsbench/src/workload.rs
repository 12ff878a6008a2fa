//! The workloads by name.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tree::{self, Inventory};
use crate::{Options, lookup, read, write};

/// A group of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Scans, reads and writes.
    Files,
    /// Lookups of existing and of missing names.
    Lookup,
}

/// A description of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name, by which it can be chosen.
    pub name: &'static str,
    /// The suite it belongs to.
    pub suite: Suite,
    /// A description in one line.
    pub what: &'static str,
}

/// A workload. Only [`run`](Self::run) is measured.
pub(crate) trait Workload {
    /// Creates what `run` needs.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does the work; returns the number of operations.
    fn run(&mut self) -> Result<u64>;

    /// Removes what `prepare` and `run` created.
    fn clean(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The folders that workloads use.
pub(crate) struct Scene {
    /// A folder with files of the system.
    pub(crate) system: PathBuf,
    pub(crate) tree_path: PathBuf,
    pub(crate) tree: Inventory,
    /// A folder to write in.
    pub(crate) scratch: PathBuf,
    /// A folder in memory to write in, if there is one.
    pub(crate) memory: Option<PathBuf>,
}

impl Scene {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let root = &options.root;
        let tree_path = match &options.tree {
            Some(tree) => tree.clone(),
            None => tree::library(root),
        };
        let tree = Inventory::of(&tree_path)?;
        if tree.files.is_empty() {
            return Err(Error::NoTree(tree_path));
        }
        let usr = root.join("usr");
        let memory = PathBuf::from("/dev/shm");
        Ok(Self {
            system: if usr.is_dir() { usr } else { root.clone() },
            tree_path,
            tree,
            scratch: options.scratch.clone().unwrap_or_else(|| root.join("tmp")),
            memory: memory.is_dir().then_some(memory),
        })
    }
}

/// Makes a workload for a scene.
pub(crate) type Make = for<'a> fn(&'a Scene) -> Result<Box<dyn Workload + 'a>>;

use Suite::{Files, Lookup};

const WORKLOADS: &[(&str, Suite, &str, Make)] = &[
    (
        "metadata-scan",
        Files,
        "list the tree and stat everything in it",
        |scene| Ok(Box::new(read::MetadataScan(scene))),
    ),
    ("read-all", Files, "read every file of the tree", |scene| {
        Ok(Box::new(read::ReadAll { scene, threads: 1 }))
    }),
    ("traverse", Files, "list everything below /usr", |scene| {
        Ok(Box::new(read::Traverse(scene)))
    }),
    (
        "random-reads",
        Files,
        "1,000 reads of 4 KiB from anywhere in the tree",
        |scene| Ok(Box::new(read::RandomReads::new(scene))),
    ),
    (
        "small-creates",
        Files,
        "create 1,000 files of 1 KiB",
        |scene| Ok(Box::new(write::Creates::new(scene, 1000, 1 << 10))),
    ),
    (
        "mid-creates",
        Files,
        "create 100 files of 64 KiB",
        |scene| Ok(Box::new(write::Creates::new(scene, 100, 64 << 10))),
    ),
    (
        "write-tmp",
        Files,
        "write 16 MiB in /tmp, and fsync",
        |scene| Ok(Box::new(write::Written::new(&scene.scratch))),
    ),
    (
        "write-shm",
        Files,
        "write 16 MiB in /dev/shm, and fsync",
        |scene| {
            let folder = scene.memory.as_ref();
            let folder = folder.ok_or_else(|| Error::Missing("/dev/shm".to_owned()))?;
            Ok(Box::new(write::Written::new(folder)))
        },
    ),
    (
        "sequential-read",
        Files,
        "read the largest file, at most 64 MiB",
        |scene| Ok(Box::new(read::Largest::sequential(scene)?)),
    ),
    ("mmap-read", Files, "the same through a mapping", |scene| {
        Ok(Box::new(read::Largest::mapped(scene)?))
    }),
    ("deletes", Files, "delete 1,000 files", |scene| {
        Ok(Box::new(write::Deletes::new(scene)))
    }),
    ("renames", Files, "rename 1,000 files", |scene| {
        Ok(Box::new(write::Renames::new(scene)))
    }),
    (
        "mixed",
        Files,
        "500 times read a file of the tree and write one of 4 KiB",
        |scene| Ok(Box::new(write::Mixed::new(scene))),
    ),
    (
        "read-all-4",
        Files,
        "read every file of the tree with 4 threads",
        |scene| Ok(Box::new(read::ReadAll { scene, threads: 4 })),
    ),
    (
        "readdir",
        Lookup,
        "list every directory of the tree",
        |scene| Ok(Box::new(lookup::Readdir { scene, threads: 1 })),
    ),
    (
        "misses",
        Lookup,
        "10,000 lookups of names that are not there",
        |scene| Ok(Box::new(lookup::Stats::misses(scene, 1))),
    ),
    (
        "hits-misses",
        Lookup,
        "10,000 lookups, every other of them of a file",
        |scene| Ok(Box::new(lookup::Stats::mixed(scene))),
    ),
    (
        "misses-4",
        Lookup,
        "10,000 lookups of missing names with 4 threads",
        |scene| Ok(Box::new(lookup::Stats::misses(scene, 4))),
    ),
    (
        "readdir-4",
        Lookup,
        "4 threads each list every directory of the tree",
        |scene| Ok(Box::new(lookup::Readdir { scene, threads: 4 })),
    ),
];

/// Returns all workloads, in the order in which they run.
pub fn workloads() -> impl Iterator<Item = Description> {
    WORKLOADS
        .iter()
        .map(|&(name, suite, what, _)| Description { name, suite, what })
}

/// Returns the workloads with these names, or all.
pub(crate) fn chosen(only: &[String]) -> Result<Vec<(Description, Make)>> {
    if let Some(unknown) = only
        .iter()
        .find(|name| workloads().all(|known| known.name != **name))
    {
        return Err(Error::UnknownWorkload(unknown.clone()));
    }
    let all = workloads().zip(WORKLOADS.iter().map(|&(.., make)| make));
    Ok(all
        .filter(|(known, _)| only.is_empty() || only.iter().any(|name| name == known.name))
        .collect())
}
