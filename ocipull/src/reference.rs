//! The names of images.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::spool::STDIN;
use crate::{Digest, Error, name};

/// Where an image is.
///
/// | text | means |
/// |---|---|
/// | `HOST/REPO[:TAG][@DIGEST]` | a registry; without a tag and digest, the tag `latest` |
/// | `debian`, `user/app:1` | Docker Hub: `docker.io/library/debian:latest`, `docker.io/user/app:1` |
/// | `oci:DIR[:TAG]` | an OCI image layout |
/// | `oci-archive:FILE[:TAG]` | an OCI image layout in a tar file |
/// | `docker-archive:FILE[:TAG]` | what `docker save` writes |
/// | `dir:DIR` | what `skopeo copy` writes to `dir:` |
/// | `docker-daemon:NAME[:TAG]` | an image of the Docker daemon at `$DOCKER_HOST`, by name or ID |
///
/// An archive called `-` is read from standard input, and archives may be compressed as a whole. In
/// the place of a tag, `@N` names the image at position N, counted from 0, and in a layout
/// `@sha256:…` the one with this digest.
///
/// [`Display`](fmt::Display) writes the full form, so two texts that mean the same compare equal
/// once parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reference {
    /// In a registry.
    Registry {
        /// Host name or address and, after a colon, port.
        host: String,
        /// The repository, such as `library/debian`.
        repository: String,
        /// The tag.
        tag: Option<String>,
        /// The digest of the manifest or index. If there is a tag, too, the digest decides.
        digest: Option<Digest>,
    },
    /// In a folder laid out as the OCI image specification says.
    OciLayout {
        /// The folder.
        dir: PathBuf,
        /// The image's `org.opencontainers.image.ref.name`; needed if the layout has several
        /// images.
        tag: Option<String>,
    },
    /// In a tar archive of such a folder.
    OciArchive {
        /// The archive.
        file: PathBuf,
        /// The image's `org.opencontainers.image.ref.name`; needed if the layout has several
        /// images.
        tag: Option<String>,
    },
    /// In an archive that `docker save` or `podman save` wrote.
    DockerArchive {
        /// The archive.
        file: PathBuf,
        /// One of the image's `RepoTags`, or its tag alone; needed if the archive has several
        /// images.
        tag: Option<String>,
    },
    /// In a folder that skopeo wrote as `dir:`.
    Directory {
        /// The folder.
        dir: PathBuf,
    },
    /// In a Docker daemon on this host.
    DockerDaemon {
        /// The image's name with its tag, or its ID.
        name: String,
    },
}

impl Reference {
    /// Returns whether the image is outside a registry: in files of this host or in its Docker
    /// daemon. Such an image may change at any time.
    ///
    /// ```
    /// use ocipull::Reference;
    ///
    /// assert!("oci:folder:tag".parse::<Reference>()?.is_local());
    /// assert!(!"debian:12".parse::<Reference>()?.is_local());
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Registry { .. })
    }

    /// Returns the reference with the absolute path of its folder or archive, symlinks resolved.
    /// Canonical references to one place are equal, and do not depend on the current folder. A path
    /// that does not exist is made absolute by its text.
    ///
    /// ```
    /// use ocipull::Reference;
    ///
    /// let relative: Reference = "oci:images/../layout:tag".parse()?;
    /// let folder = std::env::current_dir()?;
    /// assert!(relative.canonical().to_string().contains(&*folder.to_string_lossy()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn canonical(&self) -> Self {
        let mut canonical = self.clone();
        match &mut canonical {
            Self::OciArchive { file, .. } | Self::DockerArchive { file, .. }
                if file.as_os_str() == STDIN => {}
            Self::OciLayout { dir: path, .. }
            | Self::Directory { dir: path }
            | Self::OciArchive { file: path, .. }
            | Self::DockerArchive { file: path, .. } => {
                let resolved = path.canonicalize().or_else(|_| std::path::absolute(&*path));
                if let Ok(resolved) = resolved {
                    *path = resolved;
                }
            }
            Self::Registry { .. } | Self::DockerDaemon { .. } => {}
        }
        canonical
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |problem: &str| Error::InvalidReference {
            text: text.to_owned(),
            problem: problem.to_owned(),
        };
        let local = |rest| local(rest).ok_or_else(|| invalid("the path is empty"));
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = local(rest)?;
            return Ok(Self::OciLayout { dir, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, tag) = local(rest)?;
            return Ok(Self::OciArchive { file, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (file, tag) = local(rest)?;
            return Ok(Self::DockerArchive { file, tag });
        }
        if let Some(path) = text.strip_prefix("dir:") {
            // Tags mean nothing here, so a colon belongs to the path.
            return match path {
                "" => Err(invalid("the path is empty")),
                path => Ok(Self::Directory { dir: path.into() }),
            };
        }
        if let Some(name) = text.strip_prefix("docker-daemon:") {
            let name = daemon_name(name).map_err(|problem| invalid(&problem))?;
            return Ok(Self::DockerDaemon { name });
        }
        let text = text.strip_prefix("docker://").unwrap_or(text);
        let name = name::parse(text).map_err(|problem| Error::InvalidReference {
            text: name::without_user_information(text),
            problem,
        })?;
        Ok(Self::Registry {
            host: name.host,
            repository: name.repository,
            tag: name.tag,
            digest: name.digest,
        })
    }
}

