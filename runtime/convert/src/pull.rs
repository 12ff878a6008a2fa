//! Getting an image into the store: fetch, convert and merge, each layer once and several at a time.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, BufRead, Read};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use blockbox_store::{Reference, Shared, Store, atomic};
use erofs_writer::Options;
use ocipull::Digest;

use crate::error::{Error, Result};
use crate::image::{self, Image};
use crate::progress::Progress;
use crate::{layer, stack};

/// How to pull.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PullOptions {
    /// How to reach the image.
    pub source: ocipull::Options,
    /// How many layers are fetched and converted at once.
    pub jobs: NonZeroUsize,
}

impl Default for PullOptions {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            source: ocipull::Options::default(),
            jobs,
        }
    }
}

/// Gets the image that `reference` names now, whatever the store has under that name. What the store has already is
/// not fetched again.
///
/// # Errors
///
/// Any error leaves the store as it was, but for the finished layers of a pull whose connection broke: the next one
/// takes them up.
pub fn pull(
    store: &Store,
    reference: &ocipull::Reference,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Image> {
    let access = store.share()?;
    let source = ocipull::Image::open(reference, &options.source)?;
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
    // One name for one place, whatever folder the caller is in.
    let name = reference.canonical().to_string();
    let pulled = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let target = Reference {
        manifest_digest: image.digest().to_string(),
        pulled,
    };
    store.references().update(|table| {
        table.insert(name, target);
    })?;
    Ok(image)
}

fn make(
    store: &Store,
    source: &ocipull::Image,
    options: &PullOptions,
    progress: &dyn Progress,
    made: &Mutex<Vec<Digest>>,
) -> Result<Image> {
    let digest = source.manifest_digest();
    let layers = source.layers();
    if let Some(image) = Image::open(store, digest)? {
        progress.resolved(&digest.to_string(), layers.len(), 0);
        return Ok(image);
    }
    // A layer that occurs twice is converted once.
    let mut seen = HashSet::new();
    let missing: Vec<usize> = (0..layers.len())
        .filter(|&index| {
            let diff_id = &layers[index].diff_id;
            !store.layer(diff_id).exists() && seen.insert(diff_id.clone())
        })
        .collect();
    progress.resolved(&digest.to_string(), layers.len(), missing.len());
    convert_layers(store, source, &missing, options.jobs, progress, made)?;

    let _lock = store.lock_image(digest)?;
    let folder = store.image(digest);
    if !folder.is_dir() {
        atomic::write_folder(&folder, |folder| {
            let write = |name: &str, bytes: &[u8]| {
                let path = folder.join(name);
                atomic::write_file(&path, |file| {
                    io::Write::write_all(file, bytes).map_err(Error::io(&path))
                })
            };
            write(image::MANIFEST, source.manifest_bytes())?;
            write(image::CONFIG, source.config_bytes())?;
            let mut inputs = Vec::with_capacity(layers.len());
            for (index, layer) in layers.iter().enumerate() {
                let stored = store.layer(&layer.diff_id);
                let linked = folder.join(format!("{index:03}.erofs"));
                fs::hard_link(&stored, &linked).map_err(Error::io(&stored))?;
                inputs.push(stack::Input {
                    path: linked,
                    tag: layer.diff_id.hex().to_owned(),
                });
            }
            let fsmeta = folder.join(image::FSMETA);
            stack::write(&inputs, &fsmeta)?;
            stack::write_disk(&folder.join(image::DISK), &fsmeta, &inputs)
        })?;
    }
    Image::open(store, digest)?.ok_or_else(|| Error::NoImage(digest.to_string()))
}

/// Converts the layers with these indexes, `jobs` at a time; the first error stops all.
fn convert_layers(
    store: &Store,
    source: &ocipull::Image,
    indexes: &[usize],
    jobs: NonZeroUsize,
    progress: &dyn Progress,
    made: &Mutex<Vec<Digest>>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failures = Mutex::new(BTreeMap::new());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(&index) = indexes.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            if let Err(error) = convert_layer(store, source, index, &stop, progress, made) {
                stop.store(true, Ordering::Relaxed);
                failures
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .insert(index, error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.get().min(indexes.len()) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    // What stopped the others, not that they were stopped.
    match failures
        .into_values()
        .find(|error| !matches!(error, Error::Stopped))
    {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn convert_layer(
    store: &Store,
    source: &ocipull::Image,
    index: usize,
    stop: &AtomicBool,
    progress: &dyn Progress,
    made: &Mutex<Vec<Digest>>,
) -> Result<()> {
    let layer = &source.layers()[index];
    let _lock = store.lock_layer(&layer.diff_id)?;
    let path = store.layer(&layer.diff_id);
    if path.exists() {
        return Ok(());
    }
    let name = layer.digest.to_string();
    progress.layer_started(index, &name, layer.size);
    let summary = atomic::write_file(&path, |file| {
        source.read_layer(index, |reader| {
            let fetched = reader.fetched();
            let mut told = 0;
            let tar = Watched {
                inner: reader,
                stop,
                tell: || {
                    let now = fetched.bytes();
                    progress.layer_read(index, now - told);
                    told = now;
                },
            };
            layer::write(tar, &name, file.as_file(), Options::default(), &path)
        })
    });
    let summary = match summary {
        Err(_) if stop.load(Ordering::Relaxed) => return Err(Error::Stopped),
        other => other?,
    };
    made.lock()
        .unwrap_or_else(|e| e.into_inner())
        .push(layer.diff_id.clone());
    for warning in &summary.warnings {
        progress.warning(&format!("layer {name}: {warning}"));
    }
    progress.layer_finished(index);
    Ok(())
}

/// Whether trying again may help.
fn is_transient(error: &Error) -> bool {
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

/// Takes back the layers that a failed pull made, unless other processes use the store and might want them: then the
/// next removal of an image takes them.
fn discard(store: &Store, access: Shared, made: &[Digest]) -> Result<()> {
    match access.try_exclusive() {
        Some(access) => Ok(access.remove_unused_layers(store, |layer| {
            made.iter().any(|diff_id| store.layer(diff_id) == layer)
        })?),
        None => Ok(()),
    }
}

/// A reader that tells how far it is and can be stopped.
struct Watched<'a, R, F> {
    inner: R,
    stop: &'a AtomicBool,
    tell: F,
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
