use std::collections::BTreeMap;
use std::fmt;

use crate::{Error, Extent, SECTOR, name};

/// The `parentCID` of a disk without a parent (`CID_NOPARENT` in VMware's *Virtual Disk Format
/// 5.0*).
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

/// A descriptor: the text that says which files make up a disk.
///
/// [`parse`](Self::parse) reads one, [`Display`](fmt::Display) writes it. Equal descriptors give
/// equal text, and no text in one can end its line or its quotes: a name or a value cannot become
/// another extent.
///
/// ```
/// use vmdk::{Descriptor, Extent};
///
/// let extents = vec![Extent::flat("data.img", 2048)?, Extent::zero(2048)?];
/// let descriptor = Descriptor::new("custom", extents)?.with_cid(0x1234_5678);
/// assert_eq!(Descriptor::parse(descriptor.to_string().as_bytes())?, descriptor);
/// assert_eq!(descriptor.size(), 2 << 20);
/// # Ok::<(), vmdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Descriptor {
    pub(crate) version: u32,
    pub(crate) cid: u32,
    pub(crate) parent_cid: u32,
    pub(crate) create_type: String,
    pub(crate) parent_hint: Option<String>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) ddb: BTreeMap<String, String>,
    /// Keys that the format defines without a meaning here, and unknown ones.
    pub(crate) other: BTreeMap<String, String>,
}

impl Descriptor {
    /// Returns the disk that is `extents` one after the other.
    ///
    /// `create_type` is one of [`create_type`], or `custom`. The `CID` is a hash of what the
    /// extents say; see [`with_cid`](Self::with_cid). The disk data base has the usual geometry and
    /// adapter.
    ///
    /// ```
    /// use vmdk::{Descriptor, Extent};
    ///
    /// let extents = vec![Extent::flat("data.img", 2048)?, Extent::zero(2048)?];
    /// let descriptor = Descriptor::new("custom", extents)?;
    /// assert_eq!(descriptor.size(), 2 << 20);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for a `create_type` with quotes or control characters,
    /// [`Error::NoExtents`], [`Error::Overflow`], and [`Error::TooLong`] for more extents than a
    /// descriptor can hold.
    pub fn new(create_type: impl Into<String>, extents: Vec<Extent>) -> Result<Self, Error> {
        let create_type = create_type.into();
        name::value("createType", &create_type)?;
        let sectors = sum(&extents)?;
        let mut descriptor = Self {
            version: 1,
            cid: content_id(&extents),
            parent_cid: NO_PARENT,
            create_type,
            parent_hint: None,
            extents,
            ddb: BTreeMap::new(),
            other: BTreeMap::new(),
        };
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
        let bytes = descriptor.to_string().len() as u64;
        if bytes > crate::MAX_DESCRIPTOR {
            return Err(Error::TooLong { bytes });
        }
        Ok(descriptor)
    }

