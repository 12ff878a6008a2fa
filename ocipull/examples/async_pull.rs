//! Pulls an image in asynchronous code and writes each layer's tar to a file.
//!
//! `cargo run --features async --example async_pull -- debian:12 /tmp/layers`

use std::fs::File;
use std::path::PathBuf;

use ocipull::{Image, Options, Reference};

async fn pull(reference: Reference, folder: PathBuf) -> Result<(), Box<dyn std::error::Error>> {
    let image = Image::open_async(&reference, &Options::default()).await?;
    for (index, layer) in image.layers().iter().enumerate() {
        let mut file = File::create(folder.join(format!("{index}.tar")))?;
        let copy = image.read_layer_async(index, move |tar| std::io::copy(tar, &mut file));
        println!("{}: {} bytes", layer.diff_id, copy.await?);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(reference), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: async_pull REFERENCE DIRECTORY".into());
    };
    // Any executor will do.
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    runtime.block_on(pull(reference.parse()?, folder.into()))
}
