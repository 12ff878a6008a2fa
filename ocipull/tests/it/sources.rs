//! Sources beside registries, layouts and archives: skopeo's directories, Docker's daemon; and that
//! none of them blocks.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use ocipull::{Error, Reference, SourceProblem};
use testkit::{TarBuilder, oracle};

use crate::support::{GZIP, Layer, Layout, TAR, open, read, tar, this_program};

#[test]
fn directories_of_skopeo_are_read() {
    let tars = [tar("a", 100_000), tar("b", 5)];
    let layout = Layout::of(&[Layer::new(&tars[0], GZIP), Layer::new(&tars[1], GZIP)]);
    let dir = tempfile::tempdir().unwrap();
    let to = format!("dir:{}/copy:1", dir.path().display());
    let Some(mut skopeo) = oracle("skopeo") else {
        return;
    };
    let from = format!("oci:{}:latest", layout.path().display());
    let output = skopeo
        .args(["--insecure-policy", "copy", &from, &to])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let image = open(&to).unwrap();
    assert_eq!(
        image.manifest_digest(),
        layout.open().unwrap().manifest_digest()
    );
    for (index, tar) in tars.iter().enumerate() {
        assert!(read(&image, index).unwrap() == *tar);
    }
    // A changed blob is noticed there, too.
    let blob = dir
        .path()
        .join("copy:1")
        .join(image.layers()[0].digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    assert!(matches!(read(&image, 0), Err(Error::DigestMismatch { .. })));
}

#[test]
fn a_directory_without_a_manifest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    match open(&format!("dir:{}", dir.path().display())) {
        Err(Error::InvalidSource {
            problem: SourceProblem::Missing { file, .. },
            ..
        }) => {
            assert_eq!(file, "manifest.json");
        }
        other => panic!("{other:?}"),
    }
}

/// Answers one request on a socket in `dir` with `response`, and returns the request's first line.
fn serve(dir: &Path, response: Vec<u8>) -> std::thread::JoinHandle<String> {
    let listener = UnixListener::bind(dir.join("docker.sock")).expect("a sound test");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a sound test");
        let mut lines = BufReader::new(stream.try_clone().expect("a sound test")).lines();
        let first = lines.next().expect("a sound test").expect("a sound test");
        while lines
            .next()
            .is_some_and(|line| !line.expect("a sound test").is_empty())
        {}
        // The client may hang up before the end.
        let _ = stream.write_all(&response);
        first
    })
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut response =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for chunk in body.chunks(70_000) {
        response.extend(format!("{:x}\r\n", chunk.len()).bytes());
        response.extend(chunk);
        response.extend(b"\r\n");
    }
    response.extend(b"0\r\n\r\n");
    response
}

/// Opens and reads the image `name` of a daemon that answers with `response`, in a process of its
/// own for `DOCKER_HOST`'s sake.
fn from_daemon(name: &str, response: Vec<u8>) -> (bool, String, String) {
    let dir = tempfile::tempdir().expect("a sound test");
    let server = serve(dir.path(), response);
    let output = this_program()
        .args([
            "--exact",
            "sources::read_from_docker_host",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(
            "DOCKER_HOST",
            format!("unix://{}/docker.sock", dir.path().display()),
        )
        .env("OCIPULL_TEST_NAME", name)
        .output()
        .expect("a sound test");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (
        output.status.success(),
        text,
        server.join().expect("a sound test"),
    )
}

/// The other half of [`from_daemon`]; on its own it checks that other schemes are refused.
#[test]
fn read_from_docker_host() {
    let Ok(name) = std::env::var("OCIPULL_TEST_NAME") else {
        let reference: Reference = "docker-daemon:app".parse().unwrap();
        assert_eq!(
            reference.to_string(),
            "docker-daemon:docker.io/library/app:latest"
        );
        return;
    };
    // Also inside of an asynchronous runtime.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        match open(&format!("docker-daemon:{name}")) {
            Ok(image) => println!("layer of {} bytes", read(&image, 0).unwrap().len()),
            Err(error) => panic!("{error}: {error:?}"),
        }
    });
}

#[test]
fn images_of_a_docker_daemon_are_read_through_its_socket() {
    let tar = tar("a", 300_000);
    let archive = crate::archives::saved(&tar);
    let (success, text, request) = from_daemon("app:v1", chunked(&archive));
    assert!(success, "{text}");
    assert_eq!(request, "GET /images/docker.io/library/app:v1/get HTTP/1.1");
    assert!(
        text.contains(&format!("layer of {} bytes", tar.len())),
        "{text}"
    );
}

#[test]
fn refusals_and_cut_off_answers_of_a_docker_daemon_are_errors_with_the_reason() {
    let body = r#"{"message":"No such image: app:v1"}"#;
    let missing = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (success, text, _) = from_daemon("app:v1", missing.into_bytes());
    assert!(!success && text.contains("No such image: app:v1"), "{text}");
    let mut cut = chunked(&crate::archives::saved(&tar("a", 300_000)));
    cut.truncate(cut.len() / 2);
    let (success, text, _) = from_daemon("app:v1", cut);
    assert!(!success && text.contains("Interrupted"), "{text}");
}

/// The result of opening `reference`; the test fails where that does not end.
fn open_soon(reference: &str) -> Result<(), Error> {
    let (done, result) = channel();
    let reference = reference.to_owned();
    std::thread::spawn(move || {
        let image = open(&reference);
        done.send(image.and_then(|image| read(&image, 0)).map(drop))
    });
    result
        .recv_timeout(Duration::from_secs(20))
        .expect("it blocks")
}

