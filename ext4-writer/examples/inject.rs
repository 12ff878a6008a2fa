//! Makes a root filesystem of a tar archive with one more program in it:
//! `inject BYTES TAR PROGRAM IMAGE`.

use std::error::Error;
use std::fs::File;

use ext4_writer::{Builder, Metadata, Node, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [size, tar, program, image] = &args[..] else {
        return Err("usage: inject BYTES TAR PROGRAM IMAGE".into());
    };
    let mut image = Builder::create(image, Options::new(size.parse()?))?;
    image.add_tar_seek(File::open(tar)?)?;
    // Of most images, /sbin is a symbolic link to usr/sbin.
    let program = Node::file(File::open(program)?);
    image.replace(b"/sbin/init", Metadata::new(0o755), program)?;
    image.finish()?;
    Ok(())
}
