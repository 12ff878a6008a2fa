//! Takes the tree out of an image: `extract IMAGE DIRECTORY`, or `extract IMAGE FILE.tar`.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use erofs_reader::extract::{DirOptions, TarOptions, extract_to_dir, extract_to_tar};
use erofs_reader::{Buffered, Image};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [image, to] = &arguments[..] else {
        return Err("extract IMAGE (DIRECTORY | FILE.tar)".into());
    };
    let image = Image::open(Buffered::new(File::open(image)?))?;
    let to = Path::new(to);
    let done = if to.extension().is_some_and(|e| e == "tar") {
        extract_to_tar(&image, File::create(to)?, &TarOptions::default())?
    } else {
        std::fs::create_dir(to)?;
        extract_to_dir(&image, to, &DirOptions::default())?
    };
    println!("{} names, {} bytes", done.entries, done.bytes);
    Ok(())
}
