//! `cargo xtask containerd`: containerd runs what we push.
//!
//! A registry on loopback gets the demo image in native form, with the media type that this
//! containerd takes, and as tars. containerd pulls both, of which it makes the second with its own
//! mkfs.erofs, mounts and runs them, and what it shows is compared with what the kernel shows of
//! our own merged image. All mounts are in a namespace that ends with the command.

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

/// What containerd before 2.3 takes for an EROFS layer: a type that ends so.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.erofs";

/// What runs in the containers, and what it says.
const PROGRAM: &str = "import json, sys; print(json.dumps([6 * 7, sys.version_info[0]]))";
const SAID: &str = "[42, 3]";

/// How to try containerd.
#[derive(clap::Args)]
pub(crate) struct Containerd {
    /// The blockbox to try, instead of a release build
    #[arg(long)]
    blockbox: Option<PathBuf>,
    /// Whether the mount namespace is ours already
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
    let ours = stages.run("our own view of it", || {
        blockbox.output(&["pull", "-q", "--plain-http", &tars])?;
        merged(&blockbox, &tars)
    })?;
    for (name, reference) in [("native", &native), ("tars", &tars)] {
        let mut ours = ours.clone();
        if name == "tars" {
            // No layer says what the root is, and containerd makes one with the mode and time of
            // the moment.
            ours.remove(&b""[..]);
        }
        stages.run(&format!("containerd: {name}"), || {
            check(&daemon, reference, &ours)
        })?;
        if name == "native" {
            // It took our images as they are; of the tars it makes others.
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

/// Has containerd pull, mount and run an image.
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
        &[reference, "trial", "python3", "-c", PROGRAM],
    ];
    let said = daemon.output(&run.concat())?;
    ensure!(said.trim() == SAID, "{reference}: it said {said:?}");
    Ok(())
}

/// What the kernel shows of our merged image.
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

/// What both forms of an image keep: not that files of several layers are one, and not overlayfs's
/// own escapes.
fn comparable(mut walk: Walk) -> Walk {
    testkit::unescape_xattrs(&mut walk);
    for entry in walk.values_mut() {
        entry.first_name = None;
    }
    walk
}

/// The digests of the layers of an image in the registry.
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
