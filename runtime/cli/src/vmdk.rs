//! `blockbox vmdk …`

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use blockbox::convert::Error;
use blockbox::stack;
use blockbox::store::Meter;
use blockbox_files::open_disk;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use vmdk::{ContentId, Disk, SparseOptions};

use super::outfile;
use super::output::{Format, print_json};
use super::progress::Shown;
use super::size::size;

/// Make and read VMDK disks.
#[derive(Debug, Subcommand)]
pub(super) enum Vmdk {
    /// Combine files into one disk
    Create(Create),
    /// Show a disk's descriptor
    Info(Info),
    /// Write the contents of a disk
    Read(ReadBytes),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The files, in the order of their bytes on the disk
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The disk to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The kind of disk
    #[arg(long, value_enum, default_value_t)]
    kind: Kind,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A descriptor that points at the files
    #[default]
    Flat,
    /// One file without blocks of zeros (monolithicSparse)
    Sparse,
    /// One file of compressed blocks, for transfer (streamOptimized)
    Stream,
}

#[derive(Debug, Args)]
pub(super) struct Info {
    /// The disk
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct ReadBytes {
    /// The disk
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to write them
    #[arg(short, long, default_value = "-", value_name = "FILE|-")]
    output: PathBuf,
    /// Where to begin, in bytes
    #[arg(long, default_value = "0", value_parser = size, value_name = "SIZE")]
    offset: u64,
    /// How many bytes [default: up to the disk's end]
    #[arg(long, value_parser = size, value_name = "SIZE")]
    length: Option<u64>,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Serialize)]
struct Report {
    create_type: String,
    bytes: u64,
    cid: String,
    extents: Vec<String>,
}

impl Vmdk {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.execute(),
            Self::Info(info) => info.execute(),
            Self::Read(read) => read.execute(),
        }
    }
}

impl Create {
    fn execute(self) -> anyhow::Result<()> {
        let mut bytes = 0;
        for path in &self.files {
            bytes += fs::metadata(path).map_err(Error::io(path))?.len();
        }
        let what = format!("making {}", self.output.display());
        // The contents of a stream are read twice.
        let total = if self.kind == Kind::Stream {
            2 * bytes
        } else {
            bytes
        };
        let work = self
            .shown
            .work(what, Some(total).filter(|total| *total > 0));
        let meter = work.meter();
        if self.kind == Kind::Flat {
            let cid = content_id(&self.files, &meter)?;
            stack::write_descriptor(&self.output, &self.files, cid)?;
            work.finish();
            return Ok(());
        }
        bytes = 0;
        let mut contents: Box<dyn Read> = Box::new(io::empty());
        for path in &self.files {
            let file = open_disk(path).map_err(Error::io(path))?;
            bytes += file.metadata().map_err(Error::io(path))?.len();
            let file = meter.measure(file);
            contents = Box::new(contents.chain(BufReader::with_capacity(1 << 20, file)));
        }
        let output = &self.output;
        let failed = |source| Error::Vmdk {
            path: output.clone(),
            source,
        };
        // A stream is written sequentially, beginning with the descriptor.
        let cid = (self.kind == Kind::Stream).then(|| content_id(&self.files, &meter));
        let options = SparseOptions::default().cid(cid.transpose()?);
        outfile::write(output, |file| {
            match self.kind {
                Kind::Stream => vmdk::write_stream_optimized(contents, bytes, file, &options),
                _ => vmdk::write_monolithic_sparse(contents, bytes, file, &options),
            }
            .map(drop)
            .map_err(failed)
        })?;
        work.finish();
        Ok(())
    }
}

impl Info {
    fn execute(self) -> anyhow::Result<()> {
        let disk = open(&self.file)?;
        let descriptor = disk.descriptor();
        let report = Report {
            create_type: descriptor.create_type().to_owned(),
            bytes: disk.size(),
            cid: format!("{:08x}", descriptor.cid()),
            extents: descriptor
                .extents()
                .iter()
                .map(ToString::to_string)
                .collect(),
        };
        match self.format {
            Format::Json => print_json(&report),
            Format::Table => {
                println!("type     {}", report.create_type);
                println!(
                    "size     {} bytes, {} sectors",
                    report.bytes,
                    report.bytes / vmdk::SECTOR
                );
                println!("CID      {}", report.cid);
                for extent in &report.extents {
                    println!("extent   {extent}");
                }
                Ok(())
            }
        }
    }
}

impl ReadBytes {
    fn execute(self) -> anyhow::Result<()> {
        let mut disk = open(&self.file)?;
        let rest = disk.size().saturating_sub(self.offset);
        let length = self.length.map_or(rest, |length| length.min(rest));
        disk.seek(SeekFrom::Start(self.offset))?;
        let what = format!("reading {}", self.file.display());
        let work = self.shown.work(what, Some(length));
        let disk = work.meter().measure(disk.take(length));
        let mut bytes = BufReader::with_capacity(1 << 20, disk);
        let context = || self.file.display().to_string();
        if self.output.as_os_str() == "-" {
            let mut out = io::stdout().lock();
            io::copy(&mut bytes, &mut out).with_context(context)?;
            out.flush()?;
        } else {
            outfile::write(&self.output, |file| -> anyhow::Result<()> {
                copy_sparse(&mut bytes, file.as_file()).with_context(context)
            })?;
        }
        work.finish();
        Ok(())
    }
}

/// Returns the content ID of a disk made of `files` in order. Holes are not read.
fn content_id(files: &[PathBuf], meter: &Meter) -> Result<u32, Error> {
    let mut id = ContentId::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        add_contents(&mut id, path, &mut buffer, meter).map_err(Error::io(path))?;
    }
    Ok(id.finish())
}

fn add_contents(
    id: &mut ContentId,
    path: &Path,
    buffer: &mut [u8],
    meter: &Meter,
) -> io::Result<()> {
    let mut file = open_disk(path)?;
    let size = file.metadata()?.len();
    let mut at = 0;
    while at < size {
        let (data, hole) = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => (
                data,
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data))?,
            ),
            // There is no data after this offset.
            Err(rustix::io::Errno::NXIO) => (size, size),
            // The file system does not report holes.
            Err(_) => (at, size),
        };
        let (data, hole) = (data.min(size), hole.min(size));
        id.zeros(data - at);
        meter.add(data - at);
        file.seek(SeekFrom::Start(data))?;
        let mut rest = (&file).take(hole - data);
        loop {
            match rest.read(buffer)? {
                0 => break,
                n => {
                    id.update(&buffer[..n]);
                    meter.add(n as u64);
                }
            }
        }
        at = hole;
    }
    Ok(())
}

/// Copies to a file, and leaves holes instead of zeros.
fn copy_sparse(from: &mut impl Read, mut to: &File) -> io::Result<()> {
    let mut block = [0; 64 << 10];
    let mut length = 0;
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match from.read(&mut block[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return to.set_len(length);
        }
        if block[..filled].iter().any(|&byte| byte != 0) {
            to.seek(SeekFrom::Start(length))?;
            to.write_all(&block[..filled])?;
        }
        length += filled as u64;
    }
}

fn open(path: &Path) -> anyhow::Result<Disk> {
    // Report a missing file by its own name, before looking for an extent in it.
    fs::metadata(path).map_err(Error::io(path))?;
    Ok(Disk::open(path).map_err(|source| Error::Vmdk {
        path: path.to_owned(),
        source,
    })?)
}
