//! Images of the store as an OCI layout: in a folder, or in a tar that docker, podman and skopeo load.
//!
//! The store keeps no tars of layers, so they are made again of the layers' images. They hold the same files, and not the same
//! bytes: a saved image has other diff IDs, and so another digest, than the one that was pulled. The same image always gives
//! the same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use blockbox_tar::{Body, Head, Timestamp, Writer};
use ocipull::Digest;
use serde_json::{Value, json};

use crate::commit::Hashed;
use crate::error::{Error, Result};
use crate::files::write_oci_layer;
use crate::image::{CONFIG, Image};
use crate::progress::Progress;
use crate::{populate, reader};

/// An image to save, and its name, if it is to have one.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its name: `HOST/REPO:TAG`, or in a folder a tag.
    pub name: Option<&'a str>,
}

/// Writes images to `out` as a tar of an OCI layout, which is what `docker save` writes, too.
///
/// # Errors
///
/// Where a layer is damaged; [`Error::Output`].
pub fn to_archive(images: &[Named<'_>], out: impl Write, progress: &dyn Progress) -> Result<()> {
    let mut archive = Archive {
        tar: Writer::new(out),
        seen: Vec::new(),
    };
    for folder in ["blobs", "blobs/sha256"] {
        let head = head(folder, 0o755);
        let written = archive.tar.entry(&head, Body::Directory);
        written.map_err(Error::Output)?;
    }
    save(images, &mut archive, progress)?;
    archive.tar.finish().map(drop).map_err(Error::Output)
}

/// Puts images into the OCI layout in `folder`, which is made where it is missing. An image of the same name there loses it.
///
/// # Errors
///
/// Where a layer is damaged, the folder cannot be written, or its `index.json` is none.
pub fn to_folder(images: &[Named<'_>], folder: &Path, progress: &dyn Progress) -> Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(Error::io(&blobs))?;
    let mut layout = Folder {
        root: folder.to_owned(),
    };
    save(images, &mut layout, progress)
}

/// Where a layout goes.
trait Layout {
    /// Adds a blob of `size` bytes.
    fn blob(&mut self, digest: &Digest, size: u64, data: &mut dyn Read) -> Result<()>;
    /// Adds a document at the top.
    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()>;
    /// The index that is there already.
    fn index(&self) -> Result<Option<Value>>;
}

fn save(images: &[Named<'_>], layout: &mut dyn Layout, progress: &dyn Progress) -> Result<()> {
    let mut index = layout.index()?.unwrap_or_else(|| {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [],
        })
    });
    if !index.is_object() {
        let error = io::Error::new(io::ErrorKind::InvalidData, "index.json is not an index");
        return Err(Error::Output(error));
    }
    if !index["manifests"].is_array() {
        index["manifests"] = json!([]);
    }
    let mut dockers = Vec::new();
    for named in images {
        let (descriptor, docker) = save_one(named, layout, progress)?;
        if let Some(manifests) = index["manifests"].as_array_mut() {
            manifests.retain(|old| !has_same_name(old, &descriptor));
            manifests.push(descriptor.clone());
        }
        dockers.push(docker);
    }
    let bytes = |value: &Value| value.to_string().into_bytes();
    layout.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    layout.document("manifest.json", &bytes(&json!(dockers)))?;
    // Last: what a folder's index names is there.
    layout.document("index.json", &bytes(&index))
}

/// Whether two descriptors of an index are of one name: the whole name where both have it, else the tag.
fn has_same_name(one: &Value, other: &Value) -> bool {
    let of = |descriptor: &Value, key: &str| descriptor["annotations"][key].clone();
    let same = |key| {
        let (one, other) = (of(one, key), of(other, key));
        (!one.is_null() && !other.is_null()).then(|| one == other)
    };
    let whole = same("io.containerd.image.name");
    whole
        .or_else(|| same("org.opencontainers.image.ref.name"))
        .unwrap_or(false)
}

/// Writes an image's blobs, and returns its descriptor and its entry in docker's `manifest.json`.
fn save_one(
    named: &Named<'_>,
    layout: &mut dyn Layout,
    progress: &dyn Progress,
) -> Result<(Value, Value)> {
    let image = named.image;
    let (mut diff_ids, mut layers) = (Vec::new(), Vec::new());
    let count = image.layers().len();
    progress.resolved(&image.digest().to_string(), count, count);
    for (number, layer) in image.layers().iter().enumerate() {
        let length = fs::metadata(&layer.path)
            .map_err(Error::io(&layer.path))?
            .len();
        progress.layer_started(number, &layer.diff_id.to_string(), length);
        let (mut tar, digest, size) = layer_tar(&layer.path)?;
        layout.blob(&digest, size, &mut tar)?;
        progress.layer_read(number, length);
        progress.layer_finished(number);
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest.as_str(),
            "size": size,
        }));
        diff_ids.push(digest);
    }
    let mut config = image.document(CONFIG)?;
    let ids: Vec<_> = diff_ids.iter().map(Digest::as_str).collect();
    config["rootfs"] = json!({ "type": "layers", "diff_ids": ids });
    let config = config.to_string().into_bytes();
    let config_digest = blob(layout, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest.as_str(),
            "size": config.len(),
        },
        "layers": layers,
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = blob(layout, &manifest)?;
    let mut descriptor = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest.as_str(),
        "size": manifest.len(),
    });
    if let Some(name) = named.name {
        let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
        descriptor["annotations"] = json!({
            // As docker and containerd name it.
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": tag,
        });
    }
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let docker = json!({
        "Config": path(&config_digest),
        "RepoTags": named.name.filter(|name| name.contains([':', '/'])).into_iter().collect::<Vec<_>>(),
        "Layers": diff_ids.iter().map(path).collect::<Vec<_>>(),
    });
    Ok((descriptor, docker))
}

