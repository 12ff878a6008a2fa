//! `blockbox convert`, `push` and `export containerd-cache`: images whose layers are EROFS images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use blockbox::convert::native::{self, Format, Grouping, NativeOptions, Source, Wrap};
use blockbox::convert::short_name;
use blockbox::image::{self, Image};
use blockbox::store::Store;
use clap::{ArgAction, Args};
use erofs_writer::{BlockSize, Compression};
use ocipull::Reference;

use super::copy::Transfer;
use super::progress::{Bars, Shown};

/// Make the EROFS-native form of an image, which others pull without converting it.
#[derive(Debug, Args)]
pub(super) struct Convert {
    /// The image: as for `pull`, or `store:NAME` for an image in the store
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The target: `HOST/REPO[:TAG]`, `oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`
    #[arg(value_name = "TARGET")]
    target: Reference,
    #[command(flatten)]
    native: Native,
    /// Keep the source's own manifests in one index with the native ones, which follow them
    #[arg(long)]
    keep_tar: bool,
    /// The platforms to convert; may be given several times [default: all of the source]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<ocipull::Platform>,
}

/// Push an image of the store as an EROFS-native image.
#[derive(Debug, Args)]
pub(super) struct Push {
    /// The image's name, or the beginning of its manifest digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The target: `HOST/REPO[:TAG]`, `oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]` [default: the
    /// image's name]
    #[arg(value_name = "TARGET")]
    target: Option<Reference>,
    #[command(flatten)]
    native: Native,
}

/// Add the layers of images in the store to containerd's cache of EROFS layers.
#[derive(Debug, Args)]
pub(super) struct ContainerdCache {
    /// The cache's folder, which holds layers as sha256/XX/HEX.erofs
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The images' names, or the beginnings of their manifest digests [default: all images]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    shown: Shown,
}

/// Options of native images.
#[derive(Debug, Args)]
struct Native {
    #[command(flatten)]
    transfer: Transfer,
    /// The size of an EROFS block: 4096, or 512, which takes less room and needs Linux 6.4
    #[arg(long, default_value = "4096", value_parser = block_size, value_name = "BYTES")]
    block_size: BlockSize,
    /// Compress files inside the images: `lz4`, `lz4hc` (LZ4 with a level), `zstd`, `deflate` or
    /// `lzma`, with a level after a comma
    #[arg(long, value_parser = super::erofs::compression, value_name = "ALG[,LEVEL]")]
    compress: Option<Compression>,
    /// Merge all layers into one
    #[arg(long)]
    squash: bool,
    /// Merge small layers, from the lowest on, until the result has at least SIZE; larger layers
    /// stay as they are
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "32M", value_name = "SIZE",
        value_parser = super::size::size, conflicts_with = "squash")]
    regroup: Option<u64>,
    /// Compress each layer as frames of zstd, of this level (1 to 22)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "3", value_name = "LEVEL",
        value_parser = clap::value_parser!(i32).range(1..=22))]
    zstd: Option<i32>,
    /// Append an index of the frames, so that a part of a layer can be read alone
    #[arg(long, requires = "zstd")]
    index: bool,
    /// Follow the draft specification of EROFS images (github.com/erofs/erofs-image-spec): other
    /// media types, roles of layers, and another index of frames. It may change
    #[arg(long, conflicts_with_all = ["merged", "media_type"])]
    image_spec: bool,
    /// Add the merged metadata of all layers in an index beside the image: others need not merge
    #[arg(long, conflicts_with = "compress")]
    merged: bool,
    /// An annotation of the manifests; may be given several times
    #[arg(long, value_name = "KEY=VALUE", action = ArgAction::Append, value_parser = annotation)]
    annotation: Vec<(String, String)>,
    /// The media type of layers without --zstd: containerd before 2.3 accepts only types that end
    /// in `.erofs`
    #[arg(long, value_name = "TYPE", conflicts_with = "zstd", default_value = ocipull::EROFS_LAYER)]
    media_type: String,
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    match text {
        "512" => Ok(BlockSize::B512),
        "4096" | "4K" | "4k" => Ok(BlockSize::B4096),
        other => Err(format!("{other:?} is neither 4096 nor 512")),
    }
}

fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

impl Native {
    fn options(&self, store: &Store, bars: &Bars) -> NativeOptions {
        let mut options = NativeOptions::default();
        (options.source, options.target) = self.transfer.options(bars);
        options.block_size = self.block_size;
        options.compression = self.compress;
        options.grouping = match self.regroup {
            Some(bytes) => Grouping::Least(bytes),
            None if self.squash => Grouping::One,
            None => Grouping::Source,
        };
        if let Some(level) = self.zstd {
            let index = self.index;
            options.wrap = Wrap::Zstd { level, index };
        }
        options.merged = self.merged;
        if self.image_spec {
            options.format = Format::ImageSpec;
        }
        options.annotations = BTreeMap::from_iter(self.annotation.iter().cloned());
        options.media_type.clone_from(&self.media_type);
        if let Some(jobs) = self.transfer.jobs {
            options.jobs = jobs;
        }
        // This folder is on the store's file system, and `gc` removes what a killed process left
        // there.
        options.staging = store.layers();
        options
    }

    fn run(
        &self,
        source: Source<'_>,
        target: &Reference,
        options: &NativeOptions,
        bars: &Bars,
    ) -> anyhow::Result<()> {
        let digest = native::convert(source, target, options, bars)?;
        println!("{digest}");
        Ok(())
    }
}

impl Convert {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let bars = self.native.transfer.shown.bars();
        let mut options = self.native.options(store, &bars);
        options.keep_tar = self.keep_tar;
        options.platforms.clone_from(&self.platform);
        // No other process removes what is read or made meanwhile.
        let _access = store.share()?;
        if let Some(name) = self.source.strip_prefix("store:") {
            anyhow::ensure!(
                !self.keep_tar,
                "the store has no tars: --keep-tar needs another source"
            );
            let image = Image::find(store, name)?;
            return self
                .native
                .run(Source::Stored(store, &image), &self.target, &options, &bars);
        }
        let registries = &options.source.registries;
        let digest = short_name::first(&self.source, registries, &bars, |reference| {
            native::convert(Source::Reference(reference), &self.target, &options, &bars)
        })?;
        println!("{digest}");
        Ok(())
    }
}

impl Push {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let bars = self.native.transfer.shown.bars();
        let options = self.native.options(store, &bars);
        let _access = store.share()?;
        let image = Image::find(store, &self.image)?;
        let target = match self.target {
            Some(target) => target,
            None => self.image.parse().context("name a target")?,
        };
        self.native
            .run(Source::Stored(store, &image), &target, &options, &bars)
    }
}

impl ContainerdCache {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let _access = store.share()?;
        let mut options = NativeOptions::default();
        options.staging = store.layers();
        let names = match self.images.is_empty() {
            true => all(store)?,
            false => self.images,
        };
        for name in &names {
            let image = Image::find(store, name)?;
            let bars = self.shown.bars();
            let added = native::cache_layers(&image, &self.dir, &options, &bars)?;
            println!("{name}: {added} of {} layers added", image.layers().len());
        }
        Ok(())
    }
}

/// Returns a name of each image in the store, or the digest of an image without names.
fn all(store: &Store) -> anyhow::Result<Vec<String>> {
    let names = store.references().read()?;
    let images = image::list(store)?.into_iter().map(|digest| {
        let digest = digest.to_string();
        let named = names.iter().find(|(_, to)| to.manifest_digest == digest);
        named.map_or(digest, |(name, _)| name.clone())
    });
    Ok(images.collect())
}
