use std::collections::BTreeMap;
use std::fmt;

use crate::{Error, SECTOR, name};

/// The `parentCID` of a disk without a parent (`CID_NOPARENT` in VMware's *Virtual Disk Format 5.0*).
pub const NO_PARENT: u32 = u32::MAX;

/// The values of `createType` that this crate writes.
pub mod create_type {
    /// One flat file.
    pub const MONOLITHIC_FLAT: &str = "monolithicFlat";
    /// Several flat files. The readers we know put no limit on their size, whatever the name says.
    pub const TWO_GB_MAX_EXTENT_FLAT: &str = "twoGbMaxExtentFlat";
    /// One file with grain tables, the descriptor embedded.
    pub const MONOLITHIC_SPARSE: &str = "monolithicSparse";
    /// One file of compressed grains, made to be written and read front to back.
    pub const STREAM_OPTIMIZED: &str = "streamOptimized";
}

/// What a guest may do with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `RW`. QEMU drops every other extent without a word, so this is the one to write.
    ReadWrite,
    /// `RDONLY`.
    ReadOnly,
    /// `NOACCESS`: neither reading nor writing.
    None,
}

impl Access {
    pub(crate) const NAMES: [(&str, Self); 3] = [
        ("RW", Self::ReadWrite),
        ("RDONLY", Self::ReadOnly),
        ("NOACCESS", Self::None),
    ];
}

/// Where an extent's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentKind {
    /// `FLAT`: the sectors of `file` from `offset_sectors` on.
    Flat {
        /// Relative to the descriptor's folder.
        file: String,
        /// In 512-byte sectors, by the specification and QEMU. Some readers count bytes: only 0 is portable.
        offset_sectors: u64,
    },
    /// `ZERO`: reads as zeros.
    Zero,
    /// `SPARSE`: a file with grain tables.
    Sparse {
        /// Relative to the descriptor's folder.
        file: String,
    },
    /// Another type that the format defines (`VMFS`, `VMFSSPARSE`, `VMFSRDM`, `VMFSRAW`, `SESPARSE`), which is parsed
    /// so that it can be named but not read.
    Other {
        /// The type's name.
        name: String,
        /// The rest of the line.
        rest: String,
    },
}

/// A run of the disk's sectors: one line of the descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What a guest may do with it.
    pub access: Access,
    /// Its length in 512-byte sectors.
    pub sectors: u64,
    /// Where its bytes are.
    pub kind: ExtentKind,
}

/// A descriptor: the text that says which files make up a disk.
///
/// [`parse`](Self::parse) reads one, [`Display`](fmt::Display) writes it. Equal descriptors give equal text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// `version`, 1 to 3.
    pub version: u32,
    /// `CID`: changes whenever the contents do, so that a child disk notices.
    pub cid: u32,
    /// `parentCID`: the `CID` the parent had, or [`NO_PARENT`].
    pub parent_cid: u32,
    /// `createType`; see [`create_type`].
    pub create_type: String,
    /// `parentFileNameHint`: where a differential disk's parent may be.
    pub parent_hint: Option<String>,
    /// The extents in the order of the disk.
    pub extents: Vec<Extent>,
    /// The disk data base: what follows `ddb.` in a key, and its value without quotes.
    pub ddb: BTreeMap<String, String>,
}

impl Descriptor {
    /// The disk that is `files` one after the other, each a name relative to the descriptor's folder and a size in bytes.
    ///
    /// It keeps to what QEMU, libkrun and Cloud Hypervisor all read: one `RW … FLAT "…" 0` line per file, whatever its
    /// size, and no key that one of them refuses. The `CID` is a hash of the names and sizes, since no file is read; where
    /// contents may change under one name, set [`cid`](Self::cid) to what changes with them, such as their
    /// [`ContentId`](crate::ContentId).
    ///
    /// # Errors
    ///
    /// [`Error::Name`] for a name that is absolute, over 511 bytes, not ASCII, or has blanks, colons, quotes, backslashes
    /// or control characters; `..` is allowed here, since who writes a descriptor knows where its files are.
    /// [`Error::Unaligned`] for a size that is 0 or no multiple of 512. [`Error::NoExtents`], [`Error::Overflow`], and
    /// [`Error::TooLong`] for more files than a descriptor can name.
    pub fn flat(files: &[(impl AsRef<str>, u64)]) -> Result<Self, Error> {
        let mut extents = Vec::with_capacity(files.len());
        for (file, bytes) in files {
            let (file, bytes) = (file.as_ref(), *bytes);
            name::portable(file)?;
            if bytes == 0 || bytes % SECTOR != 0 {
                return Err(Error::Unaligned {
                    name: file.to_owned(),
                    bytes,
                });
            }
            extents.push(Extent {
                access: Access::ReadWrite,
                sectors: bytes / SECTOR,
                kind: ExtentKind::Flat {
                    file: file.to_owned(),
                    offset_sectors: 0,
                },
            });
        }
        let create_type = match extents.len() {
            1 => create_type::MONOLITHIC_FLAT,
            _ => create_type::TWO_GB_MAX_EXTENT_FLAT,
        };
        let descriptor = Self::over(create_type, extents)?;
        let bytes = descriptor.to_string().len() as u64;
        if bytes > crate::MAX_DESCRIPTOR {
            return Err(Error::TooLong { bytes });
        }
        Ok(descriptor)
    }

