//! Commands that read an image.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use blockbox::convert::Error;
use clap::Args;
use erofs_reader::extract::{DirOptions, TarOptions, extract_to_dir, extract_to_tar};
use erofs_reader::{FileType, Inode};
use serde::Serialize;

use super::super::outfile;
use super::super::output::{Format, print_json, printable};
use super::super::progress::Shown;
use super::super::size::size;
use super::source::{Reader, Source};

/// An image and a path in it.
#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    source: Source,
    /// The path; symbolic links on the way are followed inside the image
    #[arg(default_value = "/", value_name = "PATH")]
    path: PathBuf,
}

impl Target {
    fn path(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }

    fn find(&self, image: &Reader) -> anyhow::Result<Inode> {
        image.metadata(self.path()).with_context(|| self.at_path())
    }

    fn image(&self) -> std::path::Display<'_> {
        self.source.image.display()
    }

    /// Returns the path and image for an error message.
    fn at_path(&self) -> String {
        format!("{}: {}", self.image(), printable(self.path()))
    }
}

/// List a directory.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    target: Target,
    /// Show type, mode, links, owner, group, size, time and a link's target
    #[arg(short)]
    long: bool,
    /// List directories below it too
    #[arg(short = 'R')]
    recursive: bool,
}

impl Ls {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let image = self.target.source.open()?;
        let start = self.target.find(&image)?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        if !start.is_dir() {
            return self.line(&image, &mut out, self.target.path(), &start);
        }
        let mut pending = vec![(self.target.path().to_vec(), start)];
        let mut first = true;
        while let Some((path, directory)) = pending.pop() {
            if self.recursive {
                let gap = if std::mem::take(&mut first) { "" } else { "\n" };
                writeln!(out, "{gap}{}:", printable(&path))?;
            }
            let mut below = Vec::new();
            let at = |path: &[u8]| format!("{}: {}", self.target.image(), printable(path));
            let entries = image.read_dir(&directory);
            for entry in entries.with_context(|| at(&path))? {
                let entry = entry.with_context(|| at(&path))?;
                let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
                let child = [&path, slash, &entry.name].concat();
                let inode = image.inode(entry.nid).with_context(|| at(&child))?;
                self.line(&image, &mut out, &entry.name, &inode)
                    .with_context(|| at(&child))?;
                if self.recursive && inode.is_dir() {
                    below.push((child, inode));
                    anyhow::ensure!(
                        path.len() < erofs_reader::MAX_DEPTH * 256,
                        "{}: too deep",
                        printable(&path)
                    );
                }
            }
            pending.extend(below.into_iter().rev());
        }
        Ok(out.flush()?)
    }

    fn line(
        &self,
        image: &Reader,
        out: &mut impl Write,
        name: &[u8],
        inode: &Inode,
    ) -> anyhow::Result<()> {
        if self.long {
            let size = match inode.file_type() {
                FileType::CharDevice | FileType::BlockDevice => {
                    let (major, minor) = inode.rdev().into();
                    format!("{major}, {minor}")
                }
                _ => inode.size().to_string(),
            };
            let (links, owner, group) = (inode.nlink(), inode.uid(), inode.gid());
            let (mode, time) = (mode(inode), time(inode));
            write!(
                out,
                "{mode} {links:3} {owner:5} {group:5} {size:>10} {time} "
            )?;
        }
        write!(out, "{}", printable(name))?;
        if self.long && inode.is_symlink() {
            write!(out, " -> {}", printable(&image.read_link(inode)?))?;
        }
        writeln!(out)?;
        Ok(())
    }
}

/// Print a file's contents.
#[derive(Debug, Args)]
pub(crate) struct Cat {
    #[command(flatten)]
    target: Target,
}

impl Cat {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let image = self.target.source.open()?;
        let inode = self.target.find(&image)?;
        let context = || self.target.at_path();
        let mut file = image.file(&inode).with_context(context)?;
        io::copy(&mut file, &mut io::stdout().lock()).with_context(context)?;
        Ok(())
    }
}

