//! EROFS-native images: made from tars, pulled without conversion, and mounted directly by the
//! kernel's overlayfs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::{Difference, Mount, TarBuilder, Walk, kernel_mounts, oracle, walk};

use crate::common::Blockbox;
use crate::common::layout::{Compression, Layout, digest};
use crate::views::kernel_walk;

/// Layers with all kinds of changes to those below.
fn stack() -> Layout {
    let base = TarBuilder::new()
        .dir("./")
        .mode(0o755)
        .dir("usr")
        .mode(0o711)
        .owner(3, 4)
        .dir("usr/lib")
        .mode(0o644)
        .file("usr/lib/a", "a".repeat(5000))
        .mode(0o777)
        .symlink("lib", "usr/lib")
        .mode(0o755)
        .dir("d")
        .mode(0o644)
        .file("d/gone", "gone")
        .file("d/stays", "stays")
        .xattr("user.name", "value")
        .file("d/xattrs", "x")
        .dir("opaque")
        .file("opaque/old", "old")
        .finish();
    let upper = TarBuilder::new()
        .file("lib/b", "b".repeat(9000))
        .link("usr/linked", "usr/lib/a")
        .file("d/.wh.gone", "")
        .file("d/.wh.never-was", "")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .dir("fresh")
        .file("fresh/.wh.nothing", "")
        .file("fresh/f", "f")
        .finish();
    let top = TarBuilder::new()
        .file("usr/lib/.wh.b", "")
        .file("usr/lib/c", "c")
        .finish();
    Layout::new()
        .layer(&base, Compression::Gzip)
        .layer(&upper, Compression::Zstd)
        .layer(&top, Compression::None)
        .finish()
}

/// Returns the kernel's view of the merged image, without link counts across layers, which native
/// layers do not keep.
fn merged(blockbox: &Blockbox, reference: &str) -> Walk {
    let mut walk = kernel_walk(blockbox, reference);
    testkit::unescape_xattrs(&mut walk);
    for entry in walk.values_mut() {
        entry.first_name = None;
    }
    // No layer sets its time.
    walk.get_mut(&b"usr/lib"[..]).unwrap().mtime = (0, 0);
    walk
}

/// Returns the manifest in a layout's `index.json`.
pub(crate) fn manifest(dir: &Path) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
    blob(dir, &index["manifests"][0])
}

pub(crate) fn blob(dir: &Path, descriptor: &Value) -> Value {
    serde_json::from_slice(&fs::read(path(dir, descriptor)).unwrap()).unwrap()
}

pub(crate) fn path(dir: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    dir.join("blobs").join(digest.replace(':', "/"))
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

#[test]
fn a_native_image_has_the_same_tree_as_its_source_in_every_form() {
    if !kernel_mounts() {
        return;
    }
    let source = stack();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &source.reference()]);
    let expected = merged(&blockbox, &source.reference());
    let dir = tempfile::tempdir().unwrap();
    for (number, options) in [
        &[][..],
        &["--block-size", "512"],
        &["--zstd"],
        &["--zstd=9", "--index"],
        &["--image-spec"],
        &["--image-spec", "--zstd", "--index"],
        &["--compress", "lz4"],
        &["--squash", "--annotation", "a=b"],
    ]
    .iter()
    .enumerate()
    {
        let out = dir.path().join(number.to_string());
        let to = format!("oci:{}:v1", out.display());
        let convert = |to: &str| {
            let arguments = ["convert", "-q", &source.reference(), to];
            blockbox.ok(arguments.iter().chain(options.iter()))
        };
        let digest = convert(&to);
        let again = dir.path().join(format!("{number}.again"));
        assert_eq!(
            convert(&format!("oci:{}", again.display())),
            digest,
            "{options:?}"
        );
        let other = Blockbox::new();
        assert_eq!(other.ok(["pull", "-q", &to]), digest, "{options:?}");
        Difference::between(&merged(&other, &to), &expected).assert_none();

        let manifest = manifest(&out);
        let config = blob(&out, &manifest["config"]);
        assert_eq!(config["os.features"], json!(["erofs"]));
        let layers = manifest["layers"].as_array().unwrap();
        let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(layers.len(), ids.len());
        // As other programs mount it: each layer by itself, with overlayfs on top.
        let images: Vec<_> = layers
            .iter()
            .zip(ids)
            .enumerate()
            .map(|(index, (layer, id))| {
                let mut bytes = fs::read(path(&out, layer)).unwrap();
                let expected = match options.contains(&"--image-spec") {
                    true => "application/vnd.erofs",
                    false => "application/vnd.erofs.layer.v1",
                };
                let media_type = layer["mediaType"].as_str().unwrap();
                if media_type.strip_suffix("+zstd") == Some(expected) {
                    bytes = zstd::decode_all(&bytes[..]).unwrap();
                } else {
                    assert_eq!(media_type, expected);
                }
                assert_eq!(self::digest(&bytes), id.as_str().unwrap());
                let image = dir.path().join(format!("{number}-{index}.erofs"));
                fs::write(&image, bytes).unwrap();
                if let Some(mut fsck) = oracle("fsck.erofs") {
                    run(fsck.arg(&image));
                }
                image
            })
            .collect();
        let mounts: Vec<_> = images
            .iter()
            .map(|image| Mount::erofs(image, &[]))
            .collect();
        let nothing = tempfile::tempdir().unwrap();
        let mut folders = vec![nothing.path()];
        folders.extend(mounts.iter().map(Mount::path));
        // Without metacopy and redirects, as containerd mounts them.
        let overlay = Mount::overlay(&folders, "metacopy=off,redirect_dir=off");
        let mut shown = walk(overlay.path()).unwrap();
        for entry in shown.values_mut() {
            entry.first_name = None;
        }
        shown.get_mut(&b"usr/lib"[..]).unwrap().mtime = (0, 0);
        Difference::between(&shown, &expected).assert_none();
    }
}

