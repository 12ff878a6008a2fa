//! Builds images from recipes, layer by layer.
//!
//! Every layer is the upper directory of an overlay over the layers below it, as in docker's
//! overlay2 driver. Every command runs in its own mount namespace, so no mounts are left. A layer
//! is rebuilt only if its recipe, or that of a layer below it, has changed.

mod layer;
mod layout;
mod recipe;
mod tarball;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

pub(crate) use self::recipe::{Action, Compression, Recipe};

use self::layer::Layer;
use crate::shell;
use crate::stages::Stages;

/// A program for containers of the demo image, for `python3 -c`, and what it prints.
pub(crate) const PROGRAM: &str =
    "import json, sys; print(json.dumps([6 * 7, sys.version_info[0]]))";
pub(crate) const PRINTED: &str = "[42, 3]\n";

/// An image to build.
pub(crate) struct Image {
    /// A folder under `target/`. Images in the same folder share common layers.
    pub(crate) folder: &'static str,
    /// The image's own folder in it.
    pub(crate) name: &'static str,
    /// The `config` of its configuration: Cmd, Env and so on.
    pub(crate) config: Value,
    /// Its layers, lowest first.
    pub(crate) recipes: Vec<Recipe>,
}

/// Returns the demo image: a real Debian, a real Python, and small layers that change lower ones in
/// all possible ways.
pub(crate) fn demo() -> Image {
    Image {
        folder: "demo",
        name: "image",
        config: json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Cmd": ["python3"],
            "WorkingDir": "/srv/app",
        }),
        recipes: recipe::demo(),
    }
}

impl Image {
    /// Returns the folder where [`Image::build`] writes the image.
    pub(crate) fn path(&self) -> PathBuf {
        shell::target(self.folder).join(self.name)
    }

    /// Builds the image, unless it exists, as an OCI layout with the tag `latest`.
    pub(crate) fn build(&self) -> Result<PathBuf> {
        let image = self.path();
        let folder = shell::target(self.folder).join("layers");
        fs::create_dir_all(&folder)?;
        let mut stages = Stages::default();
        let mut layers: Vec<Layer> = Vec::new();
        let mut fresh = false;
        for recipe in &self.recipes {
            let layer = match Layer::load(&folder, recipe, &layers)? {
                Some(layer) => layer,
                None => {
                    fresh = true;
                    let stage = format!("layer {}: {}", layers.len() + 1, recipe.why);
                    stages.run(&stage, || Layer::build(&folder, recipe, &layers))?
                }
            };
            layers.push(layer);
        }
        layout::write(&image, &self.config, &layers)?;
        if fresh {
            stages.print();
        }
        print(&image, &layers);
        Ok(image)
    }
}

fn print(image: &Path, layers: &[Layer]) {
    let image = image.strip_prefix(shell::repository()).unwrap_or(image);
    println!("\nImage: {}", image.display());
    for layer in layers {
        println!(
            "  {:10} {:4} {:9.3} MB  {:6} entries  {}",
            layer.name,
            layer.compression.name(),
            layer.blob.size as f64 / 1e6,
            layer.entries,
            layer.why
        );
    }
}
