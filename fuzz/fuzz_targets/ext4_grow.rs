//! Recovers and grows an image of a small filesystem into which any bytes were put: every record
//! says where and how many.
#![no_main]

use std::io::{Cursor, Read, Result, Seek, SeekFrom, Write};

use ext4_writer::{BlockSize, Builder, Info, Journal, Metadata, Options, grow, recover};
use libfuzzer_sys::fuzz_target;

const SUPER: usize = 1024;
/// The number of the only file's inode.
const ORPHAN: u32 = 12;

/// An image that keeps nothing of what is written behind its end.
struct Sparse(Cursor<Vec<u8>>);

impl Read for Sparse {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let at = self.0.position();
        let end = self.0.get_ref().len() as u64;
        let kept = (end.saturating_sub(at) as usize).min(bytes.len());
        if kept > 0 {
            self.0.write_all(&bytes[..kept])?;
        }
        self.0.set_position(at + bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

fn base(features: u8) -> Vec<u8> {
    let options = Options::new(2 << 20)
        .meta_bg(features & 8 != 0)
        .orphan_file(features & 16 == 0)
        .ea_inode(features & 32 != 0)
        .quota(features & 64 != 0)
        .block_size(BlockSize::B1024)
        .journal(Journal::Size(1 << 20));
    let mut image = Builder::new(Cursor::new(Vec::new()), options).expect("planned");
    let root = image.root();
    let metadata = Metadata::new(0o644).xattrs(vec![(b"user.a".to_vec(), vec![1; 300])]);
    // In so many pieces that its extents have a block of their own.
    let pieces: Vec<_> = (0..6).map(|i| i * 4096..i * 4096 + 1024).collect();
    let file = image
        .add_sparse_file(root, b"f", metadata, 1 << 20, &pieces, std::io::repeat(1))
        .expect("added");
    assert_eq!(file.ino(), ORPHAN);
    image.finish().expect("finished").0.into_inner()
}

/// Where the file's inode lies: in the first group's table.
fn inode(image: &[u8]) -> usize {
    let table = image[2048 + 8..].first_chunk().expect("a descriptor");
    u32::from_le_bytes(*table) as usize * 1024 + (ORPHAN as usize - 1) * 256
}

/// Makes the file one that was deleted while open, if it has no names, or was being truncated, with
/// its checksum right.
fn make_orphan(image: &mut [u8], at: usize) {
    image[SUPER + 232..SUPER + 236].copy_from_slice(&ORPHAN.to_le_bytes());
    let seed = image[SUPER + 0x270..].first_chunk().expect("a superblock");
    let mut sum = !u32::from_le_bytes(*seed);
    let inode = &mut image[at..at + 256];
    inode[0x7c..0x7e].fill(0);
    inode[0x82..0x84].fill(0);
    for bytes in [&ORPHAN.to_le_bytes()[..], &inode[0x64..0x68], &*inode] {
        sum = crc32c::crc32c_append(sum, bytes);
    }
    let sum = (!sum).to_le_bytes();
    inode[0x7c..0x7e].copy_from_slice(&sum[..2]);
    inode[0x82..0x84].copy_from_slice(&sum[2..]);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, mut rest)) = bytes.split_first() else {
        return;
    };
    let mut image = base(*flags);
    let journal = (0..image.len())
        .step_by(1024)
        .find(|&at| image[at..at + 4] == [0xc0, 0x3b, 0x39, 0x98])
        .expect("there is a journal");
    let file = inode(&image);
    if flags & 1 != 0 {
        // The journal is to be replayed, from its first block on.
        image[SUPER + 96] |= 4;
        image[journal + 31] = 1;
    }
    if flags & 2 != 0 {
        // Without checksums in it.
        image[journal + 40..journal + 44].copy_from_slice(&3_u32.to_be_bytes());
    } else {
        image[journal + 0xfc..journal + 0x100].fill(0);
        let sum = !crc32c::crc32c(&image[journal..journal + 1024]);
        image[journal + 0xfc..journal + 0x100].copy_from_slice(&sum.to_be_bytes());
    }
    while let Some((&[area, high, low, len], behind)) = rest.split_first_chunk() {
        let start = [0, SUPER, journal, journal + 1024, file][usize::from(area % 5)];
        let at = start + usize::from(u16::from_be_bytes([high, low]));
        let (data, behind) = behind.split_at(usize::from(len).min(behind.len()));
        if let Some(to) = image.get_mut(at..at + data.len()) {
            to.copy_from_slice(data);
        }
        rest = behind;
    }
    if flags & 128 != 0 {
        make_orphan(&mut image, file);
    }
    if flags & 4 == 0 {
        let sum = !crc32c::crc32c(&image[SUPER..SUPER + 1020]);
        image[SUPER + 1020..SUPER + 1024].copy_from_slice(&sum.to_le_bytes());
    }
    let _ = Info::read(Cursor::new(&image));
    let mut recovered = Sparse(Cursor::new(image.clone()));
    if recover(&mut recovered).is_ok() {
        let info = Info::read(&mut recovered).expect("what was recovered can be read");
        assert_eq!(
            recover(&mut recovered).expect("nothing is left to do"),
            info
        );
    }
    let _ = grow(Sparse(Cursor::new(image)), u64::from(*flags) << 20);
});
