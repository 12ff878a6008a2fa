//! The open image. Other modules add methods for directories, paths, extended attributes and
//! checks.

use alloc::vec::Vec;

use crate::areas::Areas;
use crate::corruption::Detail;
use crate::data::Data;
use crate::error::Error;
use crate::extent::Extent;
use crate::file_type::FileType;
use crate::inode::Inode;
use crate::mapper::Mapper;
use crate::nid::Nid;
use crate::read_at::ReadAt;
use crate::storage::Storage;
use crate::superblock::Superblock;
use crate::xattr::prefix::Prefixes;

/// An EROFS image.
///
/// Opening reads the superblock and the device table. Everything else is read on demand. Nothing in
/// the image is trusted: every method returns without a panic, and its time and memory are bounded
/// by the size of its result and of the image.
#[derive(Debug)]
pub struct Image<R> {
    storage: Storage<R>,
    /// Errors of the superblock that opening overlooked.
    pub(crate) overlooked: Vec<Error>,
    pub(crate) xattr_prefixes: Prefixes,
}

impl<R: ReadAt> Image<R> {
    /// Opens the image on `primary`.
    ///
    /// If the image has a device table, the devices are expected on `primary`, at their unified
    /// addresses. The kernel does the same without `device=` options.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// println!("{:?}", image.superblock());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the superblock is missing or damaged, or requires unknown features.
    pub fn open(primary: R) -> Result<Self, Error> {
        Self::open_judged(primary, Err)
    }

    fn open_judged(
        primary: R,
        judge: impl FnMut(Error) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        Ok(Self {
            storage: Storage::open(primary, judge)?,
            overlooked: Vec::new(),
            xattr_prefixes: Prefixes::default(),
        })
    }

    /// Opens the image on `primary` whose device table lists `devices`, in that order.
    ///
    /// ```no_run
    /// use std::fs::File;
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let open = |path: &str| File::open(path).map(Buffered::new);
    /// let layers = vec![open("layer0.erofs")?, open("layer1.erofs")?];
    /// let image = Image::open_with_devices(open("merged.erofs")?, layers)?;
    /// assert!(image.has_devices());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Image::open`]; [`Error::DeviceCount`] if the device table has another number of
    /// devices.
    pub fn open_with_devices(primary: R, devices: Vec<R>) -> Result<Self, Error> {
        let mut image = Self::open(primary)?;
        image.storage.add_devices(devices)?;
        Ok(image)
    }

    /// Opens an image for checking, even if the checksum of its superblock is wrong or it requires
    /// unknown features. [`Image::check`] reports these problems with the others, and reads the
    /// image as if it did not use the features. If `devices` is empty, the devices are expected on
    /// `primary`.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let file = std::fs::File::open("image.erofs")?;
    /// let image = Image::open_damaged(Buffered::new(file), Vec::new())?;
    /// for finding in image.check().findings {
    ///     println!("{finding}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the superblock is missing or unusable; [`Error::DeviceCount`] if the device table
    /// has another number of devices.
    pub fn open_damaged(primary: R, devices: Vec<R>) -> Result<Self, Error> {
        let mut overlooked = Vec::new();
        let mut image = Self::open_judged(primary, |error| {
            overlooked.push(error);
            Ok(())
        })?;
        image.overlooked = overlooked;
        if !devices.is_empty() {
            image.storage.add_devices(devices)?;
        }
        Ok(image)
    }

    /// Returns the superblock.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let superblock = image.superblock();
    /// println!("blocks of {} bytes", superblock.block_size.bytes());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn superblock(&self) -> &Superblock {
        &self.storage.superblock
    }

    /// Returns the inode of the root directory.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// assert!(image.root()?.is_dir());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the inode cannot be read or is not a directory.
    pub fn root(&self) -> Result<Inode, Error> {
        let root = self.inode(self.superblock().root_nid)?;
        if root.file_type() != FileType::Directory {
            return Err(root.corrupt(root.position(), Detail::RootType(root.file_type())));
        }
        Ok(root)
    }

    /// Returns the inode `nid`.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let root = image.superblock().root_nid;
    /// assert_eq!(image.inode(root)?, image.root()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if there is no valid inode at `nid`. Bytes that are not an inode can look like one.
    pub fn inode(&self, nid: Nid) -> Result<Inode, Error> {
        Inode::read(self, nid)
    }

    /// Returns whether the devices of the device table were passed separately, and do not lie on
    /// the primary one.
    pub fn has_devices(&self) -> bool {
        self.storage.has_devices()
    }

    /// Returns the size of a device in bytes. Device 0 is the primary one.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// println!("{} bytes", image.device_size(0).unwrap_or_default());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn device_size(&self, device: u16) -> Option<u64> {
        self.storage.device_size(device)
    }

    /// Returns where the data of `inode` lies, in order and without gaps. Runs that are adjacent on
    /// a device are merged into one extent, and so are adjacent holes.
    ///
    /// The data itself need not exist, so this works without the devices. The result is empty for
    /// inodes without data.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let inode = image.metadata("/bin/bash")?;
    /// for extent in image.extents(&inode)? {
    ///     println!("{} bytes at {}: {}", extent.length, extent.logical, extent.source);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the block map of the inode is damaged or its compression is not supported.
    pub fn extents(&self, inode: &Inode) -> Result<Vec<Extent>, Error> {
        let mut extents: Vec<Extent> = Vec::new();
        if !inode.file_type.has_data() {
            return Ok(extents);
        }
        let mut mapper = Mapper::new(self, inode)?;
        let mut offset = 0;
        while offset < inode.size {
            let extent = mapper.at(self, offset)?;
            inode.check_order(&extent, offset)?;
            offset = extent.end();
            if !extents.last_mut().is_some_and(|last| last.absorb(&extent)) {
                extents.push(extent);
            }
        }
        Ok(extents)
    }

    pub(crate) fn data(&self, inode: &Inode) -> Result<Data<'_, Self>, Error> {
        Data::new(self, inode)
    }
}

impl<R: ReadAt> Areas for Image<R> {
    type Source = R;

    fn storage(&self) -> &Storage<R> {
        &self.storage
    }

    fn metabox_size(&self, nid: Nid) -> Result<u64, Error> {
        Ok(self.metabox(nid)?.size())
    }

    fn read_metabox(&self, nid: Nid, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let metabox = self.metabox(nid)?;
        Data::new(&self.storage, &metabox)?.read_full_at(buf, offset)
    }
}

impl<R: ReadAt> Image<R> {
    /// Returns the metabox inode, which `nid` needs.
    fn metabox(&self, nid: Nid) -> Result<Inode, Error> {
        let found = self
            .storage
            .superblock
            .metabox_nid
            .ok_or_else(|| Error::corrupt(nid, 0, Detail::NoSpecialInode))?;
        // Opening the image checked that it does not lie in itself.
        Inode::read(&self.storage, found)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn one_image_serves_many_threads() {
        fn assert_shared<T: Send + Sync>() {}
        assert_shared::<Image<crate::Buffered<std::fs::File>>>();
        assert_shared::<Image<Box<dyn ReadAt + Send + Sync>>>();
    }
}