fn mkfifo(path: &Path) {
    let status = Command::new("mkfifo")
        .arg(path)
        .status()
        .expect("mkfifo starts");
    assert!(status.success());
}

#[test]
fn a_fifo_or_socket_in_the_place_of_a_file_does_not_block() {
    let not_a_file = |result: Result<(), Error>| {
        let Err(Error::InvalidSource { problem, .. }) = &result else {
            panic!("{result:?}")
        };
        assert!(matches!(problem, SourceProblem::NotAFile(_)), "{problem:?}");
    };
    let kinds: [fn(&Path); 2] = [mkfifo, |path| drop(UnixListener::bind(path).unwrap())];
    for make in kinds {
        let layout = Layout::of(&[Layer::new(&tar("a", 10), TAR)]);
        let image = layout.open().unwrap();
        let blob = layout.blob_path(image.layers()[0].digest.as_str());
        for file in [
            blob,
            layout.path().join("index.json"),
            layout.path().join("oci-layout"),
        ] {
            let short = tempfile::tempdir().unwrap();
            let pipe = short.path().join("p");
            make(&pipe);
            fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink(&pipe, &file).unwrap();
            not_a_file(open_soon(&format!("oci:{}", layout.path().display())));
        }
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("manifest.json"));
        let pipe = dir.path().join("manifest.json");
        not_a_file(open_soon(&format!("dir:{}", dir.path().display())));
        for kind in ["oci-archive", "docker-archive"] {
            not_a_file(open_soon(&format!("{kind}:{}", pipe.display())));
        }
    }
}

#[test]
fn a_device_in_the_place_of_a_file_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("manifest.json")).unwrap();
    let result = open_soon(&format!("dir:{}", dir.path().display()));
    assert!(
        matches!(result, Err(Error::InvalidSource { .. })),
        "{result:?}"
    );
}

#[test]
fn canonical_references_are_absolute_and_follow_links() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join("real")).unwrap();
    std::os::unix::fs::symlink("real", root.join("link")).unwrap();
    let canonical = |text: &str| text.parse::<Reference>().unwrap().canonical().to_string();
    for kind in ["oci", "oci-archive", "docker-archive", "dir"] {
        let link = format!("{kind}:{}/./link/../link", root.display());
        assert_eq!(canonical(&link), format!("{kind}:{}/real", root.display()));
    }
    let here = std::env::current_dir().unwrap();
    assert_eq!(
        canonical("oci:no-such-folder:v1"),
        format!("oci:{}/no-such-folder:v1", here.display())
    );
    for same in [
        "docker-archive:-",
        "docker.io/library/a:1",
        "docker-daemon:docker.io/library/a:1",
    ] {
        assert_eq!(canonical(same), same);
    }
}

#[test]
fn blobs_of_a_layout_may_be_links_out_of_it() {
    let layout = Layout::of(&[Layer::new(&tar("a", 1000), TAR)]);
    let elsewhere = tempfile::tempdir().unwrap();
    let blobs = layout.path().join("blobs");
    fs::rename(&blobs, elsewhere.path().join("blobs"))
        .unwrap_or_else(|_| panic!("one file system"));
    fs::create_dir_all(blobs.join("sha256")).unwrap();
    for blob in fs::read_dir(elsewhere.path().join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        std::os::unix::fs::symlink(blob.path(), blobs.join("sha256").join(blob.file_name()))
            .unwrap();
    }
    assert_eq!(read(&layout.open().unwrap(), 0).unwrap(), tar("a", 1000));
}

#[test]
fn archives_with_sparse_members_or_without_last_padding_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    let tar = [tar("a", 10), vec![0; 1 << 20]].concat();
    let digest = ocipull::Digest::sha256(&tar);
    let config = serde_json::json!({"os": "linux", "architecture": ocipull::Platform::host().architecture,
        "rootfs": {"type": "layers", "diff_ids": [digest.as_str()]}});
    for (name, bytes) in [
        ("layer", tar.clone()),
        ("config", config.to_string().into_bytes()),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    // Holes, so that tar stores it as sparse.
    let layer = fs::File::options()
        .write(true)
        .open(dir.path().join("layer"))
        .unwrap();
    let data = tar.iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1;
    layer.set_len(data).unwrap();
    layer.set_len(tar.len() as u64).unwrap();
    let manifest = r#"[{"Config":"config","Layers":["layer"]}]"#;
    fs::write(dir.path().join("manifest.json"), manifest).unwrap();
    for format in ["--format=gnu", "--format=posix"] {
        let Some(mut gnu_tar) = oracle("tar") else {
            return;
        };
        let status = gnu_tar
            .arg("-C")
            .arg(dir.path())
            .args(["-cSf"])
            .arg(&file)
            .args([format, "layer", "config", "manifest.json"])
            .status()
            .unwrap();
        assert!(status.success());
        let image = open(&format!("docker-archive:{}", file.display())).unwrap();
        assert!(read(&image, 0).unwrap() == tar, "{format}");
    }
    let bytes = TarBuilder::new()
        .file("layer", &tar)
        .file("config", config.to_string())
        .file("manifest.json", manifest)
        .unfinished();
    let body = bytes.len() - 512 + manifest.len();
    fs::write(&file, &bytes[..body]).unwrap();
    let image = open(&format!("docker-archive:{}", file.display())).unwrap();
    assert!(read(&image, 0).unwrap() == tar);
}
