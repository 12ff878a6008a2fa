//! What cannot be in an image is refused, and named.

use std::io::{Cursor, Write};

use erofs_writer::{
    BlockSize, DeviceNumber, DeviceSlot, Error, FileData, Label, Metadata, Node, Options,
    Timestamp, XattrPrefixes, XattrProblem,
};

use crate::model::acl;

type Builder = erofs_writer::Builder<Cursor<Vec<u8>>>;

fn builder() -> Builder {
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    builder
        .add_path(b"dir/sub", Metadata::new(0o755), Node::Directory)
        .unwrap();
    builder
        .add_path(b"dir/file", Metadata::new(0o755), Node::Fifo)
        .unwrap();
    builder
}

/// The error, after which the builder must still make an image.
fn refused(act: impl FnOnce(&mut Builder) -> Result<(), Error>) -> String {
    let mut builder = builder();
    let error = act(&mut builder).unwrap_err();
    assert_eq!(builder.finish().unwrap().1.inodes, 4);
    error.to_string()
}

fn refused_node(meta: Metadata, node: Node) -> String {
    refused(|b| b.add_path(b"dir/x", meta, node).map(drop))
}

#[test]
fn invalid_and_taken_names_are_refused() {
    let add =
        |path: &[u8]| refused(|b| b.add_path(path, Metadata::new(0o755), Node::Fifo).map(drop));
    assert_eq!(
        add(b"dir/sub"),
        "/dir/sub exists already".replace("/dir/sub", "'/dir/sub'")
    );
    assert_eq!(add(b"dir/file"), "'/dir/file' exists already");
    assert_eq!(add(b"/"), "'/' exists already");
    assert_eq!(add(b"dir/file/x"), "'/dir/file' is not a directory");
    assert_eq!(add(b"dir/../x"), "'..' is not a valid file name, in '/dir'");
    assert_eq!(
        add(b"dir/a\0b"),
        "'a\\x00b' is not a valid file name, in '/dir'"
    );
    assert!(add(&[b'n'; 256]).ends_with("is not a valid file name, in '/'"));
    for name in [&b""[..], b".", b"..", b"a/b", b"\0"] {
        let mut image = builder();
        let error = image
            .add(image.root(), name, Metadata::new(0o755), Node::Fifo)
            .unwrap_err();
        assert!(matches!(error, Error::InvalidName { .. }), "{error}");
    }
}

#[test]
fn links_to_directories_and_foreign_nodes_are_refused() {
    assert_eq!(
        refused(|b| b.link(b.root(), b"l", b.lookup(b"dir/sub").unwrap())),
        "'/dir/sub' is a directory: it cannot have a second name"
    );
    assert_eq!(
        refused(|b| b.link_path(b"dir/sub", b.lookup(b"dir/file").unwrap())),
        "'/dir/sub' exists already"
    );
    let foreign = {
        let mut other = builder();
        for i in 0..9 {
            other
                .add_path(format!("{i}").as_bytes(), Metadata::new(0o755), Node::Fifo)
                .unwrap();
        }
        other.lookup(b"8").unwrap()
    };
    assert_eq!(
        refused(|b| b.link(b.root(), b"l", foreign)),
        "the node is not in this image"
    );
    assert_eq!(
        refused(|b| b.set_metadata(foreign, Metadata::new(0o755))),
        "the node is not in this image"
    );
    assert_eq!(
        refused(|b| b
            .add(foreign, b"l", Metadata::new(0o755), Node::Fifo)
            .map(drop)),
        "the node is not in this image"
    );
}

