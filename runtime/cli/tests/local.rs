//! Images in files of this host, and images for other platforms: the requested image, or an error.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use common::Blockbox;
use common::layout::{Compression, Layout, digest};
use serde_json::Value;
use testkit::TarBuilder;

fn layer(contents: &str) -> Vec<u8> {
    TarBuilder::new().file("v", contents).finish()
}

fn layout(contents: &str) -> Layout {
    Layout::new()
        .layer(&layer(contents), Compression::Gzip)
        .finish()
}

/// The digest of the only image in a layout.
fn digest_of(layout: &Layout) -> String {
    let index = fs::read(layout.path().join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// Runs a command in the folder `dir`, which must succeed.
fn ok_in(blockbox: &Blockbox, dir: &Path, args: &[&str]) -> String {
    let output = blockbox
        .command()
        .current_dir(dir)
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the diff ID of the only layer of the image with this name in the store.
fn stored(blockbox: &Blockbox, dir: &Path, name: &str) -> String {
    let json = ok_in(
        blockbox,
        dir,
        &["image", "inspect", name, "--format", "json"],
    );
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["layers"].as_array().unwrap().len(), 1);
    report["layers"][0]["path"].as_str().unwrap().to_owned()
}

#[test]
fn one_relative_name_in_two_folders_is_two_images() {
    let blockbox = Blockbox::new();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let layouts = [layout("one"), layout("two")];
    for (folder, layout) in folders.iter().zip(&layouts) {
        std::os::unix::fs::symlink(layout.path(), folder.path().join("img")).unwrap();
        let pulled = ok_in(&blockbox, folder.path(), &["pull", "-q", "oci:img"]);
        assert_eq!(pulled.trim(), digest_of(layout));
    }
    for (folder, contents) in folders.iter().zip(["one", "two"]) {
        let hex = digest(&layer(contents)).replace("sha256:", "");
        assert!(stored(&blockbox, folder.path(), "oci:img").contains(&hex));
        let absolute = format!("oci:{}", folder.path().join("img").display());
        assert!(stored(&blockbox, Path::new("/"), &absolute).contains(&hex));
    }
    let removed = ok_in(&blockbox, folders[0].path(), &["rmi", "oci:img"]);
    assert!(removed.contains(&digest_of(&layouts[0])), "{removed}");
    stored(&blockbox, folders[1].path(), "oci:img");
}

#[test]
fn an_archive_from_standard_input_is_the_image_it_holds() {
    let blockbox = Blockbox::new();
    let layout = layout("piped");
    let Some(mut tar) = testkit::oracle("tar") else {
        return;
    };
    let archive = tar
        .arg("-C")
        .arg(layout.path())
        .args(["-czf", "-", "."])
        .output()
        .unwrap();
    assert!(archive.status.success());
    let mut child = blockbox
        .command()
        .args(["pull", "-q", "oci-archive:-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&archive.stdout)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        digest_of(&layout)
    );
    let error = blockbox.fails(["pull", "-q", "docker-archive:-"]);
    assert!(error.contains("standard input"), "{error}");
}

/// Starts a registry on the loopback interface with the image of `layout` as `app:latest`. Returns
/// its address.
fn registry(layout: &Layout) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let root = layout.path().to_owned();
    let manifest = digest_of(layout);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(first)) = lines.next() else {
                continue;
            };
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let path = first.split(' ').nth(1).unwrap_or_default();
            let name = match path.rsplit('/').next() {
                Some("latest") => &manifest,
                Some(digest) => digest,
                None => "",
            };
            let blob = fs::read(root.join("blobs").join(name.replace(':', "/")));
            let (status, blob) = match (path, blob) {
                ("/v2/", _) => ("200 OK", b"{}".to_vec()),
                (_, Ok(blob)) => ("200 OK", blob),
                (_, Err(_)) => ("404 Not Found", Vec::new()),
            };
            let kind = match path.contains("/manifests/") {
                true => "application/vnd.oci.image.manifest.v1+json",
                false => "application/octet-stream",
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n",
                blob.len()
            );
            let _ = stream.write_all(head.as_bytes());
            if !first.starts_with("HEAD") {
                let _ = stream.write_all(&blob);
            }
        }
    });
    address
}

#[test]
fn an_image_for_another_platform_than_the_one_asked_for_is_not_run() {
    let blockbox = Blockbox::new();
    let layout = layout("here");
    let name = format!("{}/app", registry(&layout));
    blockbox.ok(["pull", "-q", "--plain-http", &name]);
    // Machines of this host would run it.
    let other = if cfg!(target_arch = "aarch64") {
        "linux/arm"
    } else {
        "linux/386"
    };
    let id = digest_of(&layout).replace("sha256:", "");
    for (name, pull) in [
        (name.as_str(), "--pull=missing"),
        (&name, "--pull=never"),
        (&name, "--pull=always"),
        (&id[..12], "--pull=missing"),
        (&layout.reference(), "--pull=missing"),
    ] {
        let error = blockbox.fails([
            "run",
            "--rm",
            pull,
            "--plain-http",
            "--platform",
            other,
            name,
            "--",
            "true",
        ]);
        let reasons = [format!("not for {other}"), format!("no image for {other}")];
        assert!(
            reasons.iter().any(|reason| error.contains(reason)),
            "{name} {pull}: {error}"
        );
    }
    assert_eq!(blockbox.ok(["ps", "-q"]), "");
}

#[test]
fn an_image_for_another_processor_is_refused_before_a_sandbox_is_made() {
    let blockbox = Blockbox::new();
    let layout = Layout::new()
        .layer(&layer("far"), Compression::Gzip)
        .architecture("s390x")
        .finish();
    let name = format!("{}/app", registry(&layout));
    let pull = ["pull", "-q", "--plain-http", "--platform", "linux/s390x"];
    blockbox.ok(pull.iter().copied().chain([&*name]));
    let refused = |args: &[&str]| {
        let error = blockbox.fails(args);
        let reason = "is for linux/s390x, and the sandbox's machine is linux/";
        assert!(error.contains(reason), "{args:?}: {error}");
        assert!(error.contains("`--platform linux/"), "{args:?}: {error}");
    };
    refused(&["run", "--pull=never", &name, "--", "true"]);
    refused(&["create", "--pull=never", &name, "--", "true"]);
    // Nothing is fetched for it.
    let (asked, none) = ("--platform=linux/s390x", "127.0.0.1:9/none");
    refused(&["run", asked, none, "--", "true"]);
    assert_eq!(blockbox.ok(["ps", "-aq"]), "");
}
