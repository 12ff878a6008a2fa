//! Hand-made OCI image layouts, valid and invalid.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// An OCI image layout in a temporary folder, with one image tagged `latest`.
pub(crate) struct Layout {
    dir: TempDir,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
    config: Value,
    pub(crate) architecture: &'static str,
}

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        Self {
            dir,
            layers: Vec::new(),
            diff_ids: Vec::new(),
            config: json!({}),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
        }
    }

    /// The architecture that the image is for, instead of this host's.
    pub(crate) fn architecture(mut self, name: &'static str) -> Self {
        self.architecture = name;
        self
    }

    /// The `config` part of the image's configuration.
    pub(crate) fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    pub(crate) fn layer(mut self, tar: &[u8], compression: Compression) -> Self {
        let (blob, media_type) = match compression {
            Compression::None => (tar.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
            Compression::Gzip => {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                (
                    gzip.finish().unwrap(),
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                )
            }
            Compression::Zstd => (
                zstd::encode_all(tar, 1).unwrap(),
                "application/vnd.oci.image.layer.v1.tar+zstd",
            ),
        };
        let layer = self.blob(&blob, media_type);
        self.layers.push(layer);
        self.diff_ids.push(digest(tar));
        self
    }

    /// Changes the newest layer's descriptor.
    pub(crate) fn descriptor(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(self.layers.last_mut().unwrap());
        self
    }

    /// Changes the newest layer's diff ID.
    pub(crate) fn diff_id(mut self, diff_id: &str) -> Self {
        *self.diff_ids.last_mut().unwrap() = diff_id.to_owned();
        self
    }

    /// Changes the newest layer's blob and keeps its digest.
    pub(crate) fn corrupt(self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let path = self.path_of(self.layers.last().unwrap()["digest"].as_str().unwrap());
        let mut blob = fs::read(&path).unwrap();
        change(&mut blob);
        fs::write(path, blob).unwrap();
        self
    }

    /// Writes configuration, manifest and index.
    pub(crate) fn finish(self) -> Self {
        let arch = self.architecture;
        let config = json!({
            "architecture": arch, "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids },
        });
        let config = self.blob(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        );
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": self.layers,
        });
        let mut manifest = self.blob(
            manifest.to_string().as_bytes(),
            "application/vnd.oci.image.manifest.v1+json",
        );
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        manifest["platform"] = json!({ "architecture": arch, "os": "linux" });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(self.dir.path().join("index.json"), index.to_string()).unwrap();
        fs::write(
            self.dir.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the name by which `blockbox` pulls the image.
    pub(crate) fn reference(&self) -> String {
        format!("oci:{}:latest", self.dir.path().display())
    }

    fn blob(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = digest(bytes);
        fs::write(self.path_of(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn path_of(&self, digest: &str) -> PathBuf {
        self.dir.path().join("blobs").join(digest.replace(':', "/"))
    }
}

/// Returns the sha256 digest of `bytes` in OCI's form.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}