#[test]
fn attributes_out_of_range_are_refused() {
    let meta = || Metadata::new(0o755);
    assert_eq!(
        refused_node(meta().mode(0o10000), Node::Fifo),
        "'/dir/x': mode 4096 is out of range"
    );
    let mtime = Timestamp {
        secs: 0,
        nanos: 1_000_000_000,
    };
    assert_eq!(
        refused_node(meta().mtime(mtime), Node::Fifo),
        "'/dir/x': mtime 1000000000 is out of range"
    );
    let char = |major, minor| refused_node(meta(), Node::CharDevice(DeviceNumber { major, minor }));
    assert_eq!(char(4096, 0), "'/dir/x': major 4096 is out of range");
    assert_eq!(char(0, 1 << 20), "'/dir/x': minor 1048576 is out of range");
    let symlink = |target: Vec<u8>| refused_node(meta(), Node::Symlink(target));
    assert_eq!(symlink(vec![]), "'/dir/x': symlink 0 is out of range");
    assert_eq!(
        symlink(vec![b'x'; 4096]),
        "'/dir/x': symlink 4096 is out of range"
    );
    assert_eq!(
        symlink(b"a\0".to_vec()),
        "'/dir/x': the target 'a\\x00' holds a NUL"
    );
    assert!(matches!(BlockSize::new(256), Err(Error::BlockSize(256))));
    assert!(matches!(BlockSize::new(1000), Err(Error::BlockSize(1000))));
    assert!(matches!(BlockSize::new(1 << 17), Err(Error::BlockSize(_))));
    assert!(matches!(
        Label::new("sixteen bytes xx"),
        Err(Error::Label(_))
    ));
    assert!(matches!(Label::new("a\0"), Err(Error::Label(_))));
}

#[test]
fn invalid_xattrs_are_refused() {
    let problem = |xattrs: &[(&[u8], &[u8])]| {
        let xattrs = xattrs
            .iter()
            .map(|&(n, v)| (n.to_vec(), v.to_vec()))
            .collect();
        let meta = Metadata::new(0o755).xattrs(xattrs);
        match builder().add_path(b"x", meta, Node::Fifo) {
            Err(Error::Xattr { path, problem, .. }) => {
                assert_eq!(path, b"/x");
                Some(problem)
            }
            other => {
                other.unwrap();
                None
            }
        }
    };
    use XattrProblem::*;
    assert_eq!(problem(&[(b"user.a", b""), (b"user.b", b"")]), None);
    assert_eq!(
        problem(&[(b"user.a", b"1"), (b"user.a", b"2")]),
        Some(Duplicate)
    );
    assert_eq!(
        problem(&[(b"system.nfs4_acl", b"")]),
        Some(UnknownNamespace)
    );
    assert_eq!(problem(&[(b"", b"")]), Some(UnknownNamespace));
    assert_eq!(problem(&[(b"user", b"")]), Some(UnknownNamespace));
    assert_eq!(problem(&[(b"user.", b"")]), Some(InvalidName));
    assert_eq!(problem(&[(b"user.a\0", b"")]), Some(InvalidName));
    assert_eq!(
        problem(&[(&[b"user.", &[b'n'; 251][..]].concat(), b"")]),
        Some(InvalidName)
    );
    assert_eq!(problem(&[(b"user.a", &[0; 65536])]), Some(ValueTooLong));
    let large = [0; 65535];
    let four: [(&[u8], &[u8]); 4] = [
        (b"user.a", &large),
        (b"user.b", &large),
        (b"user.c", &large),
        (b"user.d", &large),
    ];
    assert_eq!(problem(&four[..3]), None);
    assert_eq!(problem(&four), Some(TooMany));
    assert_eq!(problem(&[(b"system.posix_acl_access", &acl())]), None);
    for bad in [
        &b""[..],
        b"\x01\0\0\0",
        &acl()[..19],
        &[&acl()[..], b"\xff\0\0\0\0\0\0\0"].concat(),
    ] {
        assert_eq!(
            problem(&[(b"system.posix_acl_default", bad)]),
            Some(MalformedAcl)
        );
    }
}

