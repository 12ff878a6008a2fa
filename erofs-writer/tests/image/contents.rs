//! Contents: stored once, abandoned, with holes.

use std::io::{Cursor, Seek, SeekFrom, Write};

use erofs_writer::{Builder, ChunkSize, Error, FileData, Metadata, Node, Options, Progress};

use crate::model::{Model, Spec, noise};
use crate::reader::{assert_same, read};

fn write<W: Write + Seek>(builder: &mut Builder<W>, contents: &[u8]) -> FileData {
    let mut data = builder.data();
    data.write_all(contents).unwrap();
    data.finish().unwrap()
}

#[test]
fn equal_contents_are_stored_once_whether_or_not_they_left_the_buffer() {
    for size in [1, 511, 512, 1 << 16, 1 << 20, 5_000_001] {
        let mut builder =
            Builder::with_dedupe(Cursor::new(Vec::new()), Options::default()).unwrap();
        let contents = noise(size);
        let mut model = Model::default();
        let mut add = |builder: &mut Builder<_>, contents: &[u8]| {
            let data = write(builder, contents);
            let name = format!("f{}", model.entries.len());
            let meta = Metadata::new(0o755);
            builder
                .add_path(name.as_bytes(), meta.clone(), Node::File(data))
                .unwrap();
            model.add(name, meta, Spec::File(contents.to_vec()));
            data
        };
        let first = add(&mut builder, &contents);
        add(&mut builder, b"between");
        assert_eq!(add(&mut builder, &contents), first);
        let mut other = contents.clone();
        other[size - 1] ^= 1;
        assert_ne!(add(&mut builder, &other), first);
        assert_eq!(add(&mut builder, &contents), first);
        let (image, summary) = builder.finish().unwrap();
        assert_eq!(summary.deduplicated_bytes, 2 * size as u64);
        let image = image.into_inner();
        assert_eq!(summary.bytes, image.len() as u64);
        assert_same(&read(&image, vec![]), &model.tree());
    }
}

#[test]
fn image_is_cut_where_its_last_contents_were_stored_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut builder = Builder::create(&path, Options::default()).unwrap();
    let contents = noise(3 << 20);
    let data = write(&mut builder, &contents);
    assert_eq!(data, write(&mut builder, &contents));
    builder
        .add(builder.root(), b"f", Metadata::new(0o755), Node::File(data))
        .unwrap();
    let (_, summary) = builder.finish().unwrap();
    let image = std::fs::read(&path).unwrap();
    assert_eq!(image.len() as u64, summary.bytes);
    assert!(image.len() < (3 << 20) + 4096, "{}", image.len());
    let mut model = Model::default();
    model.add("f", Metadata::new(0o755), Spec::File(contents));
    assert_same(&read(&image, vec![]), &model.tree());
}

#[test]
fn file_opened_for_writing_only_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = std::fs::File::create(&path).unwrap();
    let refused = Builder::with_dedupe(file, Options::default());
    assert!(matches!(refused, Err(Error::NotReadable { .. })));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    let refused = Builder::create(dir.path().join("missing/image"), Options::default());
    assert!(matches!(refused, Err(Error::Create { .. })));
}

#[test]
fn abandoned_contents_leave_nothing() {
    let image = |abandon: bool| {
        let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
        if abandon {
            builder.data().write_all(&noise(2000)).unwrap();
        }
        let data = write(&mut builder, &noise(3000));
        builder
            .add(builder.root(), b"f", Metadata::new(0o755), Node::File(data))
            .unwrap();
        if abandon {
            builder.data().write_all(&noise(200)).unwrap();
        }
        builder.finish().unwrap().0.into_inner()
    };
    assert!(image(true) == image(false));
}

