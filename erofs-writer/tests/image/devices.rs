//! A metadata-only image over other images, both ways: as one stitched disk and with each image a
//! device of its own.

use std::collections::BTreeMap;
use std::io::Cursor;

use crate::model::{Model, Spec, at, fsck, nasty, noise};
use crate::reader::{assert_same, read};
use erofs_reader::{Image, Source};
use erofs_writer::{BlockSize, Builder, DeviceSlot, FileData, Metadata, Node, Options};
use testkit::{Difference, Mount, kernel_mounts, walk};

struct Stack {
    merged: Vec<u8>,
    layers: Vec<Vec<u8>>,
    model: Model,
}

fn stack(block_size: u32) -> Stack {
    let options = Options::default().block_size(BlockSize::new(block_size).unwrap());
    let mut lower = nasty();
    lower.add("below", at(1, 1), Spec::File(noise(12_345)));
    let mut upper = Model::default();
    upper.add("usr/above", at(2, 2), Spec::File(noise(54_321)));
    upper.add("usr/nothing", at(2, 2), Spec::File(vec![]));
    upper.add("usr/again", at(2, 2), Spec::Link(b"usr/above".to_vec()));
    let layers: Vec<Vec<u8>> = [&lower, &upper]
        .map(|model| model.build(options.clone()).unwrap().0)
        .into();

    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let mut data = BTreeMap::new();
    for (i, layer) in layers.iter().enumerate() {
        let device = DeviceSlot::new(
            [b'a' + i as u8; 64],
            layer.len() as u64 / u64::from(block_size),
        );
        let device = builder.add_device(device).unwrap();
        let image = Image::open(&layer[..]).unwrap();
        for (path, inode) in image.walk().map(Result::unwrap) {
            if !inode.is_file() {
                continue;
            }
            let extents = image.extents(&inode).unwrap();
            let block = match extents.first().map(|extent| extent.source) {
                Some(Source::Data { offset, .. }) => offset / u64::from(block_size),
                _ => 0,
            };
            assert!(extents.len() <= 1);
            data.insert(
                path.into_bytes(),
                FileData::on_device(device, block, inode.size()),
            );
        }
    }
    let mut model = lower;
    model.entries.extend(upper.entries);
    model.add_names(&mut builder, &data).unwrap();
    let (merged, summary) = builder.finish().unwrap();
    assert_eq!(summary.data_bytes, 0);
    Stack {
        merged: merged.into_inner(),
        layers,
        model,
    }
}

#[test]
fn merged_images_read_the_same_stitched_and_with_devices() {
    for block_size in [512, 4096] {
        let stack = stack(block_size);
        let expected = stack.model.tree();
        let devices = stack.layers.iter().map(|layer| &layer[..]).collect();
        assert_same(&read(&stack.merged, devices), &expected);
        let stitched = [&stack.merged[..], &stack.layers.concat()].concat();
        assert_same(&read(&stitched, vec![]), &expected);

        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let merged = file("merged", &stack.merged);
        let layers = [file("0", &stack.layers[0]), file("1", &stack.layers[1])];
        let layers = [&*layers[0], &*layers[1]];
        let stitched = file("stitched", &stitched);
        fsck(&merged, &layers);
        fsck(&stitched, &[]);
        if kernel_mounts() {
            let expected = stack.model.walk();
            let mount = Mount::erofs(&merged, &layers);
            Difference::between(&walk(mount.path()).unwrap(), &expected).assert_none();
            let mount = Mount::erofs(&stitched, &[]);
            Difference::between(&walk(mount.path()).unwrap(), &expected).assert_none();
        }
    }
}

#[test]
fn five_hundred_devices_have_their_places() {
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let mut model = Model::default();
    let mut disk = Vec::new();
    for i in 0..500_u32 {
        let contents = noise(512 * (1 + i as usize % 3));
        let device = DeviceSlot::new([b'0'; 64], contents.len() as u64 / 512);
        let device = builder.add_device(device).unwrap();
        let data = FileData::on_device(device, 0, contents.len() as u64);
        let path = format!("f{i}");
        let meta = || Metadata::new(0o755);
        builder
            .add_path(path.as_bytes(), meta(), Node::File(data))
            .unwrap();
        disk.extend(&contents);
        model.add(path, meta(), Spec::File(contents));
    }
    let merged = builder.finish().unwrap().0.into_inner();
    assert_same(&read(&[merged, disk].concat(), vec![]), &model.tree());
}
