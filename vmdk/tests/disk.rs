//! Reading the stitched bytes, against `qemu-img` and against hostile descriptors.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::oracle;
use vmdk::{Descriptor, Disk, Error, NameProblem, OpenOptions};

fn run(command: &mut Command) -> String {
    let output = command.output().expect("qemu-img starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `sectors` sectors, each filled with a byte of its own.
fn contents(seed: usize, sectors: usize) -> Vec<u8> {
    (0..sectors * 512)
        .map(|at| (seed * 31 + at / 512 * 7 + 1) as u8)
        .collect()
}

/// Writes `count` files and a descriptor over them, and returns what the disk must hold.
fn stitched(folder: &Path, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut files = Vec::new();
    for index in 0..count {
        let bytes = contents(index, 1 + index % 9);
        let name = format!("layer-{index}.img");
        fs::write(folder.join(&name), &bytes).expect("written");
        files.push((name, bytes.len() as u64));
        all.extend(bytes);
    }
    let descriptor = Descriptor::flat(&files).expect("portable");
    fs::write(folder.join("disk.vmdk"), descriptor.to_string()).expect("written");
    all
}

#[test]
fn the_disk_is_the_concatenation_of_its_files() {
    for count in [1, 2, 40, 127] {
        let folder = tempfile::tempdir().unwrap();
        let expected = stitched(folder.path(), count);
        let mut disk = Disk::open(folder.path().join("disk.vmdk")).unwrap();
        assert_eq!(disk.size(), expected.len() as u64);
        let mut bytes = Vec::new();
        disk.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
        // Every offset, across every border.
        let mut buffer = [0; 1500];
        for at in (0..expected.len()).step_by(211) {
            let n = disk.read_at(&mut buffer, at as u64).unwrap();
            assert_eq!(buffer[..n], expected[at..expected.len().min(at + 1500)]);
        }
        assert_eq!(disk.read_at(&mut buffer, u64::MAX).unwrap(), 0);
        disk.seek(SeekFrom::End(-5)).unwrap();
        assert_eq!(disk.read(&mut buffer).unwrap(), 5);
        assert!(disk.seek(SeekFrom::Current(i64::MIN)).is_err());
    }
}

#[test]
fn qemu_reads_the_same_bytes() {
    for count in [1, 2, 40, 127] {
        let Some(mut info) = oracle("qemu-img") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let expected = stitched(folder.path(), count);
        let disk = folder.path().join("disk.vmdk");
        let raw = folder.path().join("disk.raw");
        let text = run(info.args(["info", "--output=json"]).arg(&disk));
        assert!(text.contains("\"format\": \"vmdk\""), "{text}");
        assert!(
            text.contains(&format!("\"virtual-size\": {}", expected.len())),
            "{text}"
        );
        let qemu_img = || oracle("qemu-img").expect("found a moment ago");
        run(qemu_img()
            .args(["convert", "-O", "raw"])
            .arg(&disk)
            .arg(&raw));
        assert_eq!(fs::read(&raw).unwrap(), expected);
        run(qemu_img().arg("compare").arg(&disk).arg(&raw));
    }
}

/// A disk over a file in a folder below its own, and one that only `..` leads to: its path, and
/// what it must hold.
fn scattered(root: &Path) -> (PathBuf, Vec<u8>) {
    let images = root.join("images/x");
    fs::create_dir_all(images.join("sub")).expect("created");
    fs::create_dir_all(root.join("layers")).expect("created");
    fs::write(images.join("sub/meta"), contents(1, 2)).expect("written");
    fs::write(root.join("layers/a.erofs"), contents(2, 3)).expect("written");
    let files = [("sub/meta", 1024), ("../../layers/a.erofs", 1536)];
    let descriptor = Descriptor::flat(&files).expect("portable");
    let path = images.join("disk.vmdk");
    fs::write(&path, descriptor.to_string()).expect("written");
    (path, [contents(1, 2), contents(2, 3)].concat())
}

#[test]
fn qemu_follows_names_with_folders_and_dot_dot() {
    let Some(mut convert) = oracle("qemu-img") else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let (path, expected) = scattered(root.path());
    let raw = root.path().join("raw");
    run(convert.args(["convert", "-O", "raw"]).arg(&path).arg(&raw));
    assert_eq!(fs::read(&raw).unwrap(), expected);

    assert_name(Disk::open(&path), NameProblem::ParentDir);
    let options = OpenOptions::default().root(root.path());
    let mut bytes = Vec::new();
    let mut disk = Disk::open_with(&path, &options).unwrap();
    disk.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
    // The root confines, too.
    let options = OpenOptions::default().root(path.parent().unwrap());
    assert_name(Disk::open_with(&path, &options), NameProblem::Outside);
}

/// The bytes of the disk at `path` as libkrun's reader sees them.
fn read_with_imago(path: &Path) -> std::io::Result<Vec<u8>> {
    use imago::{FormatDriverBuilder, PermissiveImplicitOpenGate, SyncFormatAccess};
    let builder = imago::vmdk::Vmdk::<imago::file::File>::builder_path(path);
    let disk = SyncFormatAccess::new(builder.open_sync(PermissiveImplicitOpenGate::default())?)?;
    let mut bytes = vec![0; usize::try_from(disk.size()).expect("small")];
    disk.read(&mut bytes[..], 0)?;
    Ok(bytes)
}

#[test]
fn libkruns_reader_sees_the_same_bytes() {
    for count in [1, 2, 40, 127] {
        let folder = tempfile::tempdir().unwrap();
        let expected = stitched(folder.path(), count);
        assert!(read_with_imago(&folder.path().join("disk.vmdk")).unwrap() == expected);
    }
    let root = tempfile::tempdir().unwrap();
    let (path, expected) = scattered(root.path());
    assert!(read_with_imago(&path).unwrap() == expected);
}

#[test]
fn our_reader_opens_flat_disks_that_qemu_made() {
    for subformat in ["monolithicFlat", "twoGbMaxExtentFlat"] {
        let Some(mut convert) = oracle("qemu-img") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let (raw, path) = (folder.path().join("raw"), folder.path().join("q.vmdk"));
        let expected = contents(3, 4096);
        fs::write(&raw, &expected).unwrap();
        run(convert
            .args(["convert", "-f", "raw", "-O", "vmdk", "-o"])
            .arg(format!("subformat={subformat}"))
            .arg(&raw)
            .arg(&path));
        let mut bytes = Vec::new();
        let mut disk = Disk::open(&path).unwrap();
        assert_eq!(disk.descriptor().create_type(), subformat);
        disk.read_to_end(&mut bytes).unwrap();
        assert!(bytes == expected, "{subformat}");
    }
}

fn assert_name(result: Result<Disk, Error>, expected: NameProblem) {
    match result {
        Err(Error::Name { problem, .. }) => assert_eq!(problem, expected),
        other => panic!("{expected:?} expected: {other:?}"),
    }
}

/// Opens a descriptor with `extents` in `folder`.
fn open(folder: &Path, extents: &str) -> Result<Disk, Error> {
    let path = folder.join("hostile.vmdk");
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\n{extents}\n"
    );
    fs::write(&path, text).expect("written");
    Disk::open(path)
}

#[test]
fn zero_extents_read_as_zeros_and_no_access_extents_refuse() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), contents(0, 4)).unwrap();
    let disk = open(
        folder.path(),
        "RW 2 ZERO\nRDONLY 1 FLAT \"a\" 2\nNOACCESS 1 ZERO",
    )
    .unwrap();
    let mut bytes = [1; 1536];
    assert_eq!(disk.read_at(&mut bytes, 0).unwrap(), 1536);
    assert_eq!(bytes[..1024], [0; 1024]);
    assert_eq!(bytes[1024..], contents(0, 4)[1024..1536]);
    let error = disk.read_at(&mut bytes, 1024).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn a_file_shorter_than_its_extent_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), contents(0, 4)).unwrap();
    assert!(open(folder.path(), "RW 4 FLAT \"a\" 0").is_ok());
    for extent in ["RW 5 FLAT \"a\" 0", "RW 4 FLAT \"a\" 1"] {
        assert!(matches!(
            open(folder.path(), extent),
            Err(Error::ShortFile {
                actual: 2048,
                needed: 2560,
                ..
            })
        ));
    }
    let far = format!("RW 1 FLAT \"a\" {}", u64::MAX);
    assert!(matches!(open(folder.path(), &far), Err(Error::Overflow)));
    assert!(matches!(
        open(folder.path(), "RW 1 FLAT \"missing\" 0"),
        Err(Error::Io { .. })
    ));
}

