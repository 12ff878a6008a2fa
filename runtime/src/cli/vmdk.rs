//! `blockbox vmdk …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::error::Error;
use crate::stack;

/// Make and read VMDK disks.
#[derive(Debug, Subcommand)]
pub(super) enum Vmdk {
    /// Stitch files into one disk
    Create(Create),
    /// Show a disk's descriptor
    Info(Info),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The files, in the order of their bytes on the disk
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The descriptor to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Info {
    /// The descriptor
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Vmdk {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => Ok(stack::write_descriptor(&create.output, &create.files)?),
            Self::Info(info) => info.execute(),
        }
    }
}

impl Info {
    fn execute(self) -> anyhow::Result<()> {
        let disk = vmdk::Disk::open(&self.file).map_err(|source| Error::Vmdk {
            path: self.file.clone(),
            source,
        })?;
        let descriptor = disk.descriptor();
        println!("type     {}", descriptor.create_type);
        println!(
            "size     {} bytes, {} sectors",
            disk.size(),
            disk.size() / vmdk::SECTOR
        );
        println!("CID      {:08x}", descriptor.cid);
        for extent in &descriptor.extents {
            println!("extent   {extent}");
        }
        Ok(())
    }
}
