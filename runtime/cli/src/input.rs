//! Archives that commands read.

use std::io::{self, Read};
use std::path::Path;

use blockbox::convert::{Error, Result};

/// Opens `path`, or standard input if it is `-`, and returns its name for messages.
pub(super) fn input(path: &Path) -> Result<(String, Box<dyn Read + Send>)> {
    if path.as_os_str() == "-" {
        return Ok(("standard input".to_owned(), Box::new(io::stdin())));
    }
    let file = blockbox_files::open_input(path).map_err(Error::io(path))?;
    Ok((path.display().to_string(), Box::new(file)))
}
