//! Tar archives of OCI image layouts, written from their beginning to their end.

use std::collections::HashSet;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use blockbox_files::NewFile;
use serde_json::{Value, json};

use super::sink::{LAYOUT, Open, Sink, copy_verified, entry};
use crate::{Digest, Error, Pushed};

/// The annotation with an image's whole name, as containerd and docker write it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

const BLOCK: usize = 512;

/// Writes OCI image layouts as tar archives, to any output: of any number of images, which docker
/// loads too.
///
/// Blobs come first, then the images that need them. [`finish`](Self::finish) writes the lists of
/// images.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ocipull::{ArchiveWriter, Digest};
///
/// let mut archive = ArchiveWriter::new(Vec::new())?;
/// let config = b"{}";
/// let digest = Digest::sha256(config);
/// archive.push_blob(&digest, 2, |_| Ok(Box::new(&config[..])))?;
/// let manifest = format!(
///     r#"{{"schemaVersion":2,"config":{{"mediaType":"text/plain","digest":"{digest}","size":2}},"layers":[]}}"#
/// );
/// let manifest = ("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
/// archive.add_image(manifest, (&digest, &[]), Some("example.org/app:1"), Some("1"))?;
/// let tar: Vec<u8> = archive.finish()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ArchiveWriter<W> {
    out: W,
    members: HashSet<Digest>,
    index: Vec<Value>,
    /// Docker's list, `manifest.json`.
    dockers: Vec<Value>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive.
    ///
    /// ```
    /// use ocipull::ArchiveWriter;
    ///
    /// // An archive without images.
    /// let tar: Vec<u8> = ArchiveWriter::new(Vec::new())?.finish()?;
    /// assert!(tar.starts_with(b"oci-layout"));
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn new(out: W) -> Result<Self, Error> {
        let mut archive = Self {
            out,
            members: HashSet::new(),
            index: Vec::new(),
            dockers: Vec::new(),
        };
        archive.small("oci-layout", LAYOUT.as_bytes())?;
        Ok(archive)
    }

    /// Writes the blob `digest`, which has `size` bytes, unless the archive has it. `open` gives
    /// its bytes from an offset on. After an error, the archive may end with a partial blob and is
    /// unusable.
    ///
    /// ```
    /// use ocipull::{ArchiveWriter, Digest, Pushed};
    ///
    /// let mut archive = ArchiveWriter::new(Vec::new())?;
    /// let digest = Digest::sha256(b"{}");
    /// let mut push = || archive.push_blob(&digest, 2, |_| Ok(Box::new(&b"{}"[..])));
    /// assert_eq!(push()?, Pushed::Uploaded);
    /// assert_eq!(push()?, Pushed::Existed);
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::DigestMismatch`] and [`Error::SizeMismatch`] where `open` gives other bytes;
    /// [`Error::Read`]; [`Error::Write`].
    pub fn push_blob(
        &mut self,
        digest: &Digest,
        size: u64,
        mut open: impl FnMut(u64) -> io::Result<Box<dyn Read>>,
    ) -> Result<Pushed, Error> {
        self.blob(digest, size, &mut open)
    }

    fn blob(&mut self, digest: &Digest, size: u64, open: &mut Open<'_>) -> Result<Pushed, Error> {
        if !self.members.insert(digest.clone()) {
            return Ok(Pushed::Existed);
        }
        self.header(&name(digest), size)?;
        copy_verified(digest, size, open, |bytes| {
            self.out.write_all(bytes).map_err(failed)
        })?;
        self.pad(size)?;
        Ok(Pushed::Uploaded)
    }

    /// Adds an image, whose blobs are there: its manifest, its configuration and the digests of its
    /// layers, lowest first. `image` is its whole name (`HOST/REPO:TAG`), which docker gives it,
    /// and `tag` what it is called in the layout.
    ///
    /// ```
    /// use ocipull::{ArchiveWriter, Digest};
    ///
    /// let mut archive = ArchiveWriter::new(Vec::new())?;
    /// let mut push = |bytes: &'static [u8]| -> Result<Digest, ocipull::Error> {
    ///     let digest = Digest::sha256(bytes);
    ///     archive.push_blob(&digest, bytes.len() as u64, |_| Ok(Box::new(bytes)))?;
    ///     Ok(digest)
    /// };
    /// let config = push(br#"{"os": "linux", "architecture": "amd64"}"#)?;
    /// let layer = push(&[0; 1024])?;
    /// # let manifest = b"{}";
    /// // `manifest` is the JSON that names both.
    /// let media_type = "application/vnd.oci.image.manifest.v1+json";
    /// let name = Some("registry.example.org/empty:1");
    /// archive.add_image((media_type, manifest), (&config, &[layer]), name, Some("1"))?;
    /// let tar: Vec<u8> = archive.finish()?;
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn add_image(
        &mut self,
        (media_type, manifest): (&str, &[u8]),
        (config, layers): (&Digest, &[Digest]),
        image: Option<&str>,
        tag: Option<&str>,
    ) -> Result<Digest, Error> {
        let digest = Digest::sha256(manifest);
        self.document(&digest, manifest)?;
        let mut entry = entry(&digest, media_type, manifest.len(), tag);
        if let Some(image) = image {
            entry["annotations"][CONTAINERD_NAME] = json!(image);
        }
        self.index.push(entry);
        self.dockers.push(json!({
            "Config": name(config),
            "RepoTags": Vec::from_iter(image),
            "Layers": layers.iter().map(name).collect::<Vec<_>>(),
        }));
        Ok(digest)
    }

    fn document(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        match self.members.insert(digest.clone()) {
            true => self.small(&name(digest), bytes),
            false => Ok(()),
        }
    }

    /// Writes the lists of images and the end of the archive. Returns the output, which is not
    /// flushed.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn finish(mut self) -> Result<W, Error> {
        if !self.dockers.is_empty() {
            let list = json!(self.dockers);
            self.small("manifest.json", list.to_string().as_bytes())?;
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.index,
        });
        self.small("index.json", index.to_string().as_bytes())?;
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(failed)
    }
}

