//! Extents: the lines of a descriptor that map the disk to files.

use std::fmt;

use crate::{Error, NameProblem, name};

/// What a guest may do with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Access {
    /// `RW`. QEMU drops every other extent without an error, so this is the one to write.
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

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadWrite => "RW",
            Self::ReadOnly => "RDONLY",
            Self::None => "NOACCESS",
        })
    }
}

/// The kind of an extent: where its bytes are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum ExtentKind {
    /// `FLAT`: the sectors of `file` from `offset_sectors` on.
    #[non_exhaustive]
    Flat {
        /// Relative to the descriptor's folder.
        file: String,
        /// In 512-byte sectors, by the specification and QEMU. Some readers count bytes: only 0 is
        /// portable.
        offset_sectors: u64,
    },
    /// `ZERO`: reads as zeros.
    Zero,
    /// `SPARSE`: a file with grain tables.
    #[non_exhaustive]
    Sparse {
        /// Relative to the descriptor's folder.
        file: String,
    },
    /// `VMFS`: a flat file of ESXi, from its beginning on.
    #[non_exhaustive]
    Vmfs {
        /// Relative to the descriptor's folder.
        file: String,
    },
    /// Another type that the format defines (`VMFSSPARSE`, `VMFSRDM`, `VMFSRAW`, `SESPARSE`), which
    /// is parsed so that it can be named but not read.
    #[non_exhaustive]
    Other {
        /// The type's name.
        name: String,
        /// The rest of the line.
        rest: String,
    },
}

/// A run of the disk's sectors: one line of the descriptor.
///
/// An extent cannot hold a name that ends its quotes or its line: constructors and the parser
/// refuse such names.
///
/// ```
/// use vmdk::{Access, Extent};
///
/// let extent = Extent::flat("data.img", 2048)?.with_access(Access::ReadOnly);
/// assert_eq!(extent.to_string(), r#"RDONLY 2048 FLAT "data.img" 0"#);
/// assert!(Extent::flat("a\" 0\nRW 1 FLAT \"b", 2048).is_err());
/// # Ok::<(), vmdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Extent {
    access: Access,
    sectors: u64,
    kind: ExtentKind,
    attributes: String,
}

impl Extent {
    /// Returns an extent of `sectors` 512-byte sectors that are the first of `file`.
    ///
    /// ```
    /// use vmdk::Extent;
    ///
    /// let extent = Extent::flat("data.img", 2048)?;
    /// assert_eq!((extent.file(), extent.sectors()), (Some("data.img"), 2048));
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Name`] for a name that is empty, absolute, over 511 bytes, or has quotes,
    /// backslashes or control characters. [`Error::EmptyExtent`] for 0 sectors.
    pub fn flat(file: impl Into<String>, sectors: u64) -> Result<Self, Error> {
        Self::flat_at(file, 0, sectors)
    }

    /// Returns an extent of `sectors` 512-byte sectors of `file` that begin at sector
    /// `offset_sectors` of it.
    ///
    /// ```
    /// use vmdk::Extent;
    ///
    /// // A partition of 64 MiB that begins 1 MiB into the file.
    /// let extent = Extent::flat_at("disk.raw", 2048, 131_072)?;
    /// assert_eq!(extent.sectors(), 131_072);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`flat`](Self::flat).
    pub fn flat_at(
        file: impl Into<String>,
        offset_sectors: u64,
        sectors: u64,
    ) -> Result<Self, Error> {
        let file = checked(file)?;
        Self::of(
            sectors,
            ExtentKind::Flat {
                file,
                offset_sectors,
            },
        )
    }

    /// Returns an extent of `sectors` 512-byte sectors in the grains of the sparse image `file`.
    ///
    /// ```
    /// use vmdk::{Descriptor, Extent, create_type};
    ///
    /// let extents = vec![Extent::sparse("disk-s001.vmdk", 8192)?];
    /// let descriptor = Descriptor::new("custom", extents)?;
    /// assert_eq!(descriptor.size(), 4 << 20);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`flat`](Self::flat).
    pub fn sparse(file: impl Into<String>, sectors: u64) -> Result<Self, Error> {
        let file = checked(file)?;
        Self::of(sectors, ExtentKind::Sparse { file })
    }

    /// Returns an extent of `sectors` 512-byte sectors of zeros.
    ///
    /// ```
    /// assert_eq!(vmdk::Extent::zero(8)?.sectors(), 8);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::EmptyExtent`] for 0 sectors.
    pub fn zero(sectors: u64) -> Result<Self, Error> {
        Self::of(sectors, ExtentKind::Zero)
    }

    /// Returns an extent from parsed fields. The parser has checked the names.
    pub(crate) fn parsed(
        access: Access,
        sectors: u64,
        kind: ExtentKind,
        attributes: String,
    ) -> Self {
        Self {
            access,
            sectors,
            kind,
            attributes,
        }
    }

    fn of(sectors: u64, kind: ExtentKind) -> Result<Self, Error> {
        if sectors == 0 {
            return Err(Error::EmptyExtent);
        }
        Ok(Self::parsed(
            Access::ReadWrite,
            sectors,
            kind,
            String::new(),
        ))
    }

    /// Returns the extent with another access than `RW`.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// What a guest may do with the extent.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The extent's length in 512-byte sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Where the extent's bytes are.
    pub fn kind(&self) -> &ExtentKind {
        &self.kind
    }

    /// The name of the file that the bytes are in, where the kind has one that can be read.
    pub fn file(&self) -> Option<&str> {
        match &self.kind {
            ExtentKind::Flat { file, .. }
            | ExtentKind::Sparse { file }
            | ExtentKind::Vmfs { file } => Some(file),
            ExtentKind::Zero | ExtentKind::Other { .. } => None,
        }
    }

    /// Returns the text after the fields that the format defines, such as
    /// `partitionUUID 6000c293-…`; empty where there is nothing.
    pub fn attributes(&self) -> &str {
        &self.attributes
    }
}

/// A file name that neither ends its quotes nor its line.
fn checked(file: impl Into<String>) -> Result<String, Error> {
    let file = file.into();
    name::relative(&file)?;
    // The parser reads `a/..` as it is written; a blank at an end would be kept too, but no tool
    // writes one.
    if file.trim() != file {
        let problem = NameProblem::Blank;
        return Err(Error::Name {
            name: file,
            problem,
        });
    }
    Ok(file)
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.access, self.sectors)?;
        match &self.kind {
            ExtentKind::Flat {
                file,
                offset_sectors,
            } => write!(f, "FLAT \"{file}\" {offset_sectors}")?,
            ExtentKind::Zero => f.write_str("ZERO")?,
            ExtentKind::Sparse { file } => write!(f, "SPARSE \"{file}\"")?,
            ExtentKind::Vmfs { file } => write!(f, "VMFS \"{file}\"")?,
            ExtentKind::Other { name, rest } if rest.is_empty() => f.write_str(name)?,
            ExtentKind::Other { name, rest } => write!(f, "{name} {rest}")?,
        }
        if !self.attributes.is_empty() {
            write!(f, " {}", self.attributes)?;
        }
        Ok(())
    }
}
