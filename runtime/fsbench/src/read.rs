//! Workloads that read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};

use crate::error::{Error, Result};
use crate::random::Random;
use crate::tree;
use crate::workload::{Scene, Workload};

/// How many bytes are read at a time.
const PIECE: usize = 128 << 10;

/// How many bytes of the largest file are read, at most.
const MOST: u64 = 64 << 20;

pub(crate) struct MetadataScan<'a>(pub(crate) &'a Scene);

impl Workload for MetadataScan<'_> {
    fn run(&mut self) -> Result<u64> {
        let mut seen = 0;
        tree::walk(&self.0.tree_path, &mut |path, entry, _| {
            entry.metadata().map_err(Error::io(path))?;
            seen += 1;
            Ok(())
        })?;
        Ok(seen)
    }
}

pub(crate) struct Traverse<'a>(pub(crate) &'a Scene);

impl Workload for Traverse<'_> {
    fn run(&mut self) -> Result<u64> {
        let mut seen = 0;
        tree::walk(&self.0.system, &mut |_, _, _| {
            seen += 1;
            Ok(())
        })?;
        Ok(seen)
    }
}

pub(crate) struct ReadAll<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) threads: usize,
}

impl Workload for ReadAll<'_> {
    fn run(&mut self) -> Result<u64> {
        let files = &self.scene.tree.files;
        let next = AtomicUsize::new(0);
        let work = || {
            let mut buffer = vec![0; PIECE];
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                read_whole(&file.path, &mut buffer)?;
            }
            Ok(())
        };
        on_threads(self.threads, work)?;
        Ok(files.len() as u64)
    }
}

/// Runs the same work on several threads at once.
pub(crate) fn on_threads(count: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    if count == 1 {
        return work();
    }
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })
}

/// Reads a file to its end.
pub(crate) fn read_whole(path: &Path, buffer: &mut [u8]) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    while file.read(buffer).map_err(Error::io(path))? > 0 {}
    Ok(())
}

/// Reads a page at a time, each from a new offset of some file.
pub(crate) struct RandomReads<'a>(Vec<(&'a Path, u64)>);

impl<'a> RandomReads<'a> {
    pub(crate) fn new(scene: &'a Scene) -> Self {
        let mut random = Random(1);
        let places = (0..1000).map(|_| {
            let file = random.of(&scene.tree.files);
            let page = random.below(file.size.div_ceil(4096));
            (file.path.as_path(), page * 4096)
        });
        Self(places.collect())
    }
}

impl Workload for RandomReads<'_> {
    fn run(&mut self) -> Result<u64> {
        let mut page = [0; 4096];
        for (path, offset) in &self.0 {
            let file = File::open(path).map_err(Error::io(path))?;
            file.read_at(&mut page, *offset).map_err(Error::io(path))?;
        }
        Ok(self.0.len() as u64)
    }
}

/// Reads the beginning of the largest file.
pub(crate) struct Largest {
    path: PathBuf,
    size: u64,
    mapped: bool,
    buffer: Vec<u8>,
}

impl Largest {
    pub(crate) fn sequential(scene: &Scene) -> Result<Self> {
        Self::new(scene, false)
    }

    pub(crate) fn mapped(scene: &Scene) -> Result<Self> {
        Self::new(scene, true)
    }

    fn new(scene: &Scene, mapped: bool) -> Result<Self> {
        let system = tree::Inventory::of(&scene.system)?;
        let largest = system.largest().or(scene.tree.largest());
        let largest = largest.ok_or_else(|| Error::NoTree(scene.system.clone()))?;
        Ok(Self {
            path: largest.path.clone(),
            size: largest.size.min(MOST),
            mapped,
            buffer: vec![0; PIECE],
        })
    }

    fn read_through_mapping(&mut self, file: File) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::io(&self.path)(std::io::Error::other(error.to_string()))
        };
        let size = usize::try_from(self.size).map_err(|error| failed(&error))?;
        let mapping = MmapRegion::<()>::build(
            Some(FileOffset::new(file, 0)),
            size,
            ProtFlags::READ.bits() as i32,
            MapFlags::PRIVATE.bits() as i32,
        )
        .map_err(|error| failed(&error))?;
        let memory = mapping.as_volatile_slice();
        for start in (0..size).step_by(PIECE) {
            let piece = PIECE.min(size - start);
            memory
                .read_slice(&mut self.buffer[..piece], start)
                .map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

impl Workload for Largest {
    fn run(&mut self) -> Result<u64> {
        let mut file = File::open(&self.path).map_err(Error::io(&self.path))?;
        if self.mapped {
            self.read_through_mapping(file)?;
            return Ok(1);
        }
        let mut left = self.size;
        while left > 0 {
            let n = file.read(&mut self.buffer).map_err(Error::io(&self.path))?;
            if n == 0 {
                break;
            }
            left = left.saturating_sub(n as u64);
        }
        Ok(1)
    }
}

/// Lists a directory.
pub(crate) fn list(folder: &Path) -> Result<u64> {
    let mut seen = 0;
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        entry.map_err(Error::io(folder))?;
        seen += 1;
    }
    Ok(seen)
}
