//! The commands that talk to a registry with passwords: Debian's docker-registry on loopback.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::Blockbox;
use common::layout::{Compression, Layout};
use testkit::{TarBuilder, oracle};

/// A registry that knows one user; ends when dropped.
struct Registry {
    process: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Option<Self> {
        let mut perl = oracle("perl")?;
        let mut registry = oracle("docker-registry")?;
        // What `htpasswd -bB` makes of user and secret.
        perl.args([
            "-e",
            r#"print crypt("secret", q($2b$05$abcdefghijklmnopqrstuu))"#,
        ]);
        let hash = String::from_utf8(perl.output().unwrap().stdout).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let users = dir.path().join("htpasswd");
        fs::write(&users, format!("user:{hash}\n")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        drop(listener);
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n\
             auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            dir.path().join("data").display(),
            users.display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        registry.arg("serve").arg(&file);
        let process = registry
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { process, host, dir };
        let start = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "no registry");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
fn who_logs_in_pushes_copies_and_pulls_until_the_logout() {
    let Some(registry) = Registry::start() else {
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
