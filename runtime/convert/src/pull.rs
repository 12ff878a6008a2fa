//! Pulls an image into the store: fetches and converts its layers, each once and several at a time,
//! and merges them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use blockbox_store::atomic::NewFile;
use blockbox_store::{Checksum, Meter, Reference, Shared, Store, atomic};
use ocipull::{Digest, KeptFile, LayerReader};

use crate::damage::Damage;
use crate::error::{Error, Result};
use crate::image::{FSMETA, Image, folder};
use crate::layer;
use crate::native::merged;
use crate::native::take::{self, Staged};
use crate::parallel;
use crate::progress::{Progress, phase};
use crate::short_name;
use crate::verify::{self, Depth};

/// How to pull.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PullOptions {
    /// How to access the image.
    pub source: ocipull::Options,
    /// How many layers are fetched and converted at once.
    pub jobs: NonZeroUsize,
    /// How thoroughly existing files of the store are checked. Damaged files are fetched again.
    /// Default: every byte.
    pub check: Depth,
}

impl Default for PullOptions {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let mut source = ocipull::Options::default();
        // Such layers need no conversion.
        source.erofs = true;
        Self {
            source,
            jobs,
            check: Depth::Contents,
        }
    }
}

/// As [`pull`], for a name that may have no host. Tries the references that `registries.conf` gives
/// for it, in order, and returns the first image that can be pulled.
///
/// # Errors
///
/// As those of [`pull`], and [`Error::NoneOf`].
pub fn pull_name(
    store: &Store,
    name: &str,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image> {
    short_name::first(name, &options.source.registries, progress, |reference| {
        pull(store, reference, options, progress)
    })
}

/// Pulls the image that `reference` names now, even if the store has an image of that name.
/// Existing files of the store are checked, and fetched again only if damaged.
///
/// # Errors
///
/// An error leaves the store as it was. If a connection broke, finished layers and the parts of
/// large ones are kept, as after a pull that was killed, and the next pull continues from them.
pub fn pull(
    store: &Store,
    reference: &ocipull::Reference,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image> {
    let access = store.share()?;
    let mut from = options.source.clone();
    from.partial_downloads
        .get_or_insert_with(|| store.downloads());
    let source = phase(progress, format!("opening {reference}"), None, |_| {
        ocipull::Image::open(reference, &from)
    })?;
    let made = Mutex::default();
    let pulled = make(store, &source, options, progress, &made);
    if pulled.as_ref().is_err_and(|error| !is_transient(error)) {
        discard(
            store,
            access,
            &made.into_inner().unwrap_or_else(|e| e.into_inner()),
        )?;
    }
    let image = pulled?;
    // A canonical name does not depend on the working directory.
    let name = reference.canonical().to_string();
    let target = Reference::now(image.digest());
    store.references().update(|table| {
        table.insert(name, target);
    })?;
    Ok(image)
}

/// Makes the image of `source`, or restores its missing or damaged files.
pub(crate) fn make(
    store: &Store,
    source: &ocipull::Image,
    options: &PullOptions,
    progress: &dyn Progress,
    made: &Mutex<Vec<Digest>>,
) -> Result<Image> {
    let digest = source.manifest_digest();
    let layers = source.layers();
    let exists = store.image(digest).is_dir();
    let mut damage = Vec::new();
    if exists {
        damage = verify::whole(store, digest, options.check, progress)?;
        if damage.is_empty() {
            progress.resolved(&digest.to_string(), layers.len(), 0);
            return Image::open(store, digest)?.ok_or_else(|| Error::NoImage(digest.to_string()));
        }
        for finding in &damage {
            progress.warning(&finding.to_string());
        }
    }
    let missing = missing_layers(store, source, exists, options, progress)?;
    progress.resolved(&digest.to_string(), layers.len(), missing.len());
    convert_layers(store, source, &missing, options, progress, made)?;
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let documents = (source.manifest_bytes(), source.config_bytes());
    folder::assemble(store, digest, documents, &diff_ids, &damage, progress)?;
    merged::compare(source, &store.image(digest).join(FSMETA), progress)?;
    Image::open(store, digest)?.ok_or_else(|| Error::NoImage(digest.to_string()))
}

/// Returns the indexes of the layers that the store lacks. A layer that occurs twice is converted
/// once. Damage is reported here only if the image does not exist: it was reported with the image
/// otherwise.
fn missing_layers(
    store: &Store,
    source: &ocipull::Image,
    exists: bool,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Vec<usize>> {
    let mut seen = HashSet::new();
    let layers = source.layers().iter().enumerate();
    let layers: Vec<_> = layers
        .filter(|(_, layer)| seen.insert(&layer.diff_id))
        .collect();
    let lengths = layers
        .iter()
        .filter_map(|(_, layer)| fs::metadata(store.layer(&layer.diff_id)).ok());
    let total: u64 = lengths.map(|found| found.len()).sum();
    let find = |meter: &Meter| {
        let mut missing = Vec::new();
        for (index, layer) in layers {
            let Some(damage) = verify::layer(store, &layer.diff_id, options.check, meter)? else {
                continue;
            };
            if !exists && damage != Damage::Missing {
                let path = store.layer(&layer.diff_id);
                progress.warning(&format!("{} {damage}", path.display()));
            }
            missing.push(index);
        }
        Ok::<_, Error>(missing)
    };
    match options.check {
        Depth::Contents if total > 0 => phase(
            progress,
            "checking layers that the store has",
            Some(total),
            find,
        ),
        _ => find(&Meter::default()),
    }
}

/// Converts the layers with these indexes, several at a time; the first error stops all.
fn convert_layers(
    store: &Store,
    source: &ocipull::Image,
    indexes: &[usize],
    options: &PullOptions,
    progress: &dyn Progress,
    made: &Mutex<Vec<Digest>>,
) -> Result<()> {
    let stop = Stop::default();
    parallel::each(indexes.len(), options.jobs, |number, _| {
        convert_layer(
            store,
            source,
            indexes[number],
            options.check,
            &stop,
            (progress, made),
        )
        .inspect_err(|error| stop.set(is_transient(error)))
    })
    .map(drop)
}

/// Why unfinished layers are stopped.
#[derive(Debug, Default)]
struct Stop {
    set: AtomicBool,
    /// Whether a later pull may succeed and use the partial layers.
    resumable: OnceLock<bool>,
}

impl Stop {
    /// Stops the layers. The first call decides whether they are kept.
    fn set(&self, resumable: bool) {
        let _ = self.resumable.set(resumable);
        self.set.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    fn is_resumable(&self) -> bool {
        self.is_set() && self.resumable.get() == Some(&true)
    }
}

fn convert_layer(
    store: &Store,
    source: &ocipull::Image,
    index: usize,
    check: Depth,
    stop: &Stop,
    (progress, made): (&dyn Progress, &Mutex<Vec<Digest>>),
) -> Result<()> {
    let layer = &source.layers()[index];
    let _lock = store.lock_layer(&layer.diff_id)?;
    let path = store.layer(&layer.diff_id);
    // Another process may have made the layer meanwhile.
    if verify::layer(store, &layer.diff_id, check, &Meter::default())?.is_none() {
        return Ok(());
    }
    let name = layer.digest.to_string();
    progress.layer_started(index, &name, layer.size);
    let watch = Watch { stop, progress };
    let warnings = fetch(store, source, index, &path, &watch);
    let warnings = match warnings {
        Err(_) if stop.is_set() => return Err(Error::Stopped),
        other => other?,
    };
    made.lock()
        .unwrap_or_else(|e| e.into_inner())
        .push(layer.diff_id.clone());
    folder::link_again(store, &layer.diff_id)?;
    for warning in &warnings {
        progress.warning(&format!("layer {name}: {warning}"));
    }
    progress.layer_finished(index);
    Ok(())
}

/// Reports the progress of the layers of a pull, and may stop it.
struct Watch<'a> {
    stop: &'a Stop,
    progress: &'a dyn Progress,
}

/// Makes the file of a layer, which will be at `path`, and records its checksum. Returns warnings.
fn fetch(
    store: &Store,
    source: &ocipull::Image,
    index: usize,
    path: &Path,
    watch: &Watch<'_>,
) -> Result<Vec<String>> {
    let layer = &source.layers()[index];
    let folder = path.parent().unwrap_or(path);
    let (file, warnings, checksum) = source.read_layer(index, |reader| {
        let file = LayerFile::new(reader, layer, folder)?;
        let fetched = reader.fetched();
        let mut told = 0;
        let stream = Watched::new(reader, &watch.stop.set, || {
            let now = fetched.bytes();
            watch.progress.layer_read(index, now - told);
            told = now;
        });
        let converted = convert_stream(stream, layer, &file, path, watch.progress);
        if converted.is_err() && watch.stop.is_resumable() {
            fetched.keep();
        }
        let (warnings, checksum) = converted?;
        Ok::<_, Error>((file, warnings, checksum))
    })?;
    // Recorded before the layer appears, and after its digests were verified.
    store.record_checksum(&layer.diff_id, &checksum)?;
    let what = format!("storing layer {}", layer.digest);
    phase(watch.progress, what, None, |_| file.persist(path))?;
    Ok(warnings)
}

/// The file of a layer before it is named.
enum LayerFile {
    New(NewFile),
    /// The file in which ocipull keeps the download. It is the layer itself, so its bytes are
    /// written once.
    Kept(KeptFile),
}

impl LayerFile {
    /// Returns the file for `layer`, which will be in `folder`.
    fn new(reader: &mut LayerReader, layer: &ocipull::Layer, folder: &Path) -> Result<Self> {
        let device = |file: &File| file.metadata().map(|meta| meta.dev());
        let as_it_is = layer.is_erofs() && layer.digest == layer.diff_id;
        if as_it_is
            && let Some(kept) = reader.keep_file()
            && device(kept.file()).ok() == File::open(folder).and_then(|to| device(&to)).ok()
        {
            return Ok(Self::Kept(kept));
        }
        let file = NewFile::create_in(folder, 0o600).map_err(Error::io(folder))?;
        Ok(Self::New(file))
    }

    fn as_file(&self) -> &File {
        match self {
            Self::New(file) => file.as_file(),
            Self::Kept(file) => file.file(),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::New(file) => file.path(),
            Self::Kept(file) => file.path().to_owned(),
        }
    }

    /// Names the file `path`. `folder::assemble` syncs the names of all layers.
    fn persist(self, path: &Path) -> Result<()> {
        atomic::finish_read_only(self.as_file())
            .and_then(|()| match self {
                Self::New(file) => file.persist(path),
                Self::Kept(file) => file.persist(path),
            })
            .map_err(Error::io(path))
    }
}

/// Writes the layer in `stream` to `file`, which will be at `path`. Returns warnings, and the
/// file's checksum.
fn convert_stream(
    stream: impl BufRead,
    layer: &ocipull::Layer,
    file: &LayerFile,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(Vec<String>, Checksum)> {
    let name = layer.digest.as_str();
    if layer.is_erofs() {
        let name = (name, &layer.diff_id);
        let folder = path.parent().unwrap_or(path);
        let staged = Staged {
            file: file.as_file(),
            path: &file.path(),
            filled: matches!(file, LayerFile::Kept(_)),
        };
        let checksum = take::take(stream, name, staged, folder, progress)?;
        return Ok((Vec::new(), checksum));
    }
    let (summary, checksum) = layer::write_hashed(stream, name, file.as_file(), path)?;
    Ok((summary.warnings, checksum))
}

/// Returns whether a retry may succeed.
pub(crate) fn is_transient(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let pull = error
            .downcast_ref::<ocipull::Error>()
            .or_else(|| error.downcast_ref().and_then(ocipull::Error::of));
        if let Some(pull) = pull {
            return pull.is_transient();
        }
        cause = error.source();
    }
    false
}

/// Removes the layers that a failed pull made, unless other processes use the store and may need
/// them: the next removal of an image removes them then.
pub(crate) fn discard(store: &Store, access: Shared, made: &[Digest]) -> Result<()> {
    match access.try_exclusive() {
        Some(access) => Ok(access.remove_unused_layers(store, |layer| {
            made.iter().any(|diff_id| store.layer(diff_id) == layer)
        })?),
        None => Ok(()),
    }
}

/// A reader that reports its progress and can be stopped.
pub(crate) struct Watched<'a, R, F> {
    inner: R,
    stop: &'a AtomicBool,
    tell: F,
}

impl<'a, R: BufRead, F: FnMut()> Watched<'a, R, F> {
    /// Returns a reader that stops when `stop` is set.
    pub(crate) fn new(inner: R, stop: &'a AtomicBool, tell: F) -> Self {
        Self { inner, stop, tell }
    }
}

impl<R: BufRead, F: FnMut()> Read for Watched<'_, R, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead, F: FnMut()> BufRead for Watched<'_, R, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        (self.tell)();
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.inner.consume(bytes);
    }
}
