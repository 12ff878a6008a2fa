//! A layer: its changes on disk, its blobs, and its metadata.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::recipe::{Action, Compression, Recipe, SUITE};
use super::tarball;
use crate::{setup, shell};

/// A compressed layer tar.
#[derive(Clone)]
pub(super) struct Blob {
    pub(super) path: PathBuf,
    /// `sha256:…` of the compressed bytes.
    pub(super) digest: String,
    /// Compressed bytes.
    pub(super) size: u64,
}

/// A built layer.
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) why: &'static str,
    pub(super) compression: Compression,
    /// `sha256:…` of the tar.
    pub(super) diff_id: String,
    pub(super) entries: u64,
    /// The blob with the layer's own compression.
    pub(super) blob: Blob,
    /// The blob with gzip, for tools that support nothing else.
    pub(super) gzip: Blob,
    /// Everything that determines the layer's contents.
    key: String,
    /// The folder of the changes, relative to the folder of all layers.
    upper: String,
}

impl Layer {
    /// Loads the layer of an earlier run, if its recipe is the same.
    pub(super) fn load(layers: &Path, recipe: &Recipe, below: &[Self]) -> Result<Option<Self>> {
        let folder = layers.join(folder_name(recipe, below));
        let Ok(text) = fs::read_to_string(folder.join("layer.json")) else {
            return Ok(None);
        };
        let known: Value = serde_json::from_str(&text)?;
        if known["key"] != key(recipe, below) {
            return Ok(None);
        }
        Self::new(&folder, recipe, below, &known).map(Some)
    }

    /// Builds the layer over those below it.
    pub(super) fn build(layers: &Path, recipe: &Recipe, below: &[Self]) -> Result<Self> {
        let name = folder_name(recipe, below);
        let folder = layers.join(&name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        for part in ["upper", "work", "root"] {
            fs::create_dir_all(folder.join(part))?;
        }
        act(layers, &name, recipe, below)?;
        fs::remove_dir_all(folder.join("work"))?;
        fs::remove_dir(folder.join("root"))?;

        let (diff_id, entries) = compress(&folder.join("upper"), Compression::Gzip, &folder)?;
        if recipe.compression != Compression::Gzip {
            let (again, _) = compress(&folder.join("upper"), recipe.compression, &folder)?;
            ensure!(again == diff_id, "the layer changed while it was read");
        }
        let mut known = json!({"key": key(recipe, below), "diff_id": diff_id, "entries": entries});
        for compression in [Compression::Gzip, recipe.compression] {
            let path = blob_path(&folder, compression);
            known[compression.name()] = json!({
                "digest": digest(&mut File::open(&path)?)?,
                "size": fs::metadata(&path)?.len(),
            });
        }
        let layer = Self::new(&folder, recipe, below, &known)?;
        fs::write(folder.join("layer.json"), format!("{known:#}\n"))?;
        Ok(layer)
    }

    fn new(folder: &Path, recipe: &Recipe, below: &[Self], known: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("layer.json");
        let number = |value: &Value| value.as_u64().context("layer.json");
        let blob = |compression: Compression| -> Result<Blob> {
            Ok(Blob {
                path: blob_path(folder, compression),
                digest: text(&known[compression.name()]["digest"])?,
                size: number(&known[compression.name()]["size"])?,
            })
        };
        Ok(Self {
            name: recipe.name.clone(),
            why: recipe.why,
            compression: recipe.compression,
            diff_id: text(&known["diff_id"])?,
            entries: number(&known["entries"])?,
            blob: blob(recipe.compression)?,
            gzip: blob(Compression::Gzip)?,
            key: key(recipe, below),
            upper: format!("{}/upper", folder_name(recipe, below)),
        })
    }
}

fn folder_name(recipe: &Recipe, below: &[Layer]) -> String {
    format!("{:02}-{}", below.len() + 1, recipe.name)
}

fn blob_path(folder: &Path, compression: Compression) -> PathBuf {
    folder.join(format!("layer.tar.{}", compression.name()))
}

fn key(recipe: &Recipe, below: &[Layer]) -> String {
    let action = match recipe.action {
        Action::Bootstrap => SUITE,
        Action::Inside(script) | Action::Outside(script) => script,
    };
    let lower = below.last().map_or("", |layer| &layer.key);
    let text = format!("{lower}\n{}\n{action}", recipe.compression.name());
    hex(&Sha256::digest(text))
}

/// Makes the layer's changes in `NAME/upper`.
fn act(layers: &Path, name: &str, recipe: &Recipe, below: &[Layer]) -> Result<()> {
    let folder = layers.join(name);
    let script = match recipe.action {
        Action::Bootstrap => return bootstrap(&folder.join("upper")),
        Action::Inside(script) | Action::Outside(script) => script,
    };
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "/bin/sh", "-ec"])
        .env("SCRIPT", script)
        .env("TARGET", shell::target(""))
        .env("LC_ALL", "C.UTF-8")
        // Mount options use paths relative to this folder, to stay short with many layers.
        .current_dir(layers);
    if below.is_empty() {
        shell::output(unshare.arg(OUTSIDE).env("ROOT", folder.join("upper")))?;
        return Ok(());
    }
    let lower: Vec<_> = below
        .iter()
        .rev()
        .map(|layer| layer.upper.as_str())
        .collect();
    // Neither redirects nor metadata-only copies, which have no equivalent in a layer tar.
    let options = format!(
        "lowerdir={},upperdir={name}/upper,workdir={name}/work,index=off,metacopy=off,redirect_dir=off,xino=off",
        lower.join(":")
    );
    let enter = match recipe.action {
        Action::Inside(_) => INSIDE,
        _ => OUTSIDE,
    };
    shell::output(
        unshare
            .arg(format!("{OVERLAY}{enter}"))
            .env("OVERLAY", options)
            .env("ROOT", folder.join("root")),
    )?;
    Ok(())
}

