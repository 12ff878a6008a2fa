//! Writing the tree: directories, attribute blocks, inodes.

use std::collections::BTreeMap;
use std::io::{Seek, Write};

use zerocopy::IntoBytes;

use crate::directory::{Encoder, Entry};
use crate::format::{EXT4_INDEX_FL, EXT4_XATTR_REFCOUNT_MAX, INODE_XATTR_SPACE, S_IFREG};
use crate::image::Image;
use crate::node::{Kind, Node, Record};
use crate::xattr::{self, Xattrs};
use crate::{Builder, Error, NodeId, Options, Summary, groups};

pub(crate) fn finish<W: Write + Seek>(builder: Builder<W>) -> Result<(W, Summary), Error> {
    let Builder {
        mut image,
        options,
        mut nodes,
        special,
    } = builder;
    write_directories(&mut image, &mut nodes, &options)?;
    let xattrs = encode_xattrs(&image, &nodes)?;
    let xattr_blocks = write_xattr_blocks(&mut image, &xattrs)?;

    let records = special.iter().map(|(ino, body)| Record {
        ino: *ino,
        mode: S_IFREG | 0o600,
        uid: 0,
        gid: 0,
        time: options.created,
        links: 1,
        body,
        xattrs: [0; INODE_XATTR_SPACE],
        xattr_block: 0,
    });
    let tree = nodes
        .iter()
        .zip(xattrs.iter().zip(xattr_blocks))
        .zip(0..)
        .map(|((node, (xattrs, xattr_block)), id)| Record {
            ino: NodeId(id).ino(),
            mode: node.kind.mode() | node.metadata.mode & 0o7777,
            uid: node.metadata.uid,
            gid: node.metadata.gid,
            time: node.metadata.mtime,
            links: node.links,
            body: &node.body,
            xattrs: xattrs.inode,
            xattr_block,
        });
    let mut records: Vec<_> = records.chain(tree).collect();
    records.sort_unstable_by_key(|record| record.ino);
    let sectors_per_block = u64::from(image.geometry.block_size / 512);
    for record in &records {
        let inode = record.encode(sectors_per_block, image.seed);
        let offset = image.geometry.inode_offset(record.ino);
        image.out.write_at(offset, inode.as_bytes())?;
    }

    let directories = nodes
        .iter()
        .zip(0..)
        .filter(|(node, _)| node.kind == Kind::Directory)
        .map(|(_, id)| NodeId(id).ino())
        .collect();
    let last_ino = NodeId(nodes.len() as u32 - 1).ino();
    groups::write(image, &options, &special, last_ino, directories)
}

fn write_directories<W: Write + Seek>(
    image: &mut Image<W>,
    nodes: &mut [Node],
    options: &Options,
) -> Result<(), Error> {
    let hash_seed = options.hash_seed();
    for id in (0..nodes.len() as u32).map(NodeId) {
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
            large: options.large_dir,
            checksum: image.seed.inode(id.ino()),
        };
        let directory = encoder.encode(&entries)?;
        let mut body = image.store(id.ino(), &directory.bytes)?;
        if directory.indexed {
            body.flags |= EXT4_INDEX_FL;
        }
        nodes[id.0 as usize].body = body;
    }
    Ok(())
}

fn encode_xattrs<W: Write + Seek>(image: &Image<W>, nodes: &[Node]) -> Result<Vec<Xattrs>, Error> {
    nodes
        .iter()
        .map(|node| xattr::encode(&node.metadata.xattrs, image.block_size()))
        .collect()
}

/// Writes every distinct attribute block once, unless more inodes share it than it can count. Gives each inode's, or 0.
fn write_xattr_blocks<W: Write + Seek>(
    image: &mut Image<W>,
    xattrs: &[Xattrs],
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
            for &user in users {
                blocks[user] = address;
            }
        }
    }
    Ok(blocks)
}
