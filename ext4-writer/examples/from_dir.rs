//! Makes a filesystem of a directory: `from_dir BYTES DIRECTORY FILE`.

use std::error::Error;
use std::fs::File;

use ext4_writer::{Builder, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [size, source, path] = &args[..] else {
        return Err("usage: from_dir BYTES DIRECTORY FILE".into());
    };
    let size = size.to_str().ok_or("not a number")?.parse()?;
    let file = File::create(path)?;
    file.set_len(size)?;
    let mut image = Builder::new(file, Options::new(size))?;
    image.add_dir_all(source)?;
    let (_, summary) = image.finish()?;
    println!("{summary:#?}");
    Ok(())
}
