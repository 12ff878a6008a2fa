//! A tree in memory: built into an image on one side, and what a walk of that image must find on
//! the other.

use std::collections::BTreeMap;
use std::io::{Cursor, Seek, Write};
use std::path::Path;

use erofs_writer::{
    Builder, DeviceNumber, Error, FileData, Metadata, Node, NodeId, Options, Summary, Timestamp,
};
use testkit::{Entry, Kind, Walk, oracle, walk};

/// What a name of the model is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Spec {
    Dir,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
    /// Another name of what is at a path.
    Link(Vec<u8>),
}

impl Spec {
    /// What it is to the builder, but for contents and links, which it must have been given.
    pub(crate) fn node(&self) -> Node {
        match self.clone() {
            Self::Dir => Node::Directory,
            Self::Symlink(target) => Node::Symlink(target),
            Self::Char(major, minor) => Node::CharDevice(DeviceNumber { major, minor }),
            Self::Block(major, minor) => Node::BlockDevice(DeviceNumber { major, minor }),
            Self::Fifo => Node::Fifo,
            Self::Socket => Node::Socket,
            Self::File(_) | Self::Link(_) => unreachable!("the builder must be given it first"),
        }
    }
}

/// Names in the order in which they are added.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) entries: Vec<(Vec<u8>, Metadata, Spec)>,
}

impl Model {
    pub(crate) fn add(&mut self, path: impl AsRef<[u8]>, meta: Metadata, spec: Spec) -> &mut Self {
        self.entries.push((path.as_ref().to_vec(), meta, spec));
        self
    }

    /// Writes all contents, in the model's order.
    pub(crate) fn write_data<W: Write + Seek>(
        &self,
        builder: &mut Builder<W>,
    ) -> Result<BTreeMap<Vec<u8>, FileData>, Error> {
        let mut data = BTreeMap::new();
        for (path, _, spec) in &self.entries {
            if let Spec::File(contents) = spec {
                let mut writer = builder.data();
                writer.write_all(contents)?;
                data.insert(path.clone(), writer.finish()?);
            }
        }
        Ok(data)
    }

    /// Adds all names, in the model's order, links last.
    pub(crate) fn add_names<W: Write + Seek>(
        &self,
        builder: &mut Builder<W>,
        data: &BTreeMap<Vec<u8>, FileData>,
    ) -> Result<(), Error> {
        let mut ids: BTreeMap<&[u8], NodeId> = BTreeMap::new();
        for (path, meta, spec) in &self.entries {
            let node = match spec {
                Spec::File(_) => Node::File(data[path]),
                Spec::Link(_) => continue,
                other => other.node(),
            };
            ids.insert(path, builder.add_path(path, meta.clone(), node)?);
        }
        for (path, _, spec) in &self.entries {
            if let Spec::Link(target) = spec {
                builder.link_path(path, ids[&target[..]])?;
            }
        }
        Ok(())
    }

    pub(crate) fn build(&self, options: Options) -> Result<(Vec<u8>, Summary), Error> {
        let mut builder = Builder::with_dedupe(Cursor::new(Vec::new()), options)?;
        let data = self.write_data(&mut builder)?;
        self.add_names(&mut builder, &data)?;
        let (out, summary) = builder.finish()?;
        Ok((out.into_inner(), summary))
    }

    /// What a walk must find.
    pub(crate) fn walk(&self) -> Walk {
        let mut kinds = Kinds::default();
        let mut found: Walk = self
            .entries
            .iter()
            .filter(|(_, _, spec)| !matches!(spec, Spec::Link(_)))
            .map(|(path, meta, spec)| (path.clone(), entry(meta, kinds.of(spec))))
            .collect();
        let default = || entry(&Metadata::new(0o755), Kind::Directory);
        for (path, _, _) in &self.entries {
            found.entry(Vec::new()).or_insert_with(default);
            for (i, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
                found.entry(path[..i].to_vec()).or_insert_with(default);
            }
        }
        let mut names: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for (path, _, spec) in &self.entries {
            if let Spec::Link(target) = spec {
                names.entry(target).or_insert(vec![target]).push(path);
            }
        }
        for (target, names) in &mut names {
            names.sort();
            let mut shared = found[*target].clone();
            shared.first_name = Some(names[0].to_vec());
            found.extend(names.iter().map(|name| (name.to_vec(), shared.clone())));
        }
        found
    }
}

/// What a walk says of contents: asked of the walk itself, which alone knows its digest.
#[derive(Default)]
struct Kinds(BTreeMap<Vec<u8>, Kind>);

impl Kinds {
    fn of(&mut self, spec: &Spec) -> Kind {
        match spec {
            Spec::Dir => Kind::Directory,
            Spec::File(contents) => self
                .0
                .entry(contents.clone())
                .or_insert_with(|| {
                    let dir = tempfile::tempdir().unwrap();
                    std::fs::write(dir.path().join("f"), contents).unwrap();
                    walk(dir.path()).unwrap()[&b"f"[..]].kind.clone()
                })
                .clone(),
            Spec::Symlink(target) => Kind::Symlink(target.clone()),
            &Spec::Char(major, minor) => Kind::CharDevice { major, minor },
            &Spec::Block(major, minor) => Kind::BlockDevice { major, minor },
            Spec::Fifo => Kind::Fifo,
            Spec::Socket => Kind::Socket,
            Spec::Link(_) => unreachable!("links have the kind of their target"),
        }
    }
}

