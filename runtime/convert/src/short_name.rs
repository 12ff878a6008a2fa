//! Names without a host, which `registries.conf` may resolve otherwise than to Docker Hub.

use ocipull::{Reference, Registries};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// Returns the names in the store that `name` may stand for, in the order to try: those of the
/// registries to search, and then docker's.
pub(crate) fn stored(name: &str) -> Vec<String> {
    // Errors of the configuration files are reported by the functions that access a registry.
    let mut meant = Reference::candidates(name, &Registries::Default).unwrap_or_default();
    meant.extend(name.parse::<Reference>());
    let mut names: Vec<_> = meant
        .iter()
        .map(|reference| reference.canonical().to_string())
        .collect();
    // Equal names are adjacent.
    names.dedup();
    names
}

/// Calls `work` for each reference that `name` may stand for, until it succeeds.
///
/// # Errors
///
/// The error of `work` if there is one reference, [`Error::NoneOf`] if it failed for each, and any
/// error that does not concern the image's source.
pub fn first<T>(
    name: &str,
    registries: &Registries,
    progress: &dyn Progress,
    mut work: impl FnMut(&Reference) -> Result<T>,
) -> Result<T> {
    let mut candidates = Reference::candidates(name, registries)?;
    if let [only] = candidates.as_slice() {
        return work(only);
    }
    let mut last = None;
    for candidate in &mut candidates {
        match work(candidate) {
            Err(Error::Pull(error)) => {
                let mut text = format!("{candidate}: {error}");
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    text += &format!(": {error}");
                    cause = error.source();
                }
                progress.warning(&text);
                last = Some(error);
            }
            other => return other,
        }
    }
    Err(Error::NoneOf {
        name: name.to_owned(),
        tried: candidates.iter().map(ToString::to_string).collect(),
        source: Box::new(last.unwrap_or(ocipull::Error::Failed)),
    })
}