#[cfg(unix)]
#[test]
fn names_never_lead_out_of_the_folder() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("inner");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(outer.path().join("secret"), contents(0, 1)).unwrap();
    fs::write(folder.join("real"), contents(0, 1)).unwrap();
    std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
    std::os::unix::fs::symlink("real", folder.join("inside")).unwrap();
    std::os::unix::fs::symlink("..", folder.join("up")).unwrap();
    let one = |name: &str| open(&folder, &format!("RW 1 FLAT \"{name}\" 0"));
    assert_name(one("../secret"), NameProblem::ParentDir);
    assert_name(one("sub/../real"), NameProblem::ParentDir);
    assert_name(one("link"), NameProblem::Outside);
    assert_name(one("up/secret"), NameProblem::Outside);
    assert_name(one("/dev/zero"), NameProblem::Absolute);
    assert_name(one("sub"), NameProblem::NotAFile);
    assert!(one("inside").is_ok());
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_file_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("mkfifo").arg(folder.path().join("p")).status();
    assert!(made.unwrap().success());
    assert_name(
        open(folder.path(), "RW 1 FLAT \"p\" 0"),
        NameProblem::NotAFile,
    );
}

#[test]
fn differential_disks_and_foreign_extents_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let unsupported = |extents: &str| match open(folder.path(), extents) {
        Err(Error::Unsupported { what }) => what,
        other => panic!("{extents}: {other:?}"),
    };
    assert_eq!(
        unsupported("RW 1 VMFSSPARSE \"a\""),
        "extent type VMFSSPARSE"
    );
    fs::write(folder.path().join("cowd"), b"COWD\x01\0\0\0").unwrap();
    match Disk::open(folder.path().join("cowd")) {
        Err(Error::Unsupported { what }) => assert!(what.contains("COWD")),
        other => panic!("{other:?}"),
    }
    assert!(unsupported("parentFileNameHint=\"b.vmdk\"\nRW 1 ZERO").contains("parent"));
}

