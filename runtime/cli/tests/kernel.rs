//! Guest kernels: finding, installing, listing, and removing stale ones.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::Blockbox;
use common::guest::Guest;
use common::layout::{Compression, Layout, digest};
use flate2::write::{DeflateEncoder, GzEncoder};
use serde_json::{Value, json};
use testkit::{TarBuilder, oracle};

/// The file name of libkrunfw with the full version, as in packages.
const NAME: &str = "libkrunfw.so.5.6.1";

/// The library that the other tests boot with.
fn library() -> Option<Vec<u8>> {
    let path = testkit::made("kernel/libkrunfw.so.5");
    let library = fs::read(path).ok();
    if library.is_none() {
        testkit::skip("no libkrunfw.so.5 (cargo xtask setup)");
    }
    library
}

/// A store without a kernel on a host without one; `None` if the host has one.
fn without_kernel() -> Option<Blockbox> {
    let blockbox = Blockbox::without_kernel();
    match blockbox.ok(["kernel", "ls", "--format", "json"]).trim() {
        "[]" => Some(blockbox),
        _ => {
            testkit::skip("the host has a libkrunfw");
            None
        }
    }
}

fn installed(blockbox: &Blockbox) -> PathBuf {
    blockbox.home().join("kernel/libkrunfw.so.5")
}

/// A tar as in packages: the name without a version is a link.
fn tar(library: &[u8]) -> Vec<u8> {
    TarBuilder::new()
        .dir("usr/lib64")
        .symlink("usr/lib64/libkrunfw.so.5", NAME)
        .mode(0o755)
        .file(format!("usr/lib64/{NAME}"), library)
        .finish()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A zip archive with one deflated member, as Python wheels are.
fn zip(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut deflate = DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    deflate.write_all(contents).unwrap();
    let deflated = deflate.finish().unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(contents);
    let u32s =
        |values: &[u32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let u16s =
        |values: &[u16]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let sizes = u32s(&[crc.sum(), deflated.len() as u32, contents.len() as u32]);
    let name_length = name.len() as u16;
    // Version, flags, method, time, date.
    let common = u16s(&[20, 0, 8, 0, 0x21]);
    let local = [
        b"PK\x03\x04",
        &*common,
        &*sizes,
        &*u16s(&[name_length, 0]),
        name.as_bytes(),
    ]
    .concat();
    let rest = u16s(&[name_length, 0, 0, 0, 0]);
    let central = [
        b"PK\x01\x02",
        &*u16s(&[20]),
        &*common,
        &*sizes,
        &*rest,
        &*u32s(&[0, 0]),
        name.as_bytes(),
    ]
    .concat();
    let offset = (local.len() + deflated.len()) as u32;
    let end = [
        b"PK\x05\x06",
        &*u16s(&[0, 0, 1, 1]),
        &*u32s(&[central.len() as u32, offset]),
        &*u16s(&[0]),
    ]
    .concat();
    [local, deflated, central, end].concat()
}

/// Serves `body` at any path, to any number of requests, and returns the address.
fn serve(body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&body);
        }
    });
    format!("http://{address}/{NAME}.tar.gz?signature=secret")
}

