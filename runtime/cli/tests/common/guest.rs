//! A store with a bootable image.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{TarBuilder, oracle};

use super::Blockbox;
use super::layout::{Compression, Layout};

/// The kernel of arm64 guests, below cargo's target folder and below a store.
pub(crate) const ARM64_KERNEL: &str = "kernel/aarch64/libkrunfw.so.5";

/// A timeout that suffices on a busy machine, and where the hypervisor itself is emulated.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// The path of virtiofsd on Debian 12; other systems have others.
pub(crate) const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// Returns whether folders can be shared here.
pub(crate) fn can_share() -> bool {
    let found = Path::new(VIRTIOFSD).is_file() || std::env::var_os("BLOCKBOX_VIRTIOFSD").is_some();
    found && rustix::process::geteuid().is_root()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `found` returns a value.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < LONG, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn start(blockbox: &Blockbox, args: &[&str]) -> Child {
    blockbox
        .command()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let status = std::process::Command::new("kill")
        .args(["-s", name, &id])
        .status();
    assert!(status.unwrap().success());
}

/// A store, and the name of an image of busybox in it.
pub(crate) struct Guest {
    pub(crate) blockbox: Blockbox,
    pub(crate) layout: Layout,
    pub(crate) image: String,
}

impl Guest {
    /// Pulls an image with this configuration; `None` if it cannot be booted here.
    pub(crate) fn new(config: Value) -> Option<Self> {
        Self::with_layers(config, 1)
    }

    /// As [`new`](Self::new), with `count` layers; each layer `i` except the first has a file
    /// `layers/i` with its number.
    pub(crate) fn with_layers(config: Value, count: usize) -> Option<Self> {
        let tar = |i| TarBuilder::new().file(format!("layers/{i}"), format!("{i}\n"));
        Self::with_tars(config, (1..count).map(|i| tar(i).finish()).collect())
    }

    /// As [`new`](Self::new), with more layers.
    pub(crate) fn with_tars(config: Value, tars: Vec<Vec<u8>>) -> Option<Self> {
        oracle(if cfg!(target_arch = "aarch64") {
            "qemu-system-aarch64"
        } else {
            "qemu-system-x86_64"
        })?;
        let busybox = std::fs::read(oracle("busybox")?.get_program()).unwrap();
        Some(Self::of_busybox(
            busybox,
            Layout::new().config(config),
            tars,
        ))
    }

    /// Pulls an arm64 image; `None` if it cannot be booted here.
    pub(crate) fn arm64() -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            testkit::skip("an arm64 host emulates no arm64 machine");
            return None;
        }
        oracle("qemu-system-aarch64")?;
        let made = ["oracles/arm64/bin/busybox", ARM64_KERNEL].map(testkit::made);
        if let Some(missing) = made.iter().find(|path| !path.exists()) {
            testkit::skip(&format!("no {} (cargo xtask setup)", missing.display()));
            return None;
        }
        let [busybox, kernel] = made;
        let layout = Layout::new().architecture("arm64").config(json!({}));
        let guest = Self::of_busybox(std::fs::read(busybox).unwrap(), layout, Vec::new());
        let installed = guest.blockbox.home().join(ARM64_KERNEL);
        std::fs::create_dir_all(installed.parent().unwrap()).unwrap();
        std::fs::copy(kernel, installed).unwrap();
        Some(guest)
    }

    /// Pulls an image with this busybox, and more layers.
    fn of_busybox(busybox: Vec<u8>, layout: Layout, tars: Vec<Vec<u8>>) -> Self {
        let platform = format!("linux/{}", layout.architecture);
        let mut tar = TarBuilder::new()
            .dir("./")
            .dir("bin")
            .mode(0o755)
            .file("bin/busybox", busybox)
            .mode(0o644)
            .dir("etc")
            .file(
                "etc/passwd",
                "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
            )
            .file("etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
            .file("etc/motd", "from the image\n");
        for applet in [
            "sh", "cat", "echo", "wc", "id", "env", "pwd", "kill", "grep", "awk", "sleep", "uname",
        ] {
            tar = tar.link(format!("bin/{applet}"), "bin/busybox");
        }
        let layout = layout.layer(&tar.finish(), Compression::Gzip);
        let layers = tars
            .iter()
            .fold(layout, |layout, tar| layout.layer(tar, Compression::Gzip));
        let layout = layers.finish();
        let blockbox = Blockbox::new();
        let image = layout.reference();
        blockbox.ok(["pull", "-q", "--platform", &platform, &image]);
        Self {
            blockbox,
            layout,
            image,
        }
    }

    pub(crate) fn run(&self, options: &[&str], command: &[&str], input: &str) -> Output {
        let mut child = self
            .blockbox
            .command()
            .arg("run")
            .args(options)
            .arg(&self.image)
            .arg("--")
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // If the command does not read, the pipe breaks.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Runs a shell script that must end with status 0, and returns its output.
    pub(crate) fn script(&self, options: &[&str], script: &str) -> String {
        let output = self.run(options, &["sh", "-c", script], "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn sandboxes(&self) -> usize {
        let list: Value =
            serde_json::from_str(&self.blockbox.ok(["ps", "-a", "--format", "json"])).unwrap();
        list.as_array().unwrap().len()
    }

    /// Returns the state of a sandbox; `None` if there is no such sandbox.
    pub(crate) fn state(&self, name: &str) -> Option<Value> {
        let output = self.blockbox.output(["inspect", name]);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        list.get(0).map(|sandbox| sandbox["state"].clone())
    }

    pub(crate) fn detached(&self, options: &[&str], command: &[&str]) -> String {
        let words = [&["run", "-d"], options, &[&self.image, "--"], command].concat();
        let id = self.blockbox.ok(words);
        assert_eq!(id.trim_end().len(), 64, "{id}");
        id.trim_end().to_owned()
    }

    pub(crate) fn exec(&self, words: &[&str]) -> Output {
        self.blockbox.output([&["exec"], words].concat())
    }
}