/// Show one inode.
#[derive(Debug, Args)]
pub(crate) struct Stat {
    #[command(flatten)]
    target: Target,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct StatReport {
    path: String,
    nid: u64,
    #[serde(rename = "type")]
    file_type: String,
    mode: String,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    layout: String,
    compact: bool,
    /// Full names, with escaped values.
    xattrs: Vec<(String, String)>,
    extents: Vec<String>,
}

impl Stat {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let image = self.target.source.open()?;
        // As lstat, this does not follow a symbolic link.
        let context = || self.target.at_path();
        let inode = image
            .symlink_metadata(self.target.path())
            .with_context(context)?;
        let device = matches!(
            inode.file_type(),
            FileType::CharDevice | FileType::BlockDevice
        );
        let target = inode
            .is_symlink()
            .then(|| image.read_link(&inode))
            .transpose()
            .with_context(context)?;
        let extents = if inode.is_file() {
            image.extents(&inode).with_context(context)?
        } else {
            Vec::new()
        };
        let report = StatReport {
            path: printable(self.target.path()),
            nid: inode.nid().get(),
            file_type: inode.file_type().to_string(),
            mode: format!("{:04o}", inode.mode()),
            uid: inode.uid(),
            gid: inode.gid(),
            nlink: inode.nlink(),
            size: inode.size(),
            mtime: time(&inode),
            rdev: device.then(|| inode.rdev().into()),
            target: target.map(|target| printable(&target)),
            layout: inode.layout().to_string(),
            compact: inode.is_compact(),
            xattrs: image
                .xattrs(&inode)
                .with_context(context)?
                .iter()
                .map(|(name, value)| (printable(name), printable(value)))
                .collect(),
            extents: extents
                .iter()
                .map(|e| format!("{}+{} {}", e.logical, e.length, e.source))
                .collect(),
        };
        match self.format {
            Format::Json => print_json(&report),
            Format::Table => {
                let mut text = String::new();
                writeln!(text, "path    {}", report.path)?;
                writeln!(text, "type    {}", report.file_type)?;
                writeln!(text, "mode    {}", report.mode)?;
                writeln!(text, "owner   {}:{}", report.uid, report.gid)?;
                writeln!(text, "links   {}", report.nlink)?;
                writeln!(text, "size    {}", report.size)?;
                writeln!(text, "mtime   {}", report.mtime)?;
                if let Some((major, minor)) = report.rdev {
                    writeln!(text, "device  {major}:{minor}")?;
                }
                if let Some(target) = &report.target {
                    writeln!(text, "target  {target}")?;
                }
                let form = if report.compact {
                    "compact"
                } else {
                    "extended"
                };
                writeln!(text, "inode   {} ({form}, {})", report.nid, report.layout)?;
                for (name, value) in &report.xattrs {
                    writeln!(text, "xattr   {name}={value}")?;
                }
                for extent in &report.extents {
                    writeln!(text, "extent  {extent}")?;
                }
                io::stdout().write_all(text.as_bytes())?;
                Ok(())
            }
        }
    }
}