const OVERLAY: &str = r#"
mount -t overlay overlay -o "$OVERLAY" "$ROOT""#;

/// Runs the script in the image. Mounts over /run, /tmp, /proc and /dev keep their contents out of
/// the layer.
const INSIDE: &str = r#"
mount -t tmpfs tmpfs "$ROOT/run"
mount -t tmpfs tmpfs "$ROOT/tmp"
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive
exec chroot "$ROOT" /bin/sh -ec "$SCRIPT"
"#;

const OUTSIDE: &str = r#"
cd "$ROOT"
umask 022
export PATH="$PATH:/usr/sbin:/sbin"
eval "$SCRIPT"
"#;

/// A minimal Debian, trimmed as its official container image is.
fn bootstrap(root: &Path) -> Result<()> {
    let mirror = setup::mirror()?;
    shell::output(
        Command::new("mmdebstrap")
            .args(["--quiet", "--mode=root", "--variant=minbase"])
            .arg("--format=directory")
            .arg("--aptopt=Acquire::Languages \"none\"")
            .arg("--dpkgopt=force-unsafe-io")
            .arg(SUITE)
            .arg(root)
            .arg(&mirror),
    )?;
    let trim =
        "rm -rf dev/* run/* tmp/* var/lib/apt/lists/* var/cache/apt/*.bin var/log/apt var/log/*.log
rm -f etc/resolv.conf etc/hostname
: > etc/resolv.conf";
    shell::output(
        Command::new("/bin/sh")
            .args(["-ec", trim])
            .current_dir(root),
    )?;
    Ok(())
}

/// Writes the tar of `upper` through the compressor. Returns its diff ID and the number of its
/// entries.
fn compress(upper: &Path, compression: Compression, folder: &Path) -> Result<(String, u64)> {
    let mut command = Command::new(compression.name());
    match compression {
        // No name and no time in the header.
        Compression::Gzip => command.args(["-n", "-6"]),
        Compression::Zstd => command.args(["-q", "-3"]),
    };
    let mut child = command
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(File::create(blob_path(folder, compression))?)
        .spawn()
        .with_context(|| shell::line(&command))?;
    let result = feed(&mut child, upper);
    let status = child.wait()?;
    ensure!(status.success(), "{}: {status}", shell::line(&command));
    result
}

fn feed(child: &mut Child, upper: &Path) -> Result<(String, u64)> {
    let mut out = Hashing {
        out: BufWriter::with_capacity(1 << 16, child.stdin.take().context("piped")?),
        hash: Sha256::new(),
    };
    let entries = tarball::write(upper, &mut out)?;
    Ok((format!("sha256:{}", hex(&out.hash.finalize())), entries))
}

/// Hashes the bytes that pass through.
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.out.write(data)?;
        self.hash.update(&data[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns `sha256:…` of the bytes of `data`.
pub(super) fn digest(data: &mut impl Read) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = data.read(&mut buffer)?;
        if n == 0 {
            return Ok(format!("sha256:{}", hex(&hash.finalize())));
        }
        hash.update(&buffer[..n]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
