//! What an inode carries besides its kind.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A point in time: `secs` seconds since the epoch (negative before it) plus `nanos` nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 00:00:00 UTC, rounded down.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// Mode, owner, modification time and extended attributes of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// The permission bits with set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change of the contents.
    pub mtime: Timestamp,
    /// The extended attributes, sorted by name.
    pub xattrs: Xattrs,
}

impl Attributes {
    /// What a directory gets that some path runs through but no entry describes: `0755`, root's, at the epoch.
    pub fn implied_directory() -> Self {
        Self {
            mode: 0o755,
            ..Self::default()
        }
    }
}

/// One extended attribute: its full name (`user.mime_type`) and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A set of extended attributes, sorted by name, shared between the inodes that have equal ones. Cheap to clone.
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
                    .map(|(name, value)| (Text(name.as_slice()), Text(value.as_slice()))),
            )
            .finish()
    }
}

/// Bytes printed as escaped text.
struct Text<'a>(&'a [u8]);

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
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
