//! `commit`, `save` and `load`: a new image has the tree of its sandbox, both for blockbox and for
//! other programs.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::Blockbox;
use common::guest::Guest;
use common::layout::{Compression, Layout, digest};
use serde_json::{Value, json};
use testkit::{Difference, TarBuilder, oracle, walk};

/// Makes changes of every kind that a layer represents differently.
const CHANGES: &str = "
    echo changed >> /etc/motd; busybox rm /layers/gone; busybox rm -r /layers/dir
    busybox mkdir /layers/dir; echo new > /layers/dir/new; busybox mv /layers/moved /layers/renamed
    echo 1 > /new; busybox ln /new /again; busybox ln -s new /link; busybox mkfifo /fifo
    busybox mknod /null c 1 3; busybox chown 7:8 /new; busybox chmod 4711 /new
    busybox chmod 700 /bin; busybox sync";

/// The layer that [`CHANGES`] changes.
fn lower() -> Vec<u8> {
    TarBuilder::new()
        .dir("layers")
        .file("layers/gone", "x")
        .dir("layers/dir")
        .file("layers/dir/old", "x")
        .dir("layers/moved")
        .file("layers/moved/inside", "x")
        .finish()
}

fn guest() -> Option<Guest> {
    Guest::with_tars(
        json!({"Cmd": ["sleep", "1000"], "Env": ["A=1"]}),
        vec![lower()],
    )
}

/// Unpacks the archive that `export` writes of a sandbox.
fn exported(blockbox: &Blockbox, name: &str, to: &Path) {
    let tar = to.with_extension("tar");
    blockbox.ok(["export", name, "-o", &tar.display().to_string()]);
    fs::create_dir(to).unwrap();
    let mut program = oracle("tar").unwrap();
    let status = program
        .args(["--xattrs", "--xattrs-include=*", "-xpf"])
        .arg(&tar)
        .arg("-C")
        .arg(to)
        .status();
    assert!(status.unwrap().success());
}

/// Returns a tree without the mount points that every boot creates.
fn tree(root: &Path) -> testkit::Walk {
    let made = [
        "dev",
        "proc",
        "run",
        "sys",
        "tmp",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
    ];
    let mut found = walk(root).unwrap();
    found.retain(|path, _| !made.iter().any(|name| name.as_bytes() == &path[..]));
    for entry in found.values_mut() {
        // Directories in which such mount points were made have later times.
        if entry.kind == testkit::Kind::Directory {
            entry.mtime = (0, 0);
        }
    }
    found
}

