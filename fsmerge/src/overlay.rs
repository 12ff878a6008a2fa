//! The encoding of whiteouts and marks of a layer in a layer image, as overlayfs defines it.
//!
//! | in the layer | in the image |
//! |---|---|
//! | [`Kind::Whiteout`] | character device 0:0, mode 0, mtime 0 |
//! | an opaque directory | `trusted.overlay.opaque=y` |
//! | an implied directory | `trusted.overlay.blockbox.implied=y` |
//! | [`Kind::LowerLink`] | an empty file with an empty `trusted.overlay.metacopy` and `trusted.overlay.redirect=/TARGET` |
//! | an xattr `trusted.overlay.X` of the archive | `trusted.overlay.overlay.X`, from [`read_tar`](crate::read_tar) on |
//!
//! The names are those of the kernel's `fs/overlayfs/overlayfs.h` (`OVL_XATTR_*`), but for
//! `blockbox.implied`, which overlayfs does not know and hides.

use crate::error::Problem;
use crate::metadata::{DeviceNumber, Metadata, Xattr, Xattrs};
use crate::tree::Kind;

/// Extended attributes with this prefix are overlayfs's own, and hidden in an overlay mount.
pub const PREFIX: &[u8] = b"trusted.overlay.";
/// Extended attributes with this prefix are shown by an overlay mount with one `overlay.` less.
pub const ESCAPED_PREFIX: &[u8] = b"trusted.overlay.overlay.";
/// The value `y` hides what lower layers have in the directory.
pub const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// The value `y` means that the layer has no entry for the directory itself, only for names in it.
pub const IMPLIED: &[u8] = b"trusted.overlay.blockbox.implied";
/// The file has no contents of its own, a lower file's are shown.
pub const METACOPY: &[u8] = b"trusted.overlay.metacopy";
/// Where the lower file is, as an absolute path.
pub const REDIRECT: &[u8] = b"trusted.overlay.redirect";
/// The origin of a file that overlayfs copied up. It only affects inode numbers; mkfs.erofs puts it
/// on directories with whiteouts, so that overlayfs looks for them.
const ORIGIN: &[u8] = b"trusted.overlay.origin";
/// The directory has files with an origin.
const IMPURE: &[u8] = b"trusted.overlay.impure";

/// Returns the form of a layer's node in the image: only directories without flags, files,
/// symlinks, devices, fifos and sockets.
///
/// ```
/// use fsmerge::{DeviceNumber, Kind, Metadata, overlay};
///
/// let (_, kind) = overlay::encode(&Metadata::new(0), Kind::Whiteout);
/// assert_eq!(kind, Kind::CharDevice(DeviceNumber { major: 0, minor: 0 }));
///
/// let opaque = Kind::Directory { opaque: true, implied: false };
/// let (metadata, kind) = overlay::encode(&Metadata::new(0o755), opaque);
/// assert_eq!(kind, Kind::DIRECTORY);
/// assert_eq!(metadata.xattrs.get(overlay::OPAQUE), Some(&b"y"[..]));
/// ```
pub fn encode<'a>(attributes: &Metadata, kind: Kind<'a>) -> (Metadata, Kind<'a>) {
    let yes = |name: &[u8]| (name.to_vec(), b"y".to_vec());
    match kind {
        Kind::Directory { opaque, implied } => {
            let marks = opaque
                .then(|| yes(OPAQUE))
                .into_iter()
                .chain(implied.then(|| yes(IMPLIED)));
            let plain = Kind::Directory {
                opaque: false,
                implied: false,
            };
            (marked(attributes, marks), plain)
        }
        Kind::Whiteout => (
            Metadata::new(0),
            Kind::CharDevice(DeviceNumber { major: 0, minor: 0 }),
        ),
        Kind::LowerLink(target) => {
            let redirect = [b"/", target].concat();
            let marks = [
                (METACOPY.to_vec(), Vec::new()),
                (REDIRECT.to_vec(), redirect),
            ];
            let empty = Kind::File {
                size: 0,
                data: None,
            };
            (marked(attributes, marks), empty)
        }
        _ => (attributes.clone(), kind),
    }
}

