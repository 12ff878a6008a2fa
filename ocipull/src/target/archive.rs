//! Tar archives of OCI image layouts, written from their beginning to their end.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::NamedTempFile;

use super::{Open, Pushed, Sink, copy_verified, entry};
use crate::{Digest, Error};

/// The file that marks a layout.
pub(super) const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

const BLOCK: usize = 512;

#[derive(Debug)]
pub(super) struct ArchiveSink {
    path: PathBuf,
    tag: Option<String>,
    /// Nothing after an error: half a blob may stand at its end.
    open: Mutex<Option<Archive>>,
}

#[derive(Debug)]
struct Archive {
    out: BufWriter<NamedTempFile>,
    members: HashSet<Digest>,
}

impl ArchiveSink {
    /// Begins an archive that takes its name when it is complete.
    pub(super) fn create(path: PathBuf, tag: Option<String>) -> Result<Self, Error> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = with_mode(tempfile::Builder::new().prefix(".tmp-"))
            .tempfile_in(folder)
            .map_err(io(folder))?;
        let mut archive = Archive {
            out: BufWriter::new(file),
            members: HashSet::new(),
        };
        archive
            .small("oci-layout", LAYOUT.as_bytes())
            .map_err(io(&path))?;
        Ok(Self {
            path,
            tag,
            open: Mutex::new(Some(archive)),
        })
    }

    /// Has `work` write to the archive, which is given up where that fails.
    fn with<T>(&self, work: impl FnOnce(&mut Archive) -> Result<T, Error>) -> Result<T, Error> {
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let mut archive = open.take().ok_or(Error::Failed)?;
        let done = work(&mut archive)?;
        *open = Some(archive);
        Ok(done)
    }

    fn document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        self.with(|archive| {
            if archive.members.insert(digest.clone()) {
                let name = name(digest);
                archive.small(&name, bytes).map_err(io(&self.path))?;
            }
            Ok(())
        })
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
        self.with(|archive| {
            if !archive.members.insert(digest.clone()) {
                return Ok(Pushed::Existed);
            }
            archive
                .header(&name(digest), size)
                .map_err(io(&self.path))?;
            copy_verified(digest, size, open, |bytes| {
                archive.out.write_all(bytes).map_err(io(&self.path))
            })?;
            archive.pad(size).map_err(io(&self.path))?;
            Ok(Pushed::Uploaded)
        })
    }

    fn manifest(&self, digest: &Digest, _media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        self.document(digest, bytes)
    }

    fn root(&self, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        self.document(digest, bytes)?;
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry(digest, media_type, bytes.len(), self.tag.as_deref())],
        });
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let mut archive = open.take().ok_or(Error::Failed)?;
        let finished = archive
            .small("index.json", index.to_string().as_bytes())
            .and_then(|()| archive.out.write_all(&[0; 2 * BLOCK]))
            .and_then(|()| archive.out.into_inner().map_err(|e| e.into_error()))
            .and_then(|file| {
                file.as_file().sync_all()?;
                file.persist(&self.path).map_err(|error| error.error)
            });
        finished.map(drop).map_err(io(&self.path))
    }

    fn is_ordered(&self) -> bool {
        true
    }
}

/// The mode of a new file, of which the process's mask takes what others may not do.
#[cfg(unix)]
fn with_mode<'a, 'b>(
    builder: &'a mut tempfile::Builder<'b, 'b>,
) -> &'a mut tempfile::Builder<'b, 'b> {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn with_mode<'a, 'b>(
    builder: &'a mut tempfile::Builder<'b, 'b>,
) -> &'a mut tempfile::Builder<'b, 'b> {
    builder
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

impl Archive {
    fn small(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(name, bytes.len() as u64)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        match over {
            0 => Ok(()),
            over => self.out.write_all(&[0; BLOCK][over..]),
        }
    }

    fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
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
    fn long(&mut self, name: &str, size: u64) -> io::Result<()> {
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
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(name.len() as u64 + 1)?;
        self.header(&name[..100], size)
    }

    fn sealed(&mut self, mut header: [u8; BLOCK]) -> io::Result<()> {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.out.write_all(&header)
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
