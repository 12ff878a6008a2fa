//! Selecting images of a layout or an archive by name.

use crate::{Digest, name};

/// The name after the path of a reference.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// `@N`, skopeo's way to name an image that has no name: its position, counted from 0.
    Position(usize),
    /// `@sha256:…`: the digest of its manifest or index.
    Digest(Digest),
    /// A name or a tag.
    Text(&'a str),
}

impl<'a> Name<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        let Some(rest) = text.strip_prefix('@') else {
            return Self::Text(text);
        };
        match (rest.parse(), rest.parse()) {
            (Ok(position), _) => Self::Position(position),
            (_, Ok(digest)) => Self::Digest(digest),
            _ => Self::Text(text),
        }
    }
}

/// The images that `wanted` names, by their positions in `images`, which lists the names of each.
/// An exact name comes before one that means the same to Docker (`app`,
/// `docker.io/library/app:latest`), and that before a tag alone.
pub(crate) fn find(images: &[Vec<String>], wanted: &str) -> Vec<usize> {
    let full = |name: &str| name::parse(name).ok();
    let whole = full(wanted);
    let by = |matches: &dyn Fn(&str) -> bool| -> Vec<usize> {
        let images = images.iter().enumerate();
        images
            .filter(|(_, names)| names.iter().any(|name| matches(name)))
            .map(|(position, _)| position)
            .collect()
    };
    let mut found = by(&|name| name == wanted);
    if found.is_empty() {
        // A tag alone is a valid name of a repository, too.
        found = by(&|name| name.contains(['/', ':']) && whole.is_some() && full(name) == whole);
    }
    if found.is_empty() {
        found = by(&|name| name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted));
    }
    found
}

/// The names to display for the image at `position`.
pub(crate) fn shown(position: usize, names: &[String]) -> Vec<String> {
    match names {
        [] => vec![format!("@{position}")],
        names => names.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_come_before_equivalent_ones_and_tags() {
        let images: Vec<Vec<String>> =
            [&["v1"][..], &["docker.io/library/app:v1"], &[], &["app:2"]]
                .map(|names| names.iter().map(|&name| name.to_owned()).collect())
                .into();
        assert_eq!(find(&images, "v1"), [0]);
        assert_eq!(find(&images, "app:v1"), [1]);
        assert_eq!(find(&images, "docker.io/library/app:2"), [3]);
        assert_eq!(find(&images, "2"), [3]);
        assert!(find(&images, "app").is_empty());
        assert!(find(&images, "").is_empty());
    }

    #[test]
    fn positions_and_digests_follow_an_at_sign() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(Name::of("@1"), Name::Position(1));
        let text = format!("@{digest}");
        assert_eq!(Name::of(&text), Name::Digest(digest.parse().unwrap()));
        assert_eq!(Name::of("1"), Name::Text("1"));
        assert_eq!(Name::of("@x"), Name::Text("@x"));
    }
}
