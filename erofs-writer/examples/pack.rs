//! Packs a directory into an image: `cargo run --features dir --example pack DIR IMAGE`.

use std::error::Error;

use erofs_writer::{Builder, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [directory, image] = &args[..] else {
        return Err("usage: pack DIR IMAGE".into());
    };
    let mut image = Builder::create(image, Options::default())?;
    image.add_dir_all(directory)?;
    let (_, summary) = image.finish()?;
    println!("{} inodes in {} bytes", summary.inodes, summary.bytes);
    Ok(())
}
