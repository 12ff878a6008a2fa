//! Mounts of a sandbox besides its own disks, and the options of docker that describe them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A mount in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mount {
    /// The mount point: an absolute path in the guest.
    pub target: String,
    /// The mounted file system.
    #[serde(flatten)]
    pub source: MountSource,
    /// Whether the mount is read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// The source of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum MountSource {
    /// A folder or a file of the host.
    Bind {
        /// Its path; absolute once the sandbox is made.
        path: PathBuf,
    },
    /// A named volume.
    Volume {
        /// Its name.
        name: String,
        /// A folder in the volume; an empty string is the whole volume.
        #[serde(default)]
        subpath: String,
        /// Whether to fill an empty volume with the image's files at the target.
        #[serde(default)]
        copy: bool,
    },
    /// Another image of the store, read-only.
    Image {
        /// Its name as the user gave it.
        asked: String,
        /// The digest of its manifest, once the sandbox is made.
        #[serde(default)]
        manifest_digest: String,
        /// A folder in the image; an empty string is the whole image.
        #[serde(default)]
        subpath: String,
    },
    /// Memory of the guest.
    Tmpfs {
        /// The most bytes that it holds; `None` is half of the guest's memory.
        #[serde(default)]
        size: Option<u64>,
        /// The mode of its root directory; `None` is the kernel's default.
        #[serde(default)]
        mode: Option<u32>,
    },
}

/// An error in the text of a mount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a mount: {reason}")]
pub struct MountError {
    /// The text.
    text: String,
    /// The reason.
    reason: String,
}

impl Mount {
    /// Mounts `source` at `target`, writable.
    pub fn new(target: impl Into<String>, source: MountSource) -> Self {
        Self {
            target: target.into(),
            source,
            read_only: false,
        }
    }

    /// Mounts a folder or a file of the host.
    pub fn bind(path: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        Self::new(target, MountSource::Bind { path: path.into() })
    }

    /// Mounts a named volume. It is created if it does not exist, and filled with the image's files
    /// at `target`.
    pub fn volume(name: impl Into<String>, target: impl Into<String>) -> Self {
        let source = MountSource::Volume {
            name: name.into(),
            subpath: String::new(),
            copy: true,
        };
        Self::new(target, source)
    }

    /// Mounts another image of the store.
    pub fn image(name: impl Into<String>, target: impl Into<String>) -> Self {
        let source = MountSource::Image {
            asked: name.into(),
            manifest_digest: String::new(),
            subpath: String::new(),
        };
        Self::new(target, source).read_only()
    }

