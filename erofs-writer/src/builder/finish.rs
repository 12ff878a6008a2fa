//! The end of building: names and attributes are planned and written, then the superblock.

use std::io::{self, Seek, Write};

use super::Builder;
use crate::compress::{Contents, Place};
use crate::content::{Finished, too_large};
use crate::emit::Emitter;
use crate::error::Error;
use crate::format::{ISLOT, S_IFREG, SUPER_OFFSET};
use crate::plan::{Form, Plan};
use crate::superblock::{self, SuperblockFields};
use crate::tree::{Inode, ROOT};

/// The number of blocks of metadata that is assumed before there is a plan: 32 GiB in the smallest
/// blocks.
const METADATA_RESERVE: u64 = 1 << 26;

/// The figures of a finished image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The image's size in its blocks.
    pub blocks: u64,
    /// The image's size in bytes, whole blocks. The output is as long, unless it was longer from
    /// the start.
    pub bytes: u64,
    /// Inodes, the root included.
    pub inodes: u64,
    /// Those of them in the compact form.
    pub compact_inodes: u64,
    /// Bytes of contents in the image, whole blocks.
    pub data_bytes: u64,
    /// Bytes of inodes, directories and xattrs, whole blocks: the superblock's included where they
    /// begin after it.
    pub metadata_bytes: u64,
    /// Bytes of contents that were not stored because equal contents were.
    pub deduplicated_bytes: u64,
    /// The volume's UUID.
    pub uuid: [u8; 16],
}

impl<W: Write + Seek> Builder<W> {
    /// Writes names and attributes, then the superblock. Returns the output.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, FileData, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// image.add_path(b"empty", Metadata::new(0o644), Node::File(FileData::EMPTY))?;
    /// let (out, summary) = image.finish()?;
    /// assert_eq!(summary.inodes, 2);
    /// assert_eq!(out.into_inner().len() as u64, summary.bytes);
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoContents`]; [`Error::Output`] where the output fails; [`Error::TooLarge`] where
    /// image and devices together are larger than addresses reach.
    pub fn finish(mut self) -> Result<(W, Summary), Error> {
        // This must happen before anything refers to inodes by their indexes.
        self.tree.drop_removed();
        self.check_complete()?;
        let packed = self.area.end()?;
        self.place_contents()?;
        let packed = packed.map(|index| self.add_packed(index)).transpose()?;
        let Finished {
            options,
            mut output,
            truncate,
            chunks,
            tails,
            kept,
            contents,
            data_start,
            data_end,
            mut hash,
            deduplicated,
        } = self.area.finish();
        let devices = self.devices;
        let block_size = options.block_size;
        let meta_block = block_size.count(data_end);
        let sum = |blocks: u64| {
            devices
                .iter()
                .fold(blocks, |sum, device| sum.saturating_add(device.blocks))
        };
        let written = block_size.count(output.written()).max(meta_block);
        let narrow = sum(written.saturating_add(METADATA_RESERVE)) <= u64::from(u32::MAX);
        let form = Form::new(&options, &contents, !narrow);

        self.tree.close();
        let mut tree = self.tree.sort();
        let sets = tree.inodes().iter().map(|inode| inode.xattrs);
        let xattrs = self.xattrs.plan(sets, !form.far, !options.no_xattr_filter);
        let heads_end = SUPER_OFFSET + superblock::length(&options, devices.len());
        let empty = data_end == data_start;
        let beside = match form.far {
            true => None,
            false => Plan::beside_superblock(heads_end, empty, &mut tree, &xattrs, &form),
        };
        // The part of the area in the superblock's block.
        let (first, meta_block) = match beside {
            Some(_) => (data_start, 0),
            None => (0, meta_block),
        };
        let plan = beside.unwrap_or_else(|| Plan::new(&mut tree, &xattrs, &form));

        let mut end = data_end + plan.length - first;
        if truncate.is_none() {
            end = end.max(block_size.align(output.written()));
        }
        let blocks = block_size.count(end);
        if sum(blocks) > form.limit() {
            return Err(too_large(sum(blocks), &options));
        }
        let mut device_starts = vec![0, blocks];
        for device in &devices {
            device_starts.push(device_starts.last().unwrap_or(&0) + device.blocks);
        }
        // `meta_blkaddr` has 32 bits, numbers of inodes have 64.
        let (meta_blkaddr, nid_base) = match form.far {
            true => (0, data_end / ISLOT),
            false => (meta_block as u32, 0),
        };

        let area = Emitter {
            tree: &tree,
            xattrs: &xattrs,
            plan: &plan,
            form: &form,
            meta_block,
            nid_base,
            device_starts: &device_starts,
            chunks: &chunks,
            tails: &tails,
            kept: &kept,
        }
        .emit();
        let (beside, area) = area.split_at(first as usize);
        hash.update(beside);
        hash.update(area);
        output.seek(data_end)?;
        output.write(area)?;
        output.zeros_to(end)?;

        let inodes = tree.inodes();
        let fields = SuperblockFields {
            root_nid: nid_base + plan.nids[ROOT as usize],
            inodes: inodes.len() as u64,
            epoch: plan.epoch,
            blocks,
            meta_blkaddr,
            // The field has no meaning without shared xattrs.
            xattr_blkaddr: (meta_block + block_size.count(plan.shared_at)) as u32,
            xattr_filter: xattrs.any() && !options.no_xattr_filter,
            chunked: inodes.iter().any(|inode| inode.chunk_size().is_some()),
            packed_nid: packed.map(|index| nid_base + plan.nids[index as usize]),
            used: contents.used(),
        };
        let (superblock, uuid) = superblock::form(
            &options,
            &fields,
            &devices,
            &device_starts,
            hash,
            beside.get(heads_end as usize..).unwrap_or_default(),
        );
        let out = output.finish_with(SUPER_OFFSET, &superblock, end, truncate)?;
        let compact = inodes.iter().filter(|inode| inode.flags.compact).count();
        let summary = Summary {
            blocks,
            bytes: end,
            inodes: fields.inodes,
            compact_inodes: compact as u64,
            data_bytes: data_end - data_start,
            metadata_bytes: plan.length,
            deduplicated_bytes: deduplicated,
            uuid,
        };
        Ok((out, summary))
    }

    /// Sets the addresses of contents in inodes, which are known now.
    fn place_contents(&mut self) -> Result<(), Error> {
        for inode in &mut self.tree.inodes {
            if inode.flags.compressed {
                place(inode, self.area.contents())?;
            }
        }
        Ok(())
    }

    /// Adds the packed inode, which has no name, and returns its index.
    fn add_packed(&mut self, index: usize) -> Result<u32, Error> {
        let mut inode = Inode::new(S_IFREG);
        inode.payload = index as u64;
        inode.size = self.area.contents().size(inode.payload).unwrap_or_default();
        inode.flags.compressed = true;
        place(&mut inode, self.area.contents())?;
        self.tree.add_nameless(inode)
    }
}

fn place(inode: &mut Inode, contents: &Contents) -> Result<(), Error> {
    match contents.place(inode.payload) {
        Some(Place::Compressed { .. }) => return Ok(()),
        // The error was reported before.
        None | Some(Place::Pending) => return Err(io::Error::other("contents were lost").into()),
        Some(Place::Flat { block }) => inode.payload = block,
        Some(Place::Tail { index }) => {
            inode.payload = index;
            inode.flags.inline = true;
        }
    }
    inode.flags.compressed = false;
    Ok(())
}
