//! The store: nothing is lost or left behind, and damage is detected.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod home;
mod options;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::Blockbox;
use common::layout::{Compression, Layout};
use serde_json::Value;
use testkit::TarBuilder;

fn tar(name: &str, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let noise: Vec<u8> = (0..2_500_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    TarBuilder::new().file(name, noise).finish()
}

/// An image of two layers, the lower of which is shared by all images here.
fn layout(seed: u32) -> Layout {
    Layout::new()
        .layer(&tar("shared", 1), Compression::Gzip)
        .layer(&tar("own", seed), Compression::Gzip)
        .finish()
}

fn pull(blockbox: &Blockbox, layout: &Layout) -> String {
    let digest = blockbox.ok(["pull", "-q", &layout.reference()]);
    digest.trim().to_owned()
}

/// Returns the findings of `image verify`: the files, and their damage.
fn verify(blockbox: &Blockbox) -> Vec<(PathBuf, String)> {
    let output = blockbox.output(["image", "verify", "--format", "json"]);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!rows.is_empty())));
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| (text(row, "path").into(), text(row, "damage")))
        .collect()
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn image_folder(blockbox: &Blockbox, digest: &str) -> PathBuf {
    let digits = digest.trim_start_matches("sha256:");
    blockbox.home().join("images").join(digits)
}

#[test]
fn a_flipped_bit_in_any_file_of_an_image_is_found_and_restored_by_pull() {
    let blockbox = Blockbox::new();
    let layout = layout(2);
    let folder = image_folder(&blockbox, &pull(&blockbox, &layout));
    assert_eq!(verify(&blockbox), []);
    let layers = blockbox.inspect(&layout.reference()).layers;
    let whole: Vec<_> = ["manifest.json", "config.json", "fsmeta.erofs", "disk.vmdk"]
        .map(|name| folder.join(name))
        .into_iter()
        .chain(layers)
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    for (bytes, path) in &whole {
        flip(path, bytes.len() as u64 / 2);
        let found = verify(&blockbox);
        assert!(
            found.iter().any(|(damaged, _)| damaged == path),
            "{}",
            path.display()
        );
        pull(&blockbox, &layout);
        assert_eq!(verify(&blockbox), []);
        assert!(fs::read(path).unwrap() == *bytes, "{}", path.display());
    }
}

#[test]
fn a_restored_layer_is_restored_in_every_image_that_has_it() {
    let blockbox = Blockbox::new();
    let layouts = [layout(2), layout(3)];
    let folders = layouts
        .each_ref()
        .map(|layout| image_folder(&blockbox, &pull(&blockbox, layout)));
    let shared = &blockbox.inspect(&layouts[0].reference()).layers[0];
    let bytes = fs::read(shared).unwrap();
    for damage in [
        |path: &Path| flip(path, 2_000_000),
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(1 << 20).unwrap();
        },
    ] {
        damage(shared);
        assert!(verify(&blockbox).iter().all(|(path, _)| path == shared));
        pull(&blockbox, &layouts[1]);
        assert_eq!(verify(&blockbox), []);
        for folder in &folders {
            assert!(fs::read(folder.join("000.erofs")).unwrap() == bytes);
        }
    }
}

#[test]
fn files_that_depend_only_on_layers_are_repaired_without_the_source() {
    let blockbox = Blockbox::new();
    let layout = layout(2);
    let digest = pull(&blockbox, &layout);
    let folder = image_folder(&blockbox, &digest);
    drop(layout);
    fs::remove_file(folder.join("fsmeta.erofs")).unwrap();
    fs::remove_file(folder.join("001.erofs")).unwrap();
    File::create(folder.join("new")).unwrap();
    fs::rename(folder.join("new"), folder.join("disk.vmdk")).unwrap();
    assert_eq!(verify(&blockbox).len(), 3);
    blockbox.ok(["image", "verify", "--repair", &digest]);
    assert_eq!(verify(&blockbox), []);

    // A layer cannot be made without its source, and the error names the damage.
    flip(&folder.join("000.erofs"), 5000);
    let error = blockbox.fails(["image", "verify", "--repair"]);
    assert!(error.contains("no such folder"), "{error}");
    blockbox.ok(["image", "inspect", &digest]);
    assert_eq!(verify(&blockbox).len(), 1);
}