    /// Makes the mount read-only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Parses a value of docker's `-v`: `HOST:GUEST[:OPTIONS]`, where `HOST` is a path if it has a
    /// slash or is `.` or `..`, and the name of a volume otherwise.
    ///
    /// # Errors
    ///
    /// [`MountError`] with the reason.
    pub fn from_volume_option(text: &str) -> Result<Self, MountError> {
        let error = |reason: &str| failed(text, reason);
        let mut parts = text.split(':');
        let (Some(source), Some(target), options, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error(
                "use HOST:GUEST or VOLUME:GUEST, with `:ro` after it if wanted",
            ));
        };
        if source.is_empty() {
            return Err(error(
                "it begins with neither a path nor the name of a volume",
            ));
        }
        let is_path = source.contains('/') || matches!(source, "." | "..");
        let mut mount = match is_path {
            true => Self::bind(source, target),
            false => Self::volume(source, target),
        };
        let options: Vec<_> = options.iter().flat_map(|text| text.split(',')).collect();
        if options.contains(&"ro") && options.contains(&"rw") {
            return Err(error("it is both ro and rw"));
        }
        for option in options {
            match (option, &mut mount.source) {
                ("ro", _) => mount.read_only = true,
                ("rw", _) => mount.read_only = false,
                ("nocopy", MountSource::Volume { copy, .. }) => *copy = false,
                // SELinux labels, and hints for Docker Desktop, have no effect here.
                ("z" | "Z" | "consistent" | "cached" | "delegated", _) => {}
                _ => return Err(error(&format!("unknown option {option:?}"))),
            }
        }
        Ok(mount)
    }

    /// Parses a value of docker's `--mount`: `type=bind|volume|image|tmpfs,src=…,dst=…[,ro]`.
    ///
    /// # Errors
    ///
    /// [`MountError`] with the reason.
    pub fn from_mount_option(text: &str) -> Result<Self, MountError> {
        let error = |reason: &str| failed(text, reason);
        let given = quoted_fields(text).ok_or_else(|| error("a quotation mark is missing"))?;
        let mut fields = Fields::default();
        for field in &given {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (&**field, None),
            };
            fields.set(key, value).map_err(|reason| error(&reason))?;
        }
        let kind = fields.kind.unwrap_or("volume");
        let target = fields.target.ok_or_else(|| error("dst= is missing"))?;
        let source = || {
            let given = fields.source.filter(|source| !source.is_empty());
            given.ok_or_else(|| error("src= is missing"))
        };
        let mut mount = match kind {
            "bind" => Self::bind(source()?, target),
            "volume" => Self::volume(source()?, target),
            "image" => Self::image(source()?, target),
            "tmpfs" => {
                let (size, mode) = (fields.size, fields.mode);
                Self::new(target, MountSource::Tmpfs { size, mode })
            }
            other => {
                let reason = format!("unknown type {other:?}: use bind, volume, image or tmpfs");
                return Err(error(&reason));
            }
        };
        mount.read_only |= fields.read_only;
        let only = |key: &str, kinds: &str| Err(error(&format!("{key} is for {kinds}")));
        match &mut mount.source {
            MountSource::Volume { subpath, copy, .. } => {
                *copy = !fields.nocopy;
                subpath.push_str(fields.subpath.unwrap_or_default());
            }
            MountSource::Image { subpath, .. } => {
                subpath.push_str(fields.subpath.unwrap_or_default());
            }
            _ if fields.subpath.is_some() => return only("a subpath", "volumes and images"),
            MountSource::Tmpfs { .. } if fields.source.is_some() => {
                return only("src", "other types");
            }
            _ => {}
        }
        match mount.source {
            MountSource::Volume { .. } => {}
            _ if fields.nocopy => return only("volume-nocopy", "volumes"),
            _ => {}
        }
        match mount.source {
            MountSource::Tmpfs { .. } => {}
            _ if fields.size.or(fields.mode.map(u64::from)).is_some() => {
                return only("tmpfs-size or tmpfs-mode", "type=tmpfs");
            }
            _ => {}
        }
        Ok(mount)
    }

    /// Parses a value of docker's `--tmpfs`: `GUEST[:OPTIONS]`.
    ///
    /// # Errors
    ///
    /// [`MountError`] with the reason.
    pub fn from_tmpfs_option(text: &str) -> Result<Self, MountError> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let (mut size, mut mode, mut read_only) = (None, None, false);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", text_of)) => {
                    size = Some(bytes(text_of).map_err(|reason| failed(text, &reason))?);
                }
                Some(("mode", text_of)) => {
                    mode = Some(octal(text_of).map_err(|reason| failed(text, &reason))?);
                }
                None if option == "ro" => read_only = true,
                // Options that a guest's tmpfs has anyway, or that are harmless in a guest.
                None if matches!(option, "rw" | "nosuid" | "nodev" | "exec" | "noexec") => {}
                _ => return Err(failed(text, &format!("unknown option {option:?}"))),
            }
        }
        let mut mount = Self::new(target, MountSource::Tmpfs { size, mode });
        mount.read_only = read_only;
        Ok(mount)
    }
}

/// Splits a text at its commas. A field in quotation marks may have commas, and two marks for one
/// (RFC 4180): docker's way to name a path with a comma.
fn quoted_fields(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        if after.is_empty() {
            return Some(fields);
        }
        rest = after.strip_prefix(',')?;
    }
}

/// Returns the field before the quotation mark that ends it, and the text after that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

fn failed(text: &str, reason: &str) -> MountError {
    MountError {
        text: text.to_owned(),
        reason: reason.to_owned(),
    }
}

#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    subpath: Option<&'a str>,
    read_only: bool,
    nocopy: bool,
    size: Option<u64>,
    mode: Option<u32>,
}

