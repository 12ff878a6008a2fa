//! How long a merge takes and how much memory a tree does: 40 layers with 200,000 inodes, and one layer with a million.
//!
//! `cargo bench -p fsmerge`; `cargo bench -p fsmerge -- LAYERS INODES` for another stack.

use fsmerge::{Attributes, Kind, Layer, LayerBuilder, Limits, Merge};
use std::time::Instant;

/// A layer of `inodes` files, twenty in a directory. Every other directory is one that all layers have.
fn layer(number: usize, inodes: usize) -> Result<Layer, fsmerge::Error> {
    let mut builder = LayerBuilder::new(&Limits::default());
    let attributes = Attributes {
        mode: 0o644,
        ..Attributes::default()
    };
    let mut directory = builder.root();
    for at in 0..inodes {
        if at % 20 == 0 {
            let owner = if at % 40 == 0 { 0 } else { number };
            directory = builder.add(
                builder.root(),
                format!("directory-{owner}-{at}").as_bytes(),
                attributes.clone(),
                Kind::Directory {
                    opaque: false,
                    implied: false,
                },
            )?;
        }
        let name = format!("file-{}-{at}", number % 3);
        let data = Some(fsmerge::DataId(at as u64));
        let kind = Kind::File { size: 4096, data };
        builder.add(directory, name.as_bytes(), attributes.clone(), kind)?;
    }
    Ok(builder.finish())
}

/// Bytes that the process has, and had at most, in memory, where the system says so.
fn resident() -> Option<(usize, usize)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<usize> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

fn main() -> Result<(), fsmerge::Error> {
    let mut numbers = std::env::args().filter_map(|text| text.parse().ok());
    let layers: usize = numbers.next().unwrap_or(40);
    let inodes: usize = numbers.next().unwrap_or(200_000);

    let before = resident();
    let start = Instant::now();
    let big = layer(0, 1_000_000)?;
    let names: usize = big
        .walk()
        .map(|(path, _)| path.rsplit(|&b| b == b'/').next().map_or(0, <[u8]>::len))
        .sum();
    println!(
        "a layer of {} inodes: {:.1} ms",
        big.len(),
        start.elapsed().as_secs_f64() * 1000.0
    );
    if let (Some((before, _)), Some((now, peak))) = (before, resident()) {
        let each = |bytes: usize| bytes.saturating_sub(before).saturating_sub(names) / big.len();
        println!(
            "{} bytes an inode, {} while it is built; names not counted",
            each(now),
            each(peak)
        );
    }
    drop(big);

    let stack = (0..layers)
        .map(|number| layer(number, inodes / layers))
        .collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let mut merge = Merge::new(&Limits::default());
    for layer in &stack {
        merge.push(layer)?;
    }
    let merged = merge.finish();
    println!(
        "merge of {layers} layers, {inodes} files, to {} inodes: {:.1} ms",
        merged.len(),
        start.elapsed().as_secs_f64() * 1000.0
    );
    Ok(())
}
