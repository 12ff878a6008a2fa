//! Long xattr name prefixes: names that many xattrs begin with, stored once.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use crate::Error;
use crate::format::{
    XATTR_INDEX_SECURITY, XATTR_INDEX_TRUSTED, XATTR_INDEX_USER, XATTR_LONG_PREFIX,
    XATTR_LONG_PREFIX_MASK,
};

/// Beginnings of xattr names, such as `trusted.overlay.`, that an image stores once instead of with
/// each xattr.
///
/// They save space where many different xattrs have long names; Linux 6.4 and later read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XattrPrefixes(Vec<Prefix>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Prefix {
    base_index: u8,
    infix: Vec<u8>,
}

impl XattrPrefixes {
    /// Takes beginnings of names, each a namespace and at least one byte more.
    ///
    /// ```
    /// use erofs_writer::{Options, XattrPrefixes};
    ///
    /// let prefixes = XattrPrefixes::new(["trusted.overlay.", "user.mime_"])?;
    /// let options = Options::default().xattr_prefixes(prefixes);
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::XattrPrefix`] for one that has no namespace, nothing more than one, or more than
    /// 254 bytes more; for one given twice; and for the 129th.
    pub fn new<P: AsRef<[u8]>>(prefixes: impl IntoIterator<Item = P>) -> Result<Self, Error> {
        let mut list = Vec::new();
        for prefix in prefixes {
            let prefix = prefix.as_ref();
            let refused = || Error::XattrPrefix(prefix.into());
            let (base_index, infix) = namespace(prefix).ok_or_else(refused)?;
            let parsed = Prefix {
                base_index,
                infix: infix.to_vec(),
            };
            let fits = (1..u8::MAX.into()).contains(&infix.len())
                && list.len() <= XATTR_LONG_PREFIX_MASK.into();
            if !fits || infix.contains(&0) || list.contains(&parsed) {
                return Err(refused());
            }
            list.push(parsed);
        }
        Ok(Self(list))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u8 {
        self.0.len() as u8
    }

    /// Returns `e_name_index` and the length of the prefix it replaces: the longest that fits.
    pub(crate) fn find(&self, index: u8, name: &[u8]) -> (u8, u8) {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, prefix)| prefix.base_index == index && name.starts_with(&prefix.infix))
            .max_by_key(|(_, prefix)| prefix.infix.len())
            .map_or((index, 0), |(i, prefix)| {
                (i as u8 | XATTR_LONG_PREFIX, prefix.infix.len() as u8)
            })
    }

    /// The bytes of the table on disk.
    pub(crate) fn table_length(&self) -> usize {
        let lengths = self.0.iter().map(|prefix| {
            (size_of::<U16>() + size_of::<u8>() + prefix.infix.len()).next_multiple_of(4)
        });
        lengths.sum()
    }

    /// The table on disk: of each, a length, the namespace's index
    /// (`struct erofs_xattr_long_prefix`) and the rest, to a multiple of four bytes.
    pub(crate) fn table(&self) -> Vec<u8> {
        let mut table = Vec::new();
        for prefix in &self.0 {
            let length = size_of::<u8>() + prefix.infix.len();
            table.extend_from_slice(U16::new(length as u16).as_bytes());
            table.push(prefix.base_index);
            table.extend_from_slice(&prefix.infix);
            table.resize(table.len().next_multiple_of(4), 0);
        }
        table
    }
}

/// The index of a name's namespace, and the rest of the name, for namespaces that contain names.
pub(crate) fn namespace(name: &[u8]) -> Option<(u8, &[u8])> {
    [
        (XATTR_INDEX_USER, &b"user."[..]),
        (XATTR_INDEX_TRUSTED, b"trusted."),
        (XATTR_INDEX_SECURITY, b"security."),
    ]
    .into_iter()
    .find_map(|(index, prefix)| Some((index, name.strip_prefix(prefix)?)))
}