impl<'a> Fields<'a> {
    fn set(&mut self, key: &str, value: Option<&'a str>) -> Result<(), String> {
        let flag = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("{other:?} is neither true nor false")),
        };
        let needed = || value.ok_or_else(|| format!("{key} has no value"));
        match key {
            "type" => self.kind = Some(needed()?),
            "src" | "source" => self.source = Some(needed()?),
            "dst" | "destination" | "target" => self.target = Some(needed()?),
            "volume-subpath" | "image-subpath" => self.subpath = Some(needed()?),
            "ro" | "readonly" => self.read_only = flag()?,
            "volume-nocopy" => self.nocopy = flag()?,
            "tmpfs-size" => self.size = Some(bytes(needed()?)?),
            "tmpfs-mode" => self.mode = Some(octal(needed()?)?),
            "consistency" => {}
            other => return Err(format!("unknown key {other:?}")),
        }
        Ok(())
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches('b');
    let (digits, unit) = match digits.as_bytes().last() {
        Some(b'k') => (digits.trim_end_matches('k'), 1 << 10),
        Some(b'm') => (digits.trim_end_matches('m'), 1 << 20),
        Some(b'g') => (digits.trim_end_matches('g'), 1 << 30),
        _ => (digits, 1_u64),
    };
    let size = digits.parse::<u64>().ok();
    size.and_then(|size| size.checked_mul(unit))
        .filter(|size| *size > 0)
        .ok_or_else(|| format!("{text:?} is not a size"))
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("{text:?} is not a mode in octal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_option_is_a_path_with_a_slash_and_a_name_without() {
        let parse = |text| Mount::from_volume_option(text).unwrap();
        assert_eq!(parse("/a:/b"), Mount::bind("/a", "/b"));
        assert_eq!(parse("./a:/b:ro"), Mount::bind("./a", "/b").read_only());
        assert_eq!(parse(".:/b:rw,z"), Mount::bind(".", "/b"));
        assert_eq!(parse("data:/b"), Mount::volume("data", "/b"));
        let MountSource::Volume { copy, .. } = parse("data:/b:nocopy").source else {
            panic!()
        };
        assert!(!copy);
        for wrong in [
            "",
            "/a",
            ":/b",
            "/a:/b:rx",
            "/a:/b:nocopy",
            "a:b:ro:d",
            "/a:/b:ro,rw",
        ] {
            assert!(Mount::from_volume_option(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mount_option_is_read_as_docker_reads_it() {
        let parse = |text| Mount::from_mount_option(text).unwrap();
        let bind = Mount::bind("/a", "/b");
        assert_eq!(parse("type=bind,src=/a,dst=/b"), bind);
        assert_eq!(
            parse("type=bind,source=/a,target=/b,readonly"),
            bind.clone().read_only()
        );
        assert_eq!(parse("type=bind,src=/a,dst=/b,ro=false"), bind);
        assert_eq!(parse("src=v,dst=/b"), Mount::volume("v", "/b"));
        assert_eq!(
            parse(r#""type=bind","src=/a,""b""",dst=/b"#),
            Mount::bind("/a,\"b\"", "/b")
        );
        for wrong in [r#""type=bind"#, r#""src=v"x,dst=/b"#] {
            assert!(Mount::from_mount_option(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            parse("type=image,src=alpine,destination=/b"),
            Mount::image("alpine", "/b")
        );
        let (size, mode) = (Some(64 << 20), Some(0o1777));
        assert_eq!(
            parse("type=tmpfs,dst=/b,tmpfs-size=64m,tmpfs-mode=1777"),
            Mount::new("/b", MountSource::Tmpfs { size, mode })
        );
        assert_eq!(
            Mount::from_tmpfs_option("/b:size=64m,mode=1777"),
            Ok(Mount::new("/b", MountSource::Tmpfs { size, mode }))
        );
        for (wrong, reason) in [
            ("type=bind,src=/a", "dst= is missing"),
            ("type=bind,dst=/a", "src= is missing"),
            ("dst=/a", "src= is missing"),
            ("type=nfs,src=a,dst=/b", "unknown type \"nfs\""),
            ("type=bind,src=/a,dst=/b,x=1", "unknown key \"x\""),
            ("type=bind,src=/a,dst=/b,volume-nocopy", "for volumes"),
            ("type=bind,src=/a,dst=/b,tmpfs-size=1", "type=tmpfs"),
            ("type=tmpfs,src=/a,dst=/b", "other types"),
            ("type=tmpfs,dst=/b,tmpfs-size=much", "not a size"),
            ("type=bind,src=/a,dst=/b,ro=maybe", "neither true nor false"),
        ] {
            let error = Mount::from_mount_option(wrong).unwrap_err().to_string();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_mount_survives_its_record() {
        for mount in [
            Mount::bind("/a", "/b").read_only(),
            Mount::volume("v", "/b"),
            Mount::image("i", "/b"),
            Mount::from_tmpfs_option("/b").unwrap(),
        ] {
            let json = serde_json::to_string(&mount).unwrap();
            assert_eq!(serde_json::from_str::<Mount>(&json).unwrap(), mount);
        }
    }
}