#[test]
fn a_missing_kernel_is_reported_before_the_pull_with_the_command_that_installs_one() {
    let Some(blockbox) = without_kernel() else {
        return;
    };
    for command in ["run", "create"] {
        let error = blockbox.fails([command, "oci:/no/such/layout"]);
        assert!(error.contains("no guest kernel"), "{error}");
        assert!(error.contains("`blockbox kernel install`"), "{error}");
    }
    let output = blockbox.output(["doctor"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("`blockbox kernel install`"));
}

#[test]
fn a_kernel_is_taken_from_a_file_an_archive_or_an_image() {
    let Some(library) = library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let layout = Layout::new()
        .layer(&tar(&library), Compression::Gzip)
        .layer(
            &TarBuilder::new().file("readme", "above").finish(),
            Compression::Gzip,
        )
        .finish();
    for source in [
        file("plain.bin", &library),
        file("archive.tar", &tar(&library)),
        file("archive.tgz", &gzip(&tar(&library))),
        file("wheel.whl", &zip(&format!("package/lib/{NAME}"), &library)),
        layout.reference(),
    ] {
        let blockbox = Blockbox::without_kernel();
        let printed = blockbox.ok(["kernel", "install", &source]);
        assert_eq!(Path::new(printed.trim()), installed(&blockbox));
        assert!(
            fs::read(installed(&blockbox)).unwrap() == library,
            "{source}"
        );
        let list = blockbox.ok(["kernel", "ls", "--format", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list[0]["digest"], digest(&library));
        assert_eq!(list[0]["used"], true);
        assert!(list[0]["release"].as_str().unwrap().starts_with("6."));
        assert_eq!(
            fs::read_dir(blockbox.home().join("kernel"))
                .unwrap()
                .count(),
            1
        );
    }

    let blockbox = Blockbox::without_kernel();
    let from_stdin = |digest: &str| {
        let archive = fs::File::open(folder.path().join("archive.tgz")).unwrap();
        let mut command = blockbox.command();
        command.args(["kernel", "install", "-", "--digest", digest]);
        command.stdin(archive).output().unwrap()
    };
    let refused = from_stdin(&digest(b"other"));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("standard input: its digest is"), "{error}");
    assert!(!installed(&blockbox).exists());
    let put = from_stdin(&digest(&gzip(&tar(&library))));
    assert!(put.status.success(), "{put:?}");
    assert!(fs::read(installed(&blockbox)).unwrap() == library);
}

#[test]
fn a_kernel_from_an_address_needs_its_digest_and_boots() {
    let Some(library) = library() else { return };
    let archive = gzip(&tar(&library));
    let right = digest(&archive);
    let url = serve(archive);
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let blockbox = &guest.blockbox;
    fs::remove_dir_all(blockbox.home().join("kernel")).unwrap();

    let error = blockbox.fails(["kernel", "install", &url]);
    assert!(error.contains(&format!("--digest {right}")), "{error}");
    assert!(!error.contains("secret"), "{error}");
    let error = blockbox.fails(["kernel", "install", &url, "--digest", &digest(b"other")]);
    assert!(error.contains(&right), "{error}");
    assert_eq!(
        fs::read_dir(blockbox.home().join("kernel"))
            .unwrap()
            .count(),
        0
    );

    blockbox.ok(["kernel", "install", &url, "--digest", &right]);
    assert_eq!(guest.script(&["--rm"], "cat /etc/motd"), "from the image\n");
}

#[test]
fn a_kernel_of_an_image_without_tls_needs_a_digest() {
    let Some(library) = library() else { return };
    let Some(mut registry) = oracle("docker-registry") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let config = dir.path().join("config.yml");
    let data = dir.path().join("data");
    fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            data.display()
        ),
    )
    .unwrap();
    registry.arg("serve").arg(&config);
    registry.stdout(Stdio::null()).stderr(Stdio::null());
    let mut registry = registry.spawn().unwrap();
    let start = Instant::now();
    while TcpStream::connect(&host).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "no registry");
        std::thread::sleep(Duration::from_millis(20));
    }

    let layout = Layout::new()
        .layer(&tar(&library), Compression::Gzip)
        .finish();
    let blockbox = Blockbox::without_kernel();
    let place = format!("{host}/kernel:v1");
    let digest_of = blockbox.ok(["copy", "-q", "--plain-http", &layout.reference(), &place]);
    let right = digest_of.trim();
    let source = format!("docker://{place}");
    let install = ["kernel", "install"];
    let run = |rest: &[&str]| blockbox.output(install.iter().chain(rest));
    for rest in [
        &[&*source][..],
        // A registry on this host needs no option for plain HTTP, but is not authenticated.
        &[&source, "--plain-http"],
        &[&source, "--digest", &digest(b"other")],
    ] {
        let output = run(rest);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(right), "{error}");
        assert!(!installed(&blockbox).exists());
    }
    let pinned = format!("docker://{host}/kernel@{right}");
    for rest in [&[&*source, "--digest", right][..], &[&pinned]] {
        let output = run(rest);
        assert!(output.status.success(), "{output:?}");
        assert!(fs::read(installed(&blockbox)).unwrap() == library);
        fs::remove_file(installed(&blockbox)).unwrap();
    }
    registry.kill().unwrap();
    registry.wait().unwrap();
}

