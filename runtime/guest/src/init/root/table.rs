//! Reads partition tables, to find the root partition. Their checksums are checked by the kernel,
//! which creates the device nodes.

use std::fs::File;
use std::io;

use super::read;

const SECTOR: u64 = 512;

/// How many entries of a GPT are read: as many as the kernel reads (`MAX_PARTS` of most disks), and
/// more than any disk has.
const MOST_ENTRIES: u32 = 256;

/// The longest entry of a GPT, in bytes; in all versions of the specification so far it is 128.
const LONGEST_ENTRY: u32 = 4096;

/// The type of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A type in a GPT, in the byte order in which a UUID is printed.
    Gpt(u128),
    /// A type in an MBR.
    Mbr(u8),
}

/// The types of Linux file systems of any use.
const LINUX: [Purpose; 2] = [
    Purpose::Gpt(0x0fc63daf_8483_4772_8e79_3d69d8477de4),
    Purpose::Mbr(0x83),
];

/// The partitions of a disk, with their numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table(Vec<(u32, Purpose)>);

impl Table {
    /// Reads the partition table of a disk; `None` if it has none.
    pub(super) fn read(disk: &File) -> io::Result<Option<Self>> {
        let header = read(disk, SECTOR, 92)?;
        if header.starts_with(b"EFI PART") {
            return gpt(disk, &header).map(Some);
        }
        // A file system may have a boot sector with the same signature as an MBR.
        let sector = read(disk, 0, 512)?;
        let whole = super::FILE_SYSTEMS.iter().any(|kind| {
            let found = read(disk, kind.offset, kind.magic.len());
            found.is_ok_and(|found| found == kind.magic)
        });
        let is_table = sector.get(510..) == Some(&[0x55, 0xaa]) && !whole;
        Ok(is_table
            .then(|| mbr(&sector))
            .filter(|table| !table.0.is_empty()))
    }

    /// Returns the number of the root partition for this architecture, or else of the only
    /// partition with a Linux file system.
    pub(super) fn root(&self, architecture: &str) -> Result<u32, String> {
        let of = |purposes: &[Purpose]| -> Vec<u32> {
            let found = self.0.iter().filter(|(_, kind)| purposes.contains(kind));
            found.map(|(number, _)| *number).collect()
        };
        // Discoverable Partitions Specification.
        let root = Purpose::Gpt(match architecture {
            "aarch64" => 0xb921b045_1df0_41c3_af44_4c6f280d3fae,
            _ => 0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709,
        });
        let all = || self.0.iter().map(|(number, _)| *number).collect();
        let candidates = [of(&[root]), of(&LINUX), all()];
        let found = candidates
            .into_iter()
            .find(|found: &Vec<u32>| !found.is_empty());
        match found.as_deref() {
            Some([number]) => Ok(*number),
            Some(several) => {
                let list: Vec<_> = several.iter().map(u32::to_string).collect();
                let list = list.join(", ");
                Err(format!("partitions {list} may be it: one has to be named"))
            }
            None => Err("it has no partitions".to_owned()),
        }
    }
}

fn gpt(disk: &File, header: &[u8]) -> io::Result<Table> {
    let number = |at: usize| {
        let field = header.get(at..at.saturating_add(4));
        field
            .and_then(|field| field.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    let sector = u64::from(number(72)) | u64::from(number(76)) << 32;
    let (count, size) = (number(80).min(MOST_ENTRIES), number(84));
    let mut found = Vec::new();
    if (128..=LONGEST_ENTRY).contains(&size) {
        let start = sector.saturating_mul(SECTOR);
        for index in 0..count {
            let offset = u64::from(index).saturating_mul(u64::from(size));
            let entry = read(disk, start.saturating_add(offset), 16)?;
            let Ok(kind) = <[u8; 16]>::try_from(entry) else {
                break;
            };
            if kind != [0; 16] {
                found.push((index.saturating_add(1), Purpose::Gpt(uuid(kind))));
            }
        }
    }
    Ok(Table(found))
}

/// Decodes a UUID as GPT stores it: its first three fields are little-endian.
fn uuid(stored: [u8; 16]) -> u128 {
    let [d, c, b, a, f, e, h, g, rest @ ..] = stored;
    let mut bytes = [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[8..].copy_from_slice(&rest);
    u128::from_be_bytes(bytes)
}

/// Reads the primary partitions; logical partitions must be named explicitly.
fn mbr(sector: &[u8]) -> Table {
    let records = sector.get(446..510).unwrap_or_default().chunks_exact(16);
    let kinds = records.zip(1..).filter_map(|(record, number)| {
        let kind = *record.get(4)?;
        // Unused entries and extended partitions are left out.
        (!matches!(kind, 0 | 0x05 | 0x0f | 0x85)).then_some((number, Purpose::Mbr(kind)))
    });
    Table(kinds.collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ROOT: u128 = 0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709;
    const EFI: Purpose = Purpose::Gpt(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);

    #[test]
    fn the_root_partition_is_that_of_the_platform_or_the_only_one() {
        let [linux, old] = LINUX;
        let root = |table: &[(u32, Purpose)]| Table(table.to_vec()).root("x86_64");
        assert_eq!(
            root(&[(1, EFI), (2, linux), (3, Purpose::Gpt(ROOT))]),
            Ok(3)
        );
        assert_eq!(root(&[(14, EFI), (15, linux)]), Ok(15));
        assert_eq!(root(&[(2, Purpose::Mbr(0x0c)), (3, old)]), Ok(3));
        assert_eq!(root(&[(1, Purpose::Mbr(0x07))]), Ok(1));
        let several = root(&[(1, linux), (5, linux), (9, EFI)]);
        assert!(several.is_err_and(|reason| reason.contains("1, 5 may be it")));
        assert!(root(&[]).is_err());
    }

    fn disk(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn any_header_and_any_end_of_the_disk_give_a_table_or_none() {
        let mut bytes = vec![0; 4096];
        bytes[512..520].copy_from_slice(b"EFI PART");
        // Entries of 128 bytes in sector 2; the second is in use.
        bytes[512 + 72] = 2;
        bytes[512 + 80] = 4;
        bytes[512 + 84] = 128;
        let stored = [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d];
        bytes[1024 + 128..1024 + 136].copy_from_slice(&stored);
        let rest = [0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09];
        bytes[1024 + 136..1024 + 144].copy_from_slice(&rest);
        let table = Table::read(&disk(&bytes)).unwrap();
        assert_eq!(table, Some(Table(vec![(2, Purpose::Gpt(ROOT))])));
        for at in 512..604 {
            for byte in [0, 1, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                Table::read(&disk(&changed)).unwrap();
            }
        }
        for end in 0..bytes.len() {
            Table::read(&disk(&bytes[..end])).unwrap();
        }
    }

    #[test]
    fn a_boot_sector_of_a_file_system_is_not_a_table() {
        let mut bytes = vec![0; 4096];
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(Table::read(&disk(&bytes)).unwrap(), None);
        bytes[446 + 4] = 0x83;
        let table = Table(vec![(1, Purpose::Mbr(0x83))]);
        assert_eq!(Table::read(&disk(&bytes)).unwrap(), Some(table));
        bytes[..4].copy_from_slice(b"XFSB");
        assert_eq!(Table::read(&disk(&bytes)).unwrap(), None);
    }
}
