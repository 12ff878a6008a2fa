//! Debian's docker-registry.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::oracle;

/// A registry on a free port of the loopback interface. It ends when this is dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    /// The address with the port.
    pub host: String,
    /// The folder of its files: what it stores is in `data`.
    pub dir: TempDir,
}

impl Registry {
    /// Starts a registry that everybody may use, if the program is there.
    pub fn start() -> Option<Self> {
        Self::start_with(|_| Some(String::new()))
    }

    /// Starts a registry that only `user` may use, whose password is `secret`.
    pub fn start_with_user() -> Option<Self> {
        let mut perl = oracle("perl")?;
        // The hash that `htpasswd -bB` makes of user and secret.
        perl.args([
            "-e",
            r#"print crypt("secret", q($2b$05$abcdefghijklmnopqrstuu))"#,
        ]);
        let hash = String::from_utf8(perl.output().expect("perl starts").stdout).expect("text");
        Self::start_with(|dir| {
            let users = dir.join("htpasswd");
            fs::write(&users, format!("user:{hash}\n")).expect("written");
            let users = users.display();
            Some(format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {users}\n"
            ))
        })
    }

    /// Starts a registry. `more` makes the files that it needs in its folder, and returns more of
    /// the configuration: first of the section `http`, then further sections.
    ///
    /// # Panics
    ///
    /// If the registry does not start.
    pub fn start_with(more: impl FnOnce(&Path) -> Option<String>) -> Option<Self> {
        let mut command = oracle("docker-registry")?;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let host = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let more = more(dir.path())?;
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n{more}",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).expect("written");
        let process = command
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let registry = Self { process, host, dir };
        let start = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "docker-registry does not listen"
            );
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
