//! Conversions and comparisons.

use alloc::string::String;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::ops::Deref;

use crate::BytePath;

impl Deref for BytePath {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for BytePath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for BytePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for BytePath {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for BytePath {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for BytePath {
    fn from(bytes: &[u8; N]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<String> for BytePath {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&str> for BytePath {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<BytePath> for Vec<u8> {
    fn from(path: BytePath) -> Self {
        path.0
    }
}

/// Comparisons with what has bytes, in both directions.
macro_rules! compare {
    ($({$($generic:tt)*} $other:ty;)*) => {$(
        impl<$($generic)*> PartialEq<$other> for BytePath {
            fn eq(&self, other: &$other) -> bool {
                self.as_bytes() == AsRef::<[u8]>::as_ref(other)
            }
        }

        impl<$($generic)*> PartialEq<BytePath> for $other {
            fn eq(&self, other: &BytePath) -> bool {
                other == self
            }
        }
    )*};
}

compare! {
    {} [u8];
    {} &[u8];
    {const N: usize} [u8; N];
    {const N: usize} &[u8; N];
    {} Vec<u8>;
    {} str;
    {} &str;
    {} String;
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::BytePath;

    #[test]
    fn a_path_is_equal_to_its_bytes_of_any_type() {
        let path = BytePath::from("a/b");
        let bytes: &[u8] = b"a/b";
        assert_eq!(path, bytes);
        assert_eq!(bytes, path);
        assert_eq!(path, *bytes);
        assert_eq!(path, b"a/b");
        assert_eq!(path, *b"a/b");
        assert_eq!(path, bytes.to_vec());
        assert_eq!(path, "a/b");
        assert_eq!(path, *"a/b");
        assert_eq!(path, String::from("a/b"));
        assert_ne!(path, "a/c");
        for other in [
            BytePath::from(bytes),
            BytePath::from(b"a/b"),
            BytePath::from(bytes.to_vec()),
            BytePath::from(String::from("a/b")),
        ] {
            assert_eq!(path, other);
        }
        assert_eq!(Vec::from(path.clone()), path.clone().into_bytes());
        assert_eq!(path.as_bytes(), bytes);
    }

    #[test]
    fn a_map_of_paths_is_searched_by_bytes() {
        let map = BTreeMap::from([(BytePath::from("b"), 1), (BytePath::from(b"\xff"), 2)]);
        assert_eq!(map.get(&b"\xff"[..]), Some(&2));
        assert_eq!(map.get(&b"a"[..]), None);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_path_is_serialised_as_its_escaped_text() {
        let json = serde_json::to_string(&BytePath::from(b"\xc3\xa9\xff")).unwrap();
        assert_eq!(json, r#""é\\xff""#);
    }
}