fn failed(source: io::Error) -> Error {
    Error::Write { source }
}

type FileWriter = ArchiveWriter<BufWriter<NewFile>>;

/// An archive in a file.
#[derive(Debug)]
pub(super) struct ArchiveSink {
    path: PathBuf,
    tag: Option<String>,
    /// `None` after an error, since the archive may end with a partial blob.
    open: Mutex<Option<FileWriter>>,
}

impl ArchiveSink {
    /// Begins an archive that takes its name when it is complete.
    pub(super) fn create(path: PathBuf, tag: Option<String>) -> Result<Self, Error> {
        // A symbolic link stands for what it leads to.
        let path = blockbox_files::target(&path).map_err(io(&path))?;
        let folder = blockbox_files::parent(&path);
        let file = NewFile::create_in(folder, 0o666).map_err(io(folder))?;
        let archive = ArchiveWriter::new(BufWriter::new(file)).map_err(named(&path))?;
        Ok(Self {
            path,
            tag,
            open: Mutex::new(Some(archive)),
        })
    }

    /// Calls `work` on the archive, and abandons the archive if it fails.
    fn with<T>(&self, work: impl FnOnce(&mut FileWriter) -> Result<T, Error>) -> Result<T, Error> {
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let mut archive = open.take().ok_or(Error::Failed)?;
        let done = work(&mut archive).map_err(named(&self.path))?;
        *open = Some(archive);
        Ok(done)
    }
}

impl Sink for ArchiveSink {
    fn blob(
        &self,
        digest: &Digest,
        size: u64,
        _from: Option<&str>,
        open: &mut Open<'_>,
    ) -> Result<Pushed, Error> {
        self.with(|archive| archive.blob(digest, size, open))
    }

    fn manifest(&self, digest: &Digest, _media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        self.with(|archive| archive.document(digest, bytes))
    }

    fn root(&self, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        self.manifest(digest, media_type, bytes)?;
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let mut archive = open.take().ok_or(Error::Failed)?;
        let root = entry(digest, media_type, bytes.len(), self.tag.as_deref());
        archive.index.push(root);
        let out = archive.finish().map_err(named(&self.path))?;
        let finished = out.into_inner().map_err(|e| e.into_error());
        let finished = finished.and_then(|file| {
            file.as_file().sync_all()?;
            file.persist(&self.path)
        });
        finished.map_err(io(&self.path))
    }

    fn is_ordered(&self) -> bool {
        true
    }
}

/// Names the file that could not be written.
fn named(path: &Path) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Write { source } => io(path)(source),
        error => error,
    }
}

fn name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        path: path.to_owned(),
        source,
    }
}

impl<W: Write> ArchiveWriter<W> {
    fn small(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.header(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        let over = (size % BLOCK as u64) as usize;
        match over {
            0 => Ok(()),
            over => self.write(&[0; BLOCK][over..]),
        }
    }

    fn header(&mut self, name: &str, size: u64) -> Result<(), Error> {
        if name.len() > 100 {
            return self.long(name, size);
        }
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in header[at..].iter_mut().zip(bytes) {
                *to = *from;
            }
        };
        put(0, name.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, &number(size));
        put(136, b"00000000000\0");
        put(156, b"0");
        put(257, b"ustar\x0000");
        self.sealed(header)
    }

    /// A member whose name does not fit, as that of a sha512 blob: GNU's `L` before it.
    fn long(&mut self, name: &str, size: u64) -> Result<(), Error> {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in header[at..].iter_mut().zip(bytes) {
                *to = *from;
            }
        };
        put(0, b"././@LongLink");
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, &number(name.len() as u64 + 1));
        put(136, b"00000000000\0");
        put(156, b"L");
        put(257, b"ustar  \0");
        self.sealed(header)?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad(name.len() as u64 + 1)?;
        self.header(&name[..100], size)
    }

    fn sealed(&mut self, mut header: [u8; BLOCK]) -> Result<(), Error> {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.write(&header)
    }
}

/// A size: octal digits, and in base 256 from 8 GiB on, as GNU tar writes it.
fn number(size: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if size < 1 << 33 {
        field[..11].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&size.to_be_bytes());
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_from_8_gib_on_are_in_base_256() {
        assert_eq!(&number(512), b"00000001000\0");
        assert_eq!(&number((1 << 33) - 1), b"77777777777\0");
        assert_eq!(number(1 << 33)[..4], [0x80, 0, 0, 0]);
    }
}
