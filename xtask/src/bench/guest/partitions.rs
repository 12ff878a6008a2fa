//! Puts many files on one disk, each as a partition.
//!
//! A machine of QEMU's type `microvm` has eight virtio devices and no PCI, which is too few for a
//! disk per layer. The layers are logical partitions instead, numbered from 5: a request to a
//! partition is the same request with another offset.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::bench::fs::Build;
use crate::shell;

/// The size of a disk's sector, in bytes.
const SECTOR: u64 = 512;

/// The number of the first logical partition.
pub(super) const FIRST: usize = 5;

/// The size of a table on the disk, in sectors: a page, so that partitions are aligned to pages.
const TABLE: u32 = 8;

/// Types of partitions: extended, and Linux.
const EXTENDED: u8 = 0x05;
const LINUX: u8 = 0x83;

/// Makes a disk of `files` without copying them.
pub(super) fn disk(build: &Build<'_>, name: &str, files: &[PathBuf]) -> Result<PathBuf> {
    let folder = build.folder(name)?;
    let sizes = files.iter().map(|file| sectors(file));
    let sizes = sizes.collect::<Result<Vec<_>>>()?;
    let mut tables = tables(&sizes).into_iter().enumerate();
    let mut table = || -> Result<PathBuf> {
        let (number, bytes) = tables.next().context("a table per file")?;
        let path = folder.join(format!("table-{number}"));
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let disk = folder.join("disk.vmdk");
    let mut create = build.setting.blockbox(&["vmdk", "create", "--output"]);
    create.arg(&disk).arg(table()?);
    for file in files {
        create.arg(table()?).arg(file);
    }
    shell::output(&mut create)?;
    Ok(disk)
}

fn sectors(file: &Path) -> Result<u32> {
    let bytes = fs::metadata(file)?.len();
    ensure!(bytes % SECTOR == 0, "{}: not whole sectors", file.display());
    Ok(u32::try_from(bytes / SECTOR)?)
}

/// Returns the table at the beginning, and the one in front of each partition, which points to the
/// next (the "extended boot records" of DOS).
fn tables(sizes: &[u32]) -> Vec<Vec<u8>> {
    let whole = sizes.iter().map(|size| TABLE + size).sum();
    let mut tables = vec![table(&[(EXTENDED, TABLE, whole)])];
    // Relative to the first of these tables.
    let mut at = 0;
    for (number, &size) in sizes.iter().enumerate() {
        at += TABLE + size;
        let next = sizes.get(number + 1);
        let next = next.map(|next| (EXTENDED, at, TABLE + next));
        let entries: Vec<_> = [(LINUX, TABLE, size)].into_iter().chain(next).collect();
        tables.push(table(&entries));
    }
    tables
}

/// Returns a sector with partitions, given as type, first sector and number of sectors.
fn table(partitions: &[(u8, u32, u32)]) -> Vec<u8> {
    /// Cylinder, head and sector of addresses that they cannot represent.
    const FAR: [u8; 3] = [0xfe, 0xff, 0xff];
    let mut bytes = vec![0; 446];
    for &(kind, start, size) in partitions {
        bytes.push(0);
        bytes.extend(FAR);
        bytes.push(kind);
        bytes.extend(FAR);
        bytes.extend(start.to_le_bytes());
        bytes.extend(size.to_le_bytes());
    }
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xaa]);
    bytes.resize(TABLE as usize * SECTOR as usize, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type, start and size of the entries in use.
    fn entries(table: &[u8]) -> Vec<(u8, u32, u32)> {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        table[446..510]
            .chunks(16)
            .filter(|entry| entry[4] != 0)
            .map(|entry| (entry[4], number(&entry[8..12]), number(&entry[12..])))
            .collect()
    }

    #[test]
    fn each_table_names_its_partition_and_where_the_next_table_is() {
        let tables = tables(&[100, 200, 300]);
        assert!(tables.iter().all(|table| table.len() == 4096));
        assert!(tables.iter().all(|table| table[510..512] == [0x55, 0xaa]));
        let found: Vec<_> = tables.iter().map(|table| entries(table)).collect();
        assert_eq!(found[0], [(EXTENDED, 8, 624)]);
        assert_eq!(found[1], [(LINUX, 8, 100), (EXTENDED, 108, 208)]);
        assert_eq!(found[2], [(LINUX, 8, 200), (EXTENDED, 316, 308)]);
        assert_eq!(found[3], [(LINUX, 8, 300)]);
    }
}
