//! The kernel here reads what the crate's documentation says that it reads, and nothing that it
//! says is for a later one.

use std::io::{Cursor, Write};
use std::path::Path;

use erofs_writer::{
    Addresses, Algorithm, BlockSize, Builder, ChunkSize, DeviceSlot, FileData, Fragments, Node,
    Options, XattrPrefixes,
};
use testkit::{Difference, Mount, kernel_mounts, kernel_version, walk};

use crate::compressed::{options, text};
use crate::model::{Model, Spec, at, noise, with_xattrs};

/// An image, and what it is on disk besides itself.
struct Disk {
    image: Vec<u8>,
    device: Option<Vec<u8>>,
    model: Model,
}

/// A row of the table: which image, since which Linux, what that must have been configured with,
/// and the image.
type Row = (
    &'static str,
    (u32, u32),
    Option<&'static str>,
    Box<dyn Fn() -> Disk>,
);

/// What stable releases of older kernels got later: 6.1.176 has it.
const BACKPORTED: &str = "blocks smaller than a page";

fn tree() -> Model {
    let mut model = Model::default();
    model.add("text", at(0, 0), Spec::File(text(300_001)));
    model.add("tail", at(0, 0), Spec::File(text(9000)));
    model.add("noise", at(0, 0), Spec::File(noise(5000)));
    model.add("again", at(0, 0), Spec::File(text(300_001)));
    let meta = with_xattrs(&[("user.number.of.files", b"4"), ("user.number", b"2")]);
    model.add("with/attributes", meta, Spec::File(Vec::new()));
    model
}

/// [`tree`] with these options.
fn whole(options: Options) -> Disk {
    let model = tree();
    let (image, _) = model.build(options).unwrap();
    Disk {
        image,
        device: None,
        model,
    }
}

fn plain() -> Options {
    Options::default().block_size(BlockSize::B4096)
}

fn in_chunks() -> Disk {
    let mut builder = Builder::new(Cursor::new(Vec::new()), plain()).unwrap();
    let mut chunks = builder.data_in_chunks(ChunkSize::from_block_bits(0).unwrap());
    chunks.write_all(&noise(4096)).unwrap();
    chunks.hole(8192).unwrap();
    chunks.write_all(&noise(4096)).unwrap();
    let data = chunks.finish().unwrap();
    let mut model = Model::default();
    let contents = [noise(4096), vec![0; 8192], noise(4096)].concat();
    model.add("file", at(0, 0), Spec::File(contents));
    model
        .add_names(&mut builder, &[(b"file".to_vec(), data)].into())
        .unwrap();
    Disk {
        image: builder.finish().unwrap().0.into_inner(),
        device: None,
        model,
    }
}

/// Names in one image, contents on a device, which is given at mount or follows the image.
fn on_device(appended: bool) -> Disk {
    let contents = noise(9000);
    let mut blocks = contents.clone();
    blocks.resize(3 * 4096, 0);
    let mut builder = Builder::new(Cursor::new(Vec::new()), plain()).unwrap();
    let device = DeviceSlot::new([b'0'; 64], 3);
    let device = builder.add_device(device).unwrap();
    let file = Node::File(FileData::on_device(device, 0, 9000));
    builder.add_path(b"file", at(0, 0), file).unwrap();
    let mut image = builder.finish().unwrap().0.into_inner();
    let mut model = Model::default();
    model.add("file", at(0, 0), Spec::File(contents));
    if appended {
        image.extend_from_slice(&blocks);
    }
    Disk {
        image,
        device: (!appended).then_some(blocks),
        model,
    }
}

fn rows() -> Vec<Row> {
    let row = |what, since, disk: fn() -> Disk| -> Row { (what, since, None, Box::new(disk)) };
    let compressed = |what, since, config, change: fn(&mut Options)| -> Row {
        let disk = move || {
            let mut options = options(Algorithm::Lz4, 1, 4096);
            change(&mut options);
            whole(options)
        };
        (what, since, config, Box::new(disk))
    };
    fn with(options: &mut Options, algorithm: Algorithm) {
        options.compression.as_mut().unwrap().algorithm = algorithm;
    }
    vec![
        row("blocks of the page's size", (5, 4), || whole(plain())),
        row(BACKPORTED, (6, 4), || whole(Options::default())),
        row("contents on devices, given at mount", (5, 16), || {
            on_device(false)
        }),
        row("contents on devices, appended", (6, 4), || on_device(true)),
        row("files in chunks", (5, 15), in_chunks),
        row("long prefixes of xattr names", (6, 4), || {
            whole(plain().xattr_prefixes(XattrPrefixes::new(["user.number"]).unwrap()))
        }),
        row("48-bit addresses", (6, 15), || {
            whole(plain().addresses(Addresses::Bits48))
        }),
        compressed("LZ4", (5, 4), None, |_| ()),
        compressed("LZ4 in clusters of several blocks", (5, 13), None, |o| {
            o.compression.as_mut().unwrap().cluster_size = 65_536;
        }),
        compressed("MicroLZMA", (5, 16), Some("LZMA"), |o| {
            with(o, Algorithm::Lzma);
        }),
        compressed("DEFLATE", (6, 6), Some("DEFLATE"), |o| {
            with(o, Algorithm::Deflate);
        }),
        compressed("Zstandard", (6, 10), Some("ZSTD"), |o| {
            with(o, Algorithm::Zstd);
        }),
        compressed("LZ4 in blocks smaller than a page", (6, 8), None, |o| {
            o.block_size = BlockSize::new(1024).unwrap();
        }),
        compressed("tails behind indexes", (5, 17), None, |o| {
            o.tail_packing = true;
        }),
        compressed("fragments", (6, 1), None, |o| {
            o.fragments = Fragments::Tails;
        }),
        compressed("parts of other clusters", (6, 1), None, |o| {
            o.dedupe_extents = true;
        }),
    ]
}

/// Whether the kernel mounts it and shows what is in it.
fn is_read(disk: &Disk, folder: &Path) -> bool {
    let image = folder.join("image.erofs");
    std::fs::write(&image, &disk.image).unwrap();
    let device = disk.device.as_ref().map(|blocks| {
        let device = folder.join("device");
        std::fs::write(&device, blocks).unwrap();
        device
    });
    let devices: Vec<_> = device.iter().map(|path| path.as_path()).collect();
    match Mount::try_erofs(&image, &devices) {
        Ok(mount) => walk(mount.path())
            .is_ok_and(|found| Difference::between(&found, &disk.model.walk()).is_empty()),
        Err(_) => false,
    }
}

#[test]
fn the_kernel_reads_exactly_the_documented_features() {
    if !kernel_mounts() {
        return;
    }
    let kernel = kernel_version();
    let folder = tempfile::tempdir().unwrap();
    for (what, since, config, disk) in rows() {
        let read = is_read(&disk(), folder.path());
        println!("{what}, Linux {since:?}: read by {kernel:?}: {read}");
        if kernel < since {
            assert!(
                !read || what == BACKPORTED,
                "{what}: Linux {kernel:?} reads it"
            );
            continue;
        }
        if let (Some(config), false) = (config, read) {
            println!("SKIPPED {what}: this kernel may have no CONFIG_EROFS_FS_ZIP_{config}");
        } else {
            assert!(read, "{what}: Linux {kernel:?} does not read it");
        }
    }
}
