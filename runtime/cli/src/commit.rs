//! `blockbox commit`

use blockbox::commit::CommitOptions;
use blockbox::save::{self, Named};
use blockbox::store::{Reference, Store};
use blockbox::{Sandbox, remove};
use clap::Args;

use super::outfile::to_file;
use super::progress::Shown;

/// Make an image of what a sandbox is now: its image, and one layer more. The disk of one that runs
/// is frozen meanwhile.
#[derive(Debug, Args)]
pub(super) struct Commit {
    /// The sandbox's name, or the beginning of its id
    #[arg(value_name = "NAME")]
    name: String,
    /// A name for the image in the store, `oci:DIR[:TAG]`, or `oci-archive:FILE[:TAG]`
    #[arg(value_name = "REFERENCE")]
    reference: ocipull::Reference,
    /// What the layer is, for the image's history
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
        // Until it has a name, or is saved, nobody may take it for unused.
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
        // It was only made to be saved, unless it has been in the store before.
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
