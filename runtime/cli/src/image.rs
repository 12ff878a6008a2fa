//! `blockbox image …`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use blockbox::store::Store;
use clap::{Args, Subcommand};
use ocipull::spec::ImageConfiguration;
use serde::Serialize;

use super::output::{Table, bytes, print_json};
use super::template::{Output, print_each};

/// Show and manage images.
#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// List the images, as `images` does
    #[command(visible_alias = "list")]
    Ls(super::images::Images),
    /// Remove images, as `rmi` does
    #[command(visible_alias = "remove")]
    Rm(super::rmi::Rmi),
    /// Show an image's digests, configuration and disks
    Inspect(Inspect),
    /// Show the layers of an image, or those that define a path
    History(super::history::History),
    /// Check all files of images, and report damage
    Verify(super::verify::Verify),
    /// Remove images that have no name and that no sandbox uses
    Prune(super::prune::Prune),
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The image's name, or the beginning of its manifest digest
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// How to print it: table, json, or a template such as `{{.ManifestDigest}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

#[derive(Serialize)]
struct Report<'a> {
    manifest_digest: String,
    config: &'a ImageConfiguration,
    layers: Vec<LayerFile>,
    fsmeta: ImageFile,
    /// The path of the VMDK.
    disk: PathBuf,
}

#[derive(Serialize)]
struct LayerFile {
    diff_id: String,
    #[serde(flatten)]
    file: ImageFile,
}

#[derive(Serialize)]
struct ImageFile {
    path: PathBuf,
    bytes: u64,
}

impl ImageFile {
    fn at(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::metadata(path)
            .with_context(|| path.display().to_string())?
            .len();
        Ok(Self {
            path: path.to_owned(),
            bytes,
        })
    }
}

impl Image {
    /// Returns whether this needs no store where there is none yet.
    pub(super) fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Ls(_) | Self::Rm(_) | Self::Inspect(_) | Self::History(_)
        )
    }

    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        match self {
            Self::Ls(images) => images.execute(store)?,
            Self::Rm(rmi) => return rmi.execute(store),
            Self::Inspect(inspect) => inspect.execute(store)?,
            Self::History(history) => history.execute(store)?,
            Self::Verify(verify) => return verify.execute(store),
            Self::Prune(prune) => prune.execute(store)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Inspect {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let image = blockbox::image::Image::find(store, &self.reference)?;
        let report = Report::of(&image)?;
        match &self.format {
            Output::Json => print_json(&report),
            Output::Template(template) => print_each(template, &[report]),
            Output::Table => report.print(),
        }
    }
}

/// Returns the document that `image inspect` shows for the image called `name`.
pub(super) fn inspected(store: &Store, name: &str) -> anyhow::Result<serde_json::Value> {
    let image = blockbox::image::Image::find(store, name)?;
    Ok(serde_json::to_value(Report::of(&image)?)?)
}

impl<'a> Report<'a> {
    fn of(image: &'a blockbox::image::Image) -> anyhow::Result<Self> {
        let layer = |layer: &blockbox::image::Layer| -> anyhow::Result<_> {
            Ok(LayerFile {
                diff_id: layer.diff_id.to_string(),
                file: ImageFile::at(&layer.path)?,
            })
        };
        Ok(Self {
            manifest_digest: image.digest().to_string(),
            config: image.config(),
            layers: image
                .layers()
                .iter()
                .map(layer)
                .collect::<anyhow::Result<_>>()?,
            fsmeta: ImageFile::at(&image.fsmeta())?,
            disk: image.disk(),
        })
    }

    fn print(self) -> anyhow::Result<()> {
        let mut table = Table::new(["PART", "DIGEST", "SIZE", "PATH"]);
        let path = |file: &ImageFile| file.path.display().to_string();
        for (index, layer) in self.layers.iter().enumerate() {
            let size = bytes(layer.file.bytes);
            let part = format!("layer {index}");
            table.row([part, layer.diff_id.clone(), size, path(&layer.file)]);
        }
        let size = bytes(self.fsmeta.bytes);
        table.row(["fsmeta".into(), String::new(), size, path(&self.fsmeta)]);
        let disk = self.disk.display().to_string();
        table.row(["disk".into(), self.manifest_digest, String::new(), disk]);
        table.print()
    }
}