#[test]
fn files_without_a_kernel_are_rejected_and_the_installed_one_is_kept() {
    let blockbox = Blockbox::new();
    let Some(library) = library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let tar = |name: &str, contents: &[u8]| TarBuilder::new().file(name, contents).finish();
    let mut cut_off = gzip(&tar(NAME, &library));
    cut_off.truncate(1 << 20);
    let mut damaged = zip(NAME, &library);
    damaged[2_000_000] ^= 1;
    for (name, contents, reason) in [
        ("text", b"not a kernel".to_vec(), "not a libkrunfw"),
        ("empty", Vec::new(), "no libkrunfw"),
        (
            "elf",
            fs::read("/proc/self/exe").unwrap(),
            "not a usable kernel",
        ),
        ("without.tar", tar("file", b"x"), "no libkrunfw"),
        ("without.zip", zip("file", b"x"), "no libkrunfw"),
        ("text.tar", tar(NAME, b"text"), "not a usable kernel"),
        ("cut-off.tgz", cut_off, "gzip"),
        ("damaged.zip", damaged, "not a libkrunfw"),
    ] {
        fs::write(path(name), contents).unwrap();
        let error = blockbox.fails(["kernel", "install", path(name).to_str().unwrap()]);
        assert!(error.contains(reason), "{name}: {error}");
        assert!(!error.contains(".tmp-"), "{name}: {error}");
    }
    testkit::Node::Fifo.make(path("fifo"), 0o400).unwrap();
    for (name, reason) in [("fifo", "not a regular file"), ("missing", "No such file")] {
        let error = blockbox.fails(["kernel", "install", path(name).to_str().unwrap()]);
        assert!(error.contains(reason) && error.contains(name), "{error}");
    }
    assert!(fs::read(installed(&blockbox)).unwrap() == library);
    assert_eq!(
        fs::read_dir(blockbox.home().join("kernel"))
            .unwrap()
            .count(),
        1
    );
}

/// A folder for the beginning of `PATH`, whose `python3` has a pip that downloads `wheel`, or
/// fails.
fn pip(wheel: Option<&Path>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let download = match wheel {
        // Its last argument is the folder.
        Some(wheel) => format!(
            "for last; do :; done; mkdir \"$last\" && cp '{}' \"$last/p.whl\"",
            wheel.display()
        ),
        None => "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES' >&2; exit 1".to_owned(),
    };
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n*--version) exit 0 ;;\n*--require-hashes*) {download} ;;\n*) exit 9 ;;\nesac\n"
    );
    let path = folder.path().join("python3");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn with_pip(blockbox: &Blockbox, pip: &Path) -> Command {
    let mut command = blockbox.command();
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", pip.display()));
    command
}

#[test]
fn doctor_fix_gets_the_packaged_kernel_where_there_is_none() {
    let Some(library) = library() else { return };
    let Some(blockbox) = without_kernel() else {
        return;
    };
    let wheel = tempfile::NamedTempFile::new().unwrap();
    fs::write(wheel.path(), zip(&format!("p/{NAME}"), &library)).unwrap();

    let refused = pip(None);
    let output = with_pip(&blockbox, refused.path())
        .args(["doctor", "--fix"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("DO NOT MATCH"),
        "{stderr}"
    );
    assert!(!installed(&blockbox).exists());

    let works = pip(Some(wheel.path()));
    let fixed = with_pip(&blockbox, works.path())
        .args(["doctor", "--fix"])
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&fixed.stdout);
    assert!(
        stdout.contains(&installed(&blockbox).display().to_string()),
        "{stdout}"
    );
    assert!(fs::read(installed(&blockbox)).unwrap() == library);
    // If a kernel is installed, nothing is fetched.
    let again = with_pip(&blockbox, refused.path())
        .args(["doctor", "--fix"])
        .output()
        .unwrap();
    assert_eq!(again.stderr, b"");
}

#[test]
fn gc_removes_stale_kernels_verdicts_and_what_killed_processes_left() {
    let blockbox = Blockbox::new();
    if library().is_none() {
        return;
    }
    let kernels = blockbox.home().join("kernel");
    blockbox.ok(["gc"]);
    blockbox.output(["doctor"]);
    let current: Vec<_> = fs::read_dir(&kernels)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let sandboxes = blockbox.home().join("sandboxes");
    fs::create_dir_all(sandboxes.join("forgotten")).unwrap();
    fs::write(sandboxes.join("forgotten/upper.ext4"), [1; 5000]).unwrap();
    fs::create_dir(kernels.join(".tmp-pip")).unwrap();
    for (name, contents) in [
        ("kernel-elf0-0123", "a kernel of another version"),
        ("seen-elf0-1", "kernel-elf0-0123"),
        (
            "hypervisor.json",
            r#"{"key":"another boot","verdict":"works"}"#,
        ),
        (".tmp-pip/wheel", "half a download"),
    ] {
        fs::write(kernels.join(name), contents).unwrap();
    }
    let listed = blockbox.ok(["gc"]);
    let left: Vec<_> = fs::read_dir(&kernels)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let sorted = |mut paths: Vec<PathBuf>| {
        paths.retain(|path| !path.ends_with("hypervisor.json"));
        paths.sort();
        paths
    };
    assert_eq!(sorted(left), sorted(current));
    assert!(!kernels.join("hypervisor.json").exists());
    assert_eq!(fs::read_dir(&sandboxes).unwrap().count(), 0);
    assert!(
        listed.contains("kernel-elf0-0123") && listed.contains("forgotten"),
        "{listed}"
    );
}
