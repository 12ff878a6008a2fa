//! POSIX ACLs: conversion between the kernel's xattr interface and the form on disk
//! (`fs/ext4/acl.h`).

const INTERFACE_VERSION: u32 = 2;
const DISK_VERSION: u32 = 1;
const ACL_USER_OBJ: u16 = 0x01;
const ACL_USER: u16 = 0x02;
const ACL_GROUP_OBJ: u16 = 0x04;
const ACL_GROUP: u16 = 0x08;
const ACL_MASK: u16 = 0x10;
const ACL_OTHER: u16 = 0x20;

/// Converts an ACL to the disk's form; `None` if `value` is not a valid ACL.
///
/// The interface gives every entry an id (`struct posix_acl_xattr_entry`); the disk only entries of
/// named users and groups.
pub(crate) fn to_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != INTERFACE_VERSION || !rest.is_empty() {
        return None;
    }
    let mut disk = DISK_VERSION.to_le_bytes().to_vec();
    for entry in entries {
        disk.extend_from_slice(match u16::from_le_bytes([entry[0], entry[1]]) {
            ACL_USER | ACL_GROUP => &entry[..],
            ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_MASK | ACL_OTHER => &entry[..4],
            _ => return None,
        });
    }
    Some(disk)
}

/// Converts an ACL on disk to the interface's form; `None` if `value` is not a valid ACL.
pub(crate) fn from_disk(value: &[u8]) -> Option<Vec<u8>> {
    /// The id of entries without a named user or group (`ACL_UNDEFINED_ID`).
    const NOBODY: [u8; 4] = [0xff; 4];
    let (version, mut rest) = value.split_first_chunk()?;
    if u32::from_le_bytes(*version) != DISK_VERSION {
        return None;
    }
    let mut interface = INTERFACE_VERSION.to_le_bytes().to_vec();
    while let Some((entry, behind)) = rest.split_first_chunk::<4>() {
        interface.extend_from_slice(entry);
        rest = behind;
        match u16::from_le_bytes([entry[0], entry[1]]) {
            ACL_USER | ACL_GROUP => {
                let (id, behind) = rest.split_first_chunk::<4>()?;
                interface.extend_from_slice(id);
                rest = behind;
            }
            ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_MASK | ACL_OTHER => {
                interface.extend_from_slice(&NOBODY);
            }
            _ => return None,
        }
    }
    rest.is_empty().then_some(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_entries_keep_their_ids() {
        let interface = [
            &[2, 0, 0, 0][..],
            &[1, 0, 7, 0, 255, 255, 255, 255],
            &[2, 0, 6, 0, 232, 3, 0, 0],
            &[4, 0, 5, 0, 255, 255, 255, 255],
            &[16, 0, 7, 0, 255, 255, 255, 255],
            &[32, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        let disk = [
            &[1, 0, 0, 0][..],
            &[1, 0, 7, 0],
            &[2, 0, 6, 0, 232, 3, 0, 0],
            &[4, 0, 5, 0],
            &[16, 0, 7, 0],
            &[32, 0, 4, 0],
        ]
        .concat();
        assert_eq!(from_disk(&disk).as_deref(), Some(&interface[..]));
        assert_eq!(to_disk(&interface), Some(disk));
    }

    #[test]
    fn values_that_are_not_acls_are_refused() {
        for value in [
            &b""[..],
            b"\x02\0\0",
            b"\x01\0\0\0",
            b"\x02\0\0\0\x01\0\0\0",
            b"\x02\0\0\0\x40\0\0\0\0\0\0\0",
        ] {
            assert_eq!(to_disk(value), None, "{value:?}");
        }
    }
}
