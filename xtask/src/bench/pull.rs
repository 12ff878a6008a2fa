//! Pulls an image from a registry on loopback into an empty store: as tars, and in the forms that
//! need no conversion. Also measures making those.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Setting;
use super::contest::{Contender, Contest, Outcome, Output};
use super::image::{MKFS_EROFS, folder, shell_script};
use super::input::Image;
use crate::containerd::{Daemon, MEDIA_TYPE};
use crate::registry::Registry;
use crate::{setup, shell};

/// The least for a program that keeps layers unchanged: each is hashed and written. The first
/// argument is the folder.
const FLOOR: &str = r#"out=$1; shift; mkdir "$out" && for layer; do
    tee "$out/${layer##*/}" < "$layer" | openssl dgst -sha256 || exit; done"#;

/// containerd keeps pulled images, so they are removed first, with everything unpacked from them.
const CTR: &str = r#"for reference; do :; done
    "$1" --address "$2" images rm --sync "$reference" >&2
    exec "$1" --address "$2" images pull --plain-http --snapshotter erofs "$reference" >&2"#;

/// The forms of an image: the tag, and the options that make it.
const FORMS: [(&str, &[&str]); 4] = [
    ("tars", &["copy"]),
    ("native", &["convert"]),
    ("zstd", &["convert", "--zstd"]),
    ("containerd", &["convert", "--media-type", MEDIA_TYPE]),
];

pub(super) fn run(setting: &Setting, images: &[PathBuf]) -> Result<Vec<Outcome>> {
    let registry = Registry::start(&setting.path("registry"))?;
    let daemon = setup::containerd().and_then(|mut programs| {
        programs.push(shell::target("oracles/bin"));
        Daemon::isolated(&setting.path("containerd"), &programs)
    });
    let daemon = daemon.map_err(|error| format!("containerd: {error:#}"));
    let mut outcomes = Vec::new();
    for layout in images {
        let image = Image::open(layout)?;
        let tag = image.tag.as_deref().unwrap_or("@0");
        let source = format!("oci:{}:{tag}", fs::canonicalize(layout)?.display());
        for (form, how) in FORMS {
            let mut make = setting.blockbox(how);
            let to = reference(&registry, &image, form);
            shell::output(make.args(["--quiet", "--plain-http", &source, &to]))?;
        }
        let native = setting.path("native");
        let mut make = setting.blockbox(&["convert", "--quiet", &source]);
        shell::output(make.arg(format!("oci:{}", native.display())))?;
        outcomes.push(setting.hold(pull(setting, &registry, &daemon, &image, &native)?)?);
        fs::remove_dir_all(&native)?;
        outcomes.push(setting.hold(convert(setting, &image, &source))?);
    }
    Ok(outcomes)
}

fn reference(registry: &Registry, image: &Image, form: &str) -> String {
    let name = image.name.to_ascii_lowercase();
    format!("{}/{name}:{form}", registry.host())
}

fn ours(name: &str, command: Command, output: Output) -> Contender {
    Contender {
        name: name.to_owned(),
        ..Contender::ours(command, output)
    }
}

fn pull(
    setting: &Setting,
    registry: &Registry,
    daemon: &Result<Daemon, String>,
    image: &Image,
    native: &Path,
) -> Result<Contest> {
    let mut contest = Contest {
        title: format!("{}: {} layers pulled", image.name, image.layers.len()),
        contenders: Vec::new(),
        inputs: vec![setting.path("registry"), native.to_owned()],
        skipped: Vec::new(),
    };
    contest.add(setting.peers.command("openssl").and_then(|_| {
        let mut floor = shell_script(FLOOR);
        let output = setting.path("floor");
        let layers = layers(native).map_err(|error| format!("{error:#}"))?;
        floor.arg(&output).args(layers);
        let name = "native layers, hashed and copied";
        Ok(Contender::peer(name, floor, folder(output)))
    }));
    for (name, form) in [
        ("blockbox, of tars", "tars"),
        ("blockbox, of EROFS layers", "native"),
        ("blockbox, of EROFS layers in zstd frames", "zstd"),
    ] {
        let home = setting.path("home");
        let mut pull = Command::new(&setting.blockbox);
        pull.arg("--home")
            .arg(&home)
            .args(["pull", "--quiet", "--plain-http"])
            .arg(reference(registry, image, form));
        contest.contenders.push(ours(name, pull, folder(home)));
    }
    for (name, form) in [
        ("skopeo copy to dir:, of tars", "tars"),
        ("skopeo copy to dir:, of EROFS layers", "native"),
    ] {
        contest.add(setting.peers.command("skopeo").map(|mut skopeo| {
            let output = setting.path("copy");
            skopeo
                .args(["--insecure-policy", "copy", "--quiet"])
                .arg("--src-tls-verify=false")
                .arg(format!("docker://{}", reference(registry, image, form)))
                .arg(format!("dir:{}", output.display()));
            Contender::peer(name, skopeo, folder(output))
        }));
    }
    for (name, form) in [
        ("ctr images pull, of tars (mkfs.erofs)", "tars"),
        ("ctr images pull, of EROFS layers", "containerd"),
    ] {
        contest.add(daemon.as_ref().map_err(Clone::clone).map(|daemon| {
            let mut pull = shell_script(CTR);
            pull.arg(daemon.program("ctr"))
                .arg(daemon.socket())
                .arg(reference(registry, image, form));
            Contender {
                name: name.to_owned(),
                ..Contender::floor(name, pull)
            }
        }));
    }
    Ok(contest)
}

/// Returns the layers of the image in a layout that blockbox wrote.
fn layers(layout: &Path) -> Result<Vec<PathBuf>> {
    let mut blobs = Vec::new();
    for entry in fs::read_dir(layout.join("blobs/sha256"))? {
        let path = entry?.path();
        // The other blobs are a manifest and a configuration.
        let document = fs::File::open(&path).and_then(|mut file| {
            let mut first = [0];
            std::io::Read::read(&mut file, &mut first).map(|_| first[0] == b'{')
        });
        let is_layer = !document.with_context(|| path.display().to_string())?;
        blobs.extend(is_layer.then_some(path));
    }
    blobs.sort();
    Ok(blobs)
}

fn convert(setting: &Setting, image: &Image, source: &str) -> Contest {
    let mut contest = Contest {
        title: format!("{}: {} layers made native", image.name, image.layers.len()),
        contenders: Vec::new(),
        inputs: image
            .layers
            .iter()
            .map(|layer| layer.path.clone())
            .collect(),
        skipped: Vec::new(),
    };
    let output = setting.path("converted");
    let mut convert = setting.blockbox(&["convert", "--quiet", source]);
    convert.arg(format!("oci:{}", output.display()));
    contest
        .contenders
        .push(Contender::ours(convert, folder(output)));
    contest.add(setting.peers.command("mkfs.erofs").map(|mkfs| {
        let output = setting.path("mkfs.erofs");
        let mut command = shell_script(MKFS_EROFS);
        command.arg(&output).arg(mkfs.get_program());
        command.args(mkfs.get_args()).arg("--");
        command.args(image.layers.iter().map(|layer| &layer.path));
        Contender::peer("mkfs.erofs of every layer", command, folder(output))
    }));
    contest
}
