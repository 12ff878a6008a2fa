//! Native images with merged layers, or with separate merged metadata.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Difference, Mount, TarBuilder, kernel_mounts, oracle, unescape_xattrs, walk};

use crate::common::Blockbox;
use crate::common::layout::{Compression, Layout, digest};
use crate::native::{blob, manifest, path, run};
use crate::views::{kernel_walk, umoci_walk};

/// Two large layers, each followed by small ones that change files of all layers before.
fn stack() -> Layout {
    let noise = |seed, bytes| testkit::noise(seed, bytes);
    let tars = [
        TarBuilder::new()
            .dir("./")
            .file("large", noise(1, 1 << 20))
            .dir("d")
            .file("d/gone", "gone")
            .file("d/stays", "stays")
            .dir("replaced")
            .file("replaced/old", "old")
            .dir("opaque")
            .file("opaque/old", "old")
            .file("linked", "linked"),
        TarBuilder::new()
            .dir("./")
            .dir("d")
            .file("d/.wh.gone", "")
            .file("d/short-lived", "x")
            .dir("new")
            .file("new/f", "1")
            .file(".wh.replaced", ""),
        TarBuilder::new()
            .dir("./")
            .dir("d")
            .file("d/.wh.short-lived", "")
            .dir("new")
            .file("new/f", "2")
            .dir("replaced")
            .file("replaced/fresh", "fresh"),
        TarBuilder::new()
            .dir("./")
            .file("larger", noise(2, 3 << 19)),
        TarBuilder::new()
            .dir("./")
            .dir("new")
            .file("new/.wh.f", "")
            .dir("opaque")
            .file("opaque/.wh..wh..opq", "")
            .file("opaque/new", "new"),
        TarBuilder::new()
            .dir("./")
            .mode(0o700)
            .owner(5, 6)
            .dir("opaque")
            .mode(0o600)
            .file("opaque/newer", "newer")
            .symlink("to", "new"),
    ];
    tars.into_iter()
        .fold(Layout::new(), |layout, tar| {
            layout.layer(&tar.finish(), Compression::Gzip)
        })
        .finish()
}

#[test]
fn regrouped_layers_have_the_same_tree_as_the_sources_layers() {
    if !kernel_mounts() {
        return;
    }
    let source = stack();
    let dir = tempfile::tempdir().unwrap();
    let blockbox = Blockbox::new();
    let convert = |name: &str, options: &[&str]| {
        let out = dir.path().join(name);
        let to = format!("oci:{}:v1", out.display());
        let arguments = ["convert", "-q", &source.reference(), &to];
        let digest = blockbox.ok(arguments.iter().chain(options));
        (out, to, digest)
    };
    let layers = |out: &Path| manifest(out)["layers"].as_array().unwrap().clone();
    let (as_they_are, ..) = convert("single", &[]);
    let single = layers(&as_they_are);
    for (name, options, lengths) in [
        ("each", &["--regroup=1M"][..], &[1, 2, 1, 2][..]),
        ("zstd", &["--regroup=1M", "--zstd"], &[1, 2, 1, 2]),
        ("all", &["--regroup"], &[6]),
        ("lz4", &["--regroup=1", "--compress", "lz4"], &[1; 6]),
    ] {
        let (out, to, digest) = convert(name, options);
        let (_, _, again) = convert(&format!("{name}-again"), options);
        assert_eq!(again, digest, "{options:?}");
        let grouped = layers(&out);
        assert_eq!(grouped.len(), lengths.len(), "{options:?}");
        if options.len() == 1 && lengths.len() > 1 {
            // Large layers are shared with other images.
            assert_eq!((&grouped[0], &grouped[2]), (&single[0], &single[3]));
        }
        blockbox.ok(["pull", "-q", &to]);
        let mut shown = kernel_walk(&blockbox, &to);
        unescape_xattrs(&mut shown);
        if let Some(expected) = umoci_walk(source.path()) {
            Difference::between(&shown, &expected).assert_none();
        }
        // Mounted with overlayfs only.
        let disks = blockbox.inspect(&to);
        let mounts: Vec<_> = disks
            .layers
            .iter()
            .map(|layer| Mount::erofs(layer, &[]))
            .collect();
        let nothing = tempfile::tempdir().unwrap();
        let mut folders = vec![nothing.path()];
        folders.extend(mounts.iter().map(Mount::path));
        let overlay = Mount::overlay(&folders, "metacopy=off,redirect_dir=off");
        Difference::between(&walk(overlay.path()).unwrap(), &shown).assert_none();
    }
}

/// Returns the index in a layout's `index.json`, with the manifest of the image and its artifact.
fn merged_beside(out: &Path) -> (Value, Value) {
    let index = manifest(out);
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{index}");
    let about = &entries[1]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(about, &entries[0]["digest"]);
    (entries[0].clone(), entries[1].clone())
}

