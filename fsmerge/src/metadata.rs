//! Attributes of inodes.

use crate::timestamp::Timestamp;
use blockbox_path::escaped;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Mode, owner, modification time and extended attributes of an inode.
///
/// ```
/// use std::time::SystemTime;
/// use fsmerge::Metadata;
///
/// let metadata = Metadata::new(0o644)
///     .owner(1000, 100)
///     .mtime(SystemTime::UNIX_EPOCH)
///     .xattrs([(b"user.origin".to_vec(), b"example".to_vec())]);
/// assert_eq!(metadata.gid, 100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Metadata {
    /// The permission bits with set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u16,
    /// The owner's user ID.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
    /// The modification time.
    pub mtime: Timestamp,
    /// The extended attributes, sorted by name.
    pub xattrs: Xattrs,
}

impl Metadata {
    /// Returns attributes with the permission bits `mode`, owned by root, with the modification
    /// time 1970-01-01 and without extended attributes.
    pub fn new(mode: u16) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::default(),
        }
    }

    /// Returns the attributes of a directory that some path runs through but no entry describes:
    /// `0755`, root's, from 1970-01-01.
    pub fn implied_directory() -> Self {
        Self::new(0o755)
    }

    /// Sets the permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u16) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the user ID.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// Sets the group ID.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = gid;
        self
    }

    /// Sets the user ID and the group ID.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        self.uid(uid).gid(gid)
    }

    /// Sets the modification time.
    #[must_use]
    pub fn mtime(mut self, mtime: impl Into<Timestamp>) -> Self {
        self.mtime = mtime.into();
        self
    }

    /// Replaces all extended attributes.
    #[must_use]
    pub fn xattrs(mut self, xattrs: impl IntoIterator<Item = Xattr>) -> Self {
        self.xattrs = xattrs.into_iter().collect();
        self
    }
}

/// The number of a character or block device (`st_rdev`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// The number of the driver.
    pub major: u32,
    /// The number of the device among those of the driver.
    pub minor: u32,
}

/// One extended attribute: its full name (`user.mime_type`) and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A set of extended attributes, sorted by name, shared between the inodes that have equal ones.
/// Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Xattrs(Option<Arc<Vec<Xattr>>>);

impl Deref for Xattrs {
    type Target = [Xattr];

    fn deref(&self) -> &[Xattr] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl Xattrs {
    /// The value of the attribute `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let at = self
            .binary_search_by(|(known, _)| known.as_slice().cmp(name))
            .ok()?;
        self.0.as_deref().map(|all| all[at].1.as_slice())
    }
}

impl FromIterator<Xattr> for Xattrs {
    /// Sorts by name. Of several values of one name, the last stays.
    fn from_iter<I: IntoIterator<Item = Xattr>>(xattrs: I) -> Self {
        let mut all: Vec<_> = xattrs.into_iter().collect();
        if all.is_empty() {
            return Self(None);
        }
        // Stable, so that the last of equal names is the last of its run.
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Self(Some(Arc::new(all)))
    }
}

impl<'a> IntoIterator for &'a Xattrs {
    type Item = &'a Xattr;
    type IntoIter = std::slice::Iter<'a, Xattr>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Xattrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(name, value)| (escaped(name), escaped(value))),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_values_of_one_name_the_last_stays() {
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let xattrs: Xattrs = [
            pair("user.b", "1"),
            pair("user.a", "2"),
            pair("user.b", "3"),
            pair("user.b", "4"),
        ]
        .into_iter()
        .collect();
        assert_eq!(&xattrs[..], [pair("user.a", "2"), pair("user.b", "4")]);
        assert_eq!(xattrs.get(b"user.b"), Some(&b"4"[..]));
        assert_eq!(xattrs.get(b"user.c"), None);
    }
}
