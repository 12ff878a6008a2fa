//! Makes a filesystem of the files, directories and symbolic links in a directory: `from_dir BYTES DIRECTORY FILE`.

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use ext4_writer::{Builder, Metadata, Options, Timestamp};

fn metadata(stat: &fs::Metadata) -> Metadata {
    Metadata {
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: Timestamp {
            secs: stat.mtime(),
            nanos: stat.mtime_nsec() as u32,
        },
        ..Metadata::new((stat.permissions().mode() & 0o7777) as u16)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [size, source, path] = &args[..] else {
        return Err("usage: from_dir BYTES DIRECTORY FILE".into());
    };
    let size = size.to_str().ok_or("not a number")?.parse()?;
    let file = File::create(path)?;
    file.set_len(size)?;
    let mut image = Builder::new(file, Options::new(size))?;

    let root = image.root();
    image.set_metadata(root, metadata(&fs::metadata(source)?))?;
    let mut pending = vec![(source.into(), root)];
    while let Some((dir, parent)) = pending.pop() {
        let dir: std::path::PathBuf = dir;
        let mut children = fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>()?;
        // The same tree gives the same bytes, in whatever order the directory lists it.
        children.sort_unstable_by_key(fs::DirEntry::file_name);
        for child in children {
            let (name, stat) = (child.file_name(), child.metadata()?);
            let (name, metadata) = (name.as_bytes(), metadata(&stat));
            if stat.is_dir() {
                pending.push((child.path(), image.add_dir(parent, name, metadata)?));
            } else if stat.is_symlink() {
                let target = fs::read_link(child.path())?;
                image.add_symlink(parent, name, metadata, target.as_os_str().as_bytes())?;
            } else if stat.is_file() {
                let data = File::open(child.path())?;
                image.add_file(parent, name, metadata, data, Some(stat.len()))?;
            }
        }
    }
    let (_, summary) = image.finish()?;
    println!("{summary:#?}");
    Ok(())
}
