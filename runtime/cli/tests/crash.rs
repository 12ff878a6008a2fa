//! A crash at any instant leaves a store that works, and processes that want the same image converge.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use common::Blockbox;
use common::layout::{Compression, Layout};
use testkit::TarBuilder;

/// An image of a few layers that take a moment to convert.
fn layout() -> Layout {
    let mut layout = Layout::new();
    let mut state = 1_u32;
    for layer in 0..4 {
        let mut tar = TarBuilder::new().dir("./");
        for file in 0..40 {
            let noise: Vec<u8> = (0..100_000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            tar = tar.file(format!("f{layer}-{file}"), noise);
        }
        layout = layout.layer(&tar.finish(), Compression::Gzip);
    }
    layout.finish()
}

fn leftovers(blockbox: &Blockbox) -> Vec<String> {
    blockbox
        .listing()
        .into_iter()
        .filter(|f| f.contains("/.tmp-") || f.contains("/locks/"))
        .collect()
}

#[test]
fn a_pull_that_is_killed_at_any_instant_leaves_a_store_that_works() {
    let layout = layout();
    let blockbox = Blockbox::new();
    let mut killed = 0;
    for delay in (0..40).map(|i| Duration::from_millis(i * 5)) {
        let mut child = blockbox
            .command()
            .args(["pull", "-q", &layout.reference()])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        let images = blockbox.ok(["images", "--format", "json"]);
        assert!(images.starts_with('['), "{images}");
    }
    assert!(killed > 0, "every pull had finished before it was killed");
    blockbox.ok(["pull", "-q", &layout.reference()]);
    assert_eq!(leftovers(&blockbox), [""; 0]);
    for layer in blockbox.inspect(&layout.reference()).layers {
        blockbox.ok(["erofs", "check", &layer.display().to_string()]);
    }
}

#[test]
fn whoever_comes_after_a_crash_sweeps_up_everywhere() {
    let layout = layout();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let home = blockbox.home();
    for folder in ["", "layers", "images", "sandboxes"] {
        std::fs::write(home.join(folder).join(".tmp-file"), "half").unwrap();
        std::fs::create_dir(home.join(folder).join(".tmp-folder")).unwrap();
        std::fs::write(home.join(folder).join(".tmp-folder/file"), "half").unwrap();
    }
    std::fs::write(home.join("locks/references"), "").unwrap();
    assert_ne!(leftovers(&blockbox), [""; 0]);
    blockbox.ok(["pull", "-q", &layout.reference()]);
    assert_eq!(leftovers(&blockbox), [""; 0]);
}

#[test]
fn pulls_of_one_image_at_a_time_convert_each_layer_once_and_agree() {
    let layout = layout();
    let blockbox = Blockbox::new();
    let pulls: Vec<_> = (0..4)
        .map(|_| {
            let mut command = blockbox.command();
            command
                .args(["pull", "-q", &layout.reference()])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut pull in pulls {
        assert!(pull.wait().unwrap().success());
    }
    assert_eq!(leftovers(&blockbox), [""; 0]);
    let before = blockbox.listing();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let after = blockbox.listing();
    let changed: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
    assert!(
        changed.iter().all(|file| file.contains("references.json")),
        "{changed:?}"
    );
}

#[test]
fn removing_an_image_takes_its_layers_but_not_those_that_others_share() {
    let shared = TarBuilder::new().dir("./").file("shared", "1").finish();
    let own = TarBuilder::new().file("own", "2").finish();
    let small = Layout::new().layer(&shared, Compression::Gzip).finish();
    let large = Layout::new()
        .layer(&shared, Compression::Gzip)
        .layer(&own, Compression::Gzip)
        .finish();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &small.reference()]);
    let before = blockbox.inspect(&small.reference());
    blockbox.ok(["pull", "-q", &large.reference()]);
    let layers = blockbox.inspect(&large.reference()).layers;
    assert_eq!(layers[0], before.layers[0]);
    blockbox.ok(["rmi", &large.reference()]);
    assert!(layers[0].exists() && !layers[1].exists());
    blockbox.ok(["erofs", "check", &before.disk.display().to_string()]);
    blockbox.ok(["rmi", &small.reference()]);
    assert!(!layers[0].exists());
    assert_eq!(leftovers(&blockbox), [""; 0]);
    assert!(
        blockbox
            .fails(["rmi", &small.reference()])
            .contains("no image")
    );
}