fn marked(attributes: &Metadata, marks: impl IntoIterator<Item = Xattr>) -> Metadata {
    let mut marks = marks.into_iter().peekable();
    if marks.peek().is_none() {
        return attributes.clone();
    }
    Metadata {
        xattrs: attributes.xattrs.iter().cloned().chain(marks).collect(),
        ..*attributes
    }
}

/// Decodes an inode of a layer image: the inverse of [`encode`]. Marks are taken out of the
/// attributes; escaped extended attributes stay as they are.
///
/// ```
/// use fsmerge::{Kind, Metadata, overlay};
///
/// let mark = (overlay::OPAQUE.to_vec(), b"y".to_vec());
/// let marked = Metadata::new(0o755).xattrs([mark]);
/// let (metadata, kind) = overlay::decode(&marked, Kind::DIRECTORY)?;
/// assert_eq!(kind, Kind::Directory { opaque: true, implied: false });
/// assert_eq!(metadata, Metadata::new(0o755));
/// # Ok::<(), fsmerge::Problem>(())
/// ```
///
/// # Errors
///
/// [`Problem::OverlayMark`] where the inode carries a mark of overlayfs that layer images do not
/// use (a directory's `redirect`, a `metacopy` without one, …), since the view would be another one
/// than overlayfs's.
pub fn decode<'a>(
    attributes: &'a Metadata,
    kind: Kind<'a>,
) -> Result<(Metadata, Kind<'a>), Problem> {
    if kind == (Kind::CharDevice(DeviceNumber { major: 0, minor: 0 })) {
        return Ok((Metadata::new(0), Kind::Whiteout));
    }
    let (mut opaque, mut implied, mut metacopy, mut redirect) = (false, false, false, None);
    let mut marks = 0_usize;
    for (name, value) in &attributes.xattrs {
        if !name.starts_with(PREFIX) || name.starts_with(ESCAPED_PREFIX) {
            continue;
        }
        marks += 1;
        match (kind, name.as_slice()) {
            (Kind::Directory { .. }, OPAQUE) if value == b"y" => opaque = true,
            (Kind::Directory { .. }, IMPLIED) if value == b"y" => implied = true,
            (Kind::File { size: 0, .. }, METACOPY) if value.is_empty() => metacopy = true,
            (Kind::File { size: 0, .. }, REDIRECT) => {
                redirect = value.strip_prefix(b"/").filter(|path| !path.is_empty());
                if redirect.is_none() {
                    return Err(unsupported(name));
                }
            }
            (_, ORIGIN | IMPURE) => {}
            _ => return Err(unsupported(name)),
        }
    }
    let kind = match (kind, metacopy, redirect) {
        (Kind::Directory { .. }, ..) => Kind::Directory { opaque, implied },
        (_, true, Some(path)) => Kind::LowerLink(path),
        (_, true, None) => return Err(unsupported(METACOPY)),
        (_, false, Some(_)) => return Err(unsupported(REDIRECT)),
        _ => kind,
    };
    if marks == 0 {
        return Ok((attributes.clone(), kind));
    }
    let xattrs: Xattrs = attributes
        .xattrs
        .iter()
        .filter(|(name, _)| !name.starts_with(PREFIX) || name.starts_with(ESCAPED_PREFIX))
        .cloned()
        .collect();
    Ok((
        Metadata {
            xattrs,
            ..*attributes
        },
        kind,
    ))
}

fn unsupported(xattr: &[u8]) -> Problem {
    Problem::OverlayMark {
        xattr: xattr.into(),
    }
}

/// The name that a program sees of an extended attribute which a layer keeps as `name`: the inverse
/// of what [`read_tar`](crate::read_tar) does.
///
/// ```
/// use fsmerge::overlay;
///
/// assert_eq!(overlay::shown(b"trusted.overlay.overlay.opaque"), overlay::OPAQUE);
/// assert_eq!(overlay::shown(b"user.name"), b"user.name");
/// ```
pub fn shown(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(ESCAPED_PREFIX) {
        Some(rest) => [PREFIX, rest].concat(),
        None => name.to_vec(),
    }
}

/// The name under which the layer keeps an incoming extended attribute: `trusted.overlay.X` as
/// `trusted.overlay.overlay.X`, all others as they are.
pub(crate) fn escaped(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(PREFIX) {
        Some(rest) => [ESCAPED_PREFIX, rest].concat(),
        None => name.to_vec(),
    }
}
