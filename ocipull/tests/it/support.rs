//! Images made by hand.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ocipull::{Digest, Error, Image, Options, Platform, Reference};
use serde_json::{Value, json};
use testkit::TarBuilder;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("in memory")
}

/// A tar with one file of `size` bytes that do not compress away.
pub(crate) fn tar(name: &str, size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32 ^ size as u32;
    let noise: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            // Half of the bits, so that gzip has something to do.
            (state >> 24) as u8 & 0x0f
        })
        .collect();
    TarBuilder::new().file(name, noise).finish()
}

/// A layer and what the image says of it.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) stored: Vec<u8>,
    pub(crate) media_type: String,
    pub(crate) diff_id: String,
    /// The descriptor's digest, where it is not that of what is stored.
    pub(crate) digest: Option<String>,
    /// The descriptor's size, where it is not that of what is stored.
    pub(crate) size: Option<usize>,
}

impl Layer {
    pub(crate) fn new(tar: &[u8], media_type: &str) -> Self {
        let stored = match media_type {
            GZIP => gzip(tar),
            ZSTD => zstd(tar),
            _ => tar.to_vec(),
        };
        Self::stored(stored, media_type, tar)
    }

    /// A layer stored as `stored`, that should inflate to `tar`.
    pub(crate) fn stored(stored: Vec<u8>, media_type: &str, tar: &[u8]) -> Self {
        let diff_id = Digest::sha256(tar).to_string();
        Self {
            stored,
            media_type: media_type.to_owned(),
            diff_id,
            digest: None,
            size: None,
        }
    }
}

/// An OCI layout being made.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: tempfile::TempDir,
    entries: Vec<Value>,
}

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("blobs/sha256")).expect("created");
        fs::write(
            dir.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .expect("written");
        Self {
            dir,
            entries: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.path().join("blobs").join(digest.replace(':', "/"))
    }

    /// Stores `bytes` under their digest, and describes them.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes).to_string();
        self.blob_as(media_type, bytes, &digest, bytes.len())
    }

    /// Stores `bytes` under any digest.
    pub(crate) fn blob_as(
        &self,
        media_type: &str,
        bytes: &[u8],
        digest: &str,
        size: usize,
    ) -> Value {
        fs::write(self.blob_path(digest), bytes).expect("written");
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    pub(crate) fn config(&self, layers: &[Layer]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let config = json!({
            "os": "linux",
            "architecture": Platform::host().architecture,
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        self.blob(CONFIG, config.to_string().as_bytes())
    }

    pub(crate) fn manifest(&self, layers: &[Layer]) -> Value {
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = layer.digest.clone();
                let digest = digest.unwrap_or_else(|| Digest::sha256(&layer.stored).to_string());
                let size = layer.size.unwrap_or(layer.stored.len());
                self.blob_as(&layer.media_type, &layer.stored, &digest, size)
            })
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.config(layers),
            "layers": descriptors,
        })
    }

    /// Stores a manifest or an index, and describes it.
    pub(crate) fn document(&self, document: &Value) -> Value {
        let media_type = document["mediaType"].as_str().unwrap_or(MANIFEST);
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// Stores an image, and describes it.
    pub(crate) fn image(&self, layers: &[Layer]) -> Value {
        self.document(&self.manifest(layers))
    }

    pub(crate) fn index(&self, entries: &[Value]) -> Value {
        self.document(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
    }

    /// Lists `descriptor` in `index.json`.
    pub(crate) fn list(&mut self, mut descriptor: Value, tag: Option<&str>) {
        if let Some(tag) = tag {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        self.entries.push(descriptor);
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        fs::write(self.dir.path().join("index.json"), index.to_string()).expect("written");
    }

    /// A layout of one image, called `latest`.
    pub(crate) fn of(layers: &[Layer]) -> Self {
        let mut layout = Self::new();
        let image = layout.image(layers);
        layout.list(image, Some("latest"));
        layout
    }

    pub(crate) fn open(&self) -> Result<Image, Error> {
        open(&format!("oci:{}", self.path().display()))
    }

    /// The layout as a tar archive.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut pending = vec![self.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    names.push(path);
                }
            }
        }
        names.sort();
        let archive = names.iter().fold(TarBuilder::new(), |tar, path| {
            let name = path
                .strip_prefix(self.path())
                .expect("inside")
                .to_string_lossy();
            tar.file(name.as_bytes(), fs::read(path).expect("readable"))
        });
        archive.finish()
    }
}

pub(crate) fn open(reference: &str) -> Result<Image, Error> {
    open_with(reference, &Options::default())
}

pub(crate) fn open_with(reference: &str, options: &Options) -> Result<Image, Error> {
    Image::open(
        &reference.parse::<Reference>().expect("a reference"),
        options,
    )
}

/// All bytes of a layer, or the error in the place of their end.
pub(crate) fn read(image: &Image, index: usize) -> Result<Vec<u8>, Error> {
    let mut reader = image.layer(index)?;
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => {
            reader.finish().expect("the end was reached");
            Ok(bytes)
        }
        Err(error) => {
            // A second attempt does not succeed.
            assert!(reader.read(&mut [0; 1]).is_err());
            Err(error.downcast::<Error>().expect("an error of ours"))
        }
    }
}

/// Waits for the only layer's error.
pub(crate) fn failure(layer: Layer) -> Error {
    let layout = Layout::of(std::slice::from_ref(&layer));
    let image = layout.open().expect("the image is sound");
    read(&image, 0).expect_err("the layer is not")
}

/// Runs the test `name` (with its module) again in a process of its own with these variables of the
/// environment, and returns what it printed. In that process, [`is_child`] holds.
pub(crate) fn in_child(name: &str, environment: &[(&str, &str)]) -> String {
    let output = child(name, environment).output().expect("the test starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    text
}

/// Returns the command that runs this program, through `$TEST_EMULATOR` if that is set: without
/// its emulator, the kernel does not execute a program of another machine.
pub(crate) fn this_program() -> std::process::Command {
    let program = std::env::current_exe().expect("this program");
    let Ok(emulator) = std::env::var("TEST_EMULATOR") else {
        return std::process::Command::new(program);
    };
    let mut words = emulator.split_whitespace();
    let mut command = std::process::Command::new(words.next().expect("an emulator"));
    command.args(words).arg(program);
    command
}

/// The command that runs the test `name` so.
pub(crate) fn child(name: &str, environment: &[(&str, &str)]) -> std::process::Command {
    let mut command = this_program();
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .envs(environment.iter().copied());
    command
}

const CHILD: &str = "OCIPULL_TEST_CHILD";

pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}
