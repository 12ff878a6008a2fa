//! `blockbox commit`

use blockbox::commit::CommitOptions;
use blockbox::save::{self, Named};
use blockbox::store::{Reference, Store};
use blockbox::{Sandbox, remove};
use clap::Args;

use super::outfile::to_file;
use super::progress::Shown;

/// Make an image of a sandbox: its image with one more layer. The disk of a running sandbox is
/// frozen meanwhile.
#[derive(Debug, Args)]
pub(super) struct Commit {
    /// The sandbox's name, or the beginning of its id
    #[arg(value_name = "NAME")]
    name: String,
    /// A name for the image in the store, `oci:DIR[:TAG]`, or `oci-archive:FILE[:TAG]`
    #[arg(value_name = "REFERENCE")]
    reference: ocipull::Reference,
    /// A message for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Who made the image
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// Change the configuration, as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
    /// STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    #[command(flatten)]
    shown: Shown,
}

impl Commit {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        use ocipull::Reference as Target;

        anyhow::ensure!(
            matches!(
                &self.reference,
                Target::Registry { digest: None, .. }
                    | Target::OciLayout { .. }
                    | Target::OciArchive { .. }
            ),
            "{} cannot be committed to: use REPO[:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG]",
            self.reference
        );
        let work = self.shown.work(format!("committing {}", self.name), None);
        let options = CommitOptions::default()
            .meter(work.meter())
            .message(self.message)
            .author(self.author)
            .changes(self.changes);
        // Until the image has a name or is saved, no other process may remove it as unused.
        let access = store.share()?;
        let image = Sandbox::open(store, &self.name)?.commit(&options)?;
        work.finish();
        let bars = self.shown.bars();
        let saved = match &self.reference {
            Target::OciLayout { dir, tag } => {
                save::to_folder(&image, dir, tag.as_deref(), &bars).map_err(Into::into)
            }
            Target::OciArchive { file, tag } => to_file(file, |out| {
                let named = Named {
                    image: &image,
                    name: tag.as_deref(),
                };
                Ok(save::to_archive(&[named], out, &bars)?)
            }),
            name => {
                store.references().update(|table| {
                    table.insert(name.to_string(), Reference::now(image.digest()));
                })?;
                println!("{}", image.digest());
                return Ok(());
            }
        };
        drop(access);
        // The image was made only to be saved, unless the store had it before.
        let digest = image.digest().to_string();
        let names = store.references().read()?;
        if !names
            .values()
            .any(|target| target.manifest_digest == digest)
        {
            remove::image(store, &digest)?;
        }
        saved
    }
}