#[test]
fn the_index_of_frames_leads_to_each_part_of_a_layer() {
    let noise = testkit::noise(3, 9 << 20);
    let tar = TarBuilder::new().file("f", &noise).finish();
    let source = Layout::new().layer(&tar, Compression::None).finish();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let to = format!("oci:{}", out.display());
    let blockbox = Blockbox::new();
    blockbox.ok([
        "convert",
        "-q",
        "--zstd",
        "--index",
        &source.reference(),
        &to,
    ]);
    let layer = &manifest(&out)["layers"][0];
    let notes = &layer["annotations"];
    let bytes = fs::read(path(&out, layer)).unwrap();
    let whole = zstd::decode_all(&bytes[..]).unwrap();
    let (begin, end) = notes["org.erofs.index.range"]
        .as_str()
        .unwrap()
        .split_once(':')
        .unwrap();
    let (begin, end): (usize, usize) = (begin.parse().unwrap(), end.parse().unwrap());
    assert_eq!(end, bytes.len());
    let index = &bytes[begin + 8..end];
    assert_eq!(
        digest(index),
        notes["org.erofs.index.digest"].as_str().unwrap()
    );
    let index = blockbox::convert::native::chunks::ChunkIndex::parse(index, begin as u64).unwrap();
    assert_eq!(index.size(), whole.len() as u64);
    assert!(index.frames().len() >= 3);
    for (number, frame) in index.frames().iter().enumerate() {
        let next = index
            .frames()
            .get(number + 1)
            .map_or(begin, |f| f.offset as usize);
        let chunk = zstd::decode_all(&bytes[frame.offset as usize..next]).unwrap();
        let start = number * index.chunk_size() as usize;
        assert!(chunk == whole[start..start + chunk.len()]);
    }
}

