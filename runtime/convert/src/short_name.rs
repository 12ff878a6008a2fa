//! Names without a host, which `registries.conf` may give another meaning than Docker Hub's.

use ocipull::{Reference, Registries};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// The names in the store that `name` may mean, in the order to try: those of the registries to
/// search, and then docker's.
pub(crate) fn stored(name: &str) -> Vec<String> {
    // What is wrong with the files is for those to say who ask a registry.
    let mut meant = Reference::candidates(name, &Registries::Default).unwrap_or_default();
    meant.extend(name.parse::<Reference>());
    let mut names: Vec<_> = meant
        .iter()
        .map(|reference| reference.canonical().to_string())
        .collect();
    // Neighbours are all that can be equal.
    names.dedup();
    names
}

/// Has `work` try the images that `name` may mean until it succeeds with one.
///
/// # Errors
///
/// Its error where there is one image, [`Error::NoneOf`] where it failed for each, and the first
/// that has nothing to do with where images come from.
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
