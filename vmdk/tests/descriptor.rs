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
fn one_file_is_monolithic_and_the_content_id_depends_on_the_extents() {
    let of = |files: &[(&str, u64)]| Descriptor::flat(files).expect("portable");
    assert_eq!(of(&[("a", 512)]).create_type(), "monolithicFlat");
    assert_eq!(of(&[("a", 512)]), of(&[("a", 512)]));
    assert_ne!(of(&[("a", 512)]).cid(), of(&[("b", 512)]).cid());
    assert_ne!(of(&[("a", 512)]).cid(), of(&[("a", 1024)]).cid());
}

#[test]
fn only_names_that_every_reader_supports_are_written() {
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
fn unsupported_parts_of_the_format_still_parse() {
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
        (parsed.version(), parsed.cid(), parsed.parent_cid()),
        (3, 0xab, 12)
    );
    assert_eq!(parsed.parent_hint(), Some("base disk.vmdk"));
    assert_eq!(parsed.ddb()["longContentID"], "x");
    assert_eq!(parsed.sectors(), 24);
    let kinds: Vec<_> = parsed.extents().iter().map(Extent::kind).collect();
    assert!(matches!(kinds[0], ExtentKind::Other { name, .. } if name == "VMFSSPARSE"));
    assert!(matches!(kinds[1], ExtentKind::Sparse { file, .. } if file == "a-s001.vmdk"));
    assert_eq!(parsed.extents()[2].access(), Access::None);
    assert_eq!(kinds[3], &ExtentKind::Zero);
    assert!(
        matches!(kinds[4], ExtentKind::Flat { file, offset_sectors: 7, .. } if file == "with blank.img")
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
        ("RW 1 FLOT \"a\" 0", Some("type")),
        ("RW 1 FLAT a 0", Some("file name")),
        ("RW 1 FLAT \"a 0", Some("file name")),
        ("RW 1 FLAT \"a\"0", Some("file name")),
        ("RW 1 FLAT \"a\"", Some("offset")),
        ("RW 1 FLAT \"a\" -1", Some("offset")),
        ("RW 1 FLAT \"a\" 0 0", Some("end")),
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
fn keys_with_two_values_and_text_that_is_not_a_key_are_refused() {
    for (line, expected) in [
        ("CID=1", SyntaxProblem::Duplicate("CID".to_owned())),
        ("cid=1", SyntaxProblem::Duplicate("CID".to_owned())),
        ("ddb.a=\"b\"c\"", SyntaxProblem::Value("ddb.a".to_owned())),
        ("ddb.a=\"b", SyntaxProblem::Value("ddb.a".to_owned())),
        ("ddb.a=b\u{1b}[2J", SyntaxProblem::Value("ddb.a".to_owned())),
        ("=1", SyntaxProblem::Unintelligible),
        ("a\u{1b}=1", SyntaxProblem::Unintelligible),
        ("hello", SyntaxProblem::Unintelligible),
    ] {
        match parse(line) {
            Err(Error::Syntax { problem, .. }) => assert_eq!(problem, expected, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    // The same again is no contradiction.
    assert!(parse("CID=12345678\nRW 1 ZERO").is_ok());
}

#[test]
fn unknown_keys_are_kept_and_those_of_encryption_refused() {
    let parsed = parse(
        "isNativeSnapshot=\"no\"\nsparsePolicy = thin\nddb.=1\nRW 1 ZERO\n\
         ddb.comment = \"a b\" # why\nddb.comment = \"c\"\nDDB.toolsVersion = \"10336\"",
    )
    .unwrap();
    assert_eq!(parsed.ddb()["comment"], "a b");
    assert_eq!(parsed.ddb()["toolsVersion"], "10336");
    assert_eq!(parsed.other_keys()["sparsePolicy"], "thin");
    assert_eq!(parsed.other_keys()["isNativeSnapshot"], "no");
    assert_eq!(
        Descriptor::parse(parsed.to_string().as_bytes()).unwrap(),
        parsed
    );
    for key in ["encryption.keySafe", "keySafe", "Encryption.data"] {
        let result = parse(&format!("{key}=\"x\"\nRW 1 ZERO"));
        assert!(matches!(result, Err(Error::Unsupported { .. })), "{key}");
    }
}

/// The descriptor of a tool, and the lines of its extents as this crate writes them.
#[track_caller]
fn reads(text: &[u8], extents: &[&str]) -> Descriptor {
    let parsed = Descriptor::parse(text).expect("what a tool writes");
    let lines: Vec<_> = parsed.extents().iter().map(ToString::to_string).collect();
    assert_eq!(lines, extents);
    assert_eq!(
        Descriptor::parse(parsed.to_string().as_bytes()).expect("own output"),
        parsed
    );
    parsed
}

#[test]
fn descriptors_of_esxi_are_read() {
    let parsed = reads(
        b"# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=fffffffe\nparentCID=ffffffff\n\
          isNativeSnapshot=\"no\"\ncreateType=\"vmfs\"\n\n# Extent description\n\
          RW 33554432 VMFS \"web-flat.vmdk\"\n\n# Change Tracking File\n\
          changeTrackPath=\"web-ctk.vmdk\"\n\n# The Disk Data Base\n#DDB\n\n\
          ddb.adapterType = \"lsilogic\"\nddb.thinProvisioned = \"1\"\n\
          ddb.uuid = \"60 00 C2 93 7b a0 3a 03-9f 22 56 29 93 b7 27 b3\"\n\
          ddb.iofilters = \"vmwarelwd\"\n",
        &["RW 33554432 VMFS \"web-flat.vmdk\""],
    );
    assert_eq!(parsed.other_keys()["changeTrackPath"], "web-ctk.vmdk");
    assert_eq!(parsed.size(), 16 << 30);
}

#[test]
fn descriptors_of_virtualbox_are_read() {
    reads(
        b"# Disk Descriptor File\r\nversion=1\r\nCID=00000000\r\nparentCID=ffffffff\r\n\
          createType=\"fullDevice\"\r\n\r\n# Extent description\r\nRW 63 FLAT \"pt.vmdk\" 0 \r\n\
          RW 2048 FLAT \"part1\" 0 partitionUUID 6000c293-7ba0-3a03-9f22-562993b727b3\r\n\
          RW 9 FLAT \"disk\" 63 deviceIdentifier \"\\\\?\\ide#disk\"\r\nRW 8 ZERO \r\n\r\n\
          # The disk Data Base \r\n#DDB\r\n\r\nddb.virtualHWVersion = \"4\"\r\n\
          ddb.uuid.image=\"50b5ad2d-1e7c-4a7f-a5dd-2c5c0d1e3a9b\"\r\n\
          ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\r\nddb.comment=\"\"\r\n",
        &[
            "RW 63 FLAT \"pt.vmdk\" 0",
            "RW 2048 FLAT \"part1\" 0 partitionUUID 6000c293-7ba0-3a03-9f22-562993b727b3",
            "RW 9 FLAT \"disk\" 63 deviceIdentifier \"\\\\?\\ide#disk\"",
            "RW 8 ZERO",
        ],
    );
}

#[test]
fn headings_comments_blanks_and_case_of_any_tool_are_read() {
    let rest = "version = 1\ncid=AB\nPARENTCID=FFFFFFFF\ncreatetype=monolithicFlat\nrw 1 flat \"a\" 0 # end\n";
    for heading in [
        "# Disk DescriptorFile\n",
        "# disk descriptorfile v2\n",
        "#Disk Descriptor File\n",
        "\n  \n# Made by a tool\n\t# Disk DescriptorFile  \nencoding=\"GBK\"\n",
        "# Made by a tool\n\n",
        "",
        "\u{feff}# Disk DescriptorFile\n",
    ] {
        let parsed = reads(
            format!("{heading}{rest}").as_bytes(),
            &["RW 1 FLAT \"a\" 0"],
        );
        assert_eq!((parsed.cid(), parsed.parent_cid()), (0xab, NO_PARENT));
    }
    // Without a heading only a version begins a descriptor.
    for text in ["CID=1\nversion=1\n", "RW 1 ZERO\nversion=1\n"] {
        let result = Descriptor::parse(format!("{text}{rest}").as_bytes());
        let expected = SyntaxProblem::NoSignature;
        assert!(
            matches!(&result, Err(Error::Syntax { line: 1, problem }) if *problem == expected),
            "{result:?}"
        );
    }
    // A parent that is not there, said in two ways.
    for parent in ["", "parentCID=ffffffff\nparentFileNameHint=\"\"\n"] {
        let text = format!("version=1\nCID=1\n{parent}createType=\"x\"\nRW 1 ZERO\n");
        let parsed = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (parsed.parent_cid(), parsed.parent_hint()),
            (NO_PARENT, None)
        );
    }
}

#[test]
fn names_are_read_in_the_encoding_that_the_descriptor_names() {
    let of = |encoding: &str, name: &[u8]| {
        let head = HEAD.replace("version=1\n", &format!("version=1\n{encoding}"));
        let text = [head.as_bytes(), b"RW 1 FLAT \"", name, b"\" 0\n"].concat();
        Descriptor::parse(&text).map(|parsed| {
            let again = Descriptor::parse(parsed.to_string().as_bytes());
            assert_eq!(again.expect("own output"), parsed);
            parsed.extents()[0].file().map(str::to_owned).unwrap()
        })
    };
    assert_eq!(of("", "Büro".as_bytes()).unwrap(), "Büro");
    assert_eq!(
        of("encoding=\"UTF-8\"\n", "Büro".as_bytes()).unwrap(),
        "Büro"
    );
    assert_eq!(
        of("encoding=\"windows-1252\"\n", b"B\xfcro \x80").unwrap(),
        "Büro €"
    );
    assert_eq!(of("encoding=\"Shift_JIS\"\n", b"ascii").unwrap(), "ascii");
    let unknown = of("encoding=\"Shift_JIS\"\n", b"\x83\x65");
    assert!(
        matches!(unknown, Err(Error::Unsupported { .. })),
        "{unknown:?}"
    );
    let neither = of("", b"B\xfcro");
    let expected = SyntaxProblem::NotText;
    assert!(matches!(&neither, Err(Error::Syntax { problem, .. }) if *problem == expected));
}

#[test]
fn no_text_of_a_descriptor_can_become_another_line() {
    let evil = "a\" 0\nRW 1 FLAT \"b";
    for result in [
        Extent::flat(evil, 1),
        Extent::flat_at(evil, 1, 1),
        Extent::sparse(evil, 1),
        Extent::flat("a\r", 1),
    ] {
        assert!(matches!(result, Err(Error::Name { .. })), "{result:?}");
    }
    let zero = || vec![Extent::zero(1).unwrap()];
    let custom = || Descriptor::new("custom", zero()).unwrap();
    for result in [
        Descriptor::new("x\"\nRW 1 ZERO\n#", zero()),
        custom().with_ddb("a", "b\"\nRW 1 ZERO\n#"),
        custom().with_ddb("a=1\nRW 1 ZERO\n#", "b"),
        custom().with_ddb("", "b"),
    ] {
        assert!(matches!(result, Err(Error::Value { .. })), "{result:?}");
    }
    assert!(matches!(Extent::zero(0), Err(Error::EmptyExtent)));
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
fn texts_that_are_not_descriptors_are_refused() {
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
    for key in ["version", "CID", "createType"] {
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
    let access = prop_oneof![
        Just(Access::ReadWrite),
        Just(Access::ReadOnly),
        Just(Access::None)
    ];
    let size = 1..1_u64 << 40;
    (
        access,
        size,
        0..3_u8,
        "[a-z][a-zü0-9._/ -]{0,20}[a-z]",
        0..u64::MAX,
    )
        .prop_map(|(access, sectors, kind, file, offset)| {
            let extent = match kind {
                0 => Extent::flat_at(file, offset, sectors),
                1 => Extent::sparse(file, sectors),
                _ => Extent::zero(sectors),
            };
            extent.expect("a good name").with_access(access)
        })
}

proptest! {
    #[test]
    fn every_descriptor_survives_being_written_and_parsed(
        extents in prop::collection::vec(extents(), 1..20),
        cid in any::<u32>(),
        create_type in "[a-zA-Z0-9 é]{0,20}",
        ddb in prop::collection::btree_map("[a-z.]{1,9}", "[a-z0-9 ü#=\t]{0,9}", 0..4),
    ) {
        let mut descriptor = Descriptor::new(create_type, extents).expect("valid").with_cid(cid);
        for (key, value) in ddb {
            descriptor = descriptor.with_ddb(key, value).expect("valid");
        }
        prop_assert_eq!(
            Descriptor::parse(descriptor.to_string().as_bytes()).expect("own output"),
            descriptor
        );
    }

    #[test]
    fn every_parsed_descriptor_survives_being_written(text in "((RW|RDONLY|noaccess|ddb|CID|ZERO|FLAT|[ =\"#0-9A-Z\\t]|é){0,20}\n){0,6}") {
        if let Ok(parsed) = parse(&text) {
            prop_assert_eq!(Descriptor::parse(parsed.to_string().as_bytes()).expect("own output"), parsed);
        }
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
fn missing_parent_has_the_value_of_the_specification() {
    assert_eq!(NO_PARENT, 0xffff_ffff);
}

/// QEMU's rewriting of a CID that got shorter leaves a newline after the NUL.
#[test]
fn bytes_after_a_nul_are_not_part_of_the_descriptor() {
    let descriptor = Descriptor::flat(&[("a.img", 512)]).unwrap();
    let text = format!("{descriptor}\0\nnonsense");
    assert_eq!(Descriptor::parse(text.as_bytes()).unwrap(), descriptor);
}

#[test]
fn a_descriptor_is_serialised_by_the_names_of_its_getters() {
    let extents = vec![
        Extent::flat("data.img", 2048).expect("portable"),
        Extent::zero(8)
            .expect("not empty")
            .with_access(Access::ReadOnly),
    ];
    let descriptor = Descriptor::new("custom", extents)
        .expect("portable")
        .with_cid(7);
    let value = serde_json::to_value(&descriptor).expect("no maps with other keys than text");
    assert_eq!(value["cid"], 7);
    assert_eq!(value["create_type"], "custom");
    assert_eq!(value["parent_hint"], serde_json::Value::Null);
    assert_eq!(value["ddb"]["geometry.heads"], "16");
    assert_eq!(value["extents"][0]["kind"]["Flat"]["file"], "data.img");
    assert_eq!(value["extents"][0]["sectors"], 2048);
    assert_eq!(value["extents"][1]["kind"], "Zero");
    assert_eq!(value["extents"][1]["access"], "ReadOnly");
}
