//! Shows which layer each name of a stack of tars comes from: `stack LOWEST.tar … HIGHEST.tar`.
//! Tars are not compressed.

use std::error::Error;
use std::fs::File;
use std::io::BufReader;

use fsmerge::{ContentStore, Limits, Merge};

fn main() -> Result<(), Box<dyn Error>> {
    let limits = Limits::default();
    let mut contents = ContentStore::in_memory();
    let mut merge = Merge::new(&limits);
    for path in std::env::args_os().skip(1) {
        let tar = BufReader::new(File::open(path)?);
        let (layer, stats) = contents.read_tar(tar, &limits)?;
        for warning in &stats.warnings {
            eprintln!("{warning}");
        }
        merge.push(&layer)?;
    }
    let merged = merge.finish();
    for (path, id) in merged.walk() {
        // A directory that layers only imply comes from none of them.
        let layer = merged
            .layer(id)
            .map_or("-".to_owned(), |layer| layer.to_string());
        println!("{layer} {path}");
    }
    Ok(())
}
