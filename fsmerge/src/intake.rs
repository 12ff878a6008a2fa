//! Which extended attributes of a source get into a layer.

use crate::error::Problem;
use crate::limits::Limits;
use crate::metadata::Xattrs;
use crate::overlay;
use crate::tar::WarningKind;
use std::collections::HashSet;

/// The longest name of an extended attribute (`XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;

/// Takes extended attributes in, within the limits. Equal sets are kept once.
pub(crate) struct Intake {
    sets: HashSet<Xattrs>,
    bytes: u64,
    limits: Limits,
}

impl Intake {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            sets: HashSet::new(),
            bytes: 0,
            limits: *limits,
        }
    }

    /// One inode's attributes; `warn` hears of those that are dropped.
    pub(crate) fn take(
        &mut self,
        xattrs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        mut warn: impl FnMut(WarningKind),
    ) -> Result<Xattrs, Problem> {
        let mut kept = Vec::new();
        for (name, value) in xattrs {
            if !is_known(&name) {
                warn(WarningKind::UnknownXattr { name });
                continue;
            }
            if is_acl_name(&name) && !is_acl(&value) {
                warn(WarningKind::MalformedAcl { name });
                continue;
            }
            let name = overlay::escaped(&name);
            if name.len() > XATTR_NAME_MAX {
                return Err(Problem::NameTooLong { bytes: name.len() });
            }
            if value.len() > self.limits.xattr_value_bytes {
                return Err(Problem::Limit {
                    name: "xattr_value_bytes",
                    limit: self.limits.xattr_value_bytes as u64,
                });
            }
            self.bytes += (name.len() + value.len()) as u64;
            if self.bytes > self.limits.xattr_bytes {
                return Err(Problem::Limit {
                    name: "xattr_bytes",
                    limit: self.limits.xattr_bytes,
                });
            }
            kept.push((name, value));
        }
        let set: Xattrs = kept.into_iter().collect();
        if set.is_empty() {
            return Ok(set);
        }
        if let Some(known) = self.sets.get(&set) {
            return Ok(known.clone());
        }
        self.sets.insert(set.clone());
        Ok(set)
    }
}

/// Whether Linux has a namespace for the attribute (`include/uapi/linux/xattr.h`).
fn is_known(name: &[u8]) -> bool {
    let in_namespace = |prefix: &[u8]| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && !rest.contains(&0))
    };
    in_namespace(b"user.")
        || in_namespace(b"trusted.")
        || in_namespace(b"security.")
        || is_acl_name(name)
}

fn is_acl_name(name: &[u8]) -> bool {
    name == b"system.posix_acl_access" || name == b"system.posix_acl_default"
}

/// Whether `value` is what the kernel's `posix_acl_from_xattr` reads: `a_version` 2, then entries of 8 bytes, each of which
/// begins with one of the tags of `include/uapi/linux/posix_acl.h`. A file system that keeps any other refuses access to
/// the file.
fn is_acl(value: &[u8]) -> bool {
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    let Some(entries) = value.strip_prefix(&VERSION) else {
        return false;
    };
    let (entries, rest) = entries.as_chunks::<8>();
    rest.is_empty()
        && entries.iter().all(|&[low, high, ..]| {
            matches!(
                u16::from_le_bytes([low, high]),
                0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acls_are_of_version_2_and_whole_entries_with_known_tags() {
        let acl = |parts: &[&[u8]]| is_acl(&parts.concat());
        let owner = [1, 0, 6, 0, 255, 255, 255, 255];
        let other = [0x20, 0, 4, 0, 255, 255, 255, 255];
        assert!(acl(&[&[2, 0, 0, 0]]));
        assert!(acl(&[&[2, 0, 0, 0], &owner, &other]));
        let bad: [&[&[u8]]; 6] = [
            &[],
            &[&[2, 0, 0]],
            &[&[1, 0, 0, 0], &owner],
            &[&[2, 0, 0, 0], &owner, &[1]],
            &[&[2, 0, 0, 0], &[3, 0, 6, 0, 0, 0, 0, 0]],
            &[&[2, 0, 0, 0], &[1, 1, 6, 0, 0, 0, 0, 0]],
        ];
        for bad in bad {
            assert!(!acl(bad), "{bad:?}");
        }
    }
}
