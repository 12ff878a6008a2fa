//! `cargo xtask package`: checks the published crates as users get them.
//!
//! Each library is built and tested from its own archive, without access to the repository's files;
//! every crate is built from its archive, as for publishing; and the oldest supported compilers
//! build them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell;
use crate::stages::Stages;

/// The independent libraries, and the crates that some of them share.
pub(crate) const LIBRARIES: [&str; 9] = [
    "blockbox-files",
    "blockbox-path",
    "blockbox-tar",
    "erofs-reader",
    "erofs-writer",
    "ext4-writer",
    "fsmerge",
    "ocipull",
    "vmdk-image",
];

/// The oldest compilers: `rust-version` of the libraries, and of the workspace.
pub(crate) const OLDEST: [(&str, &[&str]); 2] =
    [("1.88.0", &LIBRARIES), ("1.89.0", &["blockbox-cli"])];

/// Libraries whose unit tests depend on each other, or on `testkit`: published manifests lack such
/// dev-dependencies. Their doc examples and `examples/` need neither.
const ENTANGLED: [&str; 2] = ["erofs-reader", "erofs-writer"];

/// Crates of the repository that are not published.
pub(crate) const UNPUBLISHED: [&str; 2] = ["testkit", "xtask"];

pub(crate) fn run() -> Result<()> {
    let mut stages = Stages::default();
    stages.run("make the archives", archives)?;
    stages.run("test the libraries from their archives", test_libraries)?;
    stages.run("build every crate from its archive", || {
        publish(&["--dry-run", "--allow-dirty"])
    })?;
    for (compiler, packages) in OLDEST {
        stages.run(&format!("build with Rust {compiler}"), || {
            check_with(compiler, packages)
        })?;
    }
    stages.print();
    Ok(())
}

/// `cargo xtask publish`
#[derive(clap::Args)]
pub(crate) struct Publish {
    /// The release's tag: `v` and the version that all crates have
    #[arg(long)]
    tag: String,
    /// Build and check everything, but upload nothing
    #[arg(long)]
    dry_run: bool,
}

impl Publish {
    /// Uploads every published crate, in the order of their dependencies.
    pub(crate) fn run(&self) -> Result<()> {
        check_tag(&self.tag, env!("CARGO_PKG_VERSION"))?;
        publish(if self.dry_run { &["--dry-run"] } else { &[] })
    }
}

/// Fails unless `tag` is that of the release `version`.
fn check_tag(tag: &str, version: &str) -> Result<()> {
    ensure!(
        tag.strip_prefix('v') == Some(version),
        "the tag {tag} is not v{version}: the crates have version {version}"
    );
    Ok(())
}

fn publish(options: &[&str]) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["publish", "--workspace"]).args(options);
    for name in UNPUBLISHED {
        cargo.args(["--exclude", name]);
    }
    shell::run(cargo.envs(guest_programs()?))
}

/// Makes the archive of every published crate, which checks its manifest.
pub(crate) fn archives() -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["package", "--workspace", "--no-verify", "--allow-dirty"]);
    for name in UNPUBLISHED {
        cargo.args(["--exclude", name]);
    }
    shell::output(&mut cargo).map(drop)
}

/// Builds the guest's programs, and returns the variables that pass their paths to the build script
/// of `blockbox-vmm`.
///
/// That script runs cargo itself, which would look for the crates of those programs in the
/// registry, where they are not published yet.
fn guest_programs() -> Result<Vec<(&'static str, PathBuf)>> {
    let mut cargo = shell::cargo();
    cargo.args([
        "build",
        "--package",
        "blockbox-vmm",
        "--message-format",
        "json",
    ]);
    let messages = shell::output(&mut cargo)?;
    let programs = [
        ("BLOCKBOX_GUEST_INIT", "BLOCKBOX_INIT"),
        ("BLOCKBOX_GUEST_FSBENCH", "BLOCKBOX_FSBENCH"),
        ("BLOCKBOX_FOREIGN_GUEST_INIT", "BLOCKBOX_FOREIGN_INIT"),
    ];
    programs
        .into_iter()
        .map(|(variable, reported)| {
            let path = reported_path(&messages, reported)
                .with_context(|| format!("cargo does not report {reported}"))?;
            Ok((variable, path))
        })
        .collect()
}

/// Returns the path that a build script sets the variable `name` to, from cargo's messages.
fn reported_path(messages: &str, name: &str) -> Option<PathBuf> {
    let messages = messages.lines().map(serde_json::from_str::<Value>);
    let scripts = messages
        .filter_map(Result::ok)
        .filter(|message| message["reason"] == "build-script-executed");
    let variables: Vec<Value> = scripts.map(|message| message["env"].clone()).collect();
    let mut pairs = variables.iter().filter_map(Value::as_array).flatten();
    let pair = pairs.find(|pair| pair[0] == name)?;
    pair[1].as_str().map(PathBuf::from)
}

