//! Secrets: files in a separate tmpfs, which are never stored on a disk.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use blockbox_protocol::Secret;
use rustix::mount::MountAttrFlags;

use super::boot::make_dir;
use super::failure::{Failure, Step};
use super::{memory, mounts};

const FOLDER: &str = "/run/secrets";

/// Writes the secrets to `/run/secrets`, which is then read-only.
pub(crate) fn provide(secrets: &[Secret]) -> Result<(), Failure> {
    if secrets.is_empty() {
        return Ok(());
    }
    let step = format!("providing {FOLDER}");
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // A tmpfs can be swapped out, but a guest has no swap space unless it creates some.
    let folder = memory::tmpfs(&[("mode", "0755")], flags).step(step.clone())?;
    for secret in secrets {
        write(&memory::path_of(&folder), secret)?;
    }
    make_dir(Path::new(FOLDER), 0o755)?;
    memory::attach(&folder, Path::new(FOLDER)).step(step)?;
    mounts::read_only(Path::new(FOLDER))
}

fn write(folder: &Path, secret: &Secret) -> Result<(), Failure> {
    let step = || {
        let name = String::from_utf8_lossy(&secret.name);
        format!("providing the secret {name}")
    };
    if secret.name.contains(&b'/') || matches!(&*secret.name, b"" | b"." | b"..") {
        return Err(Failure::new(step(), "not the name of a file"));
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join(std::ffi::OsStr::from_bytes(&secret.name)))
        .step(step())?;
    file.write_all(&secret.data).step(step())?;
    std::os::unix::fs::fchown(&file, Some(secret.uid), Some(secret.gid)).step(step())?;
    let mode = fs::Permissions::from_mode(secret.mode & 0o7777);
    file.set_permissions(mode).step(step())
}
