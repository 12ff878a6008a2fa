//! Syncs folders.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

/// Makes the names in `folder` survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io(folder))
}
