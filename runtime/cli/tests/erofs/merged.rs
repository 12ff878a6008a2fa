//! Merged metadata, which refers to the layers.

use serde_json::Value;
use testkit::{Difference, TarBuilder, kernel_mounts};

use crate::{Lab, noise};

#[test]
fn metadata_with_48_bit_addresses_has_the_same_tree_in_less_space() {
    let lab = Lab::new();
    let names: Vec<_> = (0..300).map(|i| format!("file-{i:03}")).collect();
    let mut base = TarBuilder::new().mtime(1_700_000_000).dir("./");
    for (name, time) in names.iter().zip(1_600_000_000..) {
        base = base.mtime(time).file(name, name);
    }
    let top = TarBuilder::new()
        .dir("./")
        .mtime(5)
        .file("early", noise(5000))
        .mtime(1_650_000_000)
        .file(".wh.file-007", "")
        .symlink("link", "early");
    for (layer, tar) in [("0", base.finish()), ("1", top.finish())] {
        let (tar_name, image) = (format!("{layer}.tar"), format!("{layer}.erofs"));
        lab.put(&tar_name, tar);
        lab.ok(&["build", "--tar", &tar_name, "-o", &image]);
    }
    let layers = ["0.erofs", "1.erofs"];
    let merge = |output: &str, options: &[&str]| -> Value {
        let arguments = ["merge", "-o", output, "--format", "json"];
        let report = lab.ok(&[&arguments[..], &layers, options].concat());
        lab.check(output, &layers);
        serde_json::from_str(&report).unwrap()
    };
    let of = |report: &Value, what: &str| report[what].as_u64().unwrap();
    let usual = merge("usual", &["--vmdk", "usual.vmdk"]);
    let options = ["--features", "48bit", "--vmdk", "small.vmdk"];
    let small = merge("small", &options);
    assert!(of(&small, "compact_inodes") > 300, "{small}");
    assert!(of(&small, "bytes") * 4 < of(&usual, "bytes") * 3, "{small}");
    let cat = |disk: &str| lab.ok(&["cat", disk, "file-299"]);
    assert_eq!(
        (cat("usual.vmdk"), cat("small.vmdk")),
        (names[299].clone(), names[299].clone())
    );
    if !kernel_mounts() {
        return;
    }
    let expected = lab.shown("usual", &layers);
    assert_eq!(expected.len(), 302);
    Difference::between(&lab.shown("small", &layers), &expected).assert_none();
    // As in a guest: one disk.
    let stitched: Vec<u8> = ["small", "0.erofs", "1.erofs"]
        .iter()
        .flat_map(|part| std::fs::read(lab.path(part)).unwrap())
        .collect();
    lab.put("stitched", stitched);
    Difference::between(&lab.shown("stitched", &[]), &expected).assert_none();
}

#[test]
fn a_metadata_merge_supports_wide_addresses_and_no_other_option() {
    let lab = Lab::new();
    lab.put("0.tar", TarBuilder::new().dir("./").file("a", "a").finish());
    lab.ok(&["build", "--tar", "0.tar", "-o", "0.erofs"]);
    for options in [
        &["--features", "48bit,chunk-indexes"][..],
        &["--features", "48bit", "--label", "x"],
        &["--block-size", "512"],
    ] {
        let error = lab.fails(&[&["merge", "0.erofs", "-o", "image"], options].concat());
        assert!(error.contains("--full"), "{error}");
        assert!(!lab.path("image").exists());
    }
}

#[test]
fn indexes_are_layers_with_their_tars_appended_or_as_devices() {
    let lab = Lab::new();
    let base = TarBuilder::new()
        .dir("./")
        .file("kept", noise(5000))
        .file("replaced", noise(700))
        // It is not aligned to blocks, so the index has a copy.
        .pax("GNU.sparse.size", "100000")
        .pax("GNU.sparse.map", "100,300")
        .pax("GNU.sparse.name", "odd")
        .file("GNUSparseFile.1/odd", noise(300));
    let top = TarBuilder::new()
        .file("replaced", noise(800))
        .file("new", "new");
    for (layer, tar) in [("0", base.finish()), ("1", top.finish())] {
        let (name, index) = (format!("{layer}.tar"), format!("{layer}.index"));
        lab.put(&name, tar);
        lab.ok(&["build", "--tar", &name, "--tar-index", "-o", &index]);
        lab.ok(&["build", "--tar", &name, "-o", &format!("{layer}.erofs")]);
        let both = [&name, &index].map(|name| std::fs::read(lab.path(name)).unwrap());
        let [tar, index] = both;
        lab.put(&format!("{layer}.stitched"), [index, tar].concat());
    }
    let merge = |output: &str, layers: &[&str], devices: &[&str]| {
        lab.ok(&[&["merge", "-o", output], layers].concat());
        lab.check(output, devices);
    };
    let (copies, stitched) = (["0.erofs", "1.erofs"], ["0.stitched", "1.stitched"]);
    merge("of copies", &copies, &copies);
    merge("of stitched", &stitched, &stitched);
    let devices = ["0.index", "0.tar", "1.index", "1.tar"];
    merge("of indexes", &["0.index", "1.index"], &devices);
    let mixed = ["0.index", "0.tar", "1.erofs"];
    merge("mixed", &["0.index", "1.erofs"], &mixed);
    let cat = |path: &str| {
        let devices = devices.iter().flat_map(|device| ["--device", *device]);
        let arguments: Vec<_> = ["cat", "of indexes", path]
            .into_iter()
            .chain(devices)
            .collect();
        lab.run(&arguments).stdout
    };
    assert!(cat("kept") == noise(5000) && cat("replaced") == noise(800));
    let mut odd = vec![0; 100_000];
    odd[100..400].copy_from_slice(&noise(300));
    assert!(cat("odd") == odd);
    let vmdk = ["--vmdk", "disk.vmdk"];
    let arguments = ["merge", "0.index", "1.erofs", "-o", "mixed"];
    let error = lab.fails(&[&arguments[..], &vmdk].concat());
    assert!(error.contains("vmdk create"), "{error}");
    if kernel_mounts() {
        let expected = lab.shown("of copies", &copies);
        assert_eq!(expected.len(), 5);
        for (image, devices) in [
            ("of stitched", &stitched[..]),
            ("of indexes", &devices),
            ("mixed", &mixed),
        ] {
            Difference::between(&lab.shown(image, devices), &expected).assert_none();
        }
    }
}
