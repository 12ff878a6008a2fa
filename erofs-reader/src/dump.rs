//! An image as text.

use std::fmt;
use std::io::Write;

use crate::error::Error;
use crate::file_type::FileType;
use crate::image::Image;
use crate::inode::Inode;
use crate::read_at::ReadAt;

/// Writes everything but the file contents as text: the superblock, the device table, and for each
/// name of the tree its inode, xattrs and extents. A changed byte of metadata is a changed line.
/// The format is for people and tests, and may change with each version.
///
/// A damaged part of the tree is reported in its place, and the dump continues.
///
/// ```no_run
/// use erofs_reader::{Buffered, Image};
///
/// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
/// erofs_reader::dump(&image, &mut std::io::stdout())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::Output`] where `out` fails.
pub fn dump<R: ReadAt, W: Write>(image: &Image<R>, mut out: W) -> Result<(), Error> {
    write_superblock(image, &mut out).map_err(|source| output(&[], source))?;
    for step in image.walk() {
        let written =
            match step {
                Ok((path, inode)) => write_inode(image, &path, &inode, &mut out)
                    .map_err(|source| output(&path, source)),
                Err(e) => writeln!(out, "error: {}", with_causes(&e))
                    .map_err(|source| output(&[], source)),
            };
        written?;
    }
    out.flush().map_err(|source| output(&[], source))
}

fn output(path: &[u8], source: std::io::Error) -> Error {
    Error::Output {
        path: path.into(),
        source,
    }
}

fn write_superblock<R: ReadAt>(image: &Image<R>, out: &mut impl Write) -> std::io::Result<()> {
    let sb = image.superblock();
    writeln!(out, "superblock")?;
    writeln!(out, "  block size: {}", sb.block_size.bytes())?;
    writeln!(out, "  blocks: {}", sb.blocks)?;
    writeln!(out, "  inodes: {}", sb.inodes)?;
    writeln!(out, "  root nid: {}", sb.root_nid)?;
    writeln!(out, "  metadata block: {}", sb.meta_block)?;
    writeln!(out, "  xattr block: {}", sb.xattr_block)?;
    writeln!(out, "  epoch: {}.{:09}", sb.epoch, sb.fixed_nsec)?;
    writeln!(out, "  build time: epoch + {}", sb.build_time)?;
    writeln!(out, "  uuid: {}", Uuid(sb.uuid))?;
    writeln!(out, "  label: \"{}\"", sb.label.escape_ascii())?;
    let features: Vec<_> = sb.feature_names().collect();
    writeln!(out, "  features: {}", features.join(" "))?;
    match sb.checksum {
        Some(checksum) => writeln!(out, "  checksum: {checksum:#010x}")?,
        None => writeln!(out, "  checksum: none")?,
    }
    if let Some(nid) = sb.packed_nid {
        writeln!(out, "  packed nid: {nid}")?;
    }
    if let Some(nid) = sb.metabox_nid {
        writeln!(out, "  metabox nid: {nid}")?;
    }
    for (number, device) in (1_u32..).zip(&sb.devices) {
        let tag = device.tag.escape_ascii();
        writeln!(
            out,
            "device {number}: {} blocks at {}, tag \"{tag}\"",
            device.blocks, device.uniaddr
        )?;
    }
    Ok(())
}

struct Uuid([u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

fn write_inode<R: ReadAt>(
    image: &Image<R>,
    path: &[u8],
    inode: &Inode,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mtime = inode.mtime();
    write!(
        out,
        "/{} nid {} {}{:04o} {}:{} links {} size {} mtime {}.{:09} {}",
        path.escape_ascii(),
        inode.nid(),
        inode.file_type().letter(),
        inode.mode(),
        inode.uid(),
        inode.gid(),
        inode.nlink(),
        inode.size(),
        mtime.secs,
        mtime.nanos,
        if inode.is_compact() {
            "compact"
        } else {
            "extended"
        },
    )?;
    match inode.file_type() {
        FileType::CharDevice | FileType::BlockDevice => {
            writeln!(out, " device {}", inode.rdev())?;
        }
        FileType::Fifo | FileType::Socket => writeln!(out)?,
        FileType::Regular | FileType::Directory | FileType::Symlink => {
            writeln!(out, " {}", inode.layout())?;
        }
    }
    if inode.is_symlink() {
        match image.read_link(inode) {
            Ok(target) => writeln!(out, "  -> {}", target.escape_ascii())?,
            Err(e) => writeln!(out, "  error: {}", with_causes(&e))?,
        }
    }
    match image.xattrs(inode) {
        Ok(xattrs) => {
            for (name, value) in xattrs {
                writeln!(
                    out,
                    "  xattr {} = \"{}\"",
                    name.escape_ascii(),
                    value.escape_ascii()
                )?;
            }
        }
        Err(e) => writeln!(out, "  error: {}", with_causes(&e))?,
    }
    match image.extents(inode) {
        Ok(extents) => {
            for extent in extents {
                let (logical, end) = (extent.logical, extent.end());
                writeln!(out, "  {logical}..{end} {}", extent.source)?;
            }
        }
        Err(e) => writeln!(out, "  error: {}", with_causes(&e))?,
    }
    Ok(())
}

/// An error and its causes in one line.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