/// What section 3.4.4 of the draft specification of EROFS images has readers do, and the rules for
/// producers of section 8.1 on roles and annotations.
#[test]
fn layers_of_the_image_specification_are_read_as_it_says() {
    let base = TarBuilder::new()
        .file("f", testkit::noise(3, 9 << 20))
        .finish();
    let top = TarBuilder::new().file("g", "g").file(".wh.f", "").finish();
    let source = Layout::new()
        .layer(&base, Compression::None)
        .layer(&top, Compression::None)
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let to = format!("oci:{}", out.display());
    let blockbox = Blockbox::new();
    let options = ["--image-spec", "--zstd", "--index"];
    let convert = ["convert", "-q", &source.reference(), &to];
    blockbox.ok(convert.iter().chain(&options));
    let manifest = manifest(&out);
    let layers = manifest["layers"].as_array().unwrap();
    let config = blob(&out, &manifest["config"]);
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[0]["annotations"]["org.erofs.role"], "overlay-lower");
    assert_eq!(layers[1]["annotations"].get("org.erofs.role"), None);
    for (layer, diff_id) in layers
        .iter()
        .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
    {
        assert_eq!(layer["mediaType"], "application/vnd.erofs+zstd");
        let notes = &layer["annotations"];
        assert_eq!(notes["org.erofs.uncompressed-digest"], *diff_id);
        let kind = &notes["org.erofs.chunk-index.mediaType"];
        assert_eq!(kind, "application/vnd.erofs.chunk-index.v1");
        let bytes = fs::read(path(&out, layer)).unwrap();
        let whole = zstd::decode_all(&bytes[..]).unwrap();
        assert_eq!(digest(&whole), diff_id.as_str().unwrap());
        let range = notes["org.erofs.chunk-index.range"].as_str().unwrap();
        let (begin, end) = range.split_once(':').unwrap();
        let (begin, end): (usize, usize) = (begin.parse().unwrap(), end.parse().unwrap());
        assert_eq!(end, bytes.len());
        let number = |at: usize, length: usize| {
            let bytes = bytes[at..at + length].iter().rev();
            bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
        };
        assert_eq!(number(begin, 4), 0x184D_2A50);
        let header = begin + 8;
        assert_eq!(number(begin + 4, 4), end - header);
        let index_digest = &notes["org.erofs.chunk-index.digest"];
        assert_eq!(digest(&bytes[header..end]), index_digest.as_str().unwrap());
        assert_eq!(bytes[header..header + 6], [0xcd, 0xe4, 0xec, 0x67, 1, 1]);
        assert_eq!(number(header + 6, 2), 0);
        assert_eq!(number(header + 8, 8), whole.len());
        assert_eq!(number(header + 20, 2), 0x2001);
        assert_eq!(number(header + 22, 8) | number(header + 24, 8), 0);
        let chunks = number(header + 16, 4);
        assert_eq!(end - header, 32 + chunks * 48);
        for chunk in 0..chunks {
            let entry = header + 32 + chunk * 48;
            let next = |field: usize, last: usize| match chunk + 1 == chunks {
                true => last,
                false => number(entry + 48 + field, 8),
            };
            let stored = &bytes[number(entry, 8)..next(0, begin)];
            let hash = &bytes[entry + 16..entry + 48];
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest(stored), format!("sha256:{hash}"));
            let contents = zstd::bulk::decompress(stored, 8 << 20).unwrap();
            assert!(contents == whole[number(entry + 8, 8)..next(8, whole.len())]);
        }
    }
    // It has no merged metadata, and names its own media types.
    for option in ["--merged", "--media-type=application/x.erofs"] {
        let refused = blockbox.output(convert.iter().chain(&["--image-spec", option]));
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(error.contains("cannot be used with"), "{error}");
    }
}

#[test]
fn the_tar_manifest_stays_first_and_clients_with_erofs_choose_the_native_one() {
    let source = stack();
    let dir = tempfile::tempdir().unwrap();
    let (blockbox, out) = (Blockbox::new(), dir.path().join("both"));
    let to = format!("oci:{}:latest", out.display());
    let tar = manifest(source.path());
    blockbox.ok(["convert", "-q", "--keep-tar", &source.reference(), &to]);
    let index = manifest(&out);
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(blob(&out, &entries[0]), tar);
    assert_eq!(entries[0]["platform"].get("os.features"), None);
    assert_eq!(entries[1]["platform"]["os.features"], json!(["erofs"]));
    let native = entries[1]["digest"].as_str().unwrap();
    assert_eq!(blockbox.ok(["pull", "-q", &to]).trim(), native);
    // Converting the result again replaces the native image and keeps the tar one.
    let again = format!("oci:{}:latest", dir.path().join("again").display());
    blockbox.ok(["convert", "-q", "--keep-tar", &to, &again]);
    assert_eq!(manifest(&dir.path().join("again")), index);

    // Other programs choose the tar image, and copy the index unchanged.
    if let Some(mut skopeo) = oracle("skopeo") {
        let copied = dir.path().join("copied");
        skopeo.args([
            "--insecure-policy",
            "copy",
            "-q",
            "--all",
            "--preserve-digests",
            &to,
        ]);
        run(skopeo.arg(format!("oci:{}:latest", copied.display())));
        assert_eq!(manifest(&copied), index);
        let one = dir.path().join("one");
        let mut skopeo = oracle("skopeo").unwrap();
        skopeo.args(["--insecure-policy", "copy", "-q", &to]);
        run(skopeo.arg(format!("oci:{}:latest", one.display())));
        // skopeo compresses the layers.
        assert_eq!(manifest(&one)["config"], tar["config"]);
    }
}

