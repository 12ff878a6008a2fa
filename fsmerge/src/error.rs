//! Errors of layers, and where they are.

use std::io;

use blockbox_path::BytePath;

/// Why a layer or a stack of layers was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading the archive failed.
    #[error("cannot read the archive at byte {offset}")]
    Io {
        /// Bytes of the archive that were read before.
        offset: u64,
        /// The error that the reader returned.
        #[source]
        source: io::Error,
    },
    /// The input is not an archive.
    #[error("not a tar archive")]
    NotTar,
    /// The input is of another known format.
    #[error("not a tar archive: it is {format}")]
    OtherFormat {
        /// What it is, such as `a zip archive`.
        format: &'static str,
    },
    /// The archive ends in the middle of a header, of a file's contents, or of the padding after
    /// them.
    #[error("the archive is cut off at byte {offset}")]
    Truncated {
        /// The archive's length in bytes.
        offset: u64,
    },
    /// An entry of the archive breaks a rule.
    #[error("{path} (archive byte {offset}): {problem}")]
    Entry {
        /// The entry's path as the archive has it; for a damaged header what could be read of it.
        path: BytePath,
        /// Where the entry's header begins, in bytes.
        offset: u64,
        /// The rule.
        problem: Problem,
    },
    /// A node given to a [`LayerBuilder`](crate::LayerBuilder), or found in a directory or an
    /// image, breaks a rule.
    #[error("{path}: {problem}")]
    Node {
        /// Its path, or the path it was to have, without a leading `/`.
        path: BytePath,
        /// The rule.
        problem: Problem,
    },
    /// Something of a directory, or a file's contents in an image, could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Its path in the layer, empty for the root.
        path: BytePath,
        /// The error that the system returned.
        #[source]
        source: io::Error,
    },
    /// A file's length changed while it was read.
    #[error("{path} changed while it was read")]
    Changed {
        /// Its path in the layer.
        path: BytePath,
    },
    /// An EROFS image could not be read.
    #[cfg(feature = "erofs")]
    #[error("cannot read {path} of the image")]
    Image {
        /// The path in the image, empty for the root.
        path: BytePath,
        /// The error that the reader returned.
        #[source]
        source: erofs_reader::Error,
    },
    /// A layer does not fit on those below it.
    #[error("layer {layer}: {path}: {problem}")]
    Merge {
        /// The layer, counted from 0, the lowest.
        layer: usize,
        /// The entry's path in that layer.
        path: BytePath,
        /// The rule.
        problem: Problem,
    },
}

/// The rule that an entry breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The header's checksum is wrong: the archive is damaged, or this is none.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A numeric field is neither octal nor base-256, or out of range.
    #[error("the field {field} holds no valid number")]
    Number {
        /// The field's name in `struct posix_header` or the PAX keyword.
        field: &'static str,
    },
    /// The entry's size is negative.
    #[error("the size is negative")]
    NegativeSize,
    /// A PAX header's records do not follow POSIX.1-2001.
    #[error("malformed PAX record at byte {at} of the extended header")]
    Pax {
        /// Where in the extended header.
        at: usize,
    },
    /// The value of an extended attribute cannot be decoded.
    #[error("malformed value of the PAX record {key}")]
    PaxValue {
        /// The record's keyword.
        key: BytePath,
    },
    /// A sparse file's map is malformed, not ascending, or does not fit its contents.
    #[error("malformed map of a sparse file")]
    SparseMap,
    /// An entry type that has no meaning in a layer.
    #[error("unknown entry type {:?}", char::from(*kind))]
    UnknownType {
        /// The header's `typeflag`.
        kind: u8,
    },
    /// The path climbs above the root.
    #[error("the path climbs above the root")]
    Escape,
    /// A path or a target holds a NUL byte.
    #[error("the path holds a NUL byte")]
    Nul,
    /// A path component is longer than 255 bytes.
    #[error("a path component has {bytes} bytes, more than 255")]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A name that no directory entry can have: empty, `.`, `..`, or with a `/`.
    #[error("not a valid file name")]
    InvalidName,
    /// The input goes beyond one of the [`Limits`](crate::Limits).
    #[error("beyond the limit {name} = {limit}")]
    Limit {
        /// The limit's field name.
        name: &'static str,
        /// Its value.
        limit: u64,
    },
    /// The root is not a directory.
    #[error("the root must be a directory")]
    RootNotDirectory,
    /// The parent of the entry is not a directory.
    #[error("the parent is not a directory")]
    NotADirectory,
    /// A node with this path exists already.
    #[error("exists already")]
    AlreadyExists,
    /// No node has this path.
    #[error("does not exist")]
    NotFound,
    /// The node belongs to another builder, or was removed from this one.
    #[error("the node is not in this layer")]
    ForeignNode,
    /// More symlinks than Linux follows (40) on the way to the entry.
    #[error("too many symlinks on the path")]
    SymlinkLoop,
    /// A whiteout that names nothing, `.` or `..`.
    #[error("a whiteout of nothing")]
    BareWhiteout,
    /// A character device 0:0, which would be taken for a whiteout.
    #[error("a character device 0:0 is overlayfs's whiteout and cannot be in a layer")]
    WhiteoutDevice,
    /// A symlink without a target.
    #[error("a symlink with an empty target")]
    EmptyTarget,
    /// A hard link to a directory.
    #[error("hard link to the directory {target}")]
    LinkToDirectory {
        /// The link's target.
        target: BytePath,
    },
    /// A hard link whose target is neither in the layer nor below it.
    #[error("hard link to {target}, which does not exist")]
    LinkTargetMissing {
        /// The link's target.
        target: BytePath,
    },
    /// An overlayfs mark that has no meaning in a layer image.
    #[error("unsupported overlayfs mark {xattr}")]
    OverlayMark {
        /// The extended attribute's name.
        xattr: BytePath,
    },
}

