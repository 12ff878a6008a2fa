//! `blockbox create`, and the options it shares with `run`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use blockbox::convert::Error;
use blockbox::image::Image;
use blockbox::pull::pull_name;
use blockbox::repair;
use blockbox::root;
use blockbox::spec::{Machine, RestartPolicy, RootDisk, Ulimit};
use blockbox::store::Store;
use blockbox::{Builder, ForkOptions, Sandbox, Snapshot, check_machine, check_name};
use clap::{ArgAction, Args, ValueEnum};

use super::boot;
use super::change::changed;
use super::duration::duration;
use super::network;
use super::patches::Patches;
use super::progress::{Shown, Work};
use super::pull::Source;
use super::size::disk_size;
use super::storage::{Mounts, Secrets};

/// Make a sandbox without starting it, and print its id; `start` starts it.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Create {
    #[command(flatten)]
    options: NewSandbox,
}

impl Create {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let mut id_file = self.options.id_file()?;
        let sandbox = match self.options.of_snapshot(store, true)? {
            Some((snapshot, options, work)) => {
                let sandbox = snapshot.create(&options)?;
                work.finish();
                sandbox
            }
            None => {
                let root = self.options.root(store)?;
                self.options.builder(store, &root, true)?.create()?
            }
        };
        let id = sandbox.info()?.spec.id;
        id_file.write(&id)?;
        println!("{id}");
        Ok(())
    }
}

/// Options that do not apply to a sandbox made from a snapshot: the snapshot decides them.
const OF_IMAGES: [&str; 24] = [
    "partition",
    "writable",
    "restart",
    "timeout",
    "read_only",
    "disk_dir",
    "ulimit",
    "upper_size",
    "network",
    "allow",
    "deny",
    "host_port",
    "publish",
    "publish_all",
    "dns",
    "dns_search",
    "add_host",
    "patch",
    "patch_file",
    "volume",
    "mount",
    "secret",
    "pull",
    "platform",
];

/// Options of a new sandbox.
#[derive(Debug, Args)]
pub(super) struct NewSandbox {
    /// The image: its name, as for `pull`; or `disk:FILE`, a raw, qcow2 or VMDK disk with the root
    /// file system, whose command is `/bin/sh` unless another is named
    #[arg(value_name = "REFERENCE", required_unless_present = "snapshot")]
    reference: Option<OsString>,
    /// Begin with this snapshot of a sandbox, instead of an image; all words are then the command's
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = OF_IMAGES)]
    pub(super) snapshot: Option<String>,
    #[command(flatten)]
    pub(super) process: boot::Process,

    /// The sandbox's name [default: the beginning of its id]
    #[arg(long)]
    name: Option<String>,
    /// The host name [default: the sandbox's name]
    #[arg(short = 'h', long, value_parser = boot::hostname)]
    hostname: Option<String>,
    /// Print help
    // Docker's `-h` is the host name in the commands that make a sandbox.
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Remove the sandbox when the command ends
    #[arg(long)]
    rm: bool,
    /// When to restart the command after it ends: no, on-failure[:N] or always
    #[arg(long, default_value_t, value_name = "POLICY")]
    restart: RestartPolicy,
    /// Stop the sandbox after this time: seconds, or a number with `s`, `m` or `h`; 0 is no limit
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Make the root read-only; `/tmp` and `/run` stay writable. There is no writable disk, unless
    /// --patch, --disk-dir or --forkable need one
    #[arg(long)]
    read_only: bool,
    /// Mount a folder of the writable disk itself (ext4, not an overlay) there, with the image's
    /// contents: for docker in a sandbox, `--disk-dir /var/lib/docker`
    #[arg(long, value_parser = guest_folder, value_name = "PATH")]
    disk_dir: Vec<String>,
    /// Limit what commands may use, as `nofile=1024:4096`
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<Ulimit>,
    /// Accepted for compatibility with docker: a sandbox always has an init
    #[arg(long)]
    init: bool,
    /// Attach a name and a value to the sandbox
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Write the sandbox's id to a new file
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    /// The size of the writable disk, which takes space on the host only as it is written
    /// [default: 4G]
    #[arg(long, value_parser = disk_size, value_name = "SIZE")]
    upper_size: Option<u64>,
    #[command(flatten)]
    options: boot::Options,
    #[command(flatten)]
    network: network::NetworkOptions,
    #[command(flatten)]
    patches: Patches,
    #[command(flatten)]
    mounts: Mounts,
    #[command(flatten)]
    secrets: Secrets,

    /// The number of the root's partition on `disk:FILE` [default: found by the partitions' types]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    partition: Option<u32>,
    /// Write to `disk:FILE` itself, not to a disk of the sandbox
    #[arg(long, conflicts_with = "read_only")]
    writable: bool,

    /// When to pull the image
    #[arg(long, value_enum, default_value_t)]
    pull: Pull,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    pub(super) shown: Shown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Pull {
    /// If the store has no image of this name
    #[default]
    Missing,
    /// Every time
    Always,
    /// Use the store only
    Never,
}