/// Returns the names of the blobs in a layout.
fn blobs(dir: &Path) -> BTreeSet<std::ffi::OsString> {
    let files = fs::read_dir(dir.join("blobs/sha256")).unwrap();
    files.map(|file| file.unwrap().file_name()).collect()
}

#[test]
fn umoci_leaves_native_images_and_indexes_with_them_unharmed() {
    if oracle("umoci").is_none() {
        return;
    }
    let umoci = |arguments: &[&str]| Command::new("umoci").args(arguments).output().unwrap();
    let source = stack();
    let dir = tempfile::tempdir().unwrap();
    let blockbox = Blockbox::new();
    for options in [&[][..], &["--zstd", "--index"], &["--keep-tar", "--merged"]] {
        let out = dir.path().join(format!("out{}", options.concat()));
        let layout = out.to_str().unwrap();
        let (to, image) = (format!("oci:{layout}:v1"), format!("{layout}:v1"));
        let convert = ["convert", "-q", &source.reference(), &to];
        blockbox.ok(convert.iter().chain(options));
        let pulled = blockbox.ok(["pull", "-q", &to]);
        let (index, before) = (manifest(&out), blobs(&out));

        let listed = umoci(&["list", "--layout", layout]);
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "v1\n");
        let tagged = umoci(&["tag", "--image", &image, "v2"]);
        let names = fs::read_to_string(out.join("index.json")).unwrap();
        if options.contains(&"--keep-tar") && !tagged.status.success() {
            // Old versions tag no index of several images.
            let said = String::from_utf8_lossy(&tagged.stderr);
            assert!(said.contains("ambiguous"), "{said}");
            assert!(!names.contains("v2"), "{names}");
        } else {
            assert!(tagged.status.success(), "{tagged:?}");
            let by_umoci = blockbox.ok(["pull", "-q", &format!("oci:{layout}:v2")]);
            assert_eq!(by_umoci, pulled);
        }
        let collected = umoci(&["gc", "--layout", layout]);
        assert!(collected.status.success(), "{collected:?}");
        assert_eq!(blobs(&out), before, "{options:?}");
        assert_eq!(manifest(&out), index);
        assert_eq!(blockbox.ok(["pull", "-q", &to]), pulled);
        blockbox.ok(["image", "verify", "-q"]);
        // The name goes, and with it all that it led to.
        for name in ["v1", "v2"] {
            umoci(&["rm", "--image", &format!("{layout}:{name}")]);
        }
        assert!(umoci(&["gc", "--layout", layout]).status.success());
        assert_eq!(blobs(&out), BTreeSet::new(), "{options:?}");
    }
}

#[test]
fn layers_of_mkfs_erofs_and_ours_make_one_image() {
    if !kernel_mounts() {
        return;
    }
    let Some(mut mkfs) = oracle("mkfs.erofs") else {
        return;
    };
    let source = stack();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let blockbox = Blockbox::new();
    let to = format!("oci:{}:v1", out.display());
    blockbox.ok([
        "convert",
        "-q",
        "--block-size",
        "512",
        &source.reference(),
        &to,
    ]);
    blockbox.ok(["pull", "-q", &to]);
    let expected = merged(&blockbox, &to);

    // The lowest layer, converted from the tar by mkfs.erofs.
    let (tar, image) = (dir.path().join("base.tar"), dir.path().join("base.erofs"));
    let gzip = fs::read(path(source.path(), &manifest(source.path())["layers"][0])).unwrap();
    let mut decoder = flate2::read::GzDecoder::new(&gzip[..]);
    std::io::copy(&mut decoder, &mut fs::File::create(&tar).unwrap()).unwrap();
    mkfs.args(["--tar=f", "--aufs", "-Enoinline_data", "--quiet"]);
    run(mkfs.arg(&image).arg(&tar));
    let theirs = fs::read(&image).unwrap();
    replace_layer(&out, 0, &theirs, &digest(&theirs));
    let mixed = Blockbox::new();
    mixed.ok(["pull", "-q", &to]);
    Difference::between(&merged(&mixed, &to), &expected).assert_none();
    assert!(fs::read(&mixed.inspect(&to).layers[0]).unwrap() == theirs);
}