#[test]
fn making_a_sandbox_restores_a_truncated_or_missing_layer() {
    let blockbox = Blockbox::new();
    let layout = layout(2);
    let digest = pull(&blockbox, &layout);
    // Another name, in a registry that does not exist.
    blockbox.ok(["tag", &digest, "127.0.0.1:1/app"]);
    let layer = blockbox.inspect(&digest).layers.remove(1);
    let bytes = fs::read(&layer).unwrap();
    for (number, name) in [&digest[7..19], "127.0.0.1:1/app", &layout.reference()]
        .into_iter()
        .enumerate()
    {
        match number {
            0 => fs::remove_file(&layer).unwrap(),
            _ => fs::remove_file(&layer)
                .and_then(|()| fs::write(&layer, "short"))
                .unwrap(),
        }
        blockbox.ok(["create", name, "true"]);
        assert!(fs::read(&layer).unwrap() == bytes, "{name}");
        assert_eq!(verify(&blockbox), []);
    }
}

#[test]
fn starting_a_sandbox_over_a_truncated_layer_names_the_command_that_repairs_it() {
    let blockbox = Blockbox::new();
    let layout = layout(7);
    let image = layout.reference();
    blockbox.ok(["create", "-q", "--name", "x", &image, "true"]);
    let layer = blockbox.inspect(&image).layers.remove(1);
    let whole = fs::read(&layer).unwrap();
    // In the image's folder, too: both are one file.
    let file = OpenOptions::new().write(true).open(&layer).unwrap();
    file.set_len(5).unwrap();
    let error = blockbox.fails(["start", "x"]);
    let repair = format!("blockbox image verify --repair {image}");
    assert!(
        error.contains("is damaged") && error.contains(&repair),
        "{error}"
    );
    blockbox.ok(["image", "verify", "--repair", &image]);
    assert_eq!(fs::read(&layer).unwrap(), whole);
}

#[test]
fn a_store_of_version_1_is_checked_by_its_disks_lengths_and_then_by_checksums() {
    let blockbox = Blockbox::new();
    let layout = layout(2);
    let folder = image_folder(&blockbox, &pull(&blockbox, &layout));
    let layers = blockbox.inspect(&layout.reference()).layers;
    let old = || {
        for layer in &layers {
            fs::remove_file(layer.with_extension("json")).unwrap();
        }
        fs::remove_file(folder.join("artefacts.json")).unwrap();
        fs::remove_file(blockbox.home().join("version")).unwrap();
    };
    old();
    let file = OpenOptions::new().write(true).open(&layers[1]).unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(verify(&blockbox)[0].0, layers[1]);
    pull(&blockbox, &layout);
    old();
    assert_eq!(verify(&blockbox), []);
    flip(&layers[0], 1 << 20);
    assert_eq!(verify(&blockbox)[0].0, layers[0]);
}

