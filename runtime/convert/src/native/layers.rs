//! Converts the layers of an image to EROFS images that overlayfs shows correctly when stacked.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use blockbox_store::atomic;
use fsmerge::{Content, DataId, LayerTree, Limits, Merge, ReadError, Sink};
use ocipull::Digest;

use super::names::{self, Made, numbered};
use super::options::{Grouping, NativeOptions, Wrap};
use super::wrap::{self, Blob};
use super::{regroup, take};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::layer::{self, BuildOptions, Contents, Output};
use crate::progress::{Progress, layers as counted, phase};
use crate::pull::Watched;
use crate::{parallel, rebuild, squash};

/// A layer to convert.
#[derive(Clone, Debug)]
pub(super) enum Input<'a> {
    /// The layer with this index of an image.
    Pulled(&'a ocipull::Image, usize),
    /// A layer of an image in the store.
    Stored(&'a crate::image::Layer),
}

/// A layer whose contents are in its image, and whose names are not yet.
struct Read<'a> {
    tree: LayerTree,
    contents: Contents<Output<'a>>,
}

/// The layers of a native image.
pub(super) struct Layers {
    pub(super) blobs: Vec<Blob>,
    /// How many layers of the source each layer is made from.
    pub(super) groups: Vec<usize>,
}

/// Makes the layers in the folder `staging`, and wraps them.
pub(super) fn make(
    inputs: &[Input<'_>],
    staging: &Path,
    options: &NativeOptions,
    progress: &dyn Progress,
) -> Result<Layers> {
    let mut build = build_options(options);
    if options.grouping == Grouping::One {
        // These layers are only the input of the squashed image, so compressing them gains nothing.
        build = BuildOptions::default();
    }
    let made = images(inputs, staging, &build, options, progress)?;
    let (paths, groups) = match options.grouping {
        Grouping::Source => {
            let groups = vec![1; made.len()];
            (made.into_iter().map(|layer| layer.path).collect(), groups)
        }
        Grouping::Least(bytes) => regroup::regroup(made, bytes, (staging, &build), progress)?,
        Grouping::One => {
            let groups = vec![made.len()];
            let what = format!("squashing {}", counted(made.len()));
            let total = bytes_of(made.iter().map(|layer| &layer.path))?;
            let path = phase(progress, what, Some(total), |meter| {
                let mut build = build_options(options);
                build.meter = meter.clone();
                squashed(&made, staging, &build)
            })?;
            (vec![path], groups)
        }
    };
    let what = match options.wrap {
        Wrap::None => format!("hashing {}", counted(paths.len())),
        Wrap::Zstd { .. } => format!("compressing {}", counted(paths.len())),
    };
    let total = bytes_of(&paths)?;
    let blobs = phase(progress, what, Some(total), |meter| {
        wrap::blobs(&paths, options, meter)
    })?;
    Ok(Layers { blobs, groups })
}

/// Returns how many bytes the files at `paths` have together.
pub(super) fn bytes_of<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<u64> {
    paths.into_iter().try_fold(0_u64, |sum, path| {
        let meta = fs::metadata(path).map_err(Error::io(path))?;
        Ok(sum.saturating_add(meta.len()))
    })
}

fn build_options(options: &NativeOptions) -> BuildOptions {
    erofs_writer::Options::default()
        .block_size(options.block_size)
        .compression(options.compression)
        .into()
}

fn squashed(made: &[Made], staging: &Path, build: &BuildOptions) -> Result<PathBuf> {
    let layers: Vec<_> = made
        .iter()
        .map(|layer| squash::Layer::image(&layer.path, &[]))
        .collect::<Result<_>>()?;
    let path = staging.join("squashed.erofs");
    let out = File::create_new(&path).map_err(Error::io(&path))?;
    squash::write(&layers, &out, build.clone(), &path)?;
    for Made { path, .. } in made {
        fs::remove_file(path).map_err(Error::io(path))?;
    }
    Ok(path)
}

/// Makes the layer images. The contents of several layers are read in parallel; the names are then
/// completed from the lowest layer up.
fn images(
    inputs: &[Input<'_>],
    staging: &Path,
    build: &BuildOptions,
    options: &NativeOptions,
    progress: &dyn Progress,
) -> Result<Vec<Made>> {
    let paths: Vec<_> = (0..inputs.len())
        .map(|number| staging.join(format!("{number:03}.erofs")))
        .collect();
    let files: Vec<_> = paths
        .iter()
        .map(|path| File::create_new(path).map_err(Error::io(path)))
        .collect::<Result<_>>()?;
    let results = parallel::each(inputs.len(), options.jobs, |number, stop| {
        let to = (paths[number].as_path(), build);
        read(&inputs[number], number, &files[number], to, stop, progress)
    })?;
    let what = format!("writing the names of {}", counted(paths.len()));
    phase(progress, what, None, |_| named(results, &paths, build))
}

/// Completes the names of each layer with those of the layers below it, and writes them.
fn named(results: Vec<Read<'_>>, paths: &[PathBuf], build: &BuildOptions) -> Result<Vec<Made>> {
    let mut merge = Merge::new(&Limits::default());
    let mut made: Vec<Made> = Vec::new();
    for (Read { tree, contents }, path) in results.into_iter().zip(paths) {
        let bad = |source| Error::Merge(Box::new(source));
        let complete = merge.complete(&tree).map_err(bad)?;
        merge.push(&tree).map_err(bad)?;
        names::write(contents, &complete, &made, path, build)?;
        made.push(Made {
            tree: complete,
            path: path.clone(),
        });
    }
    Ok(made)
}

/// Copies the contents of a layer into an image.
fn read<'a>(
    input: &Input<'_>,
    number: usize,
    out: &'a File,
    (path, build): (&Path, &BuildOptions),
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Read<'a>> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let contents = Contents::new(out, build).map_err(failed)?;
    match input {
        Input::Stored(layer) => {
            let from = &layer.path;
            let total = fs::metadata(from).map_err(Error::io(from))?.len();
            progress.layer_started(number, &layer.diff_id.to_string(), total);
            let mut left = total;
            let read = of_image(from, number, contents, path, |bytes| {
                // Files may share contents.
                let bytes = bytes.min(left);
                left -= bytes;
                progress.layer_read(number, bytes);
            })?;
            progress.layer_read(number, left);
            progress.layer_finished(number);
            Ok(read)
        }
        Input::Pulled(image, index) => {
            let layer = &image.layers()[*index];
            let name = layer.digest.to_string();
            progress.layer_started(number, &name, layer.size);
            let read = image.read_layer(*index, |reader| {
                let fetched = reader.fetched();
                let mut told = 0;
                let watched = Watched::new(reader, stop, || {
                    let now = fetched.bytes();
                    progress.layer_read(number, now - told);
                    told = now;
                });
                match layer.is_erofs() {
                    true => {
                        let staged = path.with_extension("pulled");
                        take::copy(watched, &staged, &name)?;
                        let what = format!("checking layer {name}");
                        phase(progress, what, None, |_| {
                            take::checked(&staged, &name)?;
                            take::bounded(&staged, &name)
                        })?;
                        let what = format!("copying layer {name}");
                        let read = phase(progress, what, None, |meter| {
                            of_image(&staged, number, contents, path, |bytes| meter.add(bytes))
                        });
                        fs::remove_file(&staged).map_err(Error::io(&staged))?;
                        read
                    }
                    false => of_tar(watched, &name, number, contents, (path, progress)),
                }
            });
            let read = match read {
                Err(_) if stop.load(Ordering::Relaxed) => return Err(Error::Stopped),
                other => other?,
            };
            progress.layer_finished(number);
            Ok(read)
        }
    }
}

fn of_tar<'a>(
    mut tar: impl std::io::BufRead,
    name: &str,
    number: usize,
    contents: Contents<Output<'a>>,
    (path, progress): (&Path, &dyn Progress),
) -> Result<Read<'a>> {
    let mut sink = Numbered { contents, number };
    let read = fsmerge::read_tar(&mut tar, &mut sink, &Limits::default());
    let (tree, stats) = read.map_err(|error| match error {
        ReadError::Sink { source, .. } => Error::Write {
            path: path.to_owned(),
            source,
        },
        ReadError::Layer(source) => Error::layer(name, source),
    })?;
    for warning in layer::warnings(&stats) {
        progress.warning(&format!("layer {name}: {warning}"));
    }
    let contents = sink.contents;
    Ok(Read { tree, contents })
}

