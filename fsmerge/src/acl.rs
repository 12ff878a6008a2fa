//! POSIX ACLs of a layer, as they are after unpacking.
//!
//! Docker and containerd unpack an entry by `lchown`, `lsetxattr` of each attribute, and `chmod`.
//! So the mode wins: `chmod` writes its bits into the access ACL (`__posix_acl_chmod_masq` in the
//! kernel's `fs/posix_acl.c`), and an access ACL without named users and groups becomes the mode
//! itself (`posix_acl_update_mode`). An image with any other combination would show something that
//! no unpacked layer does.

/// The attribute of an access ACL.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a default ACL, which directories have.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `a_version` of `struct posix_acl_xattr_header`.
const VERSION: [u8; 4] = 2_u32.to_le_bytes();
/// `e_tag` of `struct posix_acl_xattr_entry` (`include/uapi/linux/posix_acl.h`).
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The result of unpacking an ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unpacked {
    /// The file has this ACL.
    Acl(Vec<u8>),
    /// The file has no ACL: its mode says the same.
    None,
    /// The kernel cannot read the value (`posix_acl_from_xattr`): a filesystem that stored it would
    /// refuse access to the file.
    Malformed,
}

pub(crate) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// Returns what the attribute `name` with `value` becomes when a file of mode `mode` is unpacked.
pub(crate) fn unpacked(name: &[u8], mut value: Vec<u8>, mode: u16) -> Unpacked {
    let Some(entries) = value.strip_prefix(&VERSION) else {
        return Unpacked::Malformed;
    };
    let (entries, rest) = entries.as_chunks::<8>();
    let tag = |&[low, high, ..]: &[u8; 8]| u16::from_le_bytes([low, high]);
    let known = |tag| matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
    if !rest.is_empty() || !entries.iter().map(tag).all(known) {
        return Unpacked::Malformed;
    }
    let extended = |entry| !matches!(tag(entry), USER_OBJ | GROUP_OBJ | OTHER);
    let minimal = !entries.iter().any(extended);
    if entries.is_empty() || name == ACCESS && minimal {
        return Unpacked::None;
    }
    if name == ACCESS {
        let masked = entries.iter().any(|entry| tag(entry) == MASK);
        for entry in value[VERSION.len()..].as_chunks_mut::<8>().0 {
            let bits = match tag(entry) {
                USER_OBJ => mode >> 6,
                GROUP_OBJ if !masked => mode >> 3,
                MASK => mode >> 3,
                OTHER => mode,
                _ => continue,
            };
            entry[2..4].copy_from_slice(&(bits & 7).to_le_bytes());
        }
    }
    Unpacked::Acl(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let entry = |&(tag, bits): &(u16, u16)| {
            let id = u32::MAX.to_le_bytes();
            [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id].concat()
        };
        [VERSION.to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    #[test]
    fn malformed_acls_are_recognised() {
        let owner = [1, 0, 6, 0, 255, 255, 255, 255];
        for bad in [
            &b""[..],
            b"\x02\0\0",
            &[&[1, 0, 0, 0][..], &owner].concat(),
            &[&[2, 0, 0, 0][..], &owner, &[1]].concat(),
            &acl(&[(3, 6)]),
            &acl(&[(0x101, 6)]),
        ] {
            for name in [ACCESS, DEFAULT] {
                assert_eq!(
                    unpacked(name, bad.to_vec(), 0),
                    Unpacked::Malformed,
                    "{bad:?}"
                );
            }
        }
    }

    #[test]
    fn mode_replaces_owner_mask_and_others_of_an_access_acl_only() {
        let of = |name: &[u8], entries: &[(u16, u16)]| unpacked(name, acl(entries), 0o741);
        let masked = [
            (USER_OBJ, 6),
            (USER, 5),
            (GROUP_OBJ, 5),
            (MASK, 7),
            (OTHER, 0),
        ];
        let after = [
            (USER_OBJ, 7),
            (USER, 5),
            (GROUP_OBJ, 5),
            (MASK, 4),
            (OTHER, 1),
        ];
        assert_eq!(of(ACCESS, &masked), Unpacked::Acl(acl(&after)));
        assert_eq!(of(DEFAULT, &masked), Unpacked::Acl(acl(&masked)));
        let minimal = [(USER_OBJ, 6), (GROUP_OBJ, 5), (OTHER, 0)];
        assert_eq!(of(ACCESS, &minimal), Unpacked::None);
        assert_eq!(of(DEFAULT, &minimal), Unpacked::Acl(acl(&minimal)));
        assert_eq!(of(ACCESS, &[]), Unpacked::None);
        assert_eq!(of(DEFAULT, &[]), Unpacked::None);
    }
}