#[test]
fn an_image_whose_name_moved_is_listed_and_can_be_removed_by_its_digest() {
    let blockbox = Blockbox::new();
    let place = tempfile::tempdir().unwrap();
    let name = format!("oci:{}", place.path().join("image").display());
    let mut digests = Vec::new();
    for seed in 2..5 {
        let layout = layout(seed);
        let link = place.path().join("image");
        let _ = fs::remove_dir_all(&link);
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(layout.path()).arg(&link);
        assert!(copy.status().unwrap().success());
        digests.push(blockbox.ok(["pull", "-q", &name]).trim().to_owned());
    }
    let listed = blockbox.ok(["images", "-a"]);
    assert_eq!(listed.matches("<none>").count(), 2, "{listed}");
    for digest in &digests {
        assert!(listed.contains(&digest[7..19]), "{listed}");
    }
    blockbox.ok(["rmi", &digests[0][7..19]]);
    let pruned = blockbox.ok(["image", "prune", "--format", "{{json .Images}}"]);
    assert_eq!(pruned.trim(), format!("[{:?}]", digests[1]));
    assert_eq!(blockbox.ok(["images", "-q"]).trim(), digests[2]);
    assert_eq!(verify(&blockbox), []);
    let layers = fs::read_dir(blockbox.home().join("layers")).unwrap();
    assert_eq!(layers.count(), 4, "two layers and their checksums");
}