    /// A disk over `extents`, with its `CID` and the usual data base.
    pub(crate) fn over(create_type: &str, extents: Vec<Extent>) -> Result<Self, Error> {
        let mut descriptor = Self {
            version: 1,
            cid: 0,
            parent_cid: NO_PARENT,
            create_type: create_type.to_owned(),
            parent_hint: None,
            extents,
            ddb: BTreeMap::new(),
        };
        let sectors = descriptor.sectors()?;
        descriptor.cid = content_id(&descriptor.extents);
        // The geometry of an IDE disk, which QEMU writes too; ATA ends at 16383 cylinders.
        let (heads, per_track) = (16, 63);
        let cylinders = (sectors / (heads * per_track)).clamp(1, 16383);
        for (key, value) in [
            ("virtualHWVersion", "4".to_owned()),
            ("geometry.cylinders", cylinders.to_string()),
            ("geometry.heads", heads.to_string()),
            ("geometry.sectors", per_track.to_string()),
            ("adapterType", "ide".to_owned()),
        ] {
            descriptor.ddb.insert(key.to_owned(), value);
        }
        Ok(descriptor)
    }

    /// The disk's length in 512-byte sectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoExtents`], and [`Error::Overflow`] where the length in bytes exceeds a signed 64-bit number.
    pub fn sectors(&self) -> Result<u64, Error> {
        if self.extents.is_empty() {
            return Err(Error::NoExtents);
        }
        self.extents
            .iter()
            .try_fold(0_u64, |sum, extent| sum.checked_add(extent.sectors))
            .filter(|&sum| sum <= i64::MAX as u64 / SECTOR)
            .ok_or(Error::Overflow)
    }
}

/// FNV-1a of what the extents say, kept off the two values that mean "no parent" and "not set".
fn content_id(extents: &[Extent]) -> u32 {
    let text: String = extents.iter().map(|extent| format!("{extent}\n")).collect();
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.min(u32::MAX - 2)
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = Self::NAMES[*self as usize];
        f.write_str(name)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.access, self.sectors)?;
        match &self.kind {
            ExtentKind::Flat {
                file,
                offset_sectors,
            } => write!(f, "FLAT \"{file}\" {offset_sectors}"),
            ExtentKind::Zero => f.write_str("ZERO"),
            ExtentKind::Sparse { file } => write!(f, "SPARSE \"{file}\""),
            ExtentKind::Other { name, rest } if rest.is_empty() => f.write_str(name),
            ExtentKind::Other { name, rest } => write!(f, "{name} {rest}"),
        }
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Disk DescriptorFile")?;
        writeln!(f, "version={}", self.version)?;
        writeln!(f, "CID={:08x}", self.cid)?;
        writeln!(f, "parentCID={:08x}", self.parent_cid)?;
        writeln!(f, "createType=\"{}\"", self.create_type)?;
        if let Some(hint) = &self.parent_hint {
            writeln!(f, "parentFileNameHint=\"{hint}\"")?;
        }
        // Cloud Hypervisor finds the sections by these comments.
        writeln!(f, "\n# Extent description")?;
        for extent in &self.extents {
            writeln!(f, "{extent}")?;
        }
        writeln!(f, "\n# The Disk Data Base\n#DDB\n")?;
        for (key, value) in &self.ddb {
            writeln!(f, "ddb.{key} = \"{value}\"")?;
        }
        Ok(())
    }
}
