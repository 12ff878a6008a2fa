//! Directories that are no tree, or whose blocks are none.

use std::io::Cursor;

use erofs_reader::extract::{DirOptions, TarOptions, extract_to_dir, extract_to_tar};
use erofs_reader::{Detail as C, Error, FileType, Image};

use crate::common::hostile::assert_corrupt;
use crate::common::lab::Lab;
use crate::problems;

#[test]
fn the_last_name_of_a_directory_block_begins_inside_it() {
    // Its end is found by its first NUL, so only its beginning can be wrong.
    for nameoff in [512_u16, 513, 0xffff] {
        let found = problems(|lab| {
            let (at, _) = lab.dirent("dir", "sub");
            lab.put(at + 8, &nameoff.to_le_bytes());
        });
        assert_corrupt!(found, C::NameRange { .. });
    }
}

#[test]
fn directory_blocks_must_hold_their_entries_and_names() {
    for nameoff in [0_u16, 11, 13, 0x0fff, 0xffff] {
        let found = problems(|lab| {
            let at = lab.data("dir");
            lab.put(at + 8, &nameoff.to_le_bytes());
        });
        assert_corrupt!(found, C::DirentCount { nameoff: n, .. } if *n == nameoff);
    }
    for nameoff in [0_u16, 5, 0xffff] {
        let found = problems(|lab| {
            let (at, _) = lab.dirent("dir", "bb");
            lab.put(at + 8, &nameoff.to_le_bytes());
        });
        assert_corrupt!(found, C::NameRange { .. });
    }
    for bad in [b"a/", b"a\0"] {
        let found = problems(|lab| {
            let (_, name) = lab.dirent("dir", "aa");
            lab.put(name, bad);
        });
        assert_corrupt!(found, C::Name(name) if name == bad);
    }
    // Two entries whose names begin at the same place: the first is empty.
    let found = problems(|lab| {
        let (first, _) = lab.dirent("dir", "aa");
        let (second, _) = lab.dirent("dir", "bb");
        let nameoff: [u8; 2] = lab.0[second + 8..second + 10].try_into().unwrap();
        lab.put(first + 8, &nameoff);
    });
    assert_corrupt!(found, C::Name(name) if name.is_empty());
}

#[test]
fn names_must_ascend_and_differ() {
    for bad in [b"zz", b"aa"] {
        let found = problems(|lab| {
            let (_, name) = lab.dirent("dir", "bb");
            lab.put(name, bad);
        });
        assert_corrupt!(found, C::NameOrder(_));
    }
}

#[test]
fn entries_must_name_inodes_of_their_type() {
    let found = problems(|lab| {
        let (at, _) = lab.dirent("dir", "bb");
        lab.0[at + 10] = 2;
    });
    assert_corrupt!(
        found,
        C::EntryType {
            entry: 2,
            inode: FileType::Regular
        }
    );
    let found = problems(|lab| {
        let (at, _) = lab.dirent("dir", "bb");
        lab.put(at, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0]);
    });
    assert_corrupt!(found, C::BeyondDevice { .. });
    let found = problems(|lab| {
        let (at, _) = lab.dirent("dir", "bb");
        lab.put(at, &(u64::MAX >> 1).to_le_bytes());
    });
    assert_corrupt!(found, C::AddressOverflow);
    // An inode in a metabox that the image does not have.
    let found = problems(|lab| {
        let (at, _) = lab.dirent("dir", "bb");
        lab.put(at, &(1_u64 << 63).to_le_bytes());
    });
    assert_corrupt!(found, C::NoSpecialInode);
}

#[test]
fn dots_must_point_to_the_directory_and_its_parent() {
    for (name, index) in [(".", 0), ("..", 1)] {
        let found = problems(|lab| {
            let at = lab.data("dir/sub") + 12 * index;
            let file = lab.nid("file");
            lab.put(at, &file.to_le_bytes());
        });
        assert_corrupt!(found, C::Dot { name: n, .. } if *n == name);
    }
}

#[test]
fn directories_must_be_a_tree() {
    // A loop to the root, and a directory with two names.
    for target in ["", "dir", "dir/sub"] {
        let found = problems(|lab| {
            let nid = lab.nid(target);
            let (at, _) = lab.dirent("dir", "cc");
            lab.put(at, &nid.to_le_bytes());
            lab.0[at + 10] = 2;
        });
        assert_corrupt!(found, C::DirectoryLinkedTwice);
    }
    // A directory larger than the image.
    let found = problems(|lab| {
        let at = lab.inode("dir");
        lab.put(at + 8, &(1_u64 << 40).to_le_bytes());
    });
    assert_corrupt!(found, C::DirectoriesOverlap);
}

#[test]
fn directories_nested_without_end_are_cut_off() {
    use erofs_writer::{Builder, Metadata, Node, Options};
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let mut at = builder.root();
    for _ in 0..erofs_reader::MAX_DEPTH + 5 {
        at = builder
            .add(at, b"d", Metadata::new(0o755), Node::Directory)
            .unwrap();
    }
    let bytes = builder.finish().unwrap().0.into_inner();
    let image = Image::open(&bytes[..]).unwrap();
    let report = image.check();
    let problems: Vec<_> = report.findings.into_iter().map(|f| f.problem).collect();
    assert_corrupt!(problems, C::Depth);
    let last = image.walk().last().unwrap().unwrap_err();
    assert!(matches!(
        last.reason(),
        Error::Corrupt { what, .. } if *what.detail() == C::Depth
    ));
}

#[test]
fn errors_of_a_walk_name_the_path() {
    // A block of a directory, an inode and an inode's block map, and where the walk, the counting
    // and both extractions meet them.
    type Damage = fn(&mut Lab);
    let damages: [(&str, Damage); 4] = [
        ("/", |lab| {
            let at = lab.data("");
            lab.put(at + 8, &[0xff, 0xff]);
        }),
        ("dir", |lab| {
            let (_, name) = lab.dirent("dir", "bb");
            lab.put(name, b"aa");
        }),
        ("dir/sub", |lab| {
            let at = lab.inode("dir/sub");
            lab.put(at, &[0xff, 0xff]);
        }),
        ("other", |lab| {
            let at = lab.inode("other");
            lab.put(at + 8, &u64::MAX.to_le_bytes());
        }),
    ];
    for (path, damage) in damages {
        let mut lab = Lab::new();
        damage(&mut lab);
        lab.repair();
        let image = lab.image();
        let to = tempfile::tempdir().unwrap();
        let options = DirOptions::unprivileged();
        let errors = [
            image.walk().find_map(Result::err).unwrap(),
            image.statistics().unwrap_err(),
            extract_to_tar(&image, std::io::sink(), &TarOptions::default()).unwrap_err(),
            extract_to_dir(&image, to.path(), &options).unwrap_err(),
        ];
        for error in errors {
            assert!(
                error.to_string() == format!("cannot read {path}"),
                "{error}"
            );
            assert!(matches!(
                error.reason(),
                Error::Corrupt { nid: Some(_), .. } | Error::Unsupported { nid: Some(_), .. }
            ));
        }
    }
}