fn blob(layout: &mut dyn Layout, bytes: &[u8]) -> Result<Digest> {
    let digest = Digest::sha256(bytes);
    layout.blob(&digest, bytes.len() as u64, &mut &*bytes)?;
    Ok(digest)
}

/// Makes the tar of a layer again, in a temporary file.
fn layer_tar(path: &Path) -> Result<(File, Digest, u64)> {
    let failed = |source| Error::io(std::env::temp_dir())(source);
    let image = reader::open(path, &[])?;
    let mut contents = populate::new_store()?;
    let tree = populate::read_image(&mut contents, &image, path)?;
    let mut spool = tempfile::tempfile().map_err(failed)?;
    let mut hashed = Hashed::new(BufWriter::with_capacity(256 << 10, &spool));
    write_oci_layer(&tree, &mut contents, &mut hashed)?;
    hashed.out.flush().map_err(failed)?;
    let (digest, size) = hashed.finish()?;
    spool.rewind().map_err(failed)?;
    Ok((spool, digest, size))
}

/// A layout in a tar.
struct Archive<W> {
    tar: Writer<W>,
    /// Blobs that are in it.
    seen: Vec<Digest>,
}

fn head(path: &str, mode: u16) -> Head<'_> {
    Head {
        path: path.as_bytes(),
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp { secs: 0, nanos: 0 },
        xattrs: Vec::new(),
    }
}

impl<W: Write> Layout for Archive<W> {
    fn blob(&mut self, digest: &Digest, size: u64, data: &mut dyn Read) -> Result<()> {
        if self.seen.contains(digest) {
            return Ok(());
        }
        self.seen.push(digest.clone());
        let path = format!("blobs/sha256/{}", digest.hex());
        let whole = std::iter::once(0..size).collect::<Vec<_>>();
        let written = self.tar.file(&head(&path, 0o644), size, &whole, data);
        written.map_err(Error::Output)
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        let whole = std::iter::once(0..size).collect::<Vec<_>>();
        let written = self.tar.file(&head(name, 0o644), size, &whole, bytes);
        written.map_err(Error::Output)
    }

    fn index(&self) -> Result<Option<Value>> {
        Ok(None)
    }
}

/// A layout in a folder.
struct Folder {
    root: PathBuf,
}

impl Folder {
    fn write(&self, path: &Path, data: &mut dyn Read) -> Result<()> {
        blockbox_store::atomic::write_file(path, |file| {
            io::copy(data, file).map(drop).map_err(Error::io(path))
        })
    }
}

impl Layout for Folder {
    fn blob(&mut self, digest: &Digest, _: u64, data: &mut dyn Read) -> Result<()> {
        let path = self.root.join("blobs/sha256").join(digest.hex());
        match path.exists() {
            true => Ok(()),
            false => self.write(&path, data),
        }
    }

    fn document(&mut self, name: &str, mut bytes: &[u8]) -> Result<()> {
        // Docker's list is of one archive; a folder has an index alone.
        match name {
            "manifest.json" => Ok(()),
            _ => self.write(&self.root.join(name), &mut bytes),
        }
    }

    fn index(&self) -> Result<Option<Value>> {
        let path = self.root.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| blockbox_store::Error::Record { path, source }.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(path)(error)),
        }
    }
}
