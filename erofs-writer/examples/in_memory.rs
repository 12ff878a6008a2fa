//! Makes an image in memory and writes it to a file: `cargo run --example in_memory OUT`.

use std::error::Error;
use std::io::{Cursor, Write};

use erofs_writer::{Builder, Label, Metadata, Node, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args_os().nth(1).ok_or("usage: in_memory OUT")?;
    let options = Options::default().label(Label::new("example")?);
    let mut image = Builder::new(Cursor::new(Vec::new()), options)?;

    let mut data = image.data();
    writeln!(data, "Hello from an EROFS image.")?;
    let hello = data.finish()?;

    let file = Metadata::new(0o644);
    image.add_path(b"docs/hello.txt", file.clone(), Node::File(hello))?;
    image.add_path(b"hello", file, Node::Symlink(b"docs/hello.txt".to_vec()))?;
    let (bytes, summary) = image.finish()?;
    std::fs::write(out, bytes.into_inner())?;
    println!("{} inodes in {} bytes", summary.inodes, summary.bytes);
    Ok(())
}
