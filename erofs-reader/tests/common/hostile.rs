//! What the catalogues of malicious images share.

use std::io::{Cursor, Read};

use erofs_reader::Image;

/// Reads all there is, for what must not happen: panics, endless loops, huge allocations.
pub(crate) fn exercise(image: &Image<&[u8]>) {
    for step in image.walk().take(10_000) {
        let Ok((path, inode)) = step else {
            continue;
        };
        let _ = image.lookup(&path);
        let _ = image.resolve(&path);
        let _ = image.xattrs(&inode);
        let _ = image.read_link(&inode);
        let _ = image.extents(&inode);
        if let Ok(file) = image.file(&inode) {
            let _ = file.take(1 << 20).read_to_end(&mut Vec::new());
        }
    }
    let mut dumped = Vec::new();
    erofs_reader::dump(image, &mut dumped).unwrap();
    let options = erofs_reader::extract::TarOptions::default().max_bytes(1 << 20);
    let _ = erofs_reader::extract::extract_to_tar(image, Cursor::new(Vec::new()), &options);
}

/// Fails unless one of the problems found is of a kind.
macro_rules! assert_found {
    ($problems:expr, $pattern:pat $(if $guard:expr)?) => {{
        let problems = $problems;
        assert!(
            problems
                .iter()
                .any(|problem| matches!(problem, $pattern $(if $guard)?)),
            "{} is not in {problems:#?}",
            stringify!($pattern)
        );
    }};
}

/// Fails unless one of the problems found is a corruption of a kind.
macro_rules! assert_corrupt {
    ($problems:expr, $pattern:pat $(if $guard:expr)?) => {
        $crate::common::hostile::assert_found!(
            $problems,
            erofs_reader::Problem::Corrupt(what)
                if matches!(what.detail(), $pattern $(if $guard)?)
        )
    };
}

pub(crate) use {assert_corrupt, assert_found};
