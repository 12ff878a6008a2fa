//! Writes the changes of a sandbox as a layer of a new image.

mod change;
mod sandbox_config;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::time::{Duration, SystemTime};

use blockbox_store::{Meter, Spec, Store, atomic};
use ocipull::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::files::{View, write_layer};
use crate::image::{Image, folder};
use crate::layer;

/// Options of a commit: the new image's history and configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommitOptions {
    /// Who made the image.
    pub author: Option<String>,
    /// The message of the layer's history entry.
    pub message: Option<String>,
    /// Changes of the configuration, as instructions of a Dockerfile: `CMD`, `ENTRYPOINT`, `ENV`,
    /// `EXPOSE`, `LABEL`, `STOPSIGNAL`, `USER`, `VOLUME` and `WORKDIR`.
    pub changes: Vec<String>,
    /// When the image was made. Default: now.
    pub created: SystemTime,
    /// Counts the bytes of the layer: when it is read, and when it is added to the store.
    pub meter: Meter,
}

impl Default for CommitOptions {
    fn default() -> Self {
        Self {
            author: None,
            message: None,
            changes: Vec::new(),
            created: SystemTime::now(),
            meter: Meter::default(),
        }
    }
}

impl CommitOptions {
    /// Sets [`author`](Self::author).
    #[must_use]
    pub fn author(mut self, author: impl Into<Option<String>>) -> Self {
        self.author = author.into();
        self
    }

    /// Sets [`message`](Self::message).
    #[must_use]
    pub fn message(mut self, message: impl Into<Option<String>>) -> Self {
        self.message = message.into();
        self
    }

    /// Sets [`changes`](Self::changes).
    #[must_use]
    pub fn changes(mut self, changes: Vec<String>) -> Self {
        self.changes = changes;
        self
    }

    /// Sets [`created`](Self::created).
    #[must_use]
    pub fn created(mut self, created: SystemTime) -> Self {
        self.created = created;
        self
    }

    /// Sets [`meter`](Self::meter).
    #[must_use]
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }
}

/// A new image with one more layer, not yet in a store.
#[derive(Debug)]
pub struct Committed {
    config: Value,
    manifest: Value,
    diff_ids: Vec<Digest>,
    /// The new layer's digest, size and tar.
    layer: (Digest, u64, File),
    meter: Meter,
}

impl Committed {
    /// Reads the changes of the sandbox of `spec` and `view` since its image, `image`. The new
    /// image runs as the sandbox does, apart from the changes in `options`.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] before anything is read; errors of reading a damaged disk.
    pub fn read(
        image: &Image,
        spec: &Spec,
        view: &mut View<'_>,
        options: &CommitOptions,
    ) -> Result<Self> {
        let mut config = image.document(crate::image::CONFIG)?;
        sandbox_config::apply(&mut config["config"], spec);
        let manifest = image.document(crate::image::MANIFEST)?;
        // Reports a bad instruction before the long part.
        configure(config.clone(), options, None)?;
        let spool_failed = |source| Error::io(std::env::temp_dir())(source);
        let mut spool = tempfile::tempfile().map_err(spool_failed)?;
        let out = options.meter.measure(&spool);
        let mut hashed = Hashed::new(BufWriter::with_capacity(256 << 10, out));
        write_layer(view, &mut hashed)?;
        hashed.out.flush().map_err(spool_failed)?;
        let (diff_id, size) = hashed.finish()?;
        spool.rewind().map_err(spool_failed)?;
        let mut diff_ids: Vec<_> = image.layers().iter().map(|l| l.diff_id.clone()).collect();
        diff_ids.push(diff_id.clone());
        Ok(Self {
            config: configure(config, options, Some(&diff_id))?,
            manifest,
            diff_ids,
            layer: (diff_id, size, spool),
            meter: options.meter.clone(),
        })
    }