/// Unpacks the libraries' archives into a separate workspace, and tests them there.
fn test_libraries() -> Result<()> {
    let folder = shell::target("packages");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let version = env!("CARGO_PKG_VERSION");
    for name in LIBRARIES {
        let archive = shell::target("").join(format!("package/{name}-{version}.crate"));
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&folder).arg("-xzf").arg(&archive);
        shell::output(&mut tar)?;
    }
    fs::write(folder.join("Cargo.toml"), workspace(version))?;
    // The same versions of all dependencies as in the repository.
    let lock = shell::repository().join("Cargo.lock");
    fs::copy(&lock, folder.join("Cargo.lock")).with_context(|| lock.display().to_string())?;
    let all = ["--workspace", "--all-features"];
    cargo_in(&folder, &[&["build", "--examples"], &all[..]].concat())?;
    cargo_in(&folder, &[&["test", "--doc"], &all[..]].concat())?;
    let mut unit = vec!["test", "--lib", "--all-features"];
    for name in LIBRARIES.iter().filter(|name| !ENTANGLED.contains(name)) {
        unit.extend(["--package", name]);
    }
    cargo_in(&folder, &unit)
}

/// Returns the manifest of a workspace with the unpacked libraries.
fn workspace(version: &str) -> String {
    let mut members = String::new();
    let mut patches = String::new();
    for name in LIBRARIES {
        members.push_str(&format!("    \"{name}-{version}\",\n"));
        patches.push_str(&format!("{name} = {{ path = \"{name}-{version}\" }}\n"));
    }
    format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\n{members}]\n\n[patch.crates-io]\n{patches}"
    )
}

fn cargo_in(folder: &Path, arguments: &[&str]) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.current_dir(folder).args(arguments);
    cargo.env("CARGO_TARGET_DIR", shell::target(""));
    shell::run(&mut cargo)
}

/// Type-checks `packages` with every feature and the compiler `version` of rustup.
fn check_with(version: &str, packages: &[&str]) -> Result<()> {
    let mut cargo = Command::new("rustup");
    cargo.args(["run", version, "cargo", "check", "--all-features"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    // Different versions of cargo do not share a target folder well.
    cargo.env(
        "CARGO_TARGET_DIR",
        shell::target(&format!("rust-{version}")),
    );
    cargo.current_dir(shell::repository());
    shell::run(cargo.env_remove("CARGO").env_remove("RUSTC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_that_a_build_script_reports_is_found_among_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact"}"#,
            "\n",
            r#"{"reason":"build-script-executed","env":[]}"#,
            "\n",
            r#"{"reason":"build-script-executed","env":[["OTHER","/a"],["INIT","/b"]]}"#,
        );
        assert_eq!(reported_path(messages, "INIT"), Some(PathBuf::from("/b")));
        assert_eq!(reported_path(messages, "MISSING"), None);
    }

    #[test]
    fn only_the_tag_of_the_crates_version_is_published() {
        assert!(check_tag("v0.1.0", "0.1.0").is_ok());
        for tag in ["0.1.0", "v0.1.1", "v0.1.0-rc.1", "v"] {
            assert!(check_tag(tag, "0.1.0").is_err(), "{tag}");
        }
    }

    #[test]
    fn every_published_crate_says_what_a_registry_shows() {
        let root = shell::repository();
        let manifests =
            shell::output(shell::cargo().args(["metadata", "--no-deps", "--format-version=1"]));
        let metadata: Value = serde_json::from_str(&manifests.expect("metadata")).expect("JSON");
        for package in metadata["packages"].as_array().expect("packages") {
            let name = package["name"].as_str().expect("a name");
            if UNPUBLISHED.contains(&name) {
                continue;
            }
            let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
            let folder = manifest.parent().expect("a folder");
            for member in [
                "description",
                "documentation",
                "license",
                "readme",
                "repository",
            ] {
                assert!(package[member].is_string(), "{name}: {member}");
            }
            for member in ["keywords", "categories"] {
                let some = package[member]
                    .as_array()
                    .is_some_and(|list| !list.is_empty());
                assert!(some, "{name}: {member}");
            }
            let text = fs::read_to_string(manifest).expect("a manifest");
            assert!(text.contains("\ninclude = ["), "{name}: include");
            for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
                let own = fs::read(folder.join(licence));
                let whole = fs::read(root.join(licence)).expect("a licence");
                assert_eq!(own.ok(), Some(whole), "{name}: {licence}");
            }
        }
    }

    #[test]
    fn the_oldest_compilers_are_those_of_the_manifests() {
        let manifest = |path: &str| {
            let path = shell::repository().join(path);
            fs::read_to_string(path).expect("a manifest")
        };
        let [(libraries, _), (workspace, _)] = OLDEST;
        let promise = |version: &str| {
            let (short, _) = version.rsplit_once('.').expect("three numbers");
            format!("rust-version = \"{short}\"")
        };
        assert!(manifest("Cargo.toml").contains(&promise(workspace)));
        for library in LIBRARIES {
            let folder = match library {
                "blockbox-files" => "ocipull/files",
                "blockbox-path" => "fsmerge/path",
                "blockbox-tar" => "fsmerge/tar",
                "vmdk-image" => "vmdk",
                other => other,
            };
            let manifest = manifest(&format!("{folder}/Cargo.toml"));
            assert!(manifest.contains(&promise(libraries)), "{library}");
        }
    }
}
