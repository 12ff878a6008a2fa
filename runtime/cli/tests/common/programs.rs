//! Programs of this host as a layer of an image, with the libraries that they load.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{TarBuilder, oracle};

/// Programs and files of this host for an image.
#[derive(Default)]
pub(crate) struct Programs {
    files: BTreeSet<PathBuf>,
}

impl Programs {
    /// Adds a program at its path on this host; `None` if it is not installed.
    pub(crate) fn program(mut self, name: &str) -> Option<Self> {
        let absolute = Path::new(name).is_absolute().then(|| Path::new(name));
        let path = match absolute {
            Some(path) if path.exists() => path.to_owned(),
            Some(_) => {
                testkit::skip(&format!("{name} is not installed"));
                return None;
            }
            None => PathBuf::from(oracle(name)?.get_program()),
        };
        self.library(&path);
        Some(self)
    }

    /// Adds a folder without files that compilers and tests leave there.
    pub(crate) fn folder(mut self, folder: &str) -> Option<Self> {
        if !Path::new(folder).is_dir() {
            testkit::skip(&format!("{folder} is not installed"));
            return None;
        }
        self.add_folder(Path::new(folder));
        Some(self)
    }

    fn add_folder(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let left_out = ["__pycache__", "test", "idlelib", "lib2to3", "tkinter"];
            if left_out.iter().any(|left_out| name == *left_out) {
                continue;
            }
            if path.is_dir() {
                self.add_folder(&path);
            } else if path.extension().is_some_and(|extension| extension == "so") {
                self.library(&path);
            } else if path.is_file() {
                self.files.insert(path);
            }
        }
    }

    /// Adds a program or a library, and all libraries that it loads.
    fn library(&mut self, path: &Path) {
        let output = Command::new("ldd").arg(path).output().unwrap();
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            if word.starts_with('/') && Path::new(word).is_file() {
                self.files.insert(PathBuf::from(word));
            }
        }
        self.files.insert(path.to_owned());
    }

    pub(crate) fn tar(&self) -> TarBuilder {
        self.files.iter().fold(TarBuilder::new(), |tar, path| {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            let name = path.to_str().unwrap().trim_start_matches('/');
            tar.mode(mode & 0o777)
                .file(name, std::fs::read(path).unwrap())
        })
    }
}
