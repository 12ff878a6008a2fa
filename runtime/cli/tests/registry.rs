//! Commands that access a registry: Debian's docker-registry on loopback.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::Blockbox;
use common::layout::{Compression, Layout};
use common::registry::Proxy;
use serde_json::Value;
use testkit::{FaultyProxy, Registry, TarBuilder, transfers};

#[test]
fn a_name_without_a_host_is_resolved_by_registries_conf() {
    let (Some(empty), Some(registry)) = (Registry::start(), Registry::start()) else {
        return;
    };
    let blockbox = Blockbox::new();
    let tar = TarBuilder::new().file("file", "contents").finish();
    let layout = Layout::new().layer(&tar, Compression::Gzip).finish();
    let full = format!("{}/team/app:1", registry.host);
    blockbox.ok(["copy", "-q", "--plain-http", &layout.reference(), &full]);
    let conf = registry.dir.path().join("registries.conf");
    let run = |text: String, args: &[&str]| {
        fs::write(&conf, text).unwrap();
        let mut command = blockbox.command();
        command.env("CONTAINERS_REGISTRIES_CONF", &conf).args(args);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let search = |hosts: &[&str]| format!("unqualified-search-registries = {hosts:?}\n");
    let pull = ["pull", "--plain-http", "team/app:1"];
    let (done, said) = run(search(&[&empty.host]), &pull);
    assert!(!done && said.contains(&empty.host), "{said}");
    let both = search(&[&empty.host, &registry.host]);
    let (done, said) = run(both.clone(), &pull);
    assert!(done && said.contains(&empty.host), "{said}");
    // The store has the full name, and resolves the short one.
    let images = blockbox.ok(["images", "--format", "json"]);
    assert!(images.contains(&full), "{images}");
    assert!(run(both, &["image", "inspect", "team/app:1"]).0);
    let (done, said) = run(String::new(), &["image", "inspect", "team/app:1"]);
    assert!(!done && said.contains("no image"), "{said}");
    let alias = format!("[aliases]\n\"short\" = \"{}/team/app\"\n", registry.host);
    let (done, said) = run(alias.clone(), &["pull", "-q", "--plain-http", "short:1"]);
    assert!(done, "{said}");
    let (done, said) = run(alias, &["rmi", "short:1"]);
    assert!(done, "{said}");
    assert_eq!(blockbox.ok(["images", "--format", "json"]).trim(), "[]");
}

fn login(command: &mut Command, auth: &Path, password: &str) -> Output {
    let mut child = command
        .env("REGISTRY_AUTH_FILE", auth)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(password.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn pushes_copies_and_pulls_work_from_login_to_logout() {
    let Some(registry) = Registry::start_with_user() else {
        return;
    };
    let blockbox = Blockbox::new();
    let auth = registry.dir.path().join("auth.json");
    let host = registry.host.as_str();
    let mut command = blockbox.command();
    command.args([
        "login",
        "--plain-http",
        "-u",
        "user",
        "--password-stdin",
        host,
    ]);
    let wrong = login(&mut command, &auth, "wrong\n");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(
        !wrong.status.success() && said.contains("refuses"),
        "{said}"
    );
    assert!(!auth.exists(), "wrong credentials were kept");
    let right = login(&mut command, &auth, "secret\n");
    assert!(right.status.success(), "{right:?}");
    let shown = String::from_utf8_lossy(&[right.stdout, right.stderr].concat()).into_owned();
    assert!(!shown.contains("secret"), "{shown}");

    let run = |arguments: &[&str]| {
        let mut command = blockbox.command();
        command.env("REGISTRY_AUTH_FILE", &auth).args(arguments);
        command.output().unwrap()
    };
    let ok = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let tar = TarBuilder::new().file("f", "text").finish();
    let layout = Layout::new().layer(&tar, Compression::Gzip).finish();
    let source = layout.reference();
    let (native, copied) = (format!("{host}/native:v1"), format!("{host}/copied:v1"));
    let made = ok(&[
        "convert",
        "-q",
        "--keep-tar",
        "--plain-http",
        &source,
        &native,
    ]);
    assert_eq!(ok(&["copy", "-q", "--plain-http", &native, &copied]), made);
    ok(&["pull", "-q", "--plain-http", &copied]);
    let pushed = format!("{host}/pushed:v1");
    let again = ok(&["push", "-q", "--plain-http", &copied, &pushed]);
    assert_eq!(ok(&["pull", "-q", "--plain-http", &pushed]), again);

    assert!(ok(&["logout", host]).contains("removed"));
    assert!(ok(&["logout", host]).contains("no credentials"));
    let refused = run(&["pull", "-q", "--plain-http", &native]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("blockbox login"), "{said}");
}

/// Returns bytes that do not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size).map(|_| next()).collect()
}

#[test]
fn a_pull_resumes_the_large_layer_of_a_killed_one() {
    const SIZE: u64 = 40 << 20;
    let Some(registry) = Registry::start() else {
        return;
    };
    let blockbox = Blockbox::new();
    let tar = TarBuilder::new().file("f", noise(SIZE as usize)).finish();
    let layout = Layout::new().layer(&tar, Compression::None).finish();
    let direct = format!("{}/app:v1", registry.host);
    blockbox.ok(["copy", "-q", "--plain-http", &layout.reference(), &direct]);

    let proxy = Proxy::start(registry.host.clone(), 30 << 20);
    let name = format!("{}/app:v1", proxy.host);
    let downloads = blockbox.home().join("downloads");
    let kept = kill_pull(&blockbox, &proxy, &name);
    assert_eq!(blockbox.ok(["images", "-q"]), "");

    let before = proxy.passed.load(Ordering::SeqCst);
    proxy.most.store(u64::MAX, Ordering::SeqCst);
    blockbox.ok(["pull", "-q", "--plain-http", &name]);
    let fetched = proxy.passed.load(Ordering::SeqCst) - before;
    // The last piece counts only when it is complete, and the first pull's connections have read
    // some bytes.
    let most = SIZE - kept + (10 << 20);
    assert!(fetched < most, "{fetched} of {SIZE} bytes after {kept}");
    assert_eq!(fs::read_dir(&downloads).unwrap().count(), 0);
    blockbox.ok(["image", "verify"]);

    // Another pull that is not resumed.
    proxy.most.store(
        proxy.passed.load(Ordering::SeqCst) + (30 << 20),
        Ordering::SeqCst,
    );
    blockbox.ok(["rmi", &name]);
    kill_pull(&blockbox, &proxy, &name);
    blockbox.ok(["gc"]);
    assert_eq!(fs::read_dir(&downloads).unwrap().count(), 0);
}

/// Pulls until the store keeps 12 MiB of a layer, and kills that. Returns the bytes that are kept.
fn kill_pull(blockbox: &Blockbox, proxy: &Proxy, name: &str) -> u64 {
    let mut process = blockbox
        .command()
        .args(["pull", "-q", "--plain-http", name])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let folder = blockbox.home().join("downloads").join(&proxy.host);
    let kept = || {
        let files = fs::read_dir(&folder).into_iter().flatten().flatten();
        files
            .filter_map(|file| file.metadata().ok())
            .map(|meta| meta.len())
            .sum::<u64>()
    };
    let start = Instant::now();
    while kept() < 12 << 20 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{} bytes are kept",
            kept()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    kept()
}

#[test]
fn a_native_layer_is_the_file_that_a_killed_pull_kept_of_it() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let blockbox = Blockbox::new();
    let tar = TarBuilder::new().file("f", noise(40 << 20)).finish();
    let layout = Layout::new().layer(&tar, Compression::None).finish();
    let direct = format!("{}/app:v1", registry.host);
    blockbox.ok([
        "convert",
        "-q",
        "--plain-http",
        &layout.reference(),
        &direct,
    ]);

    let proxy = Proxy::start(registry.host.clone(), 30 << 20);
    let name = format!("{}/app:v1", proxy.host);
    kill_pull(&blockbox, &proxy, &name);
    let inodes = |folder: &Path, named: fn(&str) -> bool| -> Vec<u64> {
        let files = fs::read_dir(folder).unwrap().map(Result::unwrap);
        files
            .filter(|file| named(&file.file_name().to_string_lossy()))
            .map(|file| file.metadata().unwrap().ino())
            .collect()
    };
    let downloads = blockbox.home().join("downloads");
    let kept = inodes(&downloads.join(&proxy.host), |name| {
        !name.ends_with(".known")
    });
    proxy.most.store(u64::MAX, Ordering::SeqCst);
    blockbox.ok(["pull", "-q", "--plain-http", &name]);
    let layers = inodes(&blockbox.home().join("layers"), |name| {
        name.ends_with(".erofs")
    });
    assert_eq!(kept, layers);
    assert_eq!(fs::read_dir(&downloads).unwrap().count(), 0);
    blockbox.ok(["image", "verify"]);
}

/// A registry that stops reading uploads, whose blobs do not fit into the buffers of sockets.
fn stalled(registry: &Registry) -> (Proxy, Layout) {
    let proxy = Proxy::start(registry.host.clone(), u64::MAX);
    proxy.most_sent.store(1 << 20, Ordering::SeqCst);
    let tar = TarBuilder::new().file("f", noise(40 << 20)).finish();
    let layout = Layout::new().layer(&tar, Compression::None).finish();
    (proxy, layout)
}

#[test]
fn json_progress_of_an_upload_counts_its_bytes() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (proxy, layout) = stalled(&registry);
    let blockbox = Blockbox::new();
    let target = format!("{}/app:v1", proxy.host);
    let source = layout.reference();
    let arguments = ["copy", "--plain-http", "--progress", "json"];
    let mut process = blockbox
        .command()
        .args(arguments)
        .args([&source, &target])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = Vec::new();
    for line in BufReader::new(process.stderr.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "blob-started" && event["total"].as_u64() > Some(40 << 20) {
            // Longer than the interval between two events.
            std::thread::sleep(Duration::from_millis(300));
            proxy.most_sent.store(u64::MAX, Ordering::SeqCst);
        }
        told.push(event);
    }
    assert!(process.wait().unwrap().success(), "{told:?}");
    let of = |name: &str| -> Vec<u64> {
        let named = told.iter().filter(|event| event["event"] == name);
        named.filter_map(|event| event["bytes"].as_u64()).collect()
    };
    let total = told.iter().find(|event| event["event"] == "blob");
    let total = total.and_then(|event| event["total"].as_u64()).unwrap();
    let bytes = of("blob");
    assert!(bytes.is_sorted() && bytes[0] > 0, "{told:?}");
    assert!(
        bytes[0] < total && of("blob-finished").contains(&total),
        "{told:?}"
    );
}