#[test]
fn a_committed_image_shows_what_its_sandbox_showed() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    blockbox.ok(["run", "-d", "--name", "one", &guest.image]);
    blockbox.ok(["exec", "one", "sh", "-c", CHANGES]);
    // A running sandbox: its disk is frozen meanwhile, and thawed.
    let digest = blockbox.ok([
        "commit",
        "one",
        "derived:1",
        "-m",
        "changes",
        "-a",
        "me",
        "-c",
        "ENV A=2",
        "-c",
        "CMD [\"cat\", \"/etc/motd\"]",
    ]);
    blockbox.ok([
        "exec",
        "one",
        "sh",
        "-c",
        "busybox sync; busybox touch /x; busybox rm /x",
    ]);
    blockbox.ok(["stop", "-t", "0", "one"]);
    let again = blockbox.ok(["commit", "one", "derived:2"]);
    assert_ne!(digest, again);
    let list: Value =
        serde_json::from_str(&blockbox.ok(["image", "history", "derived:1", "--format", "json"]))
            .unwrap();
    assert_eq!(list.as_array().unwrap().len(), 3);
    assert_eq!(
        blockbox.ok(["run", "--rm", "derived:1"]),
        "from the image\nchanged\n"
    );
    assert_eq!(
        blockbox.ok(["run", "--rm", "derived:1", "--", "sh", "-c", "echo $A"]),
        "2\n"
    );

    exported(blockbox, "one", &at("sandbox"));
    blockbox.ok(["create", "--name", "two", "derived:2"]);
    assert_eq!(blockbox.ok(["diff", "two"]), "");
    exported(blockbox, "two", &at("image"));
    Difference::between(&tree(&at("image")), &tree(&at("sandbox"))).assert_none();

    // umoci unpacks the layout to the same tree.
    let layout = at("layout");
    blockbox.ok(["commit", "one", &format!("oci:{}:v1", layout.display())]);
    let Some(mut umoci) = oracle("umoci") else {
        return;
    };
    let output = umoci
        .args(["raw", "unpack", "--image"])
        .arg(format!("{}:v1", layout.display()))
        .arg(at("unpacked"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Difference::between(&tree(&at("sandbox")), &tree(&at("unpacked"))).assert_none();
    // Nothing of it is left in the store.
    assert!(!blockbox.ok(["images"]).contains("<none>"));

    let wrong = blockbox.fails(["commit", "one", "derived:3", "-c", "RUN true"]);
    assert!(wrong.contains("RUN true"), "{wrong}");
    let wrong = blockbox.fails(["commit", "one", "docker-archive:x.tar"]);
    assert!(wrong.contains("cannot be committed to"), "{wrong}");
}

#[test]
fn a_saved_image_is_loaded_by_blockbox_and_by_other_programs() {
    let Some(guest) = guest() else {
        return;
    };
    let blockbox = &guest.blockbox;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    blockbox.ok(["tag", &guest.image, "saved:1"]);
    blockbox.ok(["save", "-q", "saved:1", "-o", &file("a.tar")]);
    blockbox.ok(["save", "-q", "saved:1", "-o", &file("b.tar")]);
    assert!(fs::read(file("a.tar")).unwrap() == fs::read(file("b.tar")).unwrap());
    for kind in ["oci-archive", "docker-archive"] {
        let Some(mut skopeo) = oracle("skopeo") else {
            return;
        };
        let output = skopeo
            .args(["copy", "--insecure-policy"])
            .arg(format!("{kind}:{}", file("a.tar")))
            .arg(format!("dir:{}", file(kind)))
            .output()
            .unwrap();
        assert!(output.status.success(), "{kind}: {output:?}");
        let reference = format!("{kind}:{}", file("a.tar"));
        let said = blockbox.ok(["run", "--rm", &reference, "--", "cat", "/layers/gone"]);
        assert_eq!(said, "x", "{kind}");
    }

    // Docker refuses archives with the name of a layout, so the image has none.
    blockbox.ok(["save", "-q", &guest.image, "-o", &file("unnamed.tar")]);
    let unnamed = fs::read(file("unnamed.tar")).unwrap();
    let unnamed = String::from_utf8_lossy(&unnamed);
    assert!(guest.image.starts_with("oci:"), "{}", guest.image);
    assert!(unnamed.contains("\"RepoTags\":[]") && !unnamed.contains("oci:"));
    blockbox.ok(["load", "-q", "-i", &file("unnamed.tar")]);

    // Several in one archive, each by its name.
    blockbox.ok(["create", "--name", "seed", "saved:1"]);
    blockbox.ok(["commit", "seed", "saved:2", "-c", "ENV A=3"]);
    blockbox.ok(["save", "-q", "saved:1", "saved:2", "-o", &file("both.tar")]);
    for (name, variable) in [("oci-archive", "A=1"), ("docker-archive", "A=3")] {
        let tag = variable.replace("A=1", "1").replace("A=3", "2");
        let place = match name {
            "oci-archive" => format!("{name}:{}:{tag}", file("both.tar")),
            _ => format!("{name}:{}:docker.io/library/saved:{tag}", file("both.tar")),
        };
        let output = oracle("skopeo")
            .unwrap()
            .args(["inspect", "--config"])
            .arg(place)
            .output();
        let config: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        assert_eq!(config["config"]["Env"], json!([variable]), "{name}");
    }

    // Into another store, by its name; compressed, from standard input.
    let other = Blockbox::new();
    let name = "docker.io/library/saved:1\n";
    assert_eq!(other.ok(["load", "-q", "-i", &file("a.tar")]), name);
    let said = other.ok(["run", "--rm", "saved:1", "--", "cat", "/layers/gone"]);
    assert_eq!(said, "x");
    assert!(!other.ok(["images"]).contains("docker-archive"));
    let status = std::process::Command::new("gzip")
        .arg(file("b.tar"))
        .status();
    assert!(status.unwrap().success());
    let other = Blockbox::new();
    let output = other
        .command()
        .args(["load", "-q"])
        .stdin(fs::File::open(file("b.tar.gz")).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), name);
    // With JSON progress, each line is an event.
    let output = Blockbox::new().output(["load", "--progress", "json", "-i", &file("a.tar")]);
    let lines = String::from_utf8(output.stderr).unwrap();
    let events: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let count = |name| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!(
        (count("layer-started"), count("layer-finished")),
        (2, 2),
        "{lines}"
    );
    assert!(count("resolved") >= 1);
    // A layout without docker's manifest list.
    let Some(mut skopeo) = oracle("skopeo") else {
        return;
    };
    let status = skopeo
        .args(["copy", "-q", "--insecure-policy"])
        .arg(format!("docker-archive:{}", file("a.tar")))
        .arg(format!("oci-archive:{}:tag", file("oci.tar")))
        .status();
    assert!(status.unwrap().success());
    let digest = other.ok(["load", "-q", "-i", &file("oci.tar")]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    let wrong = other.fails(["load", "-i", &file("b.tar.gz.missing")]);
    assert!(wrong.contains("missing"), "{wrong}");
}

/// podman with a separate store.
struct Podman {
    folder: tempfile::TempDir,
}

impl Podman {
    fn new() -> Option<Self> {
        oracle("podman")?;
        if !rustix::process::geteuid().is_root() {
            testkit::skip("podman's store needs root here");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        Some(Self { folder })
    }

    /// Runs podman, and returns its output without the last newline.
    fn ok(&self, words: &[&str]) -> String {
        let at = |name: &str| self.folder.path().join(name);
        let output = oracle("podman")
            .unwrap()
            .args(["--storage-driver", "vfs", "--events-backend", "none"])
            .args(["--cgroup-manager", "cgroupfs", "--root"])
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .arg("--tmpdir")
            .arg(at("tmp"))
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim_end().to_owned()
    }

    /// Returns the digests of an image's configuration and layers.
    fn image(&self, name: &str) -> (String, Vec<String>) {
        let inspected: Value = serde_json::from_str(&self.ok(&["image", "inspect", name])).unwrap();
        let layers = inspected[0]["RootFS"]["Layers"].as_array().unwrap();
        let layers = layers
            .iter()
            .map(|layer| layer.as_str().unwrap().to_owned());
        let id = inspected[0]["Id"].as_str().unwrap();
        (format!("sha256:{id}"), layers.collect())
    }
}

/// Returns the digests of an image's configuration and layers in blockbox's store.
fn image(blockbox: &Blockbox, name: &str) -> (String, Vec<String>) {
    let inspected = blockbox.ok(["image", "inspect", name, "--format", "json"]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let manifest = inspected["manifest_digest"].as_str().unwrap();
    let folder = manifest.trim_start_matches("sha256:");
    let config = blockbox
        .home()
        .join("images")
        .join(folder)
        .join("config.json");
    let layers = inspected["layers"].as_array().unwrap().iter();
    let layers = layers.map(|layer| layer["diff_id"].as_str().unwrap().to_owned());
    (digest(&fs::read(config).unwrap()), layers.collect())
}

#[test]
fn podman_loads_what_is_saved_and_what_it_saves_is_loaded() {
    let upper = TarBuilder::new()
        .dir(".")
        .file("layers/.wh.gone", "")
        .file("layers/dir/.wh..wh..opq", "")
        .dir("layers/dir")
        .owner(7, 8)
        .mode(0o4711)
        .xattr("user.kind", "x")
        .file("layers/dir/new", "new")
        .link("layers/hard", "layers/dir/new")
        .symlink("layers/link", "dir/new")
        .device("layers/null", b'3', 1, 3)
        .finish();
    let layout = Layout::new()
        .layer(&lower(), Compression::Gzip)
        .layer(&upper, Compression::Gzip)
        .config(json!({"Cmd": ["/layers/link"], "Env": ["A=1"], "Labels": {"a": "b"}}))
        .finish();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    blockbox.ok(["tag", &layout.reference(), "saved:1"]);
    blockbox.ok(["create", "--name", "one", "saved:1"]);
    blockbox.ok(["commit", "one", "saved:2", "-c", "ENV A=2"]);
    // podman converts OCI images to Docker's format to save several.
    for (names, format) in [
        (&["saved:2"][..], "oci-archive"),
        (&["saved:2"], "docker-archive"),
        (&["saved:1", "saved:2"], "docker-archive"),
    ] {
        let Some(podman) = Podman::new() else {
            return;
        };
        let at = |name: &str| podman.folder.path().join(name).display().to_string();
        let (ours, theirs) = (at("ours.tar"), at("theirs.tar"));
        blockbox.ok([&["save", "-q", "-o", &ours], names].concat());
        podman.ok(&["load", "-q", "-i", &ours]);
        let several = (names.len() > 1).then_some("--multi-image-archive");
        let save = ["save", "-q", "--format", format, "-o", &theirs];
        podman.ok(&[&save[..], several.as_slice(), names].concat());
        for archive in [&ours, &theirs] {
            let other = Blockbox::without_kernel();
            let loaded = other.ok(["load", "-q", "-i", archive]);
            let expected = names.iter().map(|name| format!("docker.io/library/{name}"));
            assert!(loaded.lines().eq(expected), "{archive}: {loaded}");
            for name in names {
                assert_eq!(
                    image(&other, name),
                    podman.image(name),
                    "{archive}, {format}"
                );
            }
        }
        // The files are those of the image before it was saved.
        if names.contains(&"saved:1") {
            let folder = podman.folder.path().join("exported");
            exported(&blockbox, "one", &folder);
            let mounted = podman.ok(&["image", "mount", "saved:1"]);
            let files = tree(Path::new(&mounted));
            podman.ok(&["image", "umount", "saved:1"]);
            Difference::between(&tree(&folder), &files).assert_none();
        }
    }
}