#[test]
fn rmi_continues_after_a_failure_and_fails_at_the_end() {
    let blockbox = Blockbox::new();
    let layout = layout(2);
    pull(&blockbox, &layout);
    blockbox.ok(["tag", &layout.reference(), "example.org/app:1"]);
    let output = blockbox.output(["rmi", "nothing", &layout.reference(), "example.org/app:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("nothing")
    );
    assert_eq!(blockbox.ok(["images", "-q"]), "");
}

#[test]
fn layers_are_read_only_and_other_users_cannot_enter_the_store() {
    let blockbox = Blockbox::new();
    let folder = image_folder(&blockbox, &pull(&blockbox, &layout(2)));
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "{}", entry.path().display());
    }
    // The folder of the store itself was there, and keeps its mode.
    for entry in fs::read_dir(blockbox.home()).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        let open = path.ends_with("version") || path.ends_with("kernel");
        assert!(open || mode & 0o077 == 0, "{}: {mode:o}", path.display());
    }
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn after_killed_pulls_gc_leaves_only_valid_files() {
    let blockbox = Blockbox::new();
    let layout = layout(2);
    for delay in (0..12).map(|step| Duration::from_millis(step * 12)) {
        let mut child = blockbox
            .command()
            .args(["pull", "-q", &layout.reference()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(verify(&blockbox), []);
        blockbox.ok(["gc"]);
        let images = blockbox.ok(["images", "-q"]).lines().count();
        let layers = fs::read_dir(blockbox.home().join("layers"))
            .unwrap()
            .count();
        assert_eq!(layers, images * 4, "layers without an image");
        assert_eq!(
            fs::read_dir(blockbox.home().join("locks")).unwrap().count(),
            0
        );
        blockbox.output(["rmi", &layout.reference()]);
    }
    pull(&blockbox, &layout);
    assert_eq!(verify(&blockbox), []);
}

#[test]
fn removing_an_image_while_it_is_pulled_leaves_all_or_nothing() {
    let blockbox = Blockbox::new();
    let layout = layout(2);
    for _ in 0..4 {
        let start = |args: [&str; 2]| {
            let mut command = blockbox.command();
            command
                .args(args)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let name = layout.reference();
        let children = [
            ["pull", &name],
            ["rmi", &name],
            ["pull", &name],
            ["rmi", &name],
        ]
        .map(start);
        for mut child in children {
            child.wait().unwrap();
        }
        assert_eq!(verify(&blockbox), []);
    }
    pull(&blockbox, &layout);
    assert_eq!(verify(&blockbox), []);
}

#[test]
fn df_counts_a_layer_once_and_unused_objects_as_reclaimable() {
    let blockbox = Blockbox::new();
    for seed in [2, 3] {
        pull(&blockbox, &layout(seed));
    }
    let df: Value = serde_json::from_str(&blockbox.ok(["df", "--format", "json"])).unwrap();
    assert_eq!(df["images"]["count"], 2);
    assert_eq!(df["layers"]["count"], 3);
    let bytes = df["layers"]["bytes"].as_u64().unwrap();
    assert!((7_500_000..9_000_000).contains(&bytes), "{bytes}");
    assert!(df["layers"]["reclaimable"].as_u64().unwrap() >= 7_500_000);
    let template = blockbox.ok(["df", "--format", "{{.Layers.Count}}"]);
    assert_eq!(template.trim(), "3");
}

#[test]
fn a_damaged_table_of_names_is_reported_and_repaired_from_known_names() {
    let [of_sandbox, lost] = ["one", "two"].map(|contents| {
        let tar = TarBuilder::new().file("file", contents).finish();
        Layout::new().layer(&tar, Compression::None).finish()
    });
    let blockbox = Blockbox::new();
    for image in [&of_sandbox, &lost] {
        blockbox.ok(["pull", "-q", &image.reference()]);
    }
    blockbox.ok(["create", "--name", "box", &of_sandbox.reference(), "sh"]);
    let table = blockbox.home().join("references.json");
    fs::write(&table, "").unwrap();
    for args in [&["images"][..], &["run", "box", "sh"]] {
        let error = blockbox.fails(args);
        let named = error.contains(&table.display().to_string());
        assert!(named && error.contains("image verify --repair"), "{error}");
    }
    let damaged = verify(&blockbox);
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].0, table);
    let output = blockbox.output(["image", "verify", "--repair"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("blockbox tag sha256:"), "{said}");
    assert_eq!(verify(&blockbox), []);
    let images = blockbox.ok(["images", "--format", "json"]);
    let images: Vec<Value> = serde_json::from_str(&images).unwrap();
    let names: Vec<_> = images.iter().map(|row| row["reference"].as_str()).collect();
    assert_eq!(names.len(), 2);
    assert!(names[0].unwrap().contains(&of_sandbox.reference()));
    assert_eq!(names[1], None);
    let digest = images[1]["manifest_digest"].as_str().unwrap();
    blockbox.ok(["tag", digest, "again"]);
    assert!(table.with_extension("json.damaged").exists());
}

#[test]
fn a_damaged_version_of_the_store_is_reported_with_its_repair() {
    let blockbox = Blockbox::new();
    blockbox.ok(["images"]);
    let version = blockbox.home().join("version");
    fs::write(&version, "").unwrap();
    let error = blockbox.fails(["images"]);
    let (_, command) = error.split_once('`').unwrap();
    let (command, _) = command.split_once('`').unwrap();
    assert!(!error.contains("newer"), "{error}");
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success());
    blockbox.ok(["images"]);
}

#[test]
fn a_control_character_in_the_path_of_a_layout_does_not_break_the_list_of_images() {
    let blockbox = Blockbox::without_kernel();
    let layout = layout(2);
    let source = layout.reference();
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("c\nd");
    let plain = source.strip_prefix("oci:").unwrap();
    let (plain, _) = plain.rsplit_once(':').unwrap();
    let copied = Command::new("cp").arg("-r").arg(plain).arg(&odd).status();
    assert!(copied.unwrap().success());
    blockbox.ok(["pull", "-q", &format!("oci:{}:latest", odd.display())]);
    let listed = blockbox.ok(["images"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("c\\nd"), "{listed}");
}

/// Without the targets that `cargo xtask setup` adds, init is five times as large.
#[test]
fn the_disk_of_a_new_sandbox_takes_little_more_than_init_on_the_host() {
    use std::os::unix::fs::MetadataExt;

    let (blockbox, layout) = (Blockbox::new(), layout(1));
    blockbox.ok(["create", "-q", "--name", "box", &layout.reference(), "true"]);
    let upper = blockbox.home().join("sandboxes/box/upper.ext4");
    let allocated = upper.metadata().unwrap().blocks() * 512;
    let init = blockbox::guest::init(blockbox::vmm::Arch::HOST)
        .unwrap()
        .len() as u64;
    assert!(allocated < init + (160 << 10), "{allocated}");
    if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
        assert!(init < 300 << 10, "{init}");
    }
}
