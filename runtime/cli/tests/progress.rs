//! Progress of commands that take long.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::Blockbox;
use common::guest::{Guest, text};
use common::layout::{Compression, Layout};
use serde_json::{Value, json};
use testkit::TarBuilder;

/// Commands that move bytes, in an order in which each finds its input.
const COMMANDS: [&str; 16] = [
    "commit one derived:1",
    "cp one:/bin/busybox AT/busybox",
    "cp AT/busybox one:/etc/",
    "cp one:/bin -",
    "export one -o AT/export.tar",
    "volume import v AT/export.tar",
    "volume export v -o AT/volume.tar",
    "volume export v --kind ext4 -o AT/volume.ext4",
    "volume import w AT/volume.ext4 --kind ext4",
    "snapshot create one -n s",
    "snapshot verify s",
    "snapshot restore one s",
    "snapshot export s -o AT/s.tar",
    "snapshot import AT/s.tar -n t",
    "fork one --no-start",
    "create --snapshot s",
];

/// Checks what a command that moves bytes wrote to its standard error.
fn check(mode: &str, line: &str, report: &str) {
    match mode {
        "json" => {
            let events: Vec<Value> = report
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            assert_eq!(events[0]["event"], "started", "{line}: {report}");
            let last = events.last().unwrap();
            assert_eq!(last["event"], "finished", "{line}: {report}");
            // A file system may share the blocks of a copy.
            let shared = [
                "w ",
                "create --snapshot",
                "snapshot create",
                "fork",
                "--kind ext4",
            ];
            let may_share = shared.iter().any(|word| line.contains(word));
            let bytes = last["bytes"].as_u64().unwrap();
            assert!(may_share || bytes > 0, "{line}: {report}");
        }
        "plain" => assert_eq!(report.lines().count(), 2, "{line}: {report}"),
        _ => assert_eq!(report, "", "{line}"),
    }
}

/// Commands on files and on images of the store, in an order in which each finds its input.
const LOCAL: [&str; 16] = [
    "image verify IMAGE",
    "image verify --repair IMAGE",
    "disk create IMAGE AT/disk.ext4",
    "disk create --type erofs --compress lz4hc,9 IMAGE AT/disk.erofs",
    "erofs build --tar AT/tar -o AT/one.erofs",
    "erofs build --tar AT/tar --tar-index -o AT/index.erofs",
    "erofs build --dir AT/dir -o AT/two.erofs",
    "erofs build --image AT/one.erofs -o AT/again.erofs",
    "erofs merge --full AT/one.erofs AT/two.erofs -o AT/full.erofs",
    "erofs extract AT/full.erofs AT/out",
    "erofs extract AT/full.erofs AT/out.tar",
    "erofs check --contents AT/full.erofs",
    "ext4 create --size 16M --dir AT/dir -o AT/ext4",
    "vmdk create AT/ext4 -o AT/flat.vmdk",
    "vmdk create --kind stream AT/ext4 -o AT/stream.vmdk",
    "vmdk read AT/stream.vmdk -o AT/raw",
];

/// Pulls an image of one layer. Returns its layout and the layer's archive, too.
fn pulled() -> (Blockbox, Layout, Vec<u8>) {
    let tar = TarBuilder::new().file("f", "contents").finish();
    let layout = Layout::new().layer(&tar, Compression::Gzip).finish();
    let blockbox = Blockbox::without_kernel();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    (blockbox, layout, tar)
}

#[test]
fn every_command_that_reads_or_makes_files_reports_progress_if_requested() {
    let (blockbox, layout, tar) = pulled();
    for mode in ["json", "plain", "none"] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        std::fs::write(at.join("tar"), &tar).unwrap();
        std::fs::create_dir(at.join("dir")).unwrap();
        std::fs::write(at.join("dir/g"), "other contents").unwrap();
        for line in LOCAL {
            let line = line.replace("AT", at.to_str().unwrap());
            let line = line.replace("IMAGE", &layout.reference());
            let words: Vec<_> = line.split(' ').chain(["--progress", mode]).collect();
            let output = blockbox.output(&words);
            let report = text(&output.stderr);
            assert!(output.status.success(), "{line}: {report}");
            check(mode, &line, &report);
        }
        let cache = at.join("cache").display().to_string();
        let words = ["export", "containerd-cache", &cache, "--progress", mode];
        let report = text(&blockbox.output(words).stderr);
        match mode {
            "json" => assert!(report.contains("layer-finished"), "{report}"),
            "plain" => assert!(report.starts_with("layer 0: sha256:"), "{report}"),
            _ => assert_eq!(report, ""),
        }
    }
}

#[test]
fn every_command_that_moves_bytes_reports_progress_if_requested() {
    let Some(guest) = Guest::new(json!({"Cmd": ["true"]})) else {
        return;
    };
    for mode in ["json", "plain", "none"] {
        // Each begins with a store in which nothing was made.
        let folder = tempfile::tempdir().unwrap();
        let blockbox = &guest.blockbox;
        blockbox.ok(["create", "--name", "one", &guest.image]);
        for line in COMMANDS {
            let line = line.replace("AT", folder.path().to_str().unwrap());
            let words: Vec<_> = line.split(' ').chain(["--progress", mode]).collect();
            let output = blockbox.output(&words);
            let report = text(&output.stderr);
            assert!(output.status.success(), "{line}: {report}");
            check(mode, &line, &report);
        }
        for line in [
            "rm one",
            "rmi derived:1",
            "volume rm v w",
            "snapshot rm s t",
        ] {
            blockbox.ok(line.split(' '));
        }
    }
}

