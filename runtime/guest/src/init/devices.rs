//! Finds the guest's devices by the names that the host gave them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use blockbox_protocol::{CONTROL_PORT, IMAGE_SERIAL};

use super::failure::Failure;

/// The kernel's name of the read-only disk, unless a disk's serial identifies it.
const IMAGE_DEVICE: &str = "vda";

/// How long to wait for the control port: the device sends its name in a separate message.
const PORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the device node of the read-only disk, below `dev`.
pub(crate) fn image_disk(sys: &Path, dev: &Path) -> PathBuf {
    let name = named(&sys.join("block"), "serial", IMAGE_SERIAL)
        .unwrap_or_else(|| IMAGE_DEVICE.to_owned());
    dev.join(name)
}

/// Returns the device node of the disk with this serial, in the container.
pub(crate) fn disk(serial: &str) -> Option<String> {
    named(Path::new("/sys/block"), "serial", serial).map(|name| format!("/dev/{name}"))
}

/// Waits for the control port and returns its device node, below `dev`.
pub(crate) fn control_port(sys: &Path, dev: &Path) -> Result<PathBuf, Failure> {
    let class = sys.join("class/virtio-ports");
    let deadline = Instant::now() + PORT_TIMEOUT;
    loop {
        if let Some(name) = named(&class, "name", CONTROL_PORT) {
            let node = dev.join(name);
            if node.exists() {
                return Ok(node);
            }
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(
                format!("looking for the virtio port {CONTROL_PORT}"),
                "there is none",
            ));
        }
        sleep(Duration::from_millis(1));
    }
}

/// Returns the entry of `class` whose `attribute` is `wanted`.
fn named(class: &Path, attribute: &str, wanted: &str) -> Option<String> {
    fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let value = fs::read(entry.path().join(attribute)).ok()?;
        let is_it = value.trim_ascii_end() == wanted.as_bytes();
        is_it.then(|| entry.file_name().to_string_lossy().into_owned())
    })
}
