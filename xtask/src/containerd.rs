//! `cargo xtask containerd`: containerd runs what blockbox pushes.
//!
//! The demo image is pushed to a registry on loopback in native form, with the media type that this
//! containerd accepts, and as tars. containerd pulls both, converting the tars with its own
//! mkfs.erofs, mounts and runs them, and its tree is compared with the kernel's mount of blockbox's
//! merged image. All mounts are in a namespace that ends with the command.

mod daemon;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use testkit::{Difference, Mount, Walk, walk};

pub(crate) use self::daemon::Daemon;

use crate::blockbox::Blockbox;
use crate::registry::Registry;
use crate::stages::Stages;
use crate::{image, setup, shell};

/// The media type of EROFS layers for containerd before 2.3, which needs this ending.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.erofs";

/// Options of the check.
#[derive(clap::Args)]
pub(crate) struct Containerd {
    /// The blockbox to test, instead of a release build
    #[arg(long)]
    blockbox: Option<PathBuf>,
    /// Whether this process has its own mount namespace already
    #[arg(long, hide = true)]
    inside: bool,
}

pub(crate) fn run(options: &Containerd) -> Result<ExitCode> {
    if let (true, Some(program)) = (options.inside, &options.blockbox) {
        inside(program)?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "containerd mounts images: run this as root"
    );
    setup::run()?;
    setup::containerd()?;
    let program = match &options.blockbox {
        Some(program) => program.canonicalize()?,
        None => shell::release_build()?,
    };
    image::demo().build()?;
    let mut again = Command::new("unshare");
    again
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(["containerd", "--inside", "--blockbox"])
        .arg(program);
    let status = again.status().with_context(|| shell::line(&again))?;
    Ok(ExitCode::from(u8::from(!status.success())))
}

fn inside(program: &Path) -> Result<()> {
    let mut stages = Stages::default();
    let folder = shell::target("containerd");
    let image = format!("oci:{}:latest", image::demo().path().display());
    let registry = Registry::start(&folder.join("registry"))?;
    let blockbox = Blockbox::prepare(program, folder.join("home"))?;
    let mut programs = setup::containerd()?;
    programs.push(shell::target("oracles/bin"));
    let daemon = Daemon::start(&folder.join("daemon"), &programs)?;

    let native = format!("{}/demo:native", registry.host());
    let tars = format!("{}/demo:tars", registry.host());
    stages.run("push the demo image as EROFS layers and as tars", || {
        let convert = ["convert", "-q", "--plain-http", "--media-type", MEDIA_TYPE];
        blockbox.output(&[&convert[..], &[&image, &native]].concat())?;
        blockbox.output(&["copy", "-q", "--plain-http", &image, &tars])
    })?;
    let ours = stages.run("mount it with blockbox's images", || {
        blockbox.output(&["pull", "-q", "--plain-http", &tars])?;
        merged(&blockbox, &tars)
    })?;
    for (name, reference) in [("native", &native), ("tars", &tars)] {
        let mut ours = ours.clone();
        if name == "tars" {
            // Layers do not define the root, and containerd makes one with an arbitrary mode and
            // time.
            ours.remove(&b""[..]);
        }
        stages.run(&format!("containerd: {name}"), || {
            check(&daemon, reference, &ours)
        })?;
        if name == "native" {
            // containerd uses native images unchanged; it converts the tars.
            let pushed = layers(&registry, "demo", "native")?;
            let taken: Result<BTreeSet<_>> =
                daemon.layers()?.iter().map(|path| digest(path)).collect();
            ensure!(
                pushed == taken?,
                "containerd's layers are not those that were pushed"
            );
        }
    }
    stages.print();
    println!("\ncontainerd pulls, mounts and runs what we push, and shows the same tree.");
    Ok(())
}

/// Pulls, mounts and runs an image with containerd.
fn check(daemon: &Daemon, reference: &str, ours: &Walk) -> Result<()> {
    let erofs = ["--snapshotter", "erofs"];
    daemon.output(
        &[
            &["images", "pull", "--plain-http"][..],
            &erofs,
            &[reference],
        ]
        .concat(),
    )?;
    let point = tempfile::tempdir()?;
    let place = point.path().to_str().context("a temporary folder's name")?;
    daemon.output(&[&["images", "mount"][..], &erofs, &[reference, place]].concat())?;
    let theirs = walk(point.path());
    shell::output(Command::new("umount").arg(point.path()))?;
    let mut theirs = comparable(theirs?);
    if !ours.contains_key(&b""[..]) {
        theirs.remove(&b""[..]);
    }
    let difference = Difference::between(ours, &theirs);
    ensure!(difference.is_empty(), "{reference}: {difference:?}");
    println!("{reference}: {} names, all as ours", theirs.len());
    let run = [
        &["run", "--rm"][..],
        &erofs,
        &[reference, "trial", "python3", "-c", image::PROGRAM],
    ];
    let printed = daemon.output(&run.concat())?;
    ensure!(
        printed == image::PRINTED,
        "{reference}: it printed {printed:?}"
    );
    Ok(())
}

/// Returns the tree of the kernel's mount of the merged image.
fn merged(blockbox: &Blockbox, reference: &str) -> Result<Walk> {
    let inspect = blockbox.output(&["image", "inspect", reference, "--format", "json"])?;
    let inspect: Value = serde_json::from_str(&inspect)?;
    let disk = inspect["disk"].as_str().context("the image's disk")?;
    let folder = Path::new(disk).parent().context("the image's folder")?;
    let mut layers: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().as_encoded_bytes();
        let numbered = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
        layers.extend(numbered.then_some(path));
    }
    layers.sort();
    let devices: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
    let mount = Mount::erofs(&folder.join("fsmeta.erofs"), &devices);
    Ok(comparable(walk(mount.path())?))
}

/// Removes differences between both forms: that files of several layers are hard links, and
/// overlayfs's escapes.
fn comparable(mut walk: Walk) -> Walk {
    testkit::unescape_xattrs(&mut walk);
    for entry in walk.values_mut() {
        entry.first_name = None;
    }
    walk
}

/// Returns the digests of the layers of an image in the registry.
fn layers(registry: &Registry, repository: &str, tag: &str) -> Result<BTreeSet<String>> {
    let address = format!("http://{}/v2/{repository}/manifests/{tag}", registry.host());
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let manifest = shell::output(Command::new("curl").args(["-sSf", "-H", accept, &address]))?;
    let manifest: Value = serde_json::from_str(&manifest)?;
    let layers = manifest["layers"].as_array().context("layers")?;
    let digests = layers.iter().filter_map(|layer| layer["digest"].as_str());
    Ok(digests.map(str::to_owned).collect())
}

fn digest(path: &Path) -> Result<String> {
    let hex: String = Sha256::digest(fs::read(path)?)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!("sha256:{hex}"))
}