/// Parses an absolute path in the guest, other than the root, and returns its normal form.
fn guest_folder(text: &str) -> Result<String, String> {
    let mut path = PathBuf::from("/");
    for part in Path::new(text).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            _ => return Err("use a path without `..`".to_owned()),
        }
    }
    match text.starts_with('/') && path != Path::new("/") {
        true => Ok(path.display().to_string()),
        false => Err("use an absolute path in the sandbox, other than /".to_owned()),
    }
}

/// The root of a new sandbox.
#[derive(Debug)]
pub(super) enum Root {
    Image(Box<Image>),
    Disk(RootDisk),
}

impl Root {
    fn image(&self) -> Option<&Image> {
        match self {
            Self::Image(image) => Some(image),
            Self::Disk(_) => None,
        }
    }
}

impl NewSandbox {
    /// Returns the image or the disk. Options that can fail without it are checked first, because a
    /// pull may take minutes.
    pub(super) fn root(&self, store: &Store) -> anyhow::Result<Root> {
        self.check_pairs()?;
        check_machine(store, &self.machine()?)?;
        if let Some(name) = &self.name {
            check_name(store, name)?;
        }
        self.labels()?;
        self.process.env()?;
        let reference = self.reference()?;
        if let Some(disk) = root::find(reference) {
            if self.source.names_platform() || self.pull == Pull::Always {
                bail!("--platform and --pull are for a root that is an image, not disk:FILE");
            }
            let disk = disk?.partition(self.partition).writable(self.writable);
            return Ok(Root::Disk(disk));
        }
        if self.partition.is_some() || self.writable {
            bail!("--partition and --writable are for a root that is a disk: disk:FILE");
        }
        let image = match self.pull {
            Pull::Missing => image(store, reference, &self.source, self.shown),
            Pull::Always => fetch(store, reference, &self.source, self.shown),
            Pull::Never => {
                let image = Image::find(store, reference)?;
                Ok(self.source.checked(reference, image)?)
            }
        };
        Ok(Root::Image(Box::new(image?)))
    }

    /// Fails for options that contradict each other, and that clap cannot compare.
    fn check_pairs(&self) -> anyhow::Result<()> {
        if self.rm && self.restart != RestartPolicy::default() {
            bail!("conflicting options: --rm and --restart {}", self.restart);
        }
        let disk_anyway =
            !self.patches.is_empty() || !self.disk_dir.is_empty() || self.options.is_forkable();
        if self.upper_size.is_some() && self.read_only && !disk_anyway {
            bail!("conflicting options: --upper-size and --read-only, which has no writable disk");
        }
        Ok(())
    }

    /// Returns the machine that the command line describes.
    fn machine(&self) -> anyhow::Result<Machine> {
        self.options.machine(self.source.arch(self.reference()?)?)
    }

    fn reference(&self) -> anyhow::Result<&str> {
        let reference = self.reference.as_deref().unwrap_or_default();
        reference
            .to_str()
            .with_context(|| format!("{} is not the name of an image", reference.display()))
    }

    /// Returns the snapshot to begin with, the changes of the command line, and the progress of
    /// copying its disk; `None` if the sandbox begins with an image.
    pub(super) fn of_snapshot(
        &self,
        store: &Store,
        background: bool,
    ) -> anyhow::Result<Option<(Snapshot, ForkOptions, Work)>> {
        let Some(name) = &self.snapshot else {
            return Ok(None);
        };
        let snapshot = Snapshot::open(store, name)?;
        let mut command = self.process.clone();
        command.arguments.splice(0..0, self.reference.clone());
        let spec = snapshot.record().spec.clone();
        let mut spec = changed(store, spec, &command, &self.options, !background)?;
        spec.hostname.clone_from(&self.hostname);
        spec.labels.extend(self.labels()?);
        let work = self.shown.work(format!("copying {name}"), None);
        let mut options = ForkOptions::default()
            .spec(spec)
            .remove_on_exit(self.rm)
            .meter(work.meter());
        if let Some(name) = &self.name {
            options = options.name(name);
        }
        Ok(Some((snapshot, options, work)))
    }

    fn labels(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut labels = BTreeMap::new();
        for label in &self.label {
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            if name.is_empty() {
                bail!("--label {label:?} has no name");
            }
            labels.insert(name.to_owned(), value.to_owned());
        }
        Ok(labels)
    }