/// Replaces a layer in the image of a native layout.
fn replace_layer(dir: &Path, layer: usize, bytes: &[u8], diff_id: &str) {
    let store = |bytes: &[u8]| {
        let digest = digest(bytes);
        fs::write(dir.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        (digest, bytes.len())
    };
    let mut manifest = manifest(dir);
    let mut config = blob(dir, &manifest["config"]);
    let replace = |at: &mut Value, bytes: &[u8]| {
        let (digest, size) = store(bytes);
        (at["digest"], at["size"]) = (json!(digest), json!(size));
    };
    config["rootfs"]["diff_ids"][layer] = json!(diff_id);
    replace(&mut manifest["layers"][layer], bytes);
    replace(&mut manifest["config"], config.to_string().as_bytes());
    let index = fs::read(dir.join("index.json")).unwrap();
    let mut index: Value = serde_json::from_slice(&index).unwrap();
    replace(&mut index["manifests"][0], manifest.to_string().as_bytes());
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

#[test]
fn a_hostile_native_layer_is_refused_by_name_and_leaves_nothing() {
    let source = stack();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let blockbox = Blockbox::new();
    let to = format!("oci:{}:v1", out.display());
    blockbox.ok(["convert", "-q", &source.reference(), &to]);
    let good = fs::read(path(&out, &manifest(&out)["layers"][1])).unwrap();
    blockbox.ok(["gc"]);
    let before = blockbox.listing();
    let mut no_superblock = good.clone();
    no_superblock[1024..1028].fill(0);
    let mut bad_root = good.clone();
    // `root_nid` (fs/erofs/erofs_fs.h), which the checksum covers.
    bad_root[1024 + 14] ^= 0x55;
    let tar = TarBuilder::new().file("f", "x").finish();
    for bytes in [
        &no_superblock[..],
        &bad_root,
        &good[..good.len() / 2],
        &tar,
        b"",
    ] {
        replace_layer(&out, 1, bytes, &digest(bytes));
        let error = blockbox.fails(["pull", "-q", &to]);
        assert!(error.contains(&digest(bytes)), "{error}");
        assert_eq!(blockbox.listing(), before);
    }
    // A layer that differs from the configuration's diff ID.
    replace_layer(&out, 1, &good, &digest(b"another"));
    let error = blockbox.fails(["pull", "-q", &to]);
    assert!(error.contains(&digest(b"another")), "{error}");
    assert_eq!(blockbox.listing(), before);
}

#[test]
fn an_image_of_the_store_is_pushed_and_fills_the_cache_of_containerd() {
    if !kernel_mounts() {
        return;
    }
    let source = stack();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &source.reference()]);
    let expected = merged(&blockbox, &source.reference());
    let dir = tempfile::tempdir().unwrap();
    let to = format!("oci-archive:{}:v1", dir.path().join("a.tar").display());
    let pushed = blockbox.ok(["push", "-q", "--zstd", &source.reference(), &to]);
    let other = Blockbox::new();
    assert_eq!(other.ok(["pull", "-q", &to]), pushed);
    Difference::between(&merged(&other, &to), &expected).assert_none();

    let cache = dir.path().join("cache");
    for (blockbox, name) in [(&blockbox, source.reference()), (&other, to)] {
        let cache = cache.to_str().unwrap();
        let said = blockbox.ok(["export", "containerd-cache", cache, &name]);
        assert!(said.contains("3 of 3"), "{said}");
        let said = blockbox.ok(["export", "containerd-cache", cache]);
        assert!(said.contains("0 of 3"), "{said}");
        assert_eq!(said.lines().count(), 1, "one line for each image");
        let inspected = blockbox.ok(["image", "inspect", &name, "--format", "json"]);
        let report: Value = serde_json::from_str(&inspected).unwrap();
        let images: Vec<_> = report["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| {
                let hex = layer["diff_id"]
                    .as_str()
                    .unwrap()
                    .trim_start_matches("sha256:");
                Path::new(cache).join(format!("sha256/{}/{hex}.erofs", &hex[..2]))
            })
            .collect();
        let mounts: Vec<_> = images
            .iter()
            .map(|image| Mount::erofs(image, &[]))
            .collect();
        let folders: Vec<_> = mounts.iter().map(Mount::path).collect();
        let overlay = Mount::overlay(&folders, "metacopy=off,redirect_dir=off");
        let mut shown = walk(overlay.path()).unwrap();
        for entry in shown.values_mut() {
            entry.first_name = None;
        }
        shown.get_mut(&b"usr/lib"[..]).unwrap().mtime = (0, 0);
        Difference::between(&shown, &expected).assert_none();
    }
}