/// Why reading a layer failed: the layer was refused, or the sink failed.
///
/// There are these two kinds and no more, so that a caller can hand on its own error: new reasons
/// of this crate are new variants of [`Error`], which is not exhaustive.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<S> {
    /// The layer was refused.
    #[error(transparent)]
    Layer(#[from] Error),
    /// The sink failed to store the contents of a file.
    #[error("cannot store the contents of {path}")]
    #[non_exhaustive]
    Sink {
        /// The file's path in the layer.
        path: BytePath,
        /// The error that the sink returned.
        #[source]
        source: S,
    },
}

/// Why [`merge`](crate::merge()) failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to merge layer {layer}")]
#[non_exhaustive]
pub struct MergeError<S: std::error::Error + 'static> {
    /// The layer, counted from 0, the lowest.
    pub layer: usize,
    /// Why it failed.
    #[source]
    pub source: ReadError<S>,
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    /// Whether errors like this one have a cause. Lists all variants, so that a new one is not
    /// forgotten here.
    fn has_cause(error: &Error) -> bool {
        match error {
            Error::Io { .. } | Error::Read { .. } => true,
            #[cfg(feature = "erofs")]
            Error::Image { .. } => true,
            Error::NotTar
            | Error::OtherFormat { .. }
            | Error::Truncated { .. }
            | Error::Entry { .. }
            | Error::Node { .. }
            | Error::Changed { .. }
            | Error::Merge { .. } => false,
        }
    }

    #[test]
    fn display_leaves_the_cause_to_source() {
        let io = || io::Error::other("THE CAUSE");
        let path = || BytePath::from("usr/bin");
        let read = || Error::Io {
            offset: 512,
            source: io(),
        };
        let errors = [
            read(),
            Error::Read {
                path: path(),
                source: io(),
            },
            #[cfg(feature = "erofs")]
            Error::Image {
                path: path(),
                source: erofs_reader::Error::Limit { limit: 7 },
            },
        ];
        let sink = ReadError::Sink {
            path: path(),
            source: io(),
        };
        let merge = MergeError {
            layer: 3,
            source: ReadError::<io::Error>::Layer(read()),
        };
        assert!(errors.iter().all(has_cause));
        assert!(!has_cause(&Error::Truncated { offset: 0 }));
        let errors = errors.iter().map(|error| error as &dyn std::error::Error);
        for error in errors.chain([&sink as _, &merge as _]) {
            let source = error.source().expect("a cause").to_string();
            assert!(!error.to_string().contains(&source), "{error:?}");
        }
        // Transparent: the cause of what is inside, and not what is inside itself.
        let inside = ReadError::<io::Error>::Layer(read());
        assert_eq!(inside.to_string(), read().to_string());
        assert_eq!(inside.source().expect("a cause").to_string(), "THE CAUSE");
    }

    #[test]
    fn debug_of_an_error_shows_its_path_as_text() {
        let error = Error::Node {
            path: b"usr/l\xff".into(),
            problem: Problem::LinkToDirectory {
                target: "etc".into(),
            },
        };
        let shown = r#"Node { path: "usr/l\xff", problem: LinkToDirectory { target: "etc" } }"#;
        assert_eq!(format!("{error:?}"), shown);
        let shown = r"usr/l\xff: hard link to the directory etc";
        assert_eq!(error.to_string(), shown);
    }
}