    /// Returns the builder of the sandbox; in the background, it has a terminal and input only if
    /// requested.
    pub(super) fn builder<'a>(
        &self,
        store: &'a Store,
        root: &Root,
        background: bool,
    ) -> anyhow::Result<Builder<'a>> {
        let builder = match root {
            Root::Image(image) => Sandbox::builder(store, self.reference()?, image),
            Root::Disk(disk) => Sandbox::on_disk(store, disk.clone()),
        };
        let mut builder = builder
            .process(self.process.overrides(background)?)
            .machine(self.machine()?)
            .labels(self.labels()?)
            .restart(self.restart)
            .remove_on_exit(self.rm)
            .read_only(self.read_only)
            .disk_dirs(self.disk_dir.clone())
            .ulimits(self.ulimit.clone())
            .network(self.network.network(root.image())?)
            .patches(self.patches.read()?);
        builder = self.secrets.add(self.mounts.add(builder))?;
        builder = self.options.tmpfs_mounts().fold(builder, Builder::mount);
        if let Some(size) = self.upper_size {
            builder = builder.upper_size(size);
        }
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        if let Some(name) = &self.hostname {
            builder = builder.hostname(name);
        }
        if let Some(folders) = self.options.on_disk() {
            builder = builder.on_disk(folders);
        }
        if let Some(limit) = self.timeout.filter(|limit| !limit.is_zero()) {
            builder = builder.timeout(limit);
        }
        Ok(builder)
    }

    /// Fails for options that apply to sandboxes made from the pool, and not to the machine in it.
    pub(super) fn check_for_pool(&self) -> anyhow::Result<()> {
        let given = [
            ("--name", self.name.is_some()),
            ("--rm", self.rm),
            ("--restart", self.restart != RestartPolicy::default()),
            ("--timeout", self.timeout.is_some()),
            ("--cidfile", self.cidfile.is_some()),
            ("--label", !self.label.is_empty()),
            ("--snapshot", self.snapshot.is_some()),
            ("--publish", self.network.publishes()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => {
                bail!("{option} is for the sandboxes that `run --from-pool` makes")
            }
            None => Ok(()),
        }
    }

    /// Checks that the file for the sandbox's id can be made, before anything else is.
    pub(super) fn id_file(&self) -> anyhow::Result<IdFile> {
        IdFile::new(self.cidfile.as_deref())
    }
}

/// The file of `--cidfile`. It is made when the id is known, so that nothing that ends this process
/// before leaves it behind.
#[derive(Debug)]
pub(super) struct IdFile {
    path: Option<PathBuf>,
}

impl IdFile {
    /// Checks that the file can be made. An empty one is taken over: it has no id.
    fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = path {
            let made = open_id_file(path)
                .with_context(|| format!("the file for the sandbox's id, {}", path.display()))?;
            drop(made);
            let _ = std::fs::remove_file(path);
        }
        Ok(Self {
            path: path.map(Path::to_owned),
        })
    }

    pub(super) fn write(&mut self, id: &str) -> anyhow::Result<()> {
        if let Some(path) = &self.path {
            open_id_file(path)
                .and_then(|mut file| file.write_all(id.as_bytes()))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// Opens a new file, or one that is empty.
fn open_id_file(path: &Path) -> std::io::Result<std::fs::File> {
    match std::fs::File::create_new(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::metadata(path)?;
            if !found.is_file() || found.len() > 0 {
                return Err(error);
            }
            std::fs::File::options().write(true).open(path)
        }
        made => made,
    }
}

/// Returns the image called `reference`, pulled if the store has no such image for the platform.
/// Local sources may have changed, so they are read each time.
pub(super) fn image(
    store: &Store,
    reference: &str,
    source: &Source,
    shown: Shown,
) -> anyhow::Result<Image> {
    let name = reference.parse::<ocipull::Reference>().ok();
    if name.as_ref().is_some_and(ocipull::Reference::is_local) {
        return fetch(store, reference, source, shown);
    }
    let image = match stored(store, reference, source, shown) {
        Err(Error::NoImage(_)) => return fetch(store, reference, source, shown),
        found => found?,
    };
    let by_name = Image::entry(store, reference)?.is_some();
    if by_name && !image.runs_on(&source.options().source.platform) {
        return fetch(store, reference, source, shown);
    }
    Ok(source.checked(reference, image)?)
}

/// Returns the image that the store has under this name. Files that are missing or too short are
/// restored.
fn stored(store: &Store, reference: &str, source: &Source, shown: Shown) -> Result<Image, Error> {
    let digest = Image::resolve(store, reference)?;
    let (bars, mut options) = (shown.bars_unless_complete(), source.options());
    options.source.events = Some(bars.events());
    repair::open(store, &digest, &options, &bars)
}

fn fetch(store: &Store, reference: &str, source: &Source, shown: Shown) -> anyhow::Result<Image> {
    let (bars, mut options) = (shown.bars_unless_complete(), source.options());
    options.source.events = Some(bars.events());
    let image = pull_name(store, reference, &options, &bars)?;
    Ok(source.checked(reference, image)?)
}
