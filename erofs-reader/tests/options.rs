//! Every option of `mkfs.erofs`: what it makes reads as the kernel's own mount shows it.
//!
//! `compressed.rs` and `kernel.rs` have what decides how metadata and data are laid out; here is
//! the rest, and the list of all, which must have every option that the installed version's help
//! names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use common::oracle::{Sources, assert_reads_as_the_kernel, names_that_read_as_the_kernel_says};
use common::{mkfs, nasty_tar, our_walk, prose, run};
use erofs_reader::{Buffered, Image, ReadAt, ReadAtError};
use testkit::{Difference, Mount, walk};

/// Where an option of `mkfs.erofs` is tested, or why it is not.
enum Covered {
    /// In another file of this folder.
    Elsewhere,
    /// With these arguments, `@` in which is a folder of the test's.
    With(&'static [&'static str]),
    /// In a test of its own here.
    Alone,
    /// Nowhere.
    Not(&'static str),
}

use Covered::{Alone, Elsewhere, Not, With};

const OPTIONS: &[(&str, Covered)] = &[
    ("-V", Alone),
    ("-h", Alone),
    ("-b", Elsewhere),
    ("-d", With(&["-d9"])),
    ("-x", Elsewhere),
    ("-z", Elsewhere),
    ("-C", Elsewhere),
    ("-E", Elsewhere),
    ("-L", With(&["-La-label"])),
    ("-m", Elsewhere),
    ("-T", Elsewhere),
    ("--all-time", With(&["-T1", "--all-time"])),
    ("--mkfs-time", With(&["-T1", "--mkfs-time"])),
    ("-U", With(&["-U00112233-4455-6677-8899-aabbccddeeff"])),
    ("--zD", Elsewhere),
    ("--MZ", Elsewhere),
    ("--all-root", Elsewhere),
    (
        "--async-queue-limit",
        With(&["-zlz4", "--async-queue-limit=1"]),
    ),
    ("--blobdev", Elsewhere),
    ("--chunksize", Elsewhere),
    ("--clean", With(&["--clean=data"])),
    ("--incremental", Alone),
    (
        "--compress-hints",
        With(&["-zlz4", "-C65536", "--compress-hints=@/hints"]),
    ),
    ("--dsunit", With(&["--dsunit=16"])),
    ("--exclude-path", With(&["--exclude-path=names/upper"])),
    ("--exclude-regex", With(&["--exclude-regex=noise[0-9]*5$"])),
    ("--file-contexts", With(&["--file-contexts=@/contexts"])),
    ("--force-uid", With(&["--force-uid=4294967294"])),
    ("--force-gid", With(&["--force-gid=65536"])),
    ("--fsalignblks", With(&["--fsalignblks=64"])),
    ("--uid-offset", With(&["--uid-offset=100000"])),
    ("--gid-offset", With(&["--gid-offset=100000"])),
    ("--hard-dereference", With(&["--hard-dereference"])),
    ("--ignore-mtime", With(&["--ignore-mtime", "-T5"])),
    ("--max-extent-bytes", Elsewhere),
    ("--mount-point", With(&["--mount-point=/system"])),
    ("--preserve-mtime", With(&["--preserve-mtime"])),
    ("--offset", Alone),
    ("--root-xattr-isize", Elsewhere),
    ("--aufs", Alone),
    ("--sort", Alone),
    ("--s3", Not("reads from a network")),
    ("--oci", Not("reads from a network")),
    ("--tar", Elsewhere),
    ("--ovlfs-strip", Alone),
    ("--quiet", Elsewhere),
    ("--ungzip", Alone),
    ("--unxz", Alone),
    ("--gzinfo", Alone),
    ("--vmdk-desc", With(&["--vmdk-desc=@/image.vmdk"])),
    ("--workers", With(&["-zzstd", "--workers=3"])),
    ("--xattr-inode-digest", With(&["--xattr-inode-digest"])),
    ("--xattr-prefix", Elsewhere),
    ("--zfeature-bits", With(&["-zlz4", "--zfeature-bits=15"])),
];

/// Values of options that are tested elsewhere.
const VALUES: &[&[&str]] = &[
    &["-zlz4hc,level=1:zstd,level=19,dictsize=65536"],
    &["-zlzma,level=9,lc=0,lp=2,pb=0"],
    &["-zlzma,level=109,dictsize=65536", "-C32768"],
    &["-zdeflate,level=1,dictsize=8192"],
    &["-zlibdeflate,level=12", "-C65536"],
    &["-zlz4", "-C1048576"],
    &["-zzstd", "-C512", "-b512"],
    &["-zlz4", "-b2048", "-C8192", "-Eztailpacking"],
    &["-zlz4", "-Efragments,fragdedupe=full"],
    &["-zlz4", "-Efragments=16384,fragdedupe=inode", "-C16384"],
    &["-zzstd", "-Efragments,fragdedupe=off"],
    &["-zlz4", "--chunksize=1048576"],
    &["--chunksize=1073741824"],
    &["-x0"],
];

#[test]
fn every_option_gives_an_image_that_reads_as_the_kernel_does() {
    let Some(sources) = Sources::new() else {
        return;
    };
    let folder = sources.dir.path();
    fs::write(folder.join("hints"), "65536 noise\n4096 prose\n").unwrap();
    fs::write(folder.join("contexts"), "/.* system_u:object_r:rootfs:s0\n").unwrap();
    for (_, covered) in OPTIONS {
        if let With(arguments) = covered {
            let place = folder.to_str().unwrap();
            let arguments: Vec<_> = arguments.iter().map(|a| a.replace('@', place)).collect();
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            sources.check(&arguments);
        }
    }
}