    /// Returns the disk that is `files` one after the other, each a name relative to the
    /// descriptor's folder and a size in bytes.
    ///
    /// It keeps to what QEMU, libkrun and Cloud Hypervisor all read: one `RW … FLAT "…" 0` line per
    /// file, whatever its size, and no key that one of them refuses. The `CID` is a hash of the
    /// names and sizes, since no file is read; where contents may change under one name, use
    /// [`with_cid`](Self::with_cid) with what changes with them, such as their
    /// [`ContentId`](crate::ContentId).
    ///
    /// ```
    /// let descriptor = vmdk::Descriptor::flat(&[("meta.img", 1024), ("data.img", 512)])?;
    /// assert_eq!(descriptor.extents()[1].to_string(), r#"RW 1 FLAT "data.img" 0"#);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Name`] for a name that is absolute, over 511 bytes, not ASCII, or has blanks,
    /// colons, quotes, backslashes or control characters; `..` is allowed here, since who writes a
    /// descriptor knows where its files are. [`Error::Unaligned`] for a size that is 0 or not a
    /// multiple of 512. [`Error::NoExtents`], [`Error::Overflow`], and [`Error::TooLong`] for more
    /// files than a descriptor can name.
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
            extents.push(Extent::flat(file, bytes / SECTOR)?);
        }
        let create_type = match extents.len() {
            1 => create_type::MONOLITHIC_FLAT,
            _ => create_type::TWO_GB_MAX_EXTENT_FLAT,
        };
        Self::new(create_type, extents)
    }

    /// Returns the descriptor with another `CID`.
    ///
    /// ```
    /// let disk = vmdk::Descriptor::flat(&[("disk.raw", 2048)])?.with_cid(0x1234_5678);
    /// assert!(disk.to_string().contains("CID=12345678"));
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    #[must_use]
    pub fn with_cid(mut self, cid: u32) -> Self {
        self.cid = cid;
        self
    }

    /// Returns the descriptor with an entry of the disk data base set: `key` without `ddb.`, and
    /// its value.
    ///
    /// ```
    /// use vmdk::Descriptor;
    ///
    /// let disk = Descriptor::flat(&[("disk.raw", 2048)])?.with_ddb("adapterType", "lsilogic")?;
    /// assert_eq!(disk.ddb()["adapterType"], "lsilogic");
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for a key or a value that could not be read back.
    pub fn with_ddb(
        mut self,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, Error> {
        let (key, value) = (key.into(), value.into());
        name::key(&key)?;
        name::value(&key, &value)?;
        self.ddb.insert(key, value);
        Ok(self)
    }

    /// `version`, 1 to 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// `CID`: changes whenever the contents do, so that a child disk notices.
    pub fn cid(&self) -> u32 {
        self.cid
    }

    /// `parentCID`: the `CID` the parent had, or [`NO_PARENT`].
    pub fn parent_cid(&self) -> u32 {
        self.parent_cid
    }

    /// `createType`; see [`create_type`].
    pub fn create_type(&self) -> &str {
        &self.create_type
    }

    /// `parentFileNameHint`: where a differential disk's parent may be.
    pub fn parent_hint(&self) -> Option<&str> {
        self.parent_hint.as_deref()
    }

    /// The extents in the order of the disk: at least one.
    ///
    /// ```
    /// let disk = vmdk::Descriptor::flat(&[("a.img", 512), ("b.img", 1024)])?;
    /// let names: Vec<_> = disk.extents().iter().filter_map(vmdk::Extent::file).collect();
    /// assert_eq!(names, ["a.img", "b.img"]);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The disk data base: what follows `ddb.` in a key, and its value without quotes.
    pub fn ddb(&self) -> &BTreeMap<String, String> {
        &self.ddb
    }

    /// The other keys of a parsed descriptor, which mean nothing for its bytes (`isNativeSnapshot`,
    /// `changeTrackPath`, unknown ones), and their values without quotes.
    pub fn other_keys(&self) -> &BTreeMap<String, String> {
        &self.other
    }

    /// The disk's length in 512-byte sectors.
    pub fn sectors(&self) -> u64 {
        // `new` and `parse` checked the sum.
        self.extents
            .iter()
            .fold(0, |sum, extent| sum + extent.sectors())
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.sectors() * SECTOR
    }

    fn is_ascii(&self) -> bool {
        let maps = [&self.ddb, &self.other];
        let pairs = maps.into_iter().flatten();
        pairs
            .flat_map(|(key, value)| [key, value])
            .all(|text| text.is_ascii())
            && self.create_type.is_ascii()
            && self.parent_hint.as_ref().is_none_or(|hint| hint.is_ascii())
            && self
                .extents
                .iter()
                .all(|extent| extent.to_string().is_ascii())
    }
}

/// The sectors of all extents together.
pub(crate) fn sum(extents: &[Extent]) -> Result<u64, Error> {
    if extents.is_empty() {
        return Err(Error::NoExtents);
    }
    extents
        .iter()
        .try_fold(0_u64, |sum, extent| sum.checked_add(extent.sectors()))
        .filter(|&sum| sum <= i64::MAX as u64 / SECTOR)
        .ok_or(Error::Overflow)
}

/// FNV-1a of what the extents say, kept off the two values that mean "no parent" and "not set".
fn content_id(extents: &[Extent]) -> u32 {
    let text: String = extents.iter().map(|extent| format!("{extent}\n")).collect();
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.min(u32::MAX - 2)
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Disk DescriptorFile")?;
        writeln!(f, "version={}", self.version)?;
        if !self.is_ascii() {
            writeln!(f, "encoding=\"UTF-8\"")?;
        }
        writeln!(f, "CID={:08x}", self.cid)?;
        writeln!(f, "parentCID={:08x}", self.parent_cid)?;
        writeln!(f, "createType=\"{}\"", self.create_type)?;
        if let Some(hint) = &self.parent_hint {
            writeln!(f, "parentFileNameHint=\"{hint}\"")?;
        }
        for (key, value) in &self.other {
            writeln!(f, "{key}=\"{value}\"")?;
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