#[test]
fn holes_take_no_space_in_a_file_and_read_as_zeros() {
    let file = tempfile::tempfile().unwrap();
    let mut builder = Builder::with_dedupe(file, Options::default()).unwrap();
    let mut data = builder.data();
    data.hole(100).unwrap();
    data.write_all(b"start").unwrap();
    data.hole(1 << 32).unwrap();
    data.write_all(b"end").unwrap();
    data.hole(5 << 20).unwrap();
    let data = data.finish().unwrap();
    let size = 105 + (1 << 32) + 3 + (5 << 20);
    assert_eq!(data.size(), size);
    builder
        .add(
            builder.root(),
            b"sparse",
            Metadata::new(0o755),
            Node::File(data),
        )
        .unwrap();
    let (file, summary) = builder.finish().unwrap();
    let status = file.metadata().unwrap();
    assert_eq!(status.len(), summary.bytes);
    #[cfg(target_os = "linux")]
    assert!(std::os::unix::fs::MetadataExt::blocks(&status) * 512 < 1 << 20);

    let image = erofs_reader::Image::open(&file).unwrap();
    let found = image
        .child(&image.root().unwrap(), b"sparse")
        .unwrap()
        .unwrap();
    let inode = image.inode(found.nid).unwrap();
    let contents = image.file(&inode).unwrap();
    let mut piece = [9; 6];
    contents.read_at(&mut piece, 99).unwrap();
    assert_eq!(&piece, b"\0start");
    contents.read_at(&mut piece, 104 + (1 << 32)).unwrap();
    assert_eq!(&piece, b"\0end\0\0");
}

#[test]
fn old_bytes_of_the_output_do_not_show_in_holes() {
    let mut out = Cursor::new(vec![0xAA; 4 << 20]);
    out.seek(SeekFrom::End(0)).unwrap();
    let mut builder = Builder::new(out, Options::default()).unwrap();
    let mut data = builder.data();
    data.hole(3 << 20).unwrap();
    let data = data.finish().unwrap();
    let mut model = Model::default();
    builder
        .add(builder.root(), b"f", Metadata::new(0o755), Node::File(data))
        .unwrap();
    model.add("f", Metadata::new(0o755), Spec::File(vec![0; 3 << 20]));
    let image = builder.finish().unwrap().0.into_inner();
    assert_same(&read(&image, vec![]), &model.tree());
}

#[test]
fn inline_tails_save_blocks_for_writes_of_any_size() {
    let image = |piece: usize, inline_tails| {
        let options = Options::default()
            .block_size(erofs_writer::BlockSize::B4096)
            .inline_tails(inline_tails);
        let mut builder = Builder::with_dedupe(Cursor::new(Vec::new()), options).unwrap();
        for (i, size) in [100, 5000, 8191, 8192, 5000, 5001, 1]
            .into_iter()
            .enumerate()
        {
            let mut data = builder.data();
            for piece in noise(size).chunks(piece) {
                data.write_all(piece).unwrap();
            }
            let node = Node::File(data.finish().unwrap());
            builder
                .add_path(format!("{i}").as_bytes(), Metadata::new(0o755), node)
                .unwrap();
        }
        let (image, summary) = builder.finish().unwrap();
        (image.into_inner(), summary)
    };
    let (one, summary) = image(10_000, true);
    // 5000: 1, 8191 has too long a tail: 2, 8192: 2, all of 5000 and the whole block of 5001 are
    // there already.
    assert_eq!(summary.data_bytes, 5 * 4096);
    assert_eq!(image(10_000, false).1.data_bytes, 10 * 4096);
    for piece in [1, 1000, 4096, 4097] {
        assert!(image(piece, true).0 == one);
    }
}

#[test]
fn progress_counts_contents_however_they_reach_the_image() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = seen.clone();
    let progress = Progress::new(move |done| listener.lock().unwrap().push(done.bytes));
    let options = Options::default().progress(progress);
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    write(&mut builder, &noise(100_000));
    builder.store(&noise(50_000)[..]).unwrap();
    let mut chunks = builder.data_in_chunks(ChunkSize::from_block_bits(3).unwrap());
    chunks.hole(20_000).unwrap();
    chunks.write_all(&noise(5_000)).unwrap();
    chunks.finish().unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted() && seen.len() > 2, "{seen:?}");
    assert_eq!(seen.last(), Some(&175_000));
}