    /// Adds the image to the store, without a name.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    pub fn store(self, store: &Store) -> Result<Image> {
        let _access = store.share()?;
        let (diff_id, size, tar) = &self.layer;
        add_layer(store, diff_id, self.meter.measure(tar))?;
        let config = serde_json::to_vec(&self.config).map_err(|e| Error::Output(e.into()))?;
        let manifest = describe(self.manifest, &config, diff_id, *size);
        let manifest = serde_json::to_vec(&manifest).map_err(|e| Error::Output(e.into()))?;
        let digest = Digest::sha256(&manifest);
        let documents = (&manifest[..], &config[..]);
        folder::assemble(store, &digest, documents, &self.diff_ids, &[], &())?;
        Image::open(store, &digest)?.ok_or_else(|| Error::NoImage(digest.to_string()))
    }
}

/// Converts the tar of a layer and adds the layer to the store.
fn add_layer(store: &Store, diff_id: &Digest, tar: impl Read) -> Result<()> {
    let _lock = store.lock_layer(diff_id)?;
    let path = store.layer(diff_id);
    if path.exists() {
        return Ok(());
    }
    atomic::write_read_only(&path, |file| {
        let name = diff_id.to_string();
        let tar = BufReader::new(tar);
        let (_, checksum) = layer::write_hashed(tar, &name, file.as_file(), &path)?;
        // Recorded before the layer appears.
        store.record_checksum(diff_id, &checksum)?;
        Ok::<_, Error>(())
    })
}

/// Returns the configuration with one more layer and the changes of the options.
fn configure(mut config: Value, options: &CommitOptions, layer: Option<&Digest>) -> Result<Value> {
    let created = rfc3339(options.created);
    if let Some(layer) = layer {
        push(&mut config["rootfs"]["diff_ids"], json!(layer.as_str()));
    }
    config["rootfs"]["type"] = json!("layers");
    let mut entry = json!({ "created": created, "created_by": "blockbox commit" });
    if let Some(message) = &options.message {
        entry["comment"] = json!(message);
    }
    config["created"] = json!(created);
    if let Some(author) = &options.author {
        entry["author"] = json!(author);
        config["author"] = json!(author);
    }
    push(&mut config["history"], entry);
    change::all(&mut config["config"], &options.changes)
        .map_err(|text| Error::Change(text.to_owned()))?;
    Ok(config)
}

fn push(list: &mut Value, value: Value) {
    match list {
        Value::Array(all) => all.push(value),
        other => *other = json!([value]),
    }
}

/// Returns the manifest with another configuration and one more layer.
fn describe(mut manifest: Value, config: &[u8], layer: &Digest, size: u64) -> Value {
    let is_dockers = |kind: &Value| kind.as_str().is_some_and(|k| k.contains("docker"));
    let media_type = match is_dockers(&manifest["mediaType"]) {
        true => "application/vnd.docker.image.rootfs.diff.tar",
        false => "application/vnd.oci.image.layer.v1.tar",
    };
    manifest["config"]["digest"] = json!(Digest::sha256(config).as_str());
    manifest["config"]["size"] = json!(config.len());
    let layer = json!({ "mediaType": media_type, "digest": layer.as_str(), "size": size });
    push(&mut manifest["layers"], layer);
    manifest
}

/// A writer that computes the digest of what is written.
pub(crate) struct Hashed<W> {
    pub(crate) out: W,
    digest: Sha256,
    size: u64,
}

impl<W> Hashed<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            digest: Sha256::new(),
            size: 0,
        }
    }

    /// Returns the digest and the number of bytes.
    pub(crate) fn finish(self) -> Result<(Digest, u64)> {
        let bytes = self.digest.finalize();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((format!("sha256:{hex}").parse()?, self.size))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Formats a time as RFC 3339 in UTC.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or(Duration::ZERO);
    let (days, secs) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Howard Hinnant's "chrono-compatible low-level date algorithms", `civil_from_days`, from 1970
    // on.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_rfc_3339() {
        let at = |secs, nanos| rfc3339(SystemTime::UNIX_EPOCH + Duration::new(secs, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_767_225_599, 0), "2025-12-31T23:59:59.000000000Z");
    }
}
