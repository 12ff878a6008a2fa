//! What the tests of combinations of options share.

use std::fs::{self, File};
use std::path::Path;

use ext4_view::Ext4;
use ext4_writer::{BlockSize, Builder, Info, Journal, Metadata, Options};
use testkit::{Entry, Kind, Mount, Walk, kernel_version};

use super::Image;

/// An option that is on or off.
pub type Set = fn(&mut Options, bool);
pub const FACTORS: [Set; 12] = [
    |options, on| options.journal = if on { Journal::Auto } else { Journal::None },
    |options, on| options.orphan_file = on,
    |options, on| options.inline_data = on,
    |options, on| options.ea_inode = on,
    |options, on| options.quota = on,
    |options, on| options.project = on,
    |options, on| options.large_dir = on,
    |options, on| options.verity = on,
    |options, on| options.meta_bg = on,
    |options, on| options.signed_hash = on,
    |options, on| options.reserved_gdt_blocks = if on { None } else { Some(0) },
    |options, on| options.read_only = on,
];

/// The features that dumpe2fs and the library read, which are the same.
fn features(path: &Path) -> Vec<String> {
    let info = Info::read(File::open(path).unwrap()).unwrap();
    let mut ours: Vec<_> = info.features.names().collect();
    ours.sort_unstable();
    if let Some(mut dumpe2fs) = testkit::oracle("dumpe2fs") {
        let output = dumpe2fs.arg("-h").arg(path).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let line = output
            .lines()
            .find_map(|line| line.strip_prefix("Filesystem features:"));
        let mut printed: Vec<_> = line.unwrap().split_whitespace().collect();
        printed.sort_unstable();
        assert_eq!(ours, printed);
    }
    ours
}

/// Fails unless a filesystem has the features that were asked for.
pub fn check_features(path: &Path, options: &Options) {
    let features = features(path);
    for (feature, wanted) in [
        ("inline_data", options.inline_data),
        ("ea_inode", options.ea_inode),
        ("quota", options.quota),
        ("project", options.project),
        ("large_dir", options.large_dir),
        ("verity", options.verity),
        ("meta_bg", options.meta_bg),
        ("read-only", options.read_only),
        ("has_journal", options.journal == Journal::Auto),
        (
            "orphan_file",
            options.orphan_file && options.journal == Journal::Auto,
        ),
        (
            "resize_inode",
            options.reserved_gdt_blocks.is_none() && !options.meta_bg,
        ),
    ] {
        let there = features.iter().any(|name| name == feature);
        assert_eq!(there, wanted, "{feature}: {options:?}");
    }
}

/// Values that need inodes of their own: two files with one in common, many with a shared block of
/// entries.
pub fn add_large_values(image: &mut Builder<File>) {
    let root = image.root();
    let dir = image
        .add_dir(root, b"values", Metadata::new(0o755))
        .unwrap();
    let value = |len: usize| (0..len).map(|i| (i * len / 7) as u8).collect::<Vec<_>>();
    for (name, lens) in LARGE_VALUES {
        let metadata = Metadata::new(0o644).uid(7).xattrs(
            lens.iter()
                .map(|&len| (format!("user.{len}").into_bytes(), value(len)))
                .collect(),
        );
        image
            .add_file(dir, name.as_bytes(), metadata, &b"some"[..], None)
            .unwrap();
    }
}

const LARGE_VALUES: [(&str, &[usize]); 5] = [
    ("one", &[65536]),
    ("two", &[65536, 5000, 30]),
    ("three", &[3000, 3001, 3002, 3003, 300, 310, 320, 330]),
    ("four", &[3000, 3001, 3002, 3003, 300, 310, 320, 330]),
    ("five", &[9000, 9001, 9002, 9003, 9004, 9005, 9006, 9007]),
];

pub fn check_large_values(root: &Path) {
    for (name, lens) in LARGE_VALUES {
        for len in lens {
            let mut value = vec![0; 1 << 17];
            let path = root.join("values").join(name);
            let n = rustix::fs::getxattr(&path, format!("user.{len}"), &mut value[..]).unwrap();
            assert_eq!(n, *len);
            let right = value[..n]
                .iter()
                .enumerate()
                .all(|(i, &byte)| byte == (i * len / 7) as u8);
            assert!(right, "{name} {len}");
        }
    }
}

/// Files and directories of the sizes between those that lie in inodes and those that have blocks.
pub fn add_small(dir: &Path) {
    for size in (0..200).step_by(3).chain([60, 61, 127, 128, 129]) {
        fs::write(dir.join(format!("{size} bytes")), vec![size as u8; size]).unwrap();
    }
    for count in 0..12 {
        let dir = dir.join(format!("{count} names"));
        fs::create_dir(&dir).unwrap();
        for i in 0..count {
            fs::write(dir.join("n".repeat(i * 7 + 1)), "").unwrap();
        }
    }
    // Too long for what is left of `i_block`, but not for what is after.
    fs::create_dir(dir.join("long name")).unwrap();
    fs::write(dir.join("long name").join("n".repeat(58)), "").unwrap();
}

