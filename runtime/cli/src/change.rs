//! What the command line changes of an existing sandbox.

use blockbox::image::Image;
use blockbox::process::{Overrides, change_env, resolve};
use blockbox::spec::Spec;
use blockbox::store::Store;

use super::boot;

/// Returns a sandbox's spec with the changes of the command line.
pub(super) fn changed(
    store: &Store,
    mut spec: Spec,
    command: &boot::Process,
    options: &boot::Options,
    foreground: bool,
) -> anyhow::Result<Spec> {
    let image = match spec.root_disk {
        // A disk has no image configuration.
        Some(_) => None,
        None => {
            let missing = || blockbox::convert::Error::NoImage(spec.image.asked.clone());
            let image = Image::open(store, &spec.image.manifest_digest.parse()?)?;
            Some(image.ok_or_else(missing)?)
        }
    };
    let config = image.as_ref().and_then(|image| image.config().config());
    let mut process = match spec.process.take() {
        Some(process) => process,
        None => resolve(config, Overrides::default())?,
    };
    if command.is_given() {
        // Start from the image's Entrypoint and Cmd again, as `run` does.
        let overrides = command.overrides(false)?;
        process.args = resolve(config, overrides)?.args;
    }
    change_env(&mut process, command.env()?);
    let (workdir, user) = command.place();
    if let Some(workdir) = workdir {
        process.cwd = std::path::Path::new("/")
            .join(workdir)
            .into_os_string()
            .into();
    }
    if let Some(user) = user {
        process.user.clone_from(user);
    }
    if command.is_given() || !command.terminal.is_default() {
        process.tty = command.terminal.tty(!foreground);
    }
    spec.process = Some(process);
    options.change(&mut spec.machine);
    if let Some(folders) = options.on_disk() {
        spec.on_disk = folders;
    }
    for mount in options.tmpfs_mounts() {
        spec.mounts.retain(|other| other.target != mount.target);
        spec.mounts.push(mount);
    }
    Ok(spec)
}
