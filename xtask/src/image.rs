//! The demo image: a real Debian, a real Python, and small layers that do to lower ones what layers can do.
//!
//! Every layer is the upper directory of an overlay over the layers below it, as in docker's overlay2 driver, and every
//! command runs in a mount namespace of its own, so nothing stays mounted whatever happens. A layer is built again only
//! when its recipe, or that of a layer below it, has changed.

mod layer;
mod layout;
mod recipe;
mod tarball;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::shell;
use crate::stages::Stages;

/// Where [`build`] leaves the image, unless `BLOCKBOX_DEMO_IMAGE` names another place to look at.
pub(crate) fn path() -> PathBuf {
    shell::target("demo/image")
}

/// Builds the image, where it is not built yet, as an OCI layout whose tag is `latest`.
pub(crate) fn build() -> Result<PathBuf> {
    let image = path();
    let layers = shell::target("demo/layers");
    fs::create_dir_all(&layers)?;
    let recipes = recipe::demo();
    let mut stages = Stages::default();
    let mut built: Vec<layer::Layer> = Vec::new();
    let mut fresh = false;
    for recipe in &recipes {
        let layer = match layer::Layer::load(&layers, recipe, &built)? {
            Some(layer) => layer,
            None => {
                fresh = true;
                stages.run(
                    &format!("layer {}: {}", built.len() + 1, recipe.why),
                    || layer::Layer::build(&layers, recipe, &built),
                )?
            }
        };
        built.push(layer);
    }
    if fresh || !image.join("index.json").exists() {
        layout::write(&image, &built)?;
        if fresh {
            stages.print();
        }
    }
    println!("\nThe demo image: {}", display(&image));
    for layer in &built {
        println!(
            "  {:10} {:4} {:9.1} MB  {:6} entries  {}",
            layer.name,
            layer.compression.name(),
            layer.blob.size as f64 / 1e6,
            layer.entries,
            layer.why
        );
    }
    Ok(image)
}

/// A path as seen from the repository, where it is in it.
pub(crate) fn display(path: &Path) -> String {
    path.strip_prefix(shell::repository())
        .unwrap_or(path)
        .display()
        .to_string()
}
