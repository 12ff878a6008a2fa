//! Pulls an image and writes each layer's tar to a file.
//!
//! `cargo run --example pull -- debian:12 /tmp/layers`

use std::fs::File;
use std::path::PathBuf;

use ocipull::{Image, Options, Reference};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(reference), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull REFERENCE DIRECTORY".into());
    };
    let (reference, folder) = (reference.parse::<Reference>()?, PathBuf::from(folder));
    let image = Image::open(&reference, &Options::default())?;
    for (index, layer) in image.layers().iter().enumerate() {
        let mut file = File::create(folder.join(format!("{index}.tar")))?;
        let bytes = image.read_layer(index, |tar| std::io::copy(tar, &mut file))?;
        println!("{}: {bytes} bytes", layer.diff_id);
    }
    Ok(())
}