fn entry(meta: &Metadata, kind: Kind) -> Entry {
    Entry {
        kind,
        mode: meta.mode.into(),
        uid: meta.uid,
        gid: meta.gid,
        mtime: (meta.mtime.secs, meta.mtime.nanos),
        xattrs: meta.xattrs.iter().cloned().collect(),
        first_name: None,
    }
}

/// Fails the test where `fsck.erofs` finds a fault.
pub(crate) fn fsck(image: &Path, devices: &[&Path]) {
    let Some(mut command) = oracle("fsck.erofs") else {
        return;
    };
    // Reads every byte of every file, too.
    command.arg("--extract");
    for device in devices {
        command.arg(format!("--device={}", device.display()));
    }
    let output = command.arg(image).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn at(secs: i64, nanos: u32) -> Metadata {
    Metadata::new(0o644).mtime(Timestamp { secs, nanos })
}

pub(crate) fn owned(uid: u32, gid: u32) -> Metadata {
    Metadata::new(0o4711).uid(uid).gid(gid).mtime(Timestamp {
        secs: 1_700_000_000,
        nanos: 0,
    })
}

pub(crate) fn with_xattrs(xattrs: &[(&str, &[u8])]) -> Metadata {
    at(1_700_000_000, 0).xattrs(
        xattrs
            .iter()
            .map(|&(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
            .collect(),
    )
}

/// Bytes that do not repeat.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    testkit::noise(length as u64 | 1, length)
}

/// An ACL as `getxattr(2)` gives it: owner, user 1000, group, mask, others.
pub(crate) fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 7, u32::MAX),
        (0x02, 6, 1000),
        (0x04, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 4, u32::MAX),
    ];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// A file capability (`cap_net_raw=ep`), which the kernel parses before it shows it.
pub(crate) fn capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

/// One of everything that was ever got wrong.
pub(crate) fn nasty() -> Model {
    let mut model = Model::default();
    let m = || at(1_700_000_000, 0);
    model.add("", owned(7, 8).mode(0o1777), Spec::Dir);
    for size in [0, 1, 31, 511, 512, 513, 4095, 4096, 4097, 70_000, 3 << 20] {
        model.add(format!("sizes/{size}"), m(), Spec::File(noise(size)));
    }
    model.add("same/one", m(), Spec::File(noise(5000)));
    model.add("same/two", owned(5, 6), Spec::File(noise(5000)));

    for id in [0, 65535, 65536, u32::MAX - 1] {
        model.add(format!("owners/u{id}"), owned(id, 0), Spec::File(vec![1]));
        model.add(format!("owners/g{id}"), owned(0, id), Spec::Fifo);
        model.add(format!("owners/d{id}"), owned(id, id), Spec::Dir);
    }
    for mode in [0, 0o4755, 0o2755, 0o1777, 0o7777, 0o400] {
        let meta = m().mode(mode);
        model.add(format!("modes/{mode:o}"), meta, Spec::File(vec![2]));
    }
    for (i, (secs, nanos)) in [
        (0, 0),
        (0, 1),
        (-1, 999_999_999),
        (-2_208_988_800, 0),
        (1_700_000_000, 123_456_789),
        (2_147_483_647, 0),
        (2_147_483_648, 5),
        (4_294_967_296, 0),
        (16_000_000_000, 999_999_999),
    ]
    .into_iter()
    .enumerate()
    {
        model.add(format!("times/f{i}"), at(secs, nanos), Spec::File(vec![3]));
        model.add(format!("times/d{i}"), at(secs, nanos), Spec::Dir);
        model.add(
            format!("times/l{i}"),
            at(secs, nanos).mode(0o777),
            Spec::Symlink(b"x".to_vec()),
        );
    }
    for (major, minor) in [
        (0, 0),
        (1, 3),
        (8, 255),
        (8, 256),
        (4095, 1_048_575),
        (259, 70_000),
    ] {
        model.add(
            format!("dev/c{major}-{minor}"),
            m(),
            Spec::Char(major, minor),
        );
        model.add(
            format!("dev/b{major}-{minor}"),
            m(),
            Spec::Block(major, minor),
        );
    }
    model.add("dev/fifo", m(), Spec::Fifo);
    model.add("dev/socket", m(), Spec::Socket);

    for length in [
        1, 30, 300, 418, 450, 479, 480, 481, 511, 512, 513, 1000, 4000, 4095,
    ] {
        let meta = m().mode(0o777);
        model.add(
            format!("links/{length}"),
            meta,
            Spec::Symlink(vec![b'a'; length]),
        );
    }

    let mut long = vec![b'n'; 255];
    model.add([b"names/", &long[..]].concat(), m(), Spec::File(vec![4]));
    long[254] = b'o';
    model.add([b"names/", &long[..]].concat(), m(), Spec::Dir);
    model.add(
        [b"names/", &long[..], b"/", &long[..]].concat(),
        m(),
        Spec::Fifo,
    );
    for name in [
        &b"\xff\xfe not utf-8"[..],
        b"\x01",
        b"\n",
        b" ",
        b"!",
        b"-",
        b".hidden",
        b"...",
        b"..a",
        b".\x01",
        b"\\",
        b"Case",
        b"case",
        b"\xc3\xa9",
        b"e\xcc\x81",
    ] {
        model.add([b"names/", name].concat(), m(), Spec::File(name.to_vec()));
    }

    xattrs(&mut model);

    model.add("hard/a", owned(3, 4), Spec::File(noise(2000)));
    model.add("hard/deep/b", m(), Spec::Link(b"hard/a".to_vec()));
    model.add("another", m(), Spec::Link(b"hard/a".to_vec()));
    model.add("hard/link", m(), Spec::Symlink(b"nowhere".to_vec()));
    model.add("hard/link2", m(), Spec::Link(b"hard/link".to_vec()));
    model.add("hard/null", m(), Spec::Char(1, 3));
    model.add("hard/null2", m(), Spec::Link(b"hard/null".to_vec()));
    model.add("hard/pipe", m(), Spec::Fifo);
    model.add("hard/0pipe", m(), Spec::Link(b"hard/pipe".to_vec()));

    for i in 0..300 {
        model.add(format!("many/entry-number-{i}"), m(), Spec::File(vec![]));
        model.add(format!("dirs/{i}/x"), m(), Spec::Socket);
    }
    model.add(
        "deep/".repeat(300) + "end",
        m(),
        Spec::File(b"bottom".to_vec()),
    );
    model.add("empty", m(), Spec::Dir);
    model
}