#[test]
fn invalid_xattr_prefixes_are_refused() {
    let many: Vec<String> = (0..129).map(|i| format!("user.{i}.")).collect();
    assert!(XattrPrefixes::new(&many[..128]).is_ok());
    assert!(
        matches!(XattrPrefixes::new(&many), Err(Error::XattrPrefix(last)) if last == b"user.128.")
    );
    let long = format!("user.{}", "n".repeat(255));
    assert!(XattrPrefixes::new([&long[..259]]).is_ok());
    for bad in ["", "user.", "user", "system.x", "user.a\0", &long] {
        assert!(
            matches!(XattrPrefixes::new([bad]), Err(Error::XattrPrefix(_))),
            "{bad}"
        );
    }
    assert!(matches!(
        XattrPrefixes::new(["user.a", "user.a"]),
        Err(Error::XattrPrefix(_))
    ));
}

#[test]
fn contents_of_others_and_beyond_a_device_are_refused() {
    let device = DeviceSlot::new([1; 64], 10);
    let mut builder = builder();
    let id = builder.add_device(device.clone()).unwrap();
    let mut add = |data| {
        builder
            .add_path(b"x", Metadata::new(0o755), Node::File(data))
            .map(drop)
    };
    let error = add(FileData::on_device(id, 9, 513)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "'/x': blocks 9..11 are beyond the device, which has 10"
    );
    let error = add(FileData::on_device(id, u64::MAX, u64::MAX >> 1)).unwrap_err();
    assert!(matches!(error, Error::BeyondDevice { .. }), "{error}");
    let error = add(FileData::on_device(id, 0, u64::MAX)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Attribute {
                attribute: "size",
                ..
            }
        ),
        "{error}"
    );

    let mut other = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let mut data = other.data();
    data.write_all(&[1; 5000]).unwrap();
    let foreign = data.finish().unwrap();
    assert!(matches!(add(foreign), Err(Error::ForeignData(_))));
    assert!(matches!(
        other.add_device(device),
        Err(Error::DeviceAfterData)
    ));
    let error = other.add_path(
        b"x",
        Metadata::new(0o755),
        Node::File(FileData::on_device(id, 0, 1)),
    );
    assert!(matches!(error, Err(Error::UnknownDevice { device: 0, .. })));
}

#[test]
fn contents_beyond_the_address_range_are_refused() {
    let mut one = builder();
    let mut data = one.data();
    assert!(matches!(data.hole(u64::MAX), Err(Error::TooLarge { .. })));
    assert!(matches!(data.hole(1 << 41), Err(Error::TooLarge { .. })));

    let mut two = builder();
    for _ in 0..2 {
        two.add_device(DeviceSlot::new([1; 64], 1 << 31)).unwrap();
    }
    assert!(matches!(two.finish(), Err(Error::TooLarge { .. })));
}

#[test]
fn implied_directories_take_the_attributes_of_their_own_entry_once() {
    let meta = Metadata::new(0o700).uid(5);
    let mut builder = builder();
    let dir = builder.lookup(b"/dir/").unwrap();
    assert_eq!(
        builder
            .add_path(b"./dir", meta.clone(), Node::Directory)
            .unwrap(),
        dir
    );
    assert!(matches!(
        builder.add_path(b"dir", meta.clone(), Node::Directory),
        Err(Error::AlreadyExists { path }) if path == b"/dir"
    ));
    assert_eq!(
        builder.add_path(b"/", meta, Node::Directory).unwrap(),
        builder.root()
    );
}

#[test]
fn epoch_of_a_full_second_of_nanoseconds_is_refused() {
    let options = |nanos| Options::default().epoch(Some(Timestamp { secs: 1, nanos }));
    let build = |nanos| Builder::new(Cursor::new(Vec::new()), options(nanos));
    assert!(build(999_999_999).is_ok());
    assert!(matches!(
        build(1_000_000_000),
        Err(Error::Epoch(1_000_000_000))
    ));
}

#[test]
fn debug_of_an_error_shows_its_path_as_text() {
    let error = Error::NotFound {
        path: b"usr/l\xff".into(),
    };
    assert_eq!(format!("{error:?}"), r#"NotFound { path: "usr/l\xff" }"#);
    assert_eq!(error.to_string(), r"'usr/l\xff' does not exist");
}