fn mode(inode: &Inode) -> String {
    let bits = inode.mode();
    let mut text = String::from(inode.file_type().letter());
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let group = bits >> shift;
        text.push(if group & 4 != 0 { 'r' } else { '-' });
        text.push(if group & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & special != 0, group & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Seconds and nanoseconds since 1970, independent of time zones.
fn time(inode: &Inode) -> String {
    const BILLION: i128 = 1_000_000_000;
    let (secs, nanos) = inode.mtime().into();
    // Nanoseconds count forwards before 1970, too; decimal fractions do not.
    let total = i128::from(secs) * BILLION + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    format!(
        "{sign}{}.{:09}",
        total.abs() / BILLION,
        total.abs() % BILLION
    )
}

/// Extract an image into a folder or a tar.
#[derive(Debug, Args)]
pub(crate) struct Extract {
    #[command(flatten)]
    source: Source,
    /// The folder to create, which must be empty if it exists; a tar archive, if the name ends in
    /// `.tar`; or `-`, a tar on standard output
    #[arg(default_value = "-", value_name = "PATH")]
    to: PathBuf,
    /// Fail before more than this many bytes are written, holes included: a small image can
    /// describe files of any size
    #[arg(long, value_parser = size, value_name = "SIZE")]
    max_bytes: Option<u64>,
    /// Write holes into a tar as zeros, for programs that cannot read GNU tar's sparse entries
    #[arg(long)]
    no_sparse: bool,
    #[command(flatten)]
    shown: Shown,
}

impl Extract {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let what = format!("extracting {}", self.source.image.display());
        let work = self.shown.work(what, self.source.bytes());
        let image = self.source.open_metered(&work.meter())?;
        let to = &self.to;
        let context = || self.source.image.display().to_string();
        let options = TarOptions::default()
            .sparse(!self.no_sparse)
            .max_bytes(self.max_bytes);
        let extracted = if to.as_os_str() == "-" {
            let out = io::stdout();
            anyhow::ensure!(
                !out.is_terminal(),
                "standard output is a terminal: name a folder or a file"
            );
            extract_to_tar(&image, out.lock(), &options).with_context(context)?
        } else if fs::metadata(to).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            // A named pipe or a device, whose reader expects an archive.
            let file = fs::File::options().write(true).open(to);
            let file = file.map_err(Error::io(to))?;
            let mut out = io::BufWriter::with_capacity(1 << 20, file);
            let extracted = extract_to_tar(&image, &mut out, &options).with_context(context)?;
            out.flush().map_err(Error::io(to))?;
            extracted
        } else if to.extension().is_some_and(|e| e == "tar") {
            outfile::write(to, |file| {
                extract_to_tar(
                    &image,
                    io::BufWriter::with_capacity(1 << 20, file),
                    &options,
                )
                .with_context(context)
            })?
        } else {
            fs::create_dir_all(to).map_err(Error::io(to))?;
            let mut entries = fs::read_dir(to).map_err(Error::io(to))?;
            anyhow::ensure!(entries.next().is_none(), "{} is not empty", to.display());
            let options = if rustix::process::geteuid().is_root() {
                DirOptions::default()
            } else {
                DirOptions::unprivileged()
            };
            let options = options.max_bytes(self.max_bytes);
            extract_to_dir(&image, to, &options).with_context(context)?
        };
        work.finish();
        for path in &extracted.skipped {
            eprintln!("skipped: {}", printable(path));
        }
        for (path, names) in &extracted.refused_xattrs {
            for name in names {
                eprintln!("xattr refused: {} of {}", printable(name), printable(path));
            }
        }
        Ok(())
    }
}

/// Print everything in an image except file contents.
#[derive(Debug, Args)]
pub(crate) struct Dump {
    #[command(flatten)]
    source: Source,
    /// Print only what is at this path and below it
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
}

impl Dump {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let image = self.source.open()?;
        let out = io::BufWriter::new(io::stdout().lock());
        let context = || self.source.image.display().to_string();
        let Some(path) = &self.path else {
            return erofs_reader::dump(&image, out).with_context(context);
        };
        image
            .symlink_metadata(path.as_os_str().as_bytes())
            .with_context(context)?;
        let selected = Selected {
            below: Below::new(path),
            out,
            line: Vec::new(),
            shown: false,
        };
        erofs_reader::dump(&image, selected).with_context(context)
    }
}

/// A path of an image and all paths below it.
pub(super) struct Below(Vec<u8>);

impl Below {
    pub(super) fn new(path: &Path) -> Self {
        let names = path.as_os_str().as_bytes().split(|&byte| byte == b'/');
        Self(
            names
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>()
                .join(&b'/'),
        )
    }

    /// Returns whether `path`, which has no leading slash, is at or below it.
    pub(super) fn contains(&self, path: &[u8]) -> bool {
        match path.strip_prefix(&self.0[..]) {
            Some(rest) => self.0.is_empty() || rest.is_empty() || rest[0] == b'/',
            None => false,
        }
    }
}

/// Passes on the parts of a dump that describe some paths: a line that begins with one, and the
/// indented lines after it.
struct Selected<W> {
    below: Below,
    out: W,
    line: Vec<u8>,
    shown: bool,
}

impl<W: Write> Write for Selected<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                continue;
            }
            if let Some(entry) = self.line.strip_prefix(b"/") {
                // Blanks in names are not escaped, so the path ends at the last place where ` nid `
                // follows it.
                let end = entry
                    .windows(5)
                    .rposition(|w| w == b" nid ")
                    .unwrap_or(entry.len());
                let escaped = self.below.0.escape_ascii().to_string();
                self.shown = Below(escaped.into_bytes()).contains(&entry[..end]);
            } else if !self.line.starts_with(b" ") {
                self.shown = false;
            }
            if self.shown {
                self.out.write_all(&self.line)?;
            }
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
