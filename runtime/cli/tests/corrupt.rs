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
    blockbox.ok(["gc"]);
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

/// Returns a store with two sandboxes over one image, and a volume that `intact` mounts.
fn two_sandboxes() -> (Blockbox, String) {
    let blockbox = Blockbox::new();
    let layout = Layout::new().layer(&good(), Compression::Gzip).finish();
    let image = layout.reference();
    for (name, mount) in [("broken", "kept:/data"), ("intact", "own:/data")] {
        let create = ["create", "-q", "--name", name, "-v", mount, &image, "true"];
        blockbox.ok(create);
    }
    (blockbox, image)
}

#[test]
fn a_damaged_record_of_a_sandbox_stops_no_listing_and_keeps_what_it_may_use() {
    for (record, contents, reason) in [
        ("sandbox.json", "{broken", "not a valid record"),
        ("sandbox.json", r#"{"version": 9}"#, "version 9"),
        ("state.json", "{broken", "not a valid record"),
        ("state.json", r#"{"version": 99}"#, "version 99"),
    ] {
        let (blockbox, image) = two_sandboxes();
        let path = blockbox.home().join("sandboxes/broken").join(record);
        std::fs::write(&path, contents).unwrap();
        let warned = |args: &[&str]| {
            let output = blockbox.output(args);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{args:?}: {stderr}");
            (String::from_utf8(output.stdout).unwrap(), stderr)
        };

        // Listings show the others, and warn.
        let (listed, warning) = warned(&["ps", "-a", "--format", "{{.Name}} {{.Status}}"]);
        assert_eq!(listed, "intact created\nbroken damaged\n");
        assert!(
            warning.contains(reason) && warning.contains("blockbox rm -f broken"),
            "{warning}"
        );
        let (ids, _) = warned(&["ps", "-aq"]);
        assert_eq!(ids.lines().nth(1), Some("broken"), "{ids}");
        for args in [&["ps"][..], &["df"], &["stats", "--no-stream"]] {
            warned(args);
        }
        assert_eq!(warned(&["volume", "ls", "-q"]).0, "kept\nown\n");
        blockbox.ok(["inspect", "intact"]);
        let error = blockbox.fails(["net", "missing"]);
        assert!(error.contains("no sandbox \"missing\""), "{error}");
        let error = blockbox.fails(["inspect", "broken"]);
        assert!(error.contains(reason), "{error}");

        // What the sandbox may use is kept. Its state says nothing of that.
        let unknown = record == "sandbox.json";
        blockbox.ok(["rm", "intact"]);
        let (_, warning) = warned(&["image", "prune", "-a"]);
        assert_eq!(
            warning.contains("all images are kept"),
            unknown,
            "{warning}"
        );
        let error = blockbox.fails(["rmi", &image]);
        assert!(error.contains("sandbox \"broken\""), "{error}");
        assert_eq!(warned(&["volume", "prune"]).0.contains("own"), !unknown);
        warned(&["gc"]);
        assert_eq!(blockbox.ok(["images", "-q"]).lines().count(), 1);
        let volumes = if unknown { "kept\nown\n" } else { "kept\n" };
        assert_eq!(warned(&["volume", "ls", "-q"]).0, volumes);
        if unknown {
            let error = blockbox.fails(["volume", "rm", "own"]);
            assert!(
                error.contains("may be used by sandbox \"broken\""),
                "{error}"
            );
        }

        // Only `rm -f` removes the sandbox; then nothing is in use.
        let error = blockbox.fails(["rm", "broken"]);
        assert!(error.contains(reason), "{error}");
        assert_eq!(blockbox.ok(["rm", "-f", "broken"]), "broken\n");
        assert!(!blockbox.home().join("sandboxes/broken").exists());
        assert_eq!(warned(&["ps", "-a"]).1, "");
        warned(&["volume", "prune"]);
        blockbox.ok(["rmi", &image]);
    }
}

#[test]
fn a_damaged_record_of_a_snapshot_keeps_images_until_it_is_removed() {
    let (blockbox, _) = two_sandboxes();
    for name in ["first", "second"] {
        blockbox.ok(["snapshot", "create", "-q", "-n", name, "intact"]);
    }
    blockbox.ok(["rm", "broken", "intact"]);
    let path = blockbox.home().join("snapshots/first/snapshot.json");
    std::fs::write(path, "{broken").unwrap();
    assert_eq!(blockbox.ok(["snapshot", "ls", "-q"]), "second\n");
    blockbox.ok(["snapshot", "rm", "second"]);
    blockbox.ok(["image", "prune", "-a"]);
    assert_eq!(blockbox.ok(["images", "-q"]).lines().count(), 1);
    let error = blockbox.fails(["snapshot", "rm", "first"]);
    assert!(error.contains("blockbox snapshot rm -f first"), "{error}");
    blockbox.ok(["snapshot", "rm", "-f", "first"]);
    blockbox.ok(["image", "prune", "-a"]);
    assert_eq!(blockbox.ok(["images", "-q"]), "");
}