#[test]
fn every_kind_of_value_gives_an_image_that_reads_as_the_kernel_does() {
    let Some(sources) = Sources::new() else {
        return;
    };
    for arguments in VALUES {
        sources.check(arguments);
    }
}

#[test]
fn every_option_of_the_installed_mkfs_erofs_is_tested() {
    let Some(mut mkfs) = testkit::oracle("mkfs.erofs") else {
        return;
    };
    println!("{}", run(mkfs.arg("-V")));
    let help = run(testkit::oracle("mkfs.erofs").unwrap().arg("--help"));
    let found: BTreeSet<_> = help.lines().filter_map(option).collect();
    assert!(found.len() > 30, "{help}");
    let known: BTreeSet<_> = OPTIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let forgotten: Vec<_> = found.difference(&known).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
    for (name, covered) in OPTIONS {
        if let Not(why) = covered {
            println!("{name} is not tested: it {why}");
        }
    }
}

/// The option that a line of the help is about.
fn option(line: &str) -> Option<String> {
    let text = line.trim_start();
    if let Some(long) = text.strip_prefix("--") {
        let end = long.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        return Some(format!("--{}", &long[..end.unwrap_or(long.len())]));
    }
    let letter = text.strip_prefix('-')?.chars().next()?;
    letter.is_ascii_alphabetic().then(|| format!("-{letter}"))
}

#[test]
fn tars_of_every_kind_read_as_the_kernel_does() {
    let Some(sources) = Sources::new() else {
        return;
    };
    let dir = sources.dir.path();
    let tar = dir.join("nasty.tar");
    let gz = dir.join("nasty.tar.gz");
    fs::write(&tar, nasty_tar()).unwrap();
    let Some(mut gzip) = testkit::oracle("gzip") else {
        return;
    };
    let out = fs::File::create(&gz).unwrap();
    let status = gzip.args(["-1", "-c"]).arg(&tar).stdout(out).status();
    assert!(status.unwrap().success());
    let gzinfo = format!("--gzinfo={}", dir.join("zinfo").display());
    for (source, options) in [
        (&tar, &["--tar=f", "--aufs"][..]),
        (&tar, &["--tar=f", "--sort=none", "-zlz4"]),
        (&tar, &["--tar=f", "--ovlfs-strip=1"]),
        (&gz, &["--tar=f", "--ungzip"]),
        (&gz, &["--tar=f", &gzinfo]),
    ] {
        println!("mkfs.erofs {}", options.join(" "));
        let Some(image) = mkfs(dir, "image.erofs", options, source) else {
            return;
        };
        assert_reads_as_the_kernel(&image, &[]);
    }
}

#[test]
fn a_tar_in_xz_reads_as_the_kernel_does() {
    let Some(sources) = Sources::new() else {
        return;
    };
    let dir = sources.dir.path();
    // Larger archives are an I/O error for 1.9.4.
    let tar = testkit::TarBuilder::new()
        .dir("./")
        .file("prose", prose(1, 20_000));
    fs::write(dir.join("small.tar"), tar.finish()).unwrap();
    let Some(mut xz) = testkit::oracle("xz") else {
        return;
    };
    run(xz.arg(dir.join("small.tar")));
    let source = dir.join("small.tar.xz");
    let Some(image) = mkfs(dir, "image.erofs", &["--tar=f", "--unxz"], &source) else {
        return;
    };
    assert_eq!(names_that_read_as_the_kernel_says(&image, &[]), 2);
}

/// A part of a file, from some byte on.
struct From(fs::File, u64);

impl ReadAt for From {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        ReadAt::read_at(&self.0, buf, offset + self.1)
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        Ok(ReadAt::size(&self.0)? - self.1)
    }
}

#[test]
fn an_image_after_other_bytes_is_read_through_an_offset_source() {
    let Some(sources) = Sources::new() else {
        return;
    };
    let dir = sources.dir.path();
    let tree = sources.tree.path();
    for (offset, option) in [(512, "-b512"), (1 << 20, "-zlz4")] {
        let options = [option, &format!("--offset={offset}")];
        let Some(image) = mkfs(dir, "image.erofs", &options, tree) else {
            return;
        };
        let source = From(fs::File::open(&image).unwrap(), offset);
        let ours = our_walk(&Image::open(Buffered::new(source)).unwrap());
        let alone = dir.join("alone.erofs");
        fs::write(&alone, &fs::read(&image).unwrap()[offset as usize..]).unwrap();
        let mount = Mount::erofs(&alone, &[]);
        Difference::between(&ours, &walk(mount.path()).unwrap()).assert_none();
    }
}

#[test]
fn incrementally_built_images_read_as_the_kernel_does() {
    let Some(sources) = Sources::new() else {
        return;
    };
    let dir = sources.dir.path();
    let first = dir.join("first.tar");
    let tar = testkit::TarBuilder::new().dir("./").file("first", "1");
    fs::write(&first, tar.finish()).unwrap();
    let more = dir.join("more.tar");
    fs::write(&more, nasty_tar()).unwrap();
    let Some(image) = mkfs(dir, "image.erofs", &["--tar=f"], &first) else {
        return;
    };
    let mut add: Command = testkit::oracle("mkfs.erofs").unwrap();
    let arguments = ["--quiet", "--tar=f", "--incremental=data"];
    run(add.args(arguments).arg(&image).arg(&more));
    assert_reads_as_the_kernel(&image, &[]);
    assert!(Mount::erofs(&image, &[]).path().join("first").exists());
}