fn xattrs(model: &mut Model) {
    let long = noise(3000);
    let acl = acl();
    let capability = capability();
    let everything: Vec<(&str, &[u8])> = vec![
        ("user.a", b""),
        ("user.\u{e9}", b"value"),
        ("user.long", &long),
        ("trusted.overlay.opaque", b"y"),
        ("security.selinux", b"system_u:object_r:bin_t:s0\0"),
        ("security.capability", &capability),
        ("system.posix_acl_access", &acl),
    ];
    // user.* exists only on files and directories, ACLs not on symbolic links.
    let special: Vec<(&str, &[u8])> = vec![
        ("trusted.x", b"1"),
        ("trusted.long", &long),
        ("security.selinux", b"system_u:object_r:bin_t:s0\0"),
    ];
    model.add(
        "xattr/file",
        with_xattrs(&everything),
        Spec::File(noise(100)),
    );
    model.add("xattr/empty", with_xattrs(&everything), Spec::File(vec![]));
    model.add("xattr/none", with_xattrs(&[]), Spec::File(vec![]));
    let mut of_dir = everything.clone();
    of_dir.push(("system.posix_acl_default", &acl));
    model.add("xattr/dir", with_xattrs(&of_dir), Spec::Dir);
    model.add("xattr/dir/child", with_xattrs(&of_dir[..1]), Spec::Dir);
    model.add(
        "xattr/link",
        with_xattrs(&special),
        Spec::Symlink(vec![b'l'; 200]),
    );
    model.add("xattr/char", with_xattrs(&special), Spec::Char(5, 1));
    model.add("xattr/block", with_xattrs(&special), Spec::Block(5, 1));
    model.add("xattr/fifo", with_xattrs(&special), Spec::Fifo);
    model.add("xattr/socket", with_xattrs(&special), Spec::Socket);
    let name = format!("user.{}", "n".repeat(250));
    let value = noise(65535);
    model.add(
        "xattr/largest",
        with_xattrs(&[(&name, &value[..])]),
        Spec::File(vec![9]),
    );
    let names: Vec<String> = (0..300).map(|i| format!("user.number{i}")).collect();
    let many: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (&name[..], &b"the same value"[..]))
        .collect();
    model.add("xattr/many1", with_xattrs(&many), Spec::File(vec![8]));
    model.add("xattr/many2", with_xattrs(&many[5..]), Spec::File(vec![8]));
    // Of every length, so that inodes, attributes and tails meet block borders everywhere.
    for length in 0..140 {
        let value = noise(length * 4 + length % 3);
        let xattrs = [("trusted.v", &value[..])];
        let dir = format!("xattr/sizes/{length:03}");
        model.add(&dir, with_xattrs(&xattrs), Spec::Dir);
        model.add(dir.clone() + "/entry", with_xattrs(&xattrs), Spec::Fifo);
        model.add(
            dir + "/link",
            with_xattrs(&xattrs),
            Spec::Symlink(vec![b't'; length * 3 + 1]),
        );
    }
}
