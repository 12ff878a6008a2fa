//! Bad input gives one clear error and leaves the store as it was.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::Blockbox;
use common::layout::{Compression, Layout, digest};
use testkit::TarBuilder;

fn good() -> Vec<u8> {
    TarBuilder::new()
        .dir("etc")
        .file("etc/hostname", "box\n")
        .finish()
}

/// Pulls a layout that must fail, and returns the error.
fn refused(layout: &Layout) -> String {
    let blockbox = Blockbox::new();
    // The store holds an image that could be lost.
    let other = Layout::new().layer(&good(), Compression::Gzip).finish();
    blockbox.ok(["pull", "-q", &other.reference()]);
    let before = blockbox.listing();
    let error = blockbox.fails(["pull", &layout.reference()]);
    assert_eq!(blockbox.listing(), before, "the store changed");
    error
}

#[test]
fn a_truncated_layer_is_rejected() {
    let noise: Vec<u8> = (0..100_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let tar = TarBuilder::new().file("noise", noise).finish();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let layout = Layout::new()
            .layer(&good(), Compression::None)
            .layer(&tar, compression)
            .corrupt(|blob| blob.truncate(blob.len() / 2))
            .finish();
        let error = refused(&layout);
        assert!(error.contains("sha256:"), "{error}");
    }
}

#[test]
fn a_layer_with_another_digest_is_rejected() {
    let layout = Layout::new()
        .layer(&good(), Compression::None)
        .corrupt(|blob| {
            let at = blob.windows(3).position(|w| w == b"box").unwrap();
            blob[at] = b'f';
        })
        .finish();
    let error = refused_alone(&layout);
    assert!(error.contains("digest"), "{error}");
}

/// As [`refused`], for a layout whose valid form shares a layer with the store.
fn refused_alone(layout: &Layout) -> String {
    let blockbox = Blockbox::new();
    // The store itself is kept.
    blockbox.ok(["images"]);
    let before = blockbox.listing();
    let error = blockbox.fails(["pull", &layout.reference()]);
    let mut after = blockbox.listing();
    after.retain(|line| !before.contains(line));
    assert!(after.is_empty(), "left behind: {after:?}");
    error
}

#[test]
fn a_layer_with_another_diff_id_is_rejected() {
    let wrong = digest(b"something else");
    let layout = Layout::new()
        .layer(&good(), Compression::Gzip)
        .diff_id(&wrong)
        .finish();
    let error = refused(&layout);
    assert!(
        error.contains("diff ID") && error.contains(&wrong),
        "{error}"
    );
}

#[test]
fn a_layer_of_an_unknown_media_type_is_rejected() {
    let media_type = "application/vnd.example.layer.v1.rar";
    let layout = Layout::new()
        .layer(&good(), Compression::Gzip)
        .descriptor(|descriptor| descriptor["mediaType"] = media_type.into())
        .finish();
    let error = refused(&layout);
    assert!(error.contains(media_type), "{error}");
}

#[test]
fn a_digest_with_path_components_is_rejected() {
    let layout = Layout::new()
        .layer(&good(), Compression::Gzip)
        .descriptor(|descriptor| descriptor["digest"] = "sha256:../../../etc/passwd".into())
        .finish();
    let error = refused(&layout);
    assert!(error.contains("../../../etc/passwd"), "{error}");
}

#[test]
fn names_that_lead_above_the_root_are_rejected() {
    for tar in [
        TarBuilder::new().file("../escaped", "x"),
        TarBuilder::new().file("a/../../escaped", "x"),
        TarBuilder::new().dir("a").link("a/b", "../../etc/passwd"),
    ] {
        let layout = Layout::new()
            .layer(&tar.finish(), Compression::Gzip)
            .finish();
        let error = refused(&layout);
        assert!(
            error.contains("escaped") || error.contains("a/b"),
            "{error}"
        );
    }
}

#[test]
fn absolute_names_and_symlinks_are_resolved_inside_the_root() {
    let tar = TarBuilder::new()
        .file("/absolute", "inside")
        .symlink("out", "/etc")
        .finish();
    let layout = Layout::new().layer(&tar, Compression::Gzip).finish();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let fsmeta = blockbox.inspect(&layout.reference()).fsmeta;
    let listed = blockbox.ok(["erofs".as_ref(), "ls".as_ref(), fsmeta.as_os_str()]);
    assert!(
        listed.contains("absolute") && listed.contains("out"),
        "{listed}"
    );

    // A file below a symlink of the same layer must not be written to the link's target.
    let tar = TarBuilder::new()
        .symlink("out", "/../../../../etc")
        .file("out/blockbox-escaped", "x")
        .finish();
    let layout = Layout::new().layer(&tar, Compression::Gzip).finish();
    blockbox.output(["pull", "-q", &layout.reference()]);
    assert!(!std::path::Path::new("/etc/blockbox-escaped").exists());
}

#[test]
fn a_failed_layer_removes_the_finished_ones_of_the_same_pull() {
    let mut layout = Layout::new();
    for i in 0..6 {
        let tar = TarBuilder::new()
            .file(format!("f{i}"), format!("{i}"))
            .finish();
        layout = layout.layer(&tar, Compression::Gzip);
    }
    let layout = layout.diff_id(&digest(b"wrong")).finish();
    refused(&layout);
}

#[test]
fn a_missing_image_is_an_error_that_names_the_pull_command() {
    let blockbox = Blockbox::new();
    let error = blockbox.fails(["pull", "oci:/nonexistent:latest"]);
    assert!(error.contains("/nonexistent"), "{error}");
    let error = blockbox.fails(["run", "--pull", "never", "nothing/here", "--", "true"]);
    assert!(error.contains("blockbox pull"), "{error}");
}
