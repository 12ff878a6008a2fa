//! `cargo xtask docker`: a Docker engine loads and runs what blockbox saves, and blockbox loads and
//! pulls what that engine has.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::blockbox::Blockbox;
use crate::service::Service;
use crate::stages::Stages;
use crate::{image, setup, shell};

/// What a container changes before it is committed.
const CHANGE: &str = "echo new >/etc/added && rm /etc/debian_version && mkdir /srv/dir";

/// A Docker engine that shares nothing with one of the machine, and ends when this is dropped. Its
/// containers have no network.
pub(crate) struct Engine {
    service: Service,
    folder: PathBuf,
    path: OsString,
}

impl Engine {
    /// Starts an engine with all its files in `folder`, which is emptied, and its mounts in a
    /// separate namespace.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let system = std::env::var_os("PATH").unwrap_or_default();
        let mut all = setup::docker()?;
        all.extend(std::env::split_paths(&system));
        let path = std::env::join_paths(all)?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "dockerd", "--data-root"])
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .args(["--host", &host(folder), "--bridge", "none"])
            .args(["--iptables=false", "--ip6tables=false"])
            .env("PATH", &path);
        let answers = || {
            let info = docker(folder, &path, &["info"]).output()?;
            Ok(info.status.success())
        };
        Ok(Self {
            service: Service::start(&command, &folder.join("log"), answers)?,
            folder: folder.to_owned(),
            path,
        })
    }

    /// Returns what `$DOCKER_HOST` is for its clients.
    pub(crate) fn host(&self) -> String {
        host(&self.folder)
    }

    /// Returns a command of its client.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        docker(&self.folder, &self.path, args)
    }

    /// Returns the output of its client.
    pub(crate) fn output(&self, args: &[&str]) -> Result<String> {
        shell::output(&mut self.command(args)).with_context(|| self.service.log())
    }
}

fn host(folder: &Path) -> String {
    format!("unix://{}", folder.join("socket").display())
}

fn docker(folder: &Path, path: &OsString, args: &[&str]) -> Command {
    let mut docker = Command::new("docker");
    docker
        .args(args)
        .env("DOCKER_HOST", host(folder))
        .env("DOCKER_CONFIG", folder.join("config"))
        .env_remove("DOCKER_CONTEXT")
        .env("PATH", path)
        .stdin(Stdio::null());
    docker
}

/// Checks both ways: an image of blockbox's in the engine, and one of the engine's in blockbox.
pub(crate) fn run(blockbox: Option<&Path>) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "dockerd mounts images: run this as root"
    );
    setup::run()?;
    let program = match blockbox {
        Some(program) => program.canonicalize()?,
        None => shell::release_build()?,
    };
    image::demo().build()?;
    let mut stages = Stages::default();
    let folder = shell::target("docker");
    let source = format!("oci:{}:latest", image::demo().path().display());
    let blockbox = Blockbox::prepare(&program, folder.join("home"))?;
    let engine = stages.run("start a Docker engine", || {
        Engine::start(&folder.join("engine"))
    })?;
    println!(
        "{}",
        engine
            .output(&["version", "--format", "{{.Server.Version}}"])?
            .trim()
    );

    let archive = folder.join("ours.tar");
    let archive = archive.to_str().context("a path in UTF-8")?;
    stages.run("docker load: what blockbox saves", || {
        blockbox.output(&["pull", "-q", &source])?;
        blockbox.output(&["tag", &source, "demo:ours"])?;
        blockbox.output(&["save", "-q", "-o", archive, "demo:ours"])?;
        // Saved layers are new tars of what the images of the store have.
        blockbox.output(&["load", "-q", "-i", archive])?;
        engine.output(&["load", "-q", "-i", archive])
    })?;
    stages.run("docker load: an image without a name", || {
        // The reference of a layout is no name for docker.
        blockbox.output(&["save", "-q", "-o", archive, &source])?;
        let loaded = engine.output(&["load", "-q", "-i", archive])?;
        ensure!(loaded.starts_with("Loaded image ID: "), "{loaded:?}");
        Ok(())
    })?;
    ensure!(
        theirs(&engine, "demo:ours")? == ours(&blockbox, "demo:ours")?,
        "docker's layers of the saved image differ"
    );
    stages.run("docker run: what blockbox saved", || {
        let run = ["run", "--rm", "--network", "none", "demo:ours"];
        let printed = engine.output(&[&run[..], &["python3", "-c", image::PROGRAM]].concat())?;
        ensure!(printed == image::PRINTED, "it printed {printed:?}");
        Ok(())
    })?;

    stages.run("docker commit: an image of the engine's own", || {
        let run = ["run", "--name", "changed", "--network", "none", "demo:ours"];
        engine.output(&[&run[..], &["sh", "-ec", CHANGE]].concat())?;
        engine.output(&["commit", "changed", "demo:theirs"])
    })?;
    let saved = folder.join("theirs.tar");
    let saved = saved.to_str().context("a path in UTF-8")?;
    engine.output(&["save", "-o", saved, "demo:theirs"])?;
    let daemon = "docker-daemon:demo:theirs";
    stages.run("blockbox load, and pull from the engine", || {
        blockbox.output(&["load", "-q", "-i", saved])?;
        let mut pull = blockbox.command(&["pull", "-q", daemon]);
        shell::output(pull.env("DOCKER_HOST", engine.host()))
    })?;
    let layers = theirs(&engine, "demo:theirs")?;
    for name in ["demo:theirs", daemon] {
        let mut inspect = blockbox.command(&["image", "inspect", name, "--format", "json"]);
        let inspected = shell::output(inspect.env("DOCKER_HOST", engine.host()))?;
        ensure!(
            diff_ids(&inspected)? == layers,
            "blockbox's layers of {name} differ"
        );
    }
    stages.run("blockbox run: what the engine committed", || {
        let script = "cat /etc/added; test -d /srv/dir; test ! -e /etc/debian_version; echo whole";
        let run = ["run", "-q", "--rm", "--network", "none", "demo:theirs"];
        let printed = blockbox.output(&[&run[..], &["--", "sh", "-ec", script]].concat())?;
        ensure!(printed == "new\nwhole\n", "it printed {printed:?}");
        Ok(())
    })?;
    stages.print();
    println!("\ndocker loads and runs what we save, and we load, pull and run what it has.");
    Ok(())
}

/// Returns the diff IDs of an image of the engine's.
fn theirs(engine: &Engine, name: &str) -> Result<Vec<String>> {
    let format = "{{json .RootFS.Layers}}";
    let layers = engine.output(&["image", "inspect", name, "--format", format])?;
    Ok(serde_json::from_str(&layers)?)
}

/// Returns the diff IDs of an image in blockbox's store.
fn ours(blockbox: &Blockbox, name: &str) -> Result<Vec<String>> {
    diff_ids(&blockbox.output(&["image", "inspect", name, "--format", "json"])?)
}

fn diff_ids(inspected: &str) -> Result<Vec<String>> {
    let inspected: Value = serde_json::from_str(inspected)?;
    let layers = inspected["layers"].as_array().context("layers")?;
    layers
        .iter()
        .map(|layer| Some(layer["diff_id"].as_str()?.to_owned()))
        .collect::<Option<_>>()
        .context("diff IDs")
}