/// The name that the daemon is asked for: an ID as it is, a name in full.
fn daemon_name(text: &str) -> Result<String, String> {
    if text.parse::<Digest>().is_ok() {
        return Ok(text.to_owned());
    }
    name::parse(text).map(|name| name.to_string())
}

/// A path and what follows the first colon after it, as skopeo reads them.
fn local(text: &str) -> Option<(PathBuf, Option<String>)> {
    // The colon of a Windows drive belongs to the path.
    let drive = match text.as_bytes() {
        [letter, b':', b'\\' | b'/', ..] if cfg!(windows) && letter.is_ascii_alphabetic() => 2,
        _ => 0,
    };
    let (path, tag) = match text[drive..].find(':') {
        Some(colon) => (&text[..drive + colon], Some(&text[drive + colon + 1..])),
        None => (text, None),
    };
    let tag = tag.filter(|tag| !tag.is_empty()).map(str::to_owned);
    (!path.is_empty()).then(|| (PathBuf::from(path), tag))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = |f: &mut fmt::Formatter<'_>, kind, path: &Path, tag: &Option<String>| {
            write!(f, "{kind}:{}", path.display())?;
            tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
        };
        match self {
            Self::Registry {
                host,
                repository,
                tag,
                digest,
            } => {
                write!(f, "{host}/{repository}")?;
                if let Some(tag) = tag {
                    write!(f, ":{tag}")?;
                }
                digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
            }
            Self::OciLayout { dir, tag } => local(f, "oci", dir, tag),
            Self::OciArchive { file, tag } => local(f, "oci-archive", file, tag),
            Self::DockerArchive { file, tag } => local(f, "docker-archive", file, tag),
            Self::Directory { dir } => write!(f, "dir:{}", dir.display()),
            Self::DockerDaemon { name } => write!(f, "docker-daemon:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_expanded_as_docker_does() {
        let hex = "a".repeat(64);
        for (text, full) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("user/app", "docker.io/user/app:latest"),
            ("index.docker.io/debian", "docker.io/library/debian:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("docker://ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("127.0.0.1:5000/demo:latest", "127.0.0.1:5000/demo:latest"),
            ("oci:dir", "oci:dir"),
            ("oci:/a/b:tag", "oci:/a/b:tag"),
            ("oci:a:docker.io/x:1", "oci:a:docker.io/x:1"),
            ("oci-archive:a.tar:", "oci-archive:a.tar"),
            ("oci:a:@1", "oci:a:@1"),
            ("oci-archive:-", "oci-archive:-"),
            ("dir:a:b", "dir:a:b"),
            (
                "docker-daemon:app",
                "docker-daemon:docker.io/library/app:latest",
            ),
            (
                &format!("docker-daemon:sha256:{hex}"),
                &format!("docker-daemon:sha256:{hex}"),
            ),
            (
                "docker-archive:a.tar:busybox:latest",
                "docker-archive:a.tar:busybox:latest",
            ),
            (
                &format!("x.y/a@sha256:{hex}"),
                &format!("x.y/a@sha256:{hex}"),
            ),
            (
                &format!("x.y/a:1@sha256:{hex}"),
                &format!("x.y/a:1@sha256:{hex}"),
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn invalid_references_are_rejected() {
        for text in [
            "",
            "UPPER",
            "a b",
            ":tag",
            "oci:",
            "oci::tag",
            "dir:",
            "docker-daemon:",
            "docker-daemon:../x",
            "a/../b",
            "http://a/b",
        ] {
            assert!(
                matches!(
                    text.parse::<Reference>(),
                    Err(Error::InvalidReference { .. })
                ),
                "{text:?}"
            );
        }
        assert!("a@sha256:../..".parse::<Reference>().is_err());
    }
}