#[test]
fn a_vmfs_extent_is_a_flat_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a-flat.vmdk"), contents(0, 4)).unwrap();
    let mut bytes = Vec::new();
    let mut disk = open(folder.path(), "RW 4 VMFS \"a-flat.vmdk\"").unwrap();
    disk.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, contents(0, 4));
    let Some(mut convert) = oracle("qemu-img") else {
        return;
    };
    // QEMU reads it where the disk has the type that ESXi writes.
    let path = folder.path().join("hostile.vmdk");
    let text = fs::read_to_string(&path).unwrap().replace("custom", "vmfs");
    fs::write(&path, text).unwrap();
    let raw = folder.path().join("raw");
    run(convert
        .args(["convert", "-f", "vmdk", "-O", "raw"])
        .arg(&path)
        .arg(&raw));
    assert_eq!(fs::read(&raw).unwrap(), bytes);
}

#[test]
fn a_disk_is_read_from_sources_in_memory_and_by_threads() {
    fn assert_shared<T: Send + Sync + 'static>(_: &T) {}
    let files: std::collections::HashMap<String, Vec<u8>> = (0..3)
        .map(|n| (format!("part{n}"), contents(n, n + 1)))
        .collect();
    let sizes: Vec<_> = (0..3)
        .map(|n| (format!("part{n}"), 512 * (n as u64 + 1)))
        .collect();
    let descriptor = Descriptor::flat(&sizes).unwrap();
    let mut opened = 0;
    let mut disk = Disk::from_descriptor(descriptor.clone(), |name| {
        opened += 1;
        files
            .get(name)
            .cloned()
            .ok_or_else(|| "no such part".into())
    })
    .unwrap();
    assert_shared(&disk);
    assert_eq!(opened, 3);
    let mut bytes = Vec::new();
    disk.read_to_end(&mut bytes).unwrap();
    assert_eq!(
        bytes,
        [contents(0, 1), contents(1, 2), contents(2, 3)].concat()
    );
    // A disk is a source itself.
    let nested = Descriptor::flat(&[("disk", 6 * 512)]).unwrap();
    let mut disk = Some(disk);
    let nested = Disk::from_descriptor(nested, |_| Ok(disk.take().unwrap())).unwrap();
    let mut part = [0; 100];
    nested.read_at(&mut part, 700).unwrap();
    assert_eq!(part, bytes[700..800]);

    let missing = Disk::from_descriptor(descriptor, |name| match name {
        "part1" => Err("no such part".into()),
        _ => Ok(contents(0, 3)),
    });
    match missing {
        Err(Error::Io { path, source }) => {
            assert_eq!(path, Path::new("part1"));
            assert_eq!(source.to_string(), "no such part");
        }
        other => panic!("{other:?}"),
    }
    let several = Descriptor::flat(&[("a", 512)]).unwrap().to_string();
    let alone = Disk::from_source(several.into_bytes());
    assert!(matches!(alone, Err(Error::Unsupported { .. })), "{alone:?}");
}

#[test]
fn errors_name_the_file_that_they_are_about() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad-s001.vmdk"), [7; 1024]).unwrap();
    fs::write(folder.path().join("a"), contents(0, 1)).unwrap();
    let error = open(
        folder.path(),
        "RW 1 FLAT \"a\" 0\nRW 2 SPARSE \"bad-s001.vmdk\"",
    )
    .unwrap_err();
    assert!(error.to_string().contains("bad-s001.vmdk"), "{error}");

    let disk = open(folder.path(), "RW 1 FLAT \"a\" 0").unwrap();
    fs::write(folder.path().join("a"), [0; 100]).unwrap();
    let error = disk.read_at(&mut [0; 512], 0).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let inside = error.get_ref().unwrap().to_string();
    let path = folder.path().join("a").canonicalize().unwrap();
    assert_eq!(inside, format!("failed to read {}", path.display()));
}