/// Copies the contents of a layer image. `report` receives the size of each file.
fn of_image<'a>(
    from: &Path,
    number: usize,
    mut contents: Contents<Output<'a>>,
    path: &Path,
    mut report: impl FnMut(u64),
) -> Result<Read<'a>> {
    let image = layer::open(from)?;
    let tree = layer::tree(&image, from, |_, inode, _| {
        let data = rebuild::copy_file(&image, inode, &mut contents, from, path)?;
        contents.files.push(data);
        report(inode.size());
        Ok(Some(numbered(number, contents.files.len() - 1)))
    })?;
    Ok(Read { tree, contents })
}

/// Numbers the contents of one of several layers.
struct Numbered<'a> {
    contents: Contents<Output<'a>>,
    number: usize,
}

impl Sink for Numbered<'_> {
    type Error = erofs_writer::Error;

    fn file(&mut self, path: &[u8], content: Content<'_>) -> Result<DataId, Self::Error> {
        let DataId(file) = self.contents.file(path, content)?;
        Ok(numbered(self.number, file as usize))
    }
}

/// Adds the layers of an image in the store to `cache`, in the form of containerd's layer cache:
/// `sha256/XX/HEX.erofs` by diff ID, where XX is its first two digits. Returns how many were added.
/// Existing layers are left unchanged.
///
/// # Errors
///
/// If a layer cannot be read or written.
pub fn cache_layers(
    image: &Image,
    cache: &Path,
    options: &NativeOptions,
    progress: &dyn Progress,
) -> Result<usize> {
    let place = |diff_id: &Digest| {
        let hex = diff_id.hex();
        let folder = cache.join(diff_id.algorithm()).join(&hex[..2]);
        folder.join(format!("{hex}.erofs"))
    };
    let layers = image.layers();
    if layers.iter().all(|layer| place(&layer.diff_id).exists()) {
        return Ok(0);
    }
    let staging = atomic::temporary_folder(&options.staging)?;
    let inputs: Vec<_> = layers.iter().map(Input::Stored).collect();
    let mut options = options.clone();
    (options.wrap, options.grouping) = (Wrap::None, Grouping::Source);
    let build = build_options(&options);
    let made = images(&inputs, staging.path(), &build, &options, progress)?;
    let what = format!("adding layers to {}", cache.display());
    phase(progress, what, None, |meter| {
        let mut added = 0;
        for (layer, made) in layers.iter().zip(made) {
            let path = place(&layer.diff_id);
            if path.exists() {
                continue;
            }
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(Error::io(folder))?;
            }
            // A layer that was pulled as an EROFS image is named by its own digest, so the image
            // must be exactly that.
            let own = wrap::digest_of(&layer.path, meter)? == layer.diff_id;
            let from = if own { &layer.path } else { &made.path };
            let mut source = meter.measure(File::open(from).map_err(Error::io(from))?);
            atomic::write_file(&path, |file| {
                std::io::copy(&mut source, file).map_err(Error::io(&path))
            })?;
            added += 1;
        }
        Ok(added)
    })
}
