//! `cargo xtask features`: checks every published crate with each of its features alone, because
//! one may hide that another is incomplete.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::package::UNPUBLISHED;
use crate::shell;
use crate::stages::Stages;

/// Runs clippy on each crate without features, and with each one.
pub(crate) fn run() -> Result<()> {
    let mut stages = Stages::default();
    for (package, features) in published()? {
        stages.run(&format!("{package} feature by feature"), || {
            features
                .iter()
                .try_for_each(|feature| check(&package, feature))
        })?;
    }
    stages.print();
    Ok(())
}

fn check(package: &str, feature: &str) -> Result<()> {
    println!(
        "{package}: {}",
        if feature.is_empty() {
            "no feature"
        } else {
            feature
        }
    );
    let mut clippy = shell::cargo();
    clippy.args(["clippy", "--quiet", "--package", package]);
    clippy.args(["--no-default-features", "--features", feature]);
    shell::run(clippy.args(["--", "-D", "warnings"]))
}

/// Returns the published crates and their features; the first is none at all.
fn published() -> Result<Vec<(String, Vec<String>)>> {
    let mut cargo = shell::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&shell::output(&mut cargo)?)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo lists packages")?;
    let crates = packages.iter().filter_map(|package| {
        let name = package["name"]
            .as_str()
            .filter(|name| !UNPUBLISHED.contains(name))?;
        let own = package["features"].as_object()?;
        let features = own.keys().filter(|feature| *feature != "default").cloned();
        Some((
            name.to_owned(),
            std::iter::once(String::new()).chain(features).collect(),
        ))
    });
    Ok(crates.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_of_every_library_is_checked_alone() {
        let all = published().expect("metadata");
        let features = |name: &str| {
            let found = all.iter().find(|(package, _)| package == name);
            found
                .map(|(_, features)| features.join(" "))
                .expect("a library")
        };
        assert_eq!(features("erofs-reader"), " deflate lz4 lzma serde std zstd");
        assert_eq!(features("vmdk-image"), " serde");
        assert!(all.iter().all(|(name, _)| name != "xtask"));
        assert!(all.iter().any(|(name, _)| name == "blockbox-cli"));
    }
}