#[test]
fn merged_metadata_of_an_image_equals_that_which_a_pull_makes() {
    if !kernel_mounts() {
        return;
    }
    let source = stack();
    let dir = tempfile::tempdir().unwrap();
    let blockbox = Blockbox::new();
    for options in [
        &[][..],
        &["--zstd"],
        &["--regroup=1M", "--block-size", "512"],
    ] {
        let out = dir.path().join(format!("out{}", options.len()));
        let to = format!("oci:{}:v1", out.display());
        let convert = |from: &str, to: &str| {
            let arguments = ["convert", "-q", "--merged", from, to];
            blockbox.ok(arguments.iter().chain(options))
        };
        let digest = convert(&source.reference(), &to);
        let again = format!("oci:{}", dir.path().join("again").display());
        assert_eq!(convert(&source.reference(), &again), digest);
        let (image, entry) = merged_beside(&out);
        let artifact = blob(&out, &entry);
        assert_eq!(artifact["subject"]["digest"], image["digest"]);
        let layer = &artifact["layers"][0];
        let mut bytes = fs::read(path(&out, layer)).unwrap();
        let kind = layer["mediaType"].as_str().unwrap();
        if kind.ends_with("+zstd") {
            bytes = zstd::decode_all(&bytes[..]).unwrap();
        }
        assert!(kind.starts_with("application/vnd.erofs.layer.merged.v1"));

        // The same as after a pull, which has no warnings.
        let output = blockbox.output(["pull", "-q", &to]);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        let pulled = String::from_utf8(output.stdout).unwrap();
        assert_eq!(pulled.trim(), image["digest"].as_str().unwrap());
        let disks = blockbox.inspect(&to);
        assert!(fs::read(&disks.fsmeta).unwrap() == bytes);
        // As other programs mount it.
        let merged = dir.path().join("merged.erofs");
        fs::write(&merged, &bytes).unwrap();
        let layers: Vec<_> = disks.layers.iter().map(|layer| layer.as_path()).collect();
        let mut shown = walk(Mount::erofs(&merged, &layers).path()).unwrap();
        unescape_xattrs(&mut shown);
        if let Some(expected) = umoci_walk(source.path()) {
            Difference::between(&shown, &expected).assert_none();
        }
        // Other programs copy it with the image, and ignore it.
        let copied = dir.path().join(format!("copied{}", options.len()));
        let copy = format!("oci:{}:v1", copied.display());
        if let Some(mut skopeo) = oracle("skopeo") {
            skopeo.args(["--insecure-policy", "copy", "-q", "--all"]);
            run(skopeo.args(["--preserve-digests", &to, &copy]));
            assert_eq!(manifest(&copied), manifest(&out));
        }
    }
    // Converting the result again leaves one of each.
    let beside = |from: &str, name: &str| {
        let out = dir.path().join(name);
        let to = format!("oci:{}:latest", out.display());
        blockbox.ok(["convert", "-q", "--keep-tar", "--merged", from, &to]);
        (manifest(&out), to)
    };
    let (index, once) = beside(&source.reference(), "once");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(beside(&once, "twice").0, index);
}

#[test]
fn merged_metadata_that_does_not_match_the_layers_is_not_used() {
    let source = stack();
    let dir = tempfile::tempdir().unwrap();
    let (blockbox, out) = (Blockbox::new(), dir.path().join("out"));
    let to = format!("oci:{}:v1", out.display());
    blockbox.ok(["convert", "-q", "--merged", &source.reference(), &to]);
    blockbox.ok(["pull", "-q", &to]);
    let right = fs::read(blockbox.inspect(&to).fsmeta).unwrap();
    let (image, entry) = merged_beside(&out);
    let put = |bytes: &[u8]| {
        let digest = digest(bytes);
        fs::write(out.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        json!({"digest": digest, "size": bytes.len()})
    };
    let change = |artifact: &Value| {
        let mut entry = entry.clone();
        let now = put(artifact.to_string().as_bytes());
        (entry["digest"], entry["size"]) = (now["digest"].clone(), now["size"].clone());
        let mut index = manifest(&out);
        index["manifests"] = json!([image, entry]);
        let now = put(index.to_string().as_bytes());
        let mut root: Value =
            serde_json::from_slice(&fs::read(out.join("index.json")).unwrap()).unwrap();
        let place = &mut root["manifests"][0];
        (place["digest"], place["size"]) = (now["digest"].clone(), now["size"].clone());
        fs::write(out.join("index.json"), root.to_string()).unwrap();
    };
    // A blob with another tree of the same layers' contents: its digest and its structure are
    // valid.
    let mut other = right.clone();
    let name = b"stays";
    let at = other.windows(5).position(|bytes| bytes == name).unwrap();
    other[at..at + 5].copy_from_slice(b"other");
    let artifact = blob(&out, &entry);
    let mut lying = artifact.clone();
    let blob = put(&other);
    let layer = &mut lying["layers"][0];
    (layer["digest"], layer["size"]) = (blob["digest"].clone(), blob["size"].clone());
    let mut of_another = artifact.clone();
    of_another["subject"]["digest"] = json!(digest(b"another"));
    let mut without = artifact.clone();
    without["layers"] = json!([]);
    for (artifact, said) in [
        (&lying, "not what its layers are together"),
        (&without, "not what its layers are together"),
        (&of_another, "made anew"),
        (&json!("no manifest"), "made anew"),
    ] {
        change(artifact);
        let store = Blockbox::new();
        let output = store.output(["pull", &to]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains(said), "{artifact}: {stderr}");
        assert!(fs::read(store.inspect(&to).fsmeta).unwrap() == right);
    }
}

#[test]
fn an_image_of_more_layers_than_files_may_be_open_is_made_native_and_pulled() {
    let layers = 80;
    let source = (0..layers)
        .fold(Layout::new(), |layout, number| {
            let tar = TarBuilder::new().file(format!("f{number}"), "x");
            layout.layer(&tar.finish(), Compression::None)
        })
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:v1", dir.path().join("out").display());
    let blockbox = Blockbox::new();
    // The soft limit is for programs that do not raise it; the hard one is the user's.
    let limited = |arguments: &[&str]| {
        let own = blockbox.command();
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "ulimit -Sn 40 && exec \"$@\"", "sh"])
            .arg(own.get_program())
            .args(arguments)
            .env("BLOCKBOX_HOME", blockbox.home());
        run(&mut shell);
    };
    limited(&["convert", "-q", &source.reference(), &to]);
    limited(&["pull", "-q", &to]);
    assert_eq!(blockbox.inspect(&to).layers.len(), layers);
}
