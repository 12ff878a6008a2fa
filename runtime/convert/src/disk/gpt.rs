//! A GUID partition table with one partition (UEFI specification 2.10, chapter 5).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use flate2::Crc;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, KnownLayout};

/// The size of a logical block, in bytes.
const SECTOR: u64 = 512;

/// The partition's offset in bytes: the alignment that all tools use.
pub(super) const START: u64 = 1 << 20;

/// The bytes at the end of the disk for the backup of the table, alignment included.
pub(super) const END: u64 = 1 << 20;

/// "EFI PART"
const SIGNATURE: u64 = 0x5452_4150_2049_4645;

const REVISION: u32 = 0x0001_0000;

const ENTRIES: usize = 128;

/// The number of sectors of the partition entries.
const ENTRY_SECTORS: u64 = 32;

/// The attribute of a partition that is mounted read-only (Discoverable Partitions Specification).
const READ_ONLY: u64 = 1 << 60;

/// The type of the MBR partition that covers a disk with a GPT, for programs that only know MBRs.
const PROTECTIVE: u8 = 0xee;

/// `EFI_PARTITION_TABLE_HEADER`
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    signature: U64,
    revision: U32,
    header_size: U32,
    header_crc32: U32,
    reserved: U32,
    my_lba: U64,
    alternate_lba: U64,
    first_usable_lba: U64,
    last_usable_lba: U64,
    disk_guid: [u8; 16],
    partition_entry_lba: U64,
    number_of_partition_entries: U32,
    size_of_partition_entry: U32,
    partition_entry_array_crc32: U32,
}

const _: () = assert!(size_of::<Header>() == 92);

/// `EFI_PARTITION_ENTRY`
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Entry {
    partition_type_guid: [u8; 16],
    unique_partition_guid: [u8; 16],
    starting_lba: U64,
    ending_lba: U64,
    attributes: U64,
    partition_name: [U16; 36],
}

const _: () = assert!(size_of::<Entry>() == 128);

/// A record of the protective MBR.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MbrRecord {
    boot_indicator: u8,
    starting_chs: [u8; 3],
    os_type: u8,
    ending_chs: [u8; 3],
    starting_lba: U32,
    size_in_lba: U32,
}

const _: () = assert!(size_of::<MbrRecord>() == 16);

/// The only partition of a disk.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    /// Its type, in the byte order in which a UUID is printed.
    pub(super) kind: [u8; 16],
    /// Its UUID.
    pub(super) uuid: [u8; 16],
    /// Its length in bytes, a multiple of the sector size. It begins at [`START`].
    pub(super) length: u64,
    pub(super) read_only: bool,
}

/// Writes the table of a disk of `size` bytes, a multiple of the sector size, and its backup at the
/// end. At least [`END`] bytes follow the partition.
pub(super) fn write(
    disk: &File,
    size: u64,
    uuid: [u8; 16],
    partition: &Partition,
) -> io::Result<()> {
    let last = size / SECTOR - 1;
    let first_sector = START / SECTOR;
    let name: Vec<u16> = "root".encode_utf16().collect();
    let mut partition_name = [U16::ZERO; 36];
    for (to, from) in partition_name.iter_mut().zip(name) {
        to.set(from);
    }
    let entry = Entry {
        partition_type_guid: mixed_endian(partition.kind),
        unique_partition_guid: mixed_endian(partition.uuid),
        starting_lba: first_sector.into(),
        ending_lba: (first_sector + partition.length / SECTOR - 1).into(),
        attributes: if partition.read_only { READ_ONLY } else { 0 }.into(),
        partition_name,
    };
    let mut entries = vec![0; ENTRIES * size_of::<Entry>()];
    entries[..size_of::<Entry>()].copy_from_slice(entry.as_bytes());
    let header = |my_lba, alternate_lba, entries_lba: u64| {
        let mut header = Header {
            signature: SIGNATURE.into(),
            revision: REVISION.into(),
            header_size: (size_of::<Header>() as u32).into(),
            header_crc32: U32::ZERO,
            reserved: U32::ZERO,
            my_lba: U64::new(my_lba),
            alternate_lba: U64::new(alternate_lba),
            first_usable_lba: (2 + ENTRY_SECTORS).into(),
            last_usable_lba: (last - ENTRY_SECTORS - 1).into(),
            disk_guid: mixed_endian(uuid),
            partition_entry_lba: entries_lba.into(),
            number_of_partition_entries: (ENTRIES as u32).into(),
            size_of_partition_entry: (size_of::<Entry>() as u32).into(),
            partition_entry_array_crc32: crc32(&entries).into(),
        };
        header.header_crc32 = crc32(header.as_bytes()).into();
        header
    };
    let at = |sector: u64, bytes: &[u8]| disk.write_all_at(bytes, sector * SECTOR);
    at(0, &protective_mbr(last))?;
    at(1, header(1, last, 2).as_bytes())?;
    at(2, &entries)?;
    at(last - ENTRY_SECTORS, &entries)?;
    at(last, header(last, 1, last - ENTRY_SECTORS).as_bytes())
}

/// Returns the protective MBR of a disk whose last sector is `last`.
fn protective_mbr(last: u64) -> [u8; 512] {
    let record = MbrRecord {
        boot_indicator: 0,
        starting_chs: [0, 2, 0],
        os_type: PROTECTIVE,
        ending_chs: [0xff; 3],
        starting_lba: 1.into(),
        size_in_lba: u32::try_from(last).unwrap_or(u32::MAX).into(),
    };
    let mut sector = [0; 512];
    sector[446..462].copy_from_slice(record.as_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Returns a UUID as GPT stores it: its first three fields are little-endian.
fn mixed_endian(uuid: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = uuid;
    let mut stored = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    stored[8..].copy_from_slice(&rest);
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specification() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_first_three_fields_of_a_uuid_are_little_endian() {
        let uuid = 0x4f68_bce3_e8cd_4db1_96e7_fbca_f984_b709_u128.to_be_bytes();
        let stored = [
            0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84,
            0xb7, 0x09,
        ];
        assert_eq!(mixed_endian(uuid), stored);
    }
}
