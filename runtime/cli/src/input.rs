//! Where a command reads an archive from.

use std::io::{self, Read};
use std::path::Path;

use blockbox::convert::{Error, Result};

/// Opens `path`, or standard input where it is `-`, and says what to call it.
pub(super) fn input(path: &Path) -> Result<(String, Box<dyn Read + Send>)> {
    if path.as_os_str() == "-" {
        return Ok(("standard input".to_owned(), Box::new(io::stdin())));
    }
    let file = blockbox_files::open_input(path).map_err(Error::io(path))?;
    Ok((path.display().to_string(), Box::new(file)))
}
