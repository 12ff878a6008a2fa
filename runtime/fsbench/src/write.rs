//! Workloads that write.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::random::Random;
use crate::read::read_whole;
use crate::workload::{Scene, Workload};

/// A temporary folder to write in.
struct Folder(PathBuf);

impl Folder {
    fn in_(parent: &Path) -> Self {
        Self(parent.join(format!("blockbox-fsbench-{}", std::process::id())))
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.0).map_err(Error::io(&self.0))
    }

    fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.0).map_err(Error::io(&self.0))
    }

    fn file(&self, number: usize) -> PathBuf {
        self.0.join(format!("file-{number:04}"))
    }

    fn write(&self, number: usize, contents: &[u8]) -> Result<()> {
        let path = self.file(number);
        fs::write(&path, contents).map_err(Error::io(path))
    }
}

impl Drop for Folder {
    /// The folder still exists if a workload failed.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Creates files of one size.
pub(crate) struct Creates {
    folder: Folder,
    count: usize,
    contents: Vec<u8>,
}

impl Creates {
    pub(crate) fn new(scene: &Scene, count: usize, size: usize) -> Self {
        Self {
            folder: Folder::in_(&scene.scratch),
            count,
            contents: vec![b'x'; size],
        }
    }
}

impl Workload for Creates {
    fn prepare(&mut self) -> Result<()> {
        self.folder.make()
    }

    fn run(&mut self) -> Result<u64> {
        (0..self.count).try_for_each(|number| self.folder.write(number, &self.contents))?;
        Ok(self.count as u64)
    }

    fn clean(&mut self) -> Result<()> {
        self.folder.remove()
    }
}

/// Writes one large file, and syncs it.
pub(crate) struct Written {
    folder: Folder,
    piece: Vec<u8>,
}

impl Written {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: Folder::in_(folder),
            piece: vec![b'x'; 1 << 20],
        }
    }
}

impl Workload for Written {
    fn prepare(&mut self) -> Result<()> {
        self.folder.make()
    }

    fn run(&mut self) -> Result<u64> {
        let path = self.folder.file(0);
        let write = || {
            let mut file = File::create(&path)?;
            for _ in 0..16 {
                file.write_all(&self.piece)?;
            }
            file.sync_all()
        };
        write().map_err(Error::io(&path))?;
        Ok(1)
    }

    fn clean(&mut self) -> Result<()> {
        self.folder.remove()
    }
}

const FILES: usize = 1000;

/// Existing files.
struct Filled(Folder);

impl Filled {
    fn prepare(&self) -> Result<()> {
        self.0.make()?;
        (0..FILES).try_for_each(|number| self.0.write(number, b"x"))
    }
}

pub(crate) struct Deletes(Filled);

impl Deletes {
    pub(crate) fn new(scene: &Scene) -> Self {
        Self(Filled(Folder::in_(&scene.scratch)))
    }
}

impl Workload for Deletes {
    fn prepare(&mut self) -> Result<()> {
        self.0.prepare()
    }

    fn run(&mut self) -> Result<u64> {
        for number in 0..FILES {
            let path = self.0.0.file(number);
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
        Ok(FILES as u64)
    }

    fn clean(&mut self) -> Result<()> {
        self.0.0.remove()
    }
}

pub(crate) struct Renames(Filled);

impl Renames {
    pub(crate) fn new(scene: &Scene) -> Self {
        Self(Filled(Folder::in_(&scene.scratch)))
    }
}

impl Workload for Renames {
    fn prepare(&mut self) -> Result<()> {
        self.0.prepare()
    }

    fn run(&mut self) -> Result<u64> {
        for number in 0..FILES {
            let path = self.0.0.file(number);
            fs::rename(&path, path.with_extension("new")).map_err(Error::io(&path))?;
        }
        Ok(FILES as u64)
    }

    fn clean(&mut self) -> Result<()> {
        self.0.0.remove()
    }
}

/// Alternately reads and writes a file.
pub(crate) struct Mixed<'a> {
    folder: Folder,
    sources: Vec<&'a Path>,
    buffer: Vec<u8>,
}

impl<'a> Mixed<'a> {
    pub(crate) fn new(scene: &'a Scene) -> Self {
        let mut random = Random(3);
        let sources = (0..500).map(|_| random.of(&scene.tree.files).path.as_path());
        Self {
            folder: Folder::in_(&scene.scratch),
            sources: sources.collect(),
            buffer: vec![0; 128 << 10],
        }
    }
}

impl Workload for Mixed<'_> {
    fn prepare(&mut self) -> Result<()> {
        self.folder.make()
    }

    fn run(&mut self) -> Result<u64> {
        for (number, source) in self.sources.iter().enumerate() {
            read_whole(source, &mut self.buffer)?;
            self.folder.write(number, &[b'x'; 4096])?;
        }
        Ok(2 * self.sources.len() as u64)
    }

    fn clean(&mut self) -> Result<()> {
        self.folder.remove()
    }
}
