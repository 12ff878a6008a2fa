//! `commit`, `save` and `load`: what a new image shows is what its sandbox showed, to us and to
//! programs that we did not write.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::guest::Guest;
use serde_json::{Value, json};
use testkit::{Difference, TarBuilder, oracle, walk};

/// Changes an image in every way that a layer writes down in its own way.
const CHANGES: &str = "
    echo changed >> /etc/motd; busybox rm /layers/gone; busybox rm -r /layers/dir
    busybox mkdir /layers/dir; echo new > /layers/dir/new; busybox mv /layers/moved /layers/renamed
    echo 1 > /new; busybox ln /new /again; busybox ln -s new /link; busybox mkfifo /fifo
    busybox mknod /null c 1 3; busybox chown 7:8 /new; busybox chmod 4711 /new
    busybox chmod 700 /bin; busybox sync";

fn guest() -> Option<Guest> {
    let tar = TarBuilder::new()
        .dir("layers")
        .file("layers/gone", "x")
        .dir("layers/dir")
        .file("layers/dir/old", "x")
        .dir("layers/moved")
        .file("layers/moved/inside", "x")
        .finish();
    Guest::with_tars(json!({"Cmd": ["sleep", "1000"], "Env": ["A=1"]}), vec![tar])
}

/// Unpacks what `export` writes of a sandbox.
fn exported(guest: &Guest, name: &str, to: &Path) {
    let tar = to.with_extension("tar");
    guest
        .blockbox
        .ok(["export", name, "-o", &tar.display().to_string()]);
    fs::create_dir(to).unwrap();
    let mut program = oracle("tar").unwrap();
    let status = program.arg("-xpf").arg(&tar).arg("-C").arg(to).status();
    assert!(status.unwrap().success());
}

/// A tree without what every boot makes for its mounts.
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
        // Directories in which such mount points were made are younger.
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
    // One that runs: its disk is frozen meanwhile, and thawed.
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

    exported(&guest, "one", &at("sandbox"));
    blockbox.ok(["create", "--name", "two", "derived:2"]);
    assert_eq!(blockbox.ok(["diff", "two"]), "");
    exported(&guest, "two", &at("image"));
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
    // Nothing is left of it in the store.
    assert!(!blockbox.ok(["images"]).contains("<none>"));

    let wrong = blockbox.fails(["commit", "one", "derived:3", "-c", "RUN true"]);
    assert!(wrong.contains("RUN true"), "{wrong}");
    let wrong = blockbox.fails(["commit", "one", "docker-archive:x.tar"]);
    assert!(wrong.contains("cannot be committed to"), "{wrong}");
}

#[test]
fn a_saved_image_is_what_others_and_we_load() {
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

    // Into another store, under its name; compressed, from standard input.
    let other = common::Blockbox::new();
    let name = "docker.io/library/saved:1\n";
    assert_eq!(other.ok(["load", "-q", "-i", &file("a.tar")]), name);
    let said = other.ok(["run", "--rm", "saved:1", "--", "cat", "/layers/gone"]);
    assert_eq!(said, "x");
    assert!(!other.ok(["images"]).contains("docker-archive"));
    let status = std::process::Command::new("gzip")
        .arg(file("b.tar"))
        .status();
    assert!(status.unwrap().success());
    let other = common::Blockbox::new();
    let output = other
        .command()
        .args(["load", "-q"])
        .stdin(fs::File::open(file("b.tar.gz")).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), name);
    // For programs: each line is an event.
    let output =
        common::Blockbox::new().output(["load", "--progress", "json", "-i", &file("a.tar")]);
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
    // A layout without docker's list.
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
