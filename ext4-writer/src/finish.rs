//! Writing the tree: directories, attributes, inodes, and hidden files such as quotas.

use std::collections::BTreeMap;
use std::io::{Seek, Write};

use zerocopy::IntoBytes;

use crate::directory::{Encoder, Entry};
use crate::format::{
    EXT4_EA_INODE_FL, EXT4_GOOD_OLD_FIRST_INO, EXT4_GRP_QUOTA_INO, EXT4_IMMUTABLE_FL,
    EXT4_INDEX_FL, EXT4_PROJINHERIT_FL, EXT4_ROOT_INO, EXT4_USR_QUOTA_INO, EXT4_XATTR_REFCOUNT_MAX,
};
use crate::image::Image;
use crate::node::{Body, Index, Record, TreeNode, ValueInode};
use crate::quota::{self, Owner, Usage};
use crate::special::{self, Role, Special};
use crate::xattr::{self, Xattrs};
use crate::{Builder, Error, Kind, Options, Summary, groups, orphan_file};

impl<W: Write + Seek> Builder<W> {
    /// Writes the tree and the filesystem's own structures, the superblock last. Returns the
    /// output, flushed.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Options};
    ///
    /// let image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let (disk, summary) = image.finish()?;
    /// assert_eq!(disk.into_inner().len(), 16 << 20);
    /// println!("{summary:#?}");
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::DirectorySize`] and [`Error::Output`].
    pub fn finish(self) -> Result<(W, Summary), Error> {
        let Builder {
            mut image,
            options,
            mut nodes,
            encoder,
            mut special,
            ..
        } = self;
        write_directories(&mut image, &mut nodes, &options, &encoder)?;
        let mut xattrs = nodes
            .iter()
            .map(|node| encoder.encode(&node.metadata.xattrs, node.body.tail.as_deref()))
            .collect::<Result<Vec<_>, Error>>()?;
        let mut inodes = Inodes {
            last: Index(nodes.len() as u32 - 1).ino(),
            all: image.geometry.inodes(),
        };
        let mut values = write_values(&mut image, &mut xattrs, &mut inodes)?;
        let xattr_blocks = write_xattr_blocks(&mut image, &xattrs, &mut values)?;

        let block_size = u64::from(image.geometry.block_size);
        let tree: Vec<_> = nodes
            .iter()
            .zip(xattrs.iter().zip(xattr_blocks))
            .zip(0..)
            .filter(|((node, _), _)| node.links > 0)
            .map(|((node, (xattrs, xattr_block)), id)| Record {
                mode: node.kind.mode() | node.metadata.mode & 0o7777,
                uid: node.metadata.uid,
                gid: node.metadata.gid,
                project: node.project,
                time: node.metadata.mtime,
                links: node.links,
                xattrs: xattrs.inode,
                xattr_block,
                values: xattrs.values.len() as u64,
                value_blocks: xattrs
                    .values
                    .iter()
                    .map(|value| (value.bytes.len() as u64).div_ceil(block_size))
                    .sum(),
                ..Record::hidden(Index(id).ino(), &node.body)
            })
            .collect();
        if special::orphan_file(&image, &options) {
            let ino = inodes.next()?;
            let body = orphan_file::write(&mut image, ino)?;
            special.push(Special::new(ino, Role::OrphanFile, body));
        }
        if options.quota {
            write_quotas(&mut image, &options, &tree, &mut inodes, &mut special)?;
        }

        let hidden = special.iter().map(|inode| Record {
            time: options.created,
            ..Record::hidden(inode.ino, &inode.body)
        });
        let held = values.values().map(|value| Record {
            time: options.created,
            value: Some(value.inode),
            ..Record::hidden(value.ino, &value.body)
        });
        let mut records: Vec<_> = hidden.chain(held).chain(tree).collect();
        records.sort_unstable_by_key(|record| record.ino);
        let sectors_per_block = block_size / 512;
        for record in &records {
            let inode = record.encode(sectors_per_block, image.seed);
            let offset = image.geometry.inode_offset(record.ino);
            image.out.write_at(offset, inode.as_bytes())?;
        }

        let directories = nodes
            .iter()
            .zip(0..)
            .filter(|(node, _)| node.kind == Kind::Directory)
            .map(|(_, id)| Index(id).ino())
            .collect();
        let removed: Vec<_> = nodes
            .iter()
            .zip(0..)
            .filter(|(node, _)| node.links == 0)
            .map(|(_, id)| Index(id).ino())
            .collect();
        groups::write(
            image,
            &options,
            &special,
            inodes.last,
            &removed,
            directories,
        )
    }
}

/// The numbers of inodes after the tree's.
struct Inodes {
    last: u32,
    all: u32,
}

impl Inodes {
    fn next(&mut self) -> Result<u32, Error> {
        if self.last >= self.all {
            return Err(Error::NoInodes { inodes: self.all });
        }
        self.last += 1;
        Ok(self.last)
    }
}

fn write_directories<W: Write + Seek>(
    image: &mut Image<W>,
    nodes: &mut [TreeNode],
    options: &Options,
    xattrs: &xattr::Encoder,
) -> Result<(), Error> {
    let hash_seed = options.effective_hash_seed();
    for id in (0..nodes.len() as u32).map(Index) {
        let node = &nodes[id.0 as usize];
        if node.kind != Kind::Directory {
            continue;
        }
        let entries: Vec<_> = node
            .children
            .iter()
            .map(|(name, child)| Entry {
                name,
                ino: child.ino(),
                file_type: nodes[child.0 as usize].kind.file_type(),
            })
            .collect();
        let encoder = Encoder {
            ino: id.ino(),
            parent: node.parent.ino(),
            block_size: image.block_size(),
            hash_seed,
            signed_hash: options.signed_hash,
            large: options.large_dir,
            checksum: image.seed.inode(id.ino()),
        };
        // As with mke2fs, directories that always exist have blocks: e2fsck puts files into
        // lost+found.
        let inline = if options.inline_data && id > Index::LOST_AND_FOUND {
            let room = xattrs.encode(&node.metadata.xattrs, None)?.inline_room();
            encoder.encode_inline(&entries, room)
        } else {
            None
        };
        let mut body = match inline {
            Some(bytes) => Body::contents(&bytes),
            None => {
                let directory = encoder.encode(&entries)?;
                let mut body = image.store(id.ino(), &directory.bytes)?;
                if directory.indexed {
                    body.flags |= EXT4_INDEX_FL;
                }
                body
            }
        };
        if node.project != 0 {
            body.flags |= EXT4_PROJINHERIT_FL;
        }
        nodes[id.0 as usize].body = body;
    }
    Ok(())
}

/// An attribute's value in an inode of its own.
struct Held {
    ino: u32,
    body: Body,
    inode: ValueInode,
}

/// Writes every distinct value that has an inode of its own once, and counts the inodes that refer
/// to it themselves.
fn write_values<W: Write + Seek>(
    image: &mut Image<W>,
    xattrs: &mut [Xattrs],
    inodes: &mut Inodes,
) -> Result<BTreeMap<Vec<u8>, Held>, Error> {
    let mut held: BTreeMap<Vec<u8>, Held> = BTreeMap::new();
    for xattrs in xattrs {
        for index in 0..xattrs.values.len() {
            let value = &xattrs.values[index];
            let in_block = value.in_block;
            if !held.contains_key(&value.bytes) {
                let ino = inodes.next()?;
                let mut body = image.store(ino, &value.bytes)?;
                body.flags |= EXT4_EA_INODE_FL;
                let inode = ValueInode {
                    hash: value.hash,
                    references: 0,
                };
                held.insert(value.bytes.clone(), Held { ino, body, inode });
            }
            if let Some(value) = held.get_mut(&value.bytes) {
                value.inode.references += u32::from(!in_block);
                xattrs.set_value_inode(index, value.ino);
            }
        }
    }
    Ok(held)
}

/// Writes every distinct attribute block once, unless more inodes share it than it can count, and
/// counts its references to values elsewhere. Returns the block of each inode, or 0.
fn write_xattr_blocks<W: Write + Seek>(
    image: &mut Image<W>,
    xattrs: &[Xattrs],
    values: &mut BTreeMap<Vec<u8>, Held>,
) -> Result<Vec<u64>, Error> {
    let mut users: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (i, xattrs) in xattrs.iter().enumerate() {
        if let Some(block) = &xattrs.block {
            users.entry(block).or_default().push(i);
        }
    }
    let mut blocks = vec![0; xattrs.len()];
    for (bytes, users) in users {
        for users in users.chunks(EXT4_XATTR_REFCOUNT_MAX as usize) {
            let address = image.allocate()?;
            let mut bytes = bytes.to_vec();
            xattr::seal(&mut bytes, address, users.len() as u32, image.seed);
            image.write_block(address, &bytes)?;
            for value in xattrs[users[0]]
                .values
                .iter()
                .filter(|value| value.in_block)
            {
                if let Some(held) = values.get_mut(&value.bytes) {
                    held.inode.references += 1;
                }
            }
            for &user in users {
                blocks[user] = address;
            }
        }
    }
    Ok(blocks)
}

/// Writes the usage of users, groups and projects: all of the tree, without hidden files.
fn write_quotas<W: Write + Seek>(
    image: &mut Image<W>,
    options: &Options,
    tree: &[Record<'_>],
    inodes: &mut Inodes,
    special: &mut Vec<Special>,
) -> Result<(), Error> {
    let block_size = u64::from(image.geometry.block_size);
    type Id = fn(&Record<'_>) -> u32;
    let mut files: Vec<(Owner, u32, Id)> = vec![
        (Owner::User, EXT4_USR_QUOTA_INO, |record| record.uid),
        (Owner::Group, EXT4_GRP_QUOTA_INO, |record| record.gid),
    ];
    if options.project {
        files.push((Owner::Project, inodes.next()?, |record| record.project));
    }
    for (owner, ino, id) in files {
        let mut usage: BTreeMap<u32, Usage> = BTreeMap::new();
        for record in tree {
            debug_assert!(record.ino == EXT4_ROOT_INO || record.ino >= EXT4_GOOD_OLD_FIRST_INO);
            let usage = usage.entry(id(record)).or_default();
            usage.inodes += 1 + record.values;
            usage.space += record.blocks() * block_size;
        }
        let mut body = image.store(ino, &quota::encode(owner, &usage))?;
        body.flags |= EXT4_IMMUTABLE_FL;
        special.push(Special::new(ino, Role::Quota(owner), body));
    }
    Ok(())
}