/// Commands on images, and the pieces of work that each reports between the bars of layers and
/// blobs. `D` stands for a digest.
const PHASES: [(&str, &[&str]); 14] = [
    (
        "pull SOURCE",
        &[
            "opening SOURCE",
            "storing layer D",
            "storing layer D",
            "merging 2 layers",
        ],
    ),
    ("pull SOURCE", &["checking D", "opening SOURCE"]),
    (
        "convert SOURCE oci:AT/plain:1",
        &[
            "opening SOURCE",
            "writing the names of 2 layers",
            "hashing 2 layers",
        ],
    ),
    (
        "convert --zstd --index SOURCE oci:AT/zstd:1",
        &[
            "opening SOURCE",
            "writing the names of 2 layers",
            "compressing 2 layers",
        ],
    ),
    (
        "convert --squash --zstd SOURCE oci:AT/one:1",
        &[
            "opening SOURCE",
            "writing the names of 2 layers",
            "squashing 2 layers",
            "compressing 1 layer",
        ],
    ),
    (
        "convert --regroup --merged SOURCE oci:AT/few:1",
        &[
            "opening SOURCE",
            "writing the names of 2 layers",
            "merging 2 layers to 1",
            "hashing 1 layer",
            "merging the metadata of 1 layer",
        ],
    ),
    (
        "convert oci:AT/plain:1 oci:AT/again:1",
        &[
            "opening oci:AT/plain:1",
            "checking layer D",
            "checking layer D",
            "copying layer D",
            "copying layer D",
            "writing the names of 2 layers",
            "hashing 2 layers",
        ],
    ),
    (
        "pull oci:AT/plain:1",
        &[
            "opening oci:AT/plain:1",
            "checking layer D",
            "checking layer D",
            "storing layer D",
            "storing layer D",
            "merging 2 layers",
        ],
    ),
    // Layers with compressed contents.
    (
        "convert --compress lz4 SOURCE oci:AT/lz4:1",
        &[
            "opening SOURCE",
            "writing the names of 2 layers",
            "hashing 2 layers",
        ],
    ),
    (
        "pull oci:AT/lz4:1",
        &[
            "opening oci:AT/lz4:1",
            "checking layer D",
            "checking layer D",
            "rewriting layer D",
            "rewriting layer D",
            "storing layer D",
            "storing layer D",
            "merging 2 layers",
        ],
    ),
    (
        "save SOURCE -o AT/saved.tar",
        &[
            "reading layer D",
            "reading layer D",
            "writing layer D",
            "writing layer D",
        ],
    ),
    ("copy SOURCE oci:AT/copy:1", &["copying SOURCE"]),
    (
        "push SOURCE oci:AT/pushed:1",
        &["writing the names of 2 layers", "hashing 2 layers"],
    ),
    (
        "export containerd-cache AT/cache SOURCE",
        &["writing the names of 2 layers", "adding layers to AT/cache"],
    ),
];

#[test]
fn every_phase_of_work_on_an_image_announces_itself_and_its_end() {
    let tar = |name: &str| {
        let text = "text ".repeat(4000);
        TarBuilder::new().file(name, text).finish()
    };
    let layout = Layout::new()
        .layer(&tar("f"), Compression::Gzip)
        .layer(&tar("g"), Compression::Zstd)
        .finish();
    let folder = tempfile::tempdir().unwrap();
    let blockbox = Blockbox::without_kernel();
    for (line, expected) in PHASES {
        let named = |text: &str| {
            let text = text.replace("SOURCE", &layout.reference());
            text.replace("AT", folder.path().to_str().unwrap())
        };
        let line = named(line);
        let words: Vec<_> = line.split(' ').chain(["--progress", "json"]).collect();
        let output = blockbox.output(&words);
        let report = text(&output.stderr);
        assert!(output.status.success(), "{line}: {report}");
        let works = |event: &str| -> Vec<String> {
            let events = report
                .lines()
                .map(|line| -> Value { serde_json::from_str(line).unwrap() });
            let works = events.filter(|one| one["event"] == event);
            let mut works: Vec<_> = works
                .map(|one| without_digests(one["work"].as_str().unwrap()))
                .collect();
            works.sort();
            works
        };
        let mut expected: Vec<_> = expected.iter().map(|work| named(work)).collect();
        expected.sort();
        assert_eq!(works("started"), expected, "{line}: {report}");
        assert_eq!(works("finished"), expected, "{line}: {report}");
    }
    // A pull of an image that shares a layer with another one checks that layer.
    let more = Layout::new()
        .layer(&tar("f"), Compression::Gzip)
        .layer(&tar("h"), Compression::Gzip)
        .finish();
    let output = blockbox.output(["pull", &more.reference(), "--progress", "json"]);
    let report = text(&output.stderr);
    assert!(
        report.contains("checking layers that the store has"),
        "{report}"
    );
    // An archive on standard input is read to a file first.
    let saved = folder.path().join("saved.tar");
    let mut load = blockbox.command();
    load.args(["load", "--progress", "json"]);
    load.stdin(std::fs::File::open(&saved).unwrap());
    let output = load.output().unwrap();
    let saved = std::fs::read(&saved).unwrap();
    let report = text(&output.stderr);
    assert!(output.status.success(), "{report}");
    let finished = format!(
        r#"{{"bytes":{},"event":"finished","work":"reading standard input"}}"#,
        saved.len()
    );
    assert!(report.lines().any(|line| line == finished), "{report}");
    // So is a compressed one.
    let compressed = folder.path().join("saved.tar.zst");
    std::fs::write(&compressed, zstd::encode_all(&saved[..], 1).unwrap()).unwrap();
    let compressed = compressed.to_str().unwrap();
    let target = format!("oci:{}/from-archive:1", folder.path().display());
    let source = format!("docker-archive:{compressed}");
    let output = blockbox.output(["copy", &source, &target, "--progress", "json"]);
    let report = text(&output.stderr);
    assert!(output.status.success(), "{report}");
    let finished = format!(
        r#"{{"bytes":{},"event":"finished","work":"reading {compressed}"}}"#,
        saved.len()
    );
    assert!(report.lines().any(|line| line == finished), "{report}");
}