#[test]
fn an_upload_shows_rate_and_time_left_on_a_terminal() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (proxy, layout) = stalled(&registry);
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let size = nix::pty::Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = nix::pty::openpty(&size, None).unwrap();
    let target = format!("{}/app:v1", proxy.host);
    let mut process = blockbox
        .command()
        .args(["push", "--plain-http", &layout.reference(), &target])
        .env("TERM", "xterm")
        .stdout(Stdio::null())
        .stderr(terminal.slave)
        .spawn()
        .unwrap();
    let mut screen = fs::File::from(terminal.master);
    let (mut shown, mut buffer) = (String::new(), [0; 4096]);
    // Reading fails once the process, which has the other side, has ended.
    while let Ok(bytes @ 1..) = screen.read(&mut buffer) {
        shown += &String::from_utf8_lossy(&buffer[..bytes]);
        // The layer's blob, as far as it came.
        if shown.contains("MiB / 40.0") && shown.contains("MiB/s") {
            proxy.most_sent.store(u64::MAX, Ordering::SeqCst);
        }
    }
    assert!(process.wait().unwrap().success(), "{shown}");
    // A bar, and after it the rate and the time that is left.
    let line = shown.lines().rev().find(|line| line.contains("MiB / 40.0"));
    assert!(
        line.is_some_and(|line| line.contains("B/s") && line.contains('█')),
        "{shown}"
    );
}

