//! Makes an empty filesystem: `create BYTES FILE`.

use std::error::Error;
use std::fs::File;

use ext4_writer::{Builder, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(size), Some(path)) = (args.next(), args.next()) else {
        return Err("usage: create BYTES FILE".into());
    };
    let options = Options::new(size.parse()?);
    let file = File::create(path)?;
    file.set_len(options.size)?;
    let (_, summary) = Builder::new(file, options)?.finish()?;
    println!("{summary:#?}");
    Ok(())
}
