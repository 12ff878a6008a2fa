//! Images that `mkfs.erofs` makes, as the kernel's own mount shows them and as this crate reads
//! them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};

use common::mkfs;
use common::oracle::{Sources, assert_reads_as_the_kernel};
use erofs_reader::{Buffered, Image};

#[test]
fn every_block_size_and_data_layout_reads_as_the_kernel_does() {
    let Some(sources) = Sources::new() else {
        return;
    };
    for options in [
        &["-b4096"][..],
        &["-b512"],
        &["-b1024"],
        &["-b2048", "-Enoinline_data"],
        &["-b4096", "-E^inline_data"],
        &["--chunksize=4096"],
        &["--chunksize=65536", "-Eforce-inode-blockmap"],
        &["--chunksize=8192", "-Eforce-chunk-indexes", "-b1024"],
        &["-Eforce-inode-compact", "--all-root", "-T1700000000"],
        &["-Eforce-inode-extended", "-Enosbcrc"],
    ] {
        sources.check(options);
    }
}

#[test]
fn every_way_to_store_xattrs_reads_as_the_kernel_does() {
    let Some(sources) = Sources::new() else {
        return;
    };
    for options in [
        &["-x1"][..],
        &["-x1000000"],
        &["-x-1"],
        &[
            "--xattr-prefix=user.overlay.long.",
            "--xattr-prefix=trusted.overlay.",
        ],
        &["--xattr-prefix=user.overlay.", "-Eplain-xattr-prefixes"],
        &["-Exattr-name-filter", "-b512"],
        &["--root-xattr-isize=200"],
    ] {
        sources.check(options);
    }
}

#[test]
fn images_with_48_bit_addresses_read_as_the_kernel_does() {
    let Some(sources) = Sources::new() else {
        return;
    };
    for options in [
        &["-E48bit"][..],
        &["-E48bit,dot-omitted"],
        &["-E48bit", "--chunksize=4096"],
    ] {
        sources.check(options);
    }
}

#[test]
fn image_reads_its_data_from_other_devices() {
    let Some(sources) = Sources::new() else {
        return;
    };
    let dir = sources.dir.path();
    for chunk in ["--chunksize=4096", "--chunksize=65536"] {
        let blob = dir.join("blob");
        let option = format!("--blobdev={}", blob.display());
        let Some(image) = mkfs(dir, "blobdev.erofs", &[chunk, &option], sources.tree.path()) else {
            return;
        };
        assert_reads_as_the_kernel(&image, &[&blob]);
        // Without `device=`, device addresses count on the one disk, after the image.
        let stitched = dir.join("stitched");
        let header = Image::open(File::open(&image).unwrap()).unwrap();
        let device = &header.superblock().devices[0];
        let start = device.uniaddr * header.superblock().block_size.bytes();
        let mut bytes = fs::read(&image).unwrap();
        bytes.resize(usize::try_from(start).unwrap(), 0);
        bytes.extend(fs::read(&blob).unwrap());
        fs::write(&stitched, bytes).unwrap();
        assert_reads_as_the_kernel(&stitched, &[]);
    }
}

#[test]
fn index_image_reads_its_data_from_the_tar() {
    let Some(sources) = Sources::new() else {
        return;
    };
    let dir = sources.dir.path();
    let tar = dir.join("nasty.tar");
    let Some(image) = mkfs(dir, "index.erofs", &["--tar=i"], &tar) else {
        return;
    };
    assert_reads_as_the_kernel(&image, &[&tar]);
}

#[test]
fn lookups_find_every_name_and_nothing_else() {
    let Some(sources) = Sources::new() else {
        return;
    };
    for options in [&["-b4096"][..], &["-b512"], &["-E48bit,dot-omitted"]] {
        let Some(file) = mkfs(
            sources.dir.path(),
            "image.erofs",
            options,
            sources.tree.path(),
        ) else {
            return;
        };
        let image = Image::open(Buffered::new(File::open(&file).unwrap())).unwrap();
        for step in image.walk() {
            let (path, inode) = step.unwrap();
            assert_eq!(image.lookup(&path).unwrap(), Some(inode));
            if !inode.is_symlink() {
                assert!(image.exists(&path).unwrap());
            }
            for absent in [&b"!"[..], b"\xff\xff"] {
                let beside = [&path[..], absent].concat();
                assert_eq!(image.lookup(&beside).unwrap(), None);
                assert!(matches!(
                    image.symlink_metadata(&beside),
                    Err(erofs_reader::Error::NotFound { path }) if path == beside
                ));
            }
        }
        let follow = |path: &str| image.metadata(path);
        let target = image.metadata("sizes/prose1025").unwrap();
        assert_eq!(follow("links/absolute/prose1025").unwrap(), target);
        assert_eq!(follow("/links//./up").unwrap(), target);
        assert_eq!(follow("../../links/../sizes/prose1025").unwrap(), target);
        assert!(matches!(
            follow("links/loop-a"),
            Err(erofs_reader::Error::SymlinkLoop { .. })
        ));
        let through = image.symlink_metadata("links/absolute/prose1025");
        assert_eq!(through.unwrap(), target);
        assert!(matches!(
            image.lookup(b"links/absolute/prose1025"),
            Err(erofs_reader::Error::WrongType { .. })
        ));
    }
}
