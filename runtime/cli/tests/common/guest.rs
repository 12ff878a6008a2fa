//! A store with an image that boots.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::Value;
use testkit::{TarBuilder, oracle};

use super::Blockbox;
use super::layout::{Compression, Layout};

/// A store, and the name of an image of busybox in it.
pub(crate) struct Guest {
    pub(crate) blockbox: Blockbox,
    pub(crate) layout: Layout,
    pub(crate) image: String,
}

impl Guest {
    /// Pulls an image with this configuration; `None` where nothing can boot it.
    pub(crate) fn new(config: Value) -> Option<Self> {
        Self::with_layers(config, 1)
    }

    /// As [`new`](Self::new), of `count` layers; layer `i` but the first has a file `layers/i` that holds its number.
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
            "sh", "cat", "echo", "wc", "id", "env", "pwd", "kill", "grep", "awk", "sleep",
        ] {
            tar = tar.link(format!("bin/{applet}"), "bin/busybox");
        }
        let layout = Layout::new()
            .layer(&tar.finish(), Compression::Gzip)
            .config(config);
        let layers = tars
            .iter()
            .fold(layout, |layout, tar| layout.layer(tar, Compression::Gzip));
        let layout = layers.finish();
        let blockbox = Blockbox::new();
        let image = layout.reference();
        blockbox.ok(["pull", "-q", &image]);
        Some(Self {
            blockbox,
            layout,
            image,
        })
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
        // A command that does not read leaves a broken pipe.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Runs a shell script that must end with status 0, and gives its output.
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
}
