//! OCI image layouts that images are added to.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use blockbox_files::NewFile;
use serde_json::{Value, json};

use super::sink::{LAYOUT, Open, Sink, copy_verified, entry};
use crate::layout::REF_NAME;
use crate::source::MAX_MANIFEST;
use crate::{Digest, Document, Error, Pushed, SourceProblem};

#[derive(Debug)]
pub(super) struct LayoutSink {
    dir: PathBuf,
    tag: Option<String>,
}

impl LayoutSink {
    /// Creates the layout if it does not exist. A folder with other contents is refused.
    pub(super) fn open(dir: PathBuf, tag: Option<String>) -> Result<Self, Error> {
        let marker = dir.join("oci-layout");
        if !marker.exists() {
            fs::create_dir_all(&dir).map_err(io(&dir))?;
            let _lock = lock(&dir)?;
            // Another process may have created it meanwhile.
            if !marker.exists() {
                let mut files = fs::read_dir(&dir).map_err(io(&dir))?;
                if files.next().is_some() {
                    let problem = SourceProblem::Missing {
                        kind: "an OCI image layout",
                        file: "oci-layout".to_owned(),
                    };
                    return Err(Error::InvalidSource { path: dir, problem });
                }
                replace(&marker, LAYOUT.as_bytes())?;
            }
        }
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(io(&blobs))?;
        Ok(Self { dir, tag })
    }

    fn path(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let folder = self.dir.join("blobs").join(digest.algorithm());
        fs::create_dir_all(&folder).map_err(io(&folder))?;
        Ok(folder.join(digest.hex()))
    }

    /// Replaces the entry of this name in `index.json`, and keeps the others.
    fn add(&self, new: Value) -> Result<(), Error> {
        // Other processes may add images at the same time.
        let lock = lock(&self.dir)?;
        let path = self.dir.join("index.json");
        let mut index = match fs::read(&path) {
            Ok(bytes) if bytes.len() as u64 > MAX_MANIFEST => {
                return Err(Error::TooLarge {
                    document: Document::Index,
                    limit: MAX_MANIFEST,
                });
            }
            Ok(bytes) => self.parse(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"})
            }
            Err(error) => return Err(io(&path)(error)),
        };
        let mut entries = match index["manifests"].take() {
            Value::Array(entries) => entries,
            _ => Vec::new(),
        };
        let name = |entry: &Value| entry["annotations"][REF_NAME].as_str().map(str::to_owned);
        let own = name(&new);
        // Without a name, the entry is added beside the others, once.
        entries.retain(|old| match &own {
            Some(_) => name(old) != own,
            None => name(old).is_some() || old["digest"] != new["digest"],
        });
        entries.push(new);
        index["manifests"] = Value::Array(entries);
        replace(&path, index.to_string().as_bytes())?;
        drop(lock);
        Ok(())
    }

    fn parse(&self, bytes: &[u8]) -> Result<Value, Error> {
        let parsed: serde_json::Result<Value> = serde_json::from_slice(bytes);
        let problem = match parsed {
            Ok(index) if index.is_object() => return Ok(index),
            Ok(_) => "not an object".to_owned(),
            Err(error) => error.to_string(),
        };
        let file = "index.json".to_owned();
        Err(Error::InvalidSource {
            path: self.dir.clone(),
            problem: SourceProblem::Json { file, problem },
        })
    }
}

impl Sink for LayoutSink {
    fn blob(
        &self,
        digest: &Digest,
        size: u64,
        _from: Option<&str>,
        open: &mut Open<'_>,
    ) -> Result<Pushed, Error> {
        let path = self.path(digest)?;
        // Blobs are written atomically, so a wrong length means later damage.
        if fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == size) {
            return Ok(Pushed::Existed);
        }
        write(&path, |file| {
            copy_verified(digest, size, open, |bytes| {
                file.write_all(bytes).map_err(io(&path))
            })
        })?;
        Ok(Pushed::Uploaded)
    }

    fn manifest(&self, digest: &Digest, _media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        replace(&self.path(digest)?, bytes)
    }

    fn root(&self, digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        self.manifest(digest, media_type, bytes)?;
        self.add(entry(digest, media_type, bytes.len(), self.tag.as_deref()))
    }
}

/// Excludes other processes that change the layout, until the file is dropped.
fn lock(dir: &Path) -> Result<File, Error> {
    let folder = File::open(dir).map_err(io(dir))?;
    #[cfg(unix)]
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| io(dir)(error.into()))?;
    Ok(folder)
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        path: path.to_owned(),
        source,
    }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write(path, |file| file.write_all(bytes).map_err(io(path)))
}

/// Writes a file that gets its name when it is complete and on stable storage.
fn write(path: &Path, fill: impl FnOnce(&mut NewFile) -> Result<(), Error>) -> Result<(), Error> {
    let folder = blockbox_files::parent(path);
    // The usual mode of files, restricted by the umask.
    let mut file = NewFile::create_in(folder, 0o644).map_err(io(folder))?;
    fill(&mut file)?;
    file.as_file().sync_all().map_err(io(path))?;
    file.persist(path).map_err(io(path))
}