/// Compares what ext4-view, which checks every checksum, finds with `expected`: all but extended
/// attributes.
pub fn compare_view(path: &Path, options: &Options, expected: &Walk) {
    let view = Ext4::load_from_path(path).unwrap();
    let mut found = 0;
    let mut pending = vec![b"/".to_vec()];
    while let Some(dir) = pending.pop() {
        for entry in view.read_dir(&dir[..]).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let name: &[u8] = name.as_ref();
            if name == b"." || name == b".." || name == b"lost+found" {
                continue;
            }
            let inside = [&dir[..], name].concat();
            let Some(wanted) = expected.get(&inside[1..]) else {
                panic!("{}", inside.escape_ascii());
            };
            found += 1;
            // It takes times whose low half is negative for corruption, and looks for names as if
            // hashed as signed chars.
            if (wanted.mtime.0 as i32) < 0 || !options.signed_hash && !name.is_ascii() {
                continue;
            }
            compare_viewed(&view, &inside, wanted);
            if wanted.kind == Kind::Directory {
                pending.push([&inside[..], b"/"].concat());
            }
        }
    }
    assert_eq!(found, expected.len() - 1);
}

fn compare_viewed(view: &Ext4, path: &[u8], wanted: &Entry) {
    let meta = view.symlink_metadata(path).unwrap();
    let mtime = (meta.modified().seconds(), meta.modified().nanoseconds());
    let attributes = (
        u32::from(meta.mode() & 0o7777),
        meta.uid(),
        meta.gid(),
        mtime,
    );
    let shown = path.escape_ascii();
    assert_eq!(
        attributes,
        (wanted.mode, wanted.uid, wanted.gid, wanted.mtime),
        "{shown}"
    );
    let kind = meta.file_type();
    let right = match &wanted.kind {
        Kind::Directory => kind.is_dir(),
        Kind::File { size, digest } => {
            let contents = view.read(path).unwrap();
            kind.is_regular_file()
                && testkit::digest(&mut &contents[..]).unwrap() == (*size, *digest)
        }
        Kind::Symlink(target) => {
            let found = view.read_link(path).unwrap();
            let found: &[u8] = found.as_ref();
            kind.is_symlink() && found == target
        }
        Kind::CharDevice { .. } => kind.is_char_dev(),
        Kind::BlockDevice { .. } => kind.is_block_dev(),
        Kind::Fifo => kind.is_fifo(),
        Kind::Socket => kind.is_socket(),
    };
    assert!(right, "{shown}");
}

/// Writes ten thousand files to ten directories, some of which would fit in their inodes, and
/// deletes them; then changes some of what [`add_small`] and [`add_large_values`] made.
pub fn write_and_delete(root: &Path) {
    let path = |i: usize| {
        root.join(format!("made {}", i % 10))
            .join(format!("file {i}"))
    };
    let contents = |i: usize| vec![i as u8; i % 300];
    for i in 0..10 {
        fs::create_dir(path(i).parent().unwrap()).unwrap();
    }
    for i in 0..10_000 {
        fs::write(path(i), contents(i)).unwrap();
    }
    for i in (0..10_000).filter(|i| i % 101 != 0) {
        fs::remove_file(path(i)).unwrap();
    }
    for i in (0..10_000).step_by(101) {
        assert_eq!(fs::read(path(i)).unwrap(), contents(i));
        fs::remove_file(path(i)).unwrap();
    }
    // Those that are left are as long as they were, but empty.
    for i in 0..5 {
        fs::remove_dir(path(i).parent().unwrap()).unwrap();
    }
    fs::write(root.join("3 bytes"), [3; 5000]).unwrap();
    fs::write(root.join("1 names/another"), "").unwrap();
    fs::write(root.join("11 names/another"), "").unwrap();
    fs::remove_dir_all(root.join("2 names")).unwrap();
    if root.join("values").exists() {
        for name in ["one", "three"] {
            fs::remove_file(root.join("values").join(name)).unwrap();
        }
    }
}

/// What the kernel here does with an ext4.
pub struct Kernel {
    /// Whether tests may mount at all.
    mounts: bool,
    /// Whether it writes to those with quotas (`CONFIG_QFMT_V2`).
    quotas: bool,
    /// Whether it mounts those with verity whose blocks are smaller than pages, as Linux does since
    /// 6.3.
    small_verity: bool,
}

impl Kernel {
    pub fn here() -> Self {
        let mounts = testkit::kernel_mounts();
        let options = Options::new(16 << 20).quota(true);
        let image = Image::new(options, |_| ());
        let quotas = mounts && Mount::try_ext4(&image.path, true).is_ok();
        let loaded = fs::read_to_string("/proc/modules")
            .is_ok_and(|modules| modules.lines().any(|line| line.starts_with("quota_v2 ")));
        assert!(quotas || !mounts || !loaded, "this kernel has quotas");
        Self {
            mounts,
            quotas,
            small_verity: kernel_version() >= (6, 3),
        }
    }

    /// What keeps it from mounting a filesystem with these options, if anything does.
    pub fn not_mounted(&self, options: &Options) -> Option<&'static str> {
        if !self.mounts {
            Some("no kernel to mount it")
        } else if options.verity && options.block_size != BlockSize::B4096 && !self.small_verity {
            Some("verity of blocks smaller than pages")
        } else {
            None
        }
    }

    /// What keeps it from writing to one, if anything does.
    pub fn not_written(&self, options: &Options) -> Option<&'static str> {
        if options.read_only {
            Some("flagged as read-only")
        } else if (options.quota || options.project) && self.mounts && !self.quotas {
            Some("no quotas in this kernel")
        } else {
            self.not_mounted(options)
        }
    }
}
