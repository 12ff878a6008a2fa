//! Lists the files of an image that run with the rights of their owner or group: `setuid IMAGE`.

use std::error::Error;
use std::fs::File;

use erofs_reader::{Buffered, Image};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("setuid IMAGE")?;
    let image = Image::open(Buffered::new(File::open(path)?))?;
    for step in image.walk() {
        let (path, inode) = step?;
        if inode.is_file() && inode.mode() & 0o6000 != 0 {
            let owner = (inode.uid(), inode.gid());
            println!("{:04o} {owner:?} /{path}", inode.mode());
        }
    }
    Ok(())
}
