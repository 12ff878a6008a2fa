//! Any bytes as options and entries of an image.

mod compare;
mod input;
mod lab;

use std::io::Cursor;
use std::num::NonZeroUsize;

use erofs_reader::Image;
use erofs_writer::Options;

use compare::compare;
use input::{Input, options};
use lab::{Builder, Lab};

/// Entries of an image.
const ENTRIES: usize = 512;

/// Builds the image that `bytes` describe, and reads it.
///
/// # Panics
///
/// When the reader does not find what the builder took, and when the number of threads changes the
/// image.
pub fn build_and_compare(bytes: &[u8]) {
    let Some((lab, options, image)) = build(bytes, 1) else {
        return;
    };
    if options.compression.is_some() && bytes.len().is_multiple_of(16) {
        let (_, _, again) = build(bytes, 3).expect("as before");
        assert!(again == image, "other bytes with more threads");
    }
    let devices: Vec<Vec<u8>> = (0..lab.devices.len())
        .map(|i| lab.device_bytes(i))
        .collect();
    let opened = Image::open_with_devices(image.clone(), devices.clone());
    compare(&lab, &options, &opened.expect("an image"));
    if !devices.is_empty() {
        let stitched = [&image[..], &devices.concat()].concat();
        compare(&lab, &options, &Image::open(stitched).expect("an image"));
    }
}

/// Builds what the input says. The same with any number of threads.
fn build(bytes: &[u8], threads: usize) -> Option<(Lab, Options, Vec<u8>)> {
    let mut input = Input(bytes);
    let shape = input.byte();
    let options = options(&mut input).threads(NonZeroUsize::new(threads));
    let mut lab = Lab::new(options.clone(), shape & 1 != 0, usize::from(shape >> 1 & 3))?;
    for _ in 0..ENTRIES {
        if input.0.is_empty() {
            break;
        }
        lab.step(&mut input);
    }
    lab.store_later();
    let empty = Builder::new(Cursor::new(Vec::new()), Options::default()).expect("defaults");
    let builder = std::mem::replace(&mut lab.builder, empty);
    let (out, summary) = builder.finish().expect("what was taken can be written");
    let image = out.into_inner();
    assert_eq!(image.len() as u64, summary.bytes);
    Some((lab, options, image))
}