/// Returns the bytes of the layers of an image in the store.
fn layers(blockbox: &Blockbox, name: &str) -> Vec<Vec<u8>> {
    let files = blockbox.inspect(name).layers.into_iter();
    files.map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn pulls_through_a_failing_proxy_leave_the_store_right() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tar = |size| TarBuilder::new().file("f", noise(size)).finish();
    let layout = Layout::new()
        .layer(&tar(300_000), Compression::Gzip)
        // Of several ranges.
        .layer(&tar(9 << 20), Compression::None)
        .finish();
    let source = layout.reference();
    let direct = format!("{}/app:v1", registry.host);
    let expected = Blockbox::without_kernel();
    let digest = expected.ok(["copy", "-q", "--plain-http", &source, &direct]);
    assert_eq!(expected.ok(["pull", "-q", "--plain-http", &direct]), digest);
    let expected = layers(&expected, &direct);

    let blockbox = Blockbox::without_kernel();
    let mut right = 0;
    for seed in 1..=transfers(100) {
        let proxy = FaultyProxy::start(registry.host.clone(), seed * 0x27d4_eb2f);
        let name = format!("{}/app:v1", proxy.host);
        let pulled = blockbox.output(["pull", "-q", "--plain-http", &name]);
        blockbox.ok(["image", "verify", "-q"]);
        let there = blockbox.output(["image", "inspect", &name]).status;
        if pulled.status.success() {
            assert_eq!(String::from_utf8_lossy(&pulled.stdout), digest);
            assert!(layers(&blockbox, &name) == expected, "seed {seed}");
            // The next pull begins with nothing again.
            blockbox.ok(["rmi", &name]);
            right += 1;
        } else {
            let said = String::from_utf8_lossy(&pulled.stderr);
            assert!(said.starts_with("blockbox: "), "seed {seed}: {said}");
            assert!(!there.success(), "seed {seed}: {said}");
            assert_eq!(blockbox.ok(["images", "-q", "-a"]), "", "seed {seed}");
        }
        // Nothing is left that `gc` would not remove.
        if seed % 3 == 0 {
            blockbox.ok(["gc"]);
            let downloads = blockbox.home().join("downloads");
            assert_eq!(fs::read_dir(downloads).unwrap().count(), 0);
        }
    }
    assert!(right > 0, "no pull came through");
}
