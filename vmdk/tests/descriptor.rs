//! What is written, and what the parser takes and refuses.

use proptest::prelude::*;
use vmdk::{
    Access, Descriptor, Error, Extent, ExtentKind, MAX_DESCRIPTOR, NO_PARENT, NameProblem,
    SyntaxProblem,
};

#[test]
fn a_flat_descriptor_is_exactly_the_portable_subset() {
    let descriptor = Descriptor::flat(&[("fsmeta.erofs", 3 * 512), ("../layers/a.erofs", 1 << 40)]);
    insta::assert_snapshot!(descriptor.expect("portable"), @r#"
    # Disk DescriptorFile
    version=1
    CID=165ad3d8
    parentCID=ffffffff
    createType="twoGbMaxExtentFlat"

    # Extent description
    RW 3 FLAT "fsmeta.erofs" 0
    RW 2147483648 FLAT "../layers/a.erofs" 0

    # The Disk Data Base
    #DDB

    ddb.adapterType = "ide"
    ddb.geometry.cylinders = "16383"
    ddb.geometry.heads = "16"
    ddb.geometry.sectors = "63"
    ddb.virtualHWVersion = "4"
    "#);
}

#[test]
fn one_file_is_monolithic_and_the_content_id_depends_on_what_the_extents_say() {
    let of = |files: &[(&str, u64)]| Descriptor::flat(files).expect("portable");
    assert_eq!(of(&[("a", 512)]).create_type, "monolithicFlat");
    assert_eq!(of(&[("a", 512)]), of(&[("a", 512)]));
    assert_ne!(of(&[("a", 512)]).cid, of(&[("b", 512)]).cid);
    assert_ne!(of(&[("a", 512)]).cid, of(&[("a", 1024)]).cid);
}

#[test]
fn only_names_every_reader_takes_are_written() {
    use NameProblem::*;
    for (name, expected) in [
        ("", Empty),
        ("/etc/shadow", Absolute),
        ("a b", Blank),
        ("a\tb", Character),
        ("nbd:host", Colon),
        ("a\"b", Character),
        ("a\nRW 1 ZERO", Character),
        ("a\\b", Character),
        ("a\0b", Character),
        ("é", Character),
        (&"x".repeat(512), TooLong),
    ] {
        match Descriptor::flat(&[(name, 512)]) {
            Err(Error::Name { problem, .. }) => assert_eq!(problem, expected, "{name:?}"),
            other => panic!("{name:?}: {other:?}"),
        }
    }
}

#[test]
fn only_whole_sectors_are_written() {
    for bytes in [0, 1, 511, 513] {
        assert!(matches!(
            Descriptor::flat(&[("a", bytes)]),
            Err(Error::Unaligned { .. })
        ));
    }
    let none: [(&str, u64); 0] = [];
    assert!(matches!(Descriptor::flat(&none), Err(Error::NoExtents)));
    let half = 1 << 62;
    assert!(matches!(
        Descriptor::flat(&[("a", half), ("b", half)]),
        Err(Error::Overflow)
    ));
}

#[test]
fn more_files_than_a_descriptor_can_name_are_an_error() {
    let name = "x".repeat(500);
    let files = vec![(name, 512); 5000];
    assert!(matches!(
        Descriptor::flat(&files),
        Err(Error::TooLong { .. })
    ));
}

const HEAD: &str =
    "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"custom\"\n";

fn parse(rest: &str) -> Result<Descriptor, Error> {
    Descriptor::parse(format!("{HEAD}{rest}").as_bytes())
}

#[test]
fn what_the_format_defines_and_we_cannot_read_still_parses() {
    let parsed = Descriptor::parse(
        b"# Disk DescriptorFile\r\n\
          version=3\r\n\
          encoding=\"windows-1252\"\r\n\
          CID=ab\r\n\
          parentCID=0000000c\r\n\
          isNativeSnapshot=\"no\"\r\n\
          createType=\"vmfsSparse\"\r\n\
          parentFileNameHint=\"base disk.vmdk\"\r\n\
          # Extent description\r\n\
          RW 10 VMFSSPARSE \"a-delta.vmdk\"\r\n\
          RDONLY 2 SPARSE \"a-s001.vmdk\"\r\n\
          NOACCESS 3\r\n\
          RW 4 ZERO\r\n\
          RW\t5\tFLAT  \"with blank.img\"\t7\r\n\
          changeTrackPath=\"a-ctk.vmdk\"\r\n\
          ddb.longContentID = \"x\"\r\n\0\0\0",
    )
    .expect("valid");
    assert_eq!(
        (parsed.version, parsed.cid, parsed.parent_cid),
        (3, 0xab, 12)
    );
    assert_eq!(parsed.parent_hint.as_deref(), Some("base disk.vmdk"));
    assert_eq!(parsed.ddb["longContentID"], "x");
    assert_eq!(parsed.sectors().expect("small"), 24);
    let kinds: Vec<_> = parsed.extents.iter().map(|extent| &extent.kind).collect();
    assert!(matches!(kinds[0], ExtentKind::Other { name, .. } if name == "VMFSSPARSE"));
    assert!(matches!(kinds[1], ExtentKind::Sparse { file } if file == "a-s001.vmdk"));
    assert_eq!(parsed.extents[2].access, Access::None);
    assert_eq!(kinds[3], &ExtentKind::Zero);
    assert!(
        matches!(kinds[4], ExtentKind::Flat { file, offset_sectors: 7 } if file == "with blank.img")
    );
}

#[test]
fn extent_paths_that_are_absolute_or_break_their_quotes_are_refused() {
    for name in ["/dev/sda", "a\\b", "a\u{1b}[2Jb"] {
        assert!(
            matches!(
                parse(&format!("RW 1 FLAT \"{name}\" 0\n")),
                Err(Error::Name { .. })
            ),
            "{name:?}"
        );
    }
}

#[test]
fn malformed_extents_name_their_line_and_field() {
    for (line, field) in [
        ("RW", None),
        ("RW x FLAT \"a\" 0", Some("size")),
        ("RW -1 FLAT \"a\" 0", Some("size")),
        ("RW +1 FLAT \"a\" 0", Some("size")),
        ("RW 0 FLAT \"a\" 0", Some("size")),
        ("RW 99999999999999999999 ZERO", Some("size")),
        ("RW 1", Some("type")),
        ("RW 1 flat \"a\" 0", Some("type")),
        ("RW 1 FLAT a 0", Some("file name")),
        ("RW 1 FLAT \"a 0", Some("file name")),
        ("RW 1 FLAT \"a\"0", Some("file name")),
        ("RW 1 FLAT \"a\"", Some("offset")),
        ("RW 1 FLAT \"a\" -1", Some("offset")),
        ("RW 1 FLAT \"a\" 0 0", Some("offset")),
        ("RW 1 FLAT \"a\" \"b\"", Some("offset")),
        ("RW 1 ZERO \"a\"", Some("end")),
    ] {
        match (parse(line), field) {
            (Err(Error::Syntax { line: 6, problem }), Some(field)) => {
                assert_eq!(problem, SyntaxProblem::Extent(field), "{line:?}");
            }
            (Err(Error::Syntax { line: 6, problem }), None) => {
                assert_eq!(problem, SyntaxProblem::Unintelligible, "{line:?}");
            }
            (other, _) => panic!("{line:?}: {other:?}"),
        }
    }
}

#[test]
fn unknown_and_repeated_keys_are_refused() {
    for (line, expected) in [
        ("exec=1", SyntaxProblem::UnknownKey("exec".to_owned())),
        ("ddb.=1", SyntaxProblem::UnknownKey("ddb.".to_owned())),
        ("cid=1", SyntaxProblem::UnknownKey("cid".to_owned())),
        ("CID=1", SyntaxProblem::Duplicate("CID".to_owned())),
        ("ddb.a=\"b\"c\"", SyntaxProblem::Value("ddb.a".to_owned())),
        ("hello", SyntaxProblem::Unintelligible),
    ] {
        match parse(line) {
            Err(Error::Syntax { problem, .. }) => assert_eq!(problem, expected, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn sizes_never_overflow() {
    let max = u64::MAX;
    for extents in [
        format!("RW {max} ZERO\n"),
        format!("RW {max} ZERO\nRW {max} ZERO\n"),
        format!("RW {} ZERO\n", (1_u64 << 54)),
    ] {
        assert!(matches!(parse(&extents), Err(Error::Overflow)), "{extents}");
    }
    assert!(parse(&format!("RW {} ZERO\n", (1_u64 << 54) - 1)).is_ok());
}

#[test]
fn what_is_no_descriptor_is_refused() {
    for bytes in [
        &b""[..],
        b"\0\0\0\0",
        b"KDMV\x01\0\0\0",
        b"# Disk Descriptor",
        b"\xff\xfe",
        b"version=1\n",
    ] {
        assert!(matches!(
            Descriptor::parse(bytes),
            Err(Error::Syntax { .. })
        ));
    }
    assert!(matches!(parse(""), Err(Error::NoExtents)));
    let long = vec![b'#'; MAX_DESCRIPTOR as usize + 1];
    assert!(matches!(
        Descriptor::parse(&long),
        Err(Error::TooLong { .. })
    ));
    let version = HEAD.replace("version=1", "version=4");
    assert!(matches!(
        Descriptor::parse(format!("{version}RW 1 ZERO").as_bytes()),
        Err(Error::Unsupported { .. })
    ));
    for key in ["version", "CID", "parentCID", "createType"] {
        let without: String = HEAD
            .lines()
            .filter(|line| !line.starts_with(&format!("{key}=")))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(
            matches!(
                Descriptor::parse(format!("{without}RW 1 ZERO").as_bytes()),
                Err(Error::Syntax { problem: SyntaxProblem::Missing(missing), .. }) if missing == key
            ),
            "{key}"
        );
    }
}

fn extents() -> impl Strategy<Value = Extent> {
    let kind = prop_oneof![
        ("[a-z0-9._/ -]{0,20}[a-z]", 0..u64::MAX).prop_map(|(file, offset_sectors)| {
            ExtentKind::Flat {
                file: file.trim_start_matches('/').to_owned(),
                offset_sectors,
            }
        }),
        Just(ExtentKind::Zero),
        "[a-z]{1,9}".prop_map(|file| ExtentKind::Sparse { file }),
    ];
    let access = prop_oneof![
        Just(Access::ReadWrite),
        Just(Access::ReadOnly),
        Just(Access::None)
    ];
    (access, 1..1_u64 << 40, kind).prop_map(|(access, sectors, kind)| Extent {
        access,
        sectors,
        kind,
    })
}

proptest! {
    #[test]
    fn every_descriptor_survives_being_written_and_parsed(
        extents in prop::collection::vec(extents(), 1..20),
        (version, cid, parent_cid) in (1_u32..=3, any::<u32>(), any::<u32>()),
        create_type in "[a-zA-Z0-9]{1,20}",
        parent_hint in prop::option::of("[a-z /.]{0,20}"),
        ddb in prop::collection::btree_map("[a-z.]{1,9}", "[a-z0-9 ]{0,9}", 0..4),
    ) {
        let descriptor = Descriptor {
            version, cid, parent_cid, create_type, parent_hint, extents, ddb,
        };
        prop_assert_eq!(
            Descriptor::parse(descriptor.to_string().as_bytes()).expect("own output"),
            descriptor
        );
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Descriptor::parse(&bytes);
        let _ = Descriptor::parse(&[HEAD.as_bytes(), &bytes].concat());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(RW|RDONLY|NOACCESS|ddb|CID|[ =\"0-9A-Z\n\t]){0,60}") {
        let _ = parse(&text);
    }
}

#[test]
fn no_parent_is_what_the_specification_says() {
    assert_eq!(NO_PARENT, 0xffff_ffff);
}

/// QEMU's rewriting of a CID that got shorter leaves a newline behind the NUL.
#[test]
fn what_follows_a_nul_is_not_the_descriptors() {
    let descriptor = Descriptor::flat(&[("a.img", 512)]).unwrap();
    let text = format!("{descriptor}\0\nnonsense");
    assert_eq!(Descriptor::parse(text.as_bytes()).unwrap(), descriptor);
}