/// Puts `D` in the place of digests.
fn without_digests(text: &str) -> String {
    let words = text
        .split(' ')
        .map(|word| match word.starts_with("sha256:") {
            true => "D",
            false => word,
        });
    words.collect::<Vec<_>>().join(" ")
}

/// Commands that push images.
const PUSHES: [&str; 5] = [
    "copy IMAGE oci:AT/copied:1",
    "copy IMAGE oci-archive:AT/copied.tar:1",
    "push IMAGE oci:AT/pushed:1",
    "convert --compress lz4hc,12 IMAGE oci:AT/native:1",
    "convert --keep-tar --merged IMAGE oci:AT/both:1",
];

#[test]
fn every_command_that_pushes_reports_each_blob_if_requested() {
    let (blockbox, layout, _) = pulled();
    for mode in ["json", "plain", "none"] {
        let folder = tempfile::tempdir().unwrap();
        for line in PUSHES {
            let line = line.replace("AT", folder.path().to_str().unwrap());
            let line = line.replace("IMAGE", &layout.reference());
            let words: Vec<_> = line.split(' ').chain(["--progress", mode]).collect();
            let output = blockbox.output(&words);
            let report = text(&output.stderr);
            assert!(output.status.success(), "{line}: {report}");
            // The configuration and the layer, at least.
            match mode {
                "json" => {
                    let events: Vec<Value> = report
                        .lines()
                        .map(|line| serde_json::from_str(line).unwrap())
                        .collect();
                    let of = |name: &str| -> Vec<_> {
                        let named = events.iter().filter(|event| event["event"] == name);
                        named.map(|event| event["digest"].clone()).collect()
                    };
                    let (mut started, mut finished) = (of("blob-started"), of("blob-finished"));
                    started.sort_by_key(Value::to_string);
                    finished.sort_by_key(Value::to_string);
                    assert_eq!(started, finished, "{report}");
                    assert!(finished.len() >= 2, "{line}: {report}");
                    let last = events
                        .iter()
                        .rfind(|event| event["event"] == "blob-finished");
                    assert!(last.unwrap()["bytes"].as_u64() > Some(0), "{report}");
                }
                "plain" => {
                    let blobs = report.lines().filter(|line| line.ends_with(": copied"));
                    assert!(blobs.count() >= 2, "{line}: {report}");
                }
                _ => assert_eq!(report, "", "{line}"),
            }
        }
    }
}

#[test]
fn making_a_sandbox_reports_the_pull_as_requested() {
    let Some(guest) = Guest::new(json!({"Cmd": ["true"]})) else {
        return;
    };
    let report = |words: &[&str]| {
        let output = guest.blockbox.output(words);
        assert!(output.status.success(), "{output:?}");
        text(&output.stderr)
    };
    let target = format!(
        "oci:{}:native",
        guest.blockbox.home().join("native").display()
    );
    let digest = guest.blockbox.inspect(&guest.image).layers.len();
    for (words, event) in [
        (vec!["create", "--pull", "always", &guest.image], None),
        (
            vec!["convert", &guest.image, &target],
            Some("layer-finished"),
        ),
        (vec!["create", &target], Some("layer-finished")),
    ] {
        let json = report(&[&words[..], &["--progress", "json"]].concat());
        let events: Vec<Value> = json
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let count = events
            .iter()
            .filter(|one| Some(one["event"].as_str().unwrap()) == event);
        let expected = event.map_or(0, |_| digest);
        assert_eq!(count.count(), expected, "{words:?}: {json}");
        let quiet = report(&[&words[..], &["--quiet"]].concat());
        assert_eq!(quiet, "", "{words:?}");
    }
}
