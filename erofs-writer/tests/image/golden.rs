//! Every field and every byte of a small image: a change in what is written shows up as a changed
//! line.

use std::fmt::Write;

use erofs_reader::{Image, dump};
use erofs_writer::{Algorithm, Fragments, Label, Options, Uuid};

use crate::model::{Model, Spec, acl, at, noise, with_xattrs};

fn model() -> Model {
    let mut model = Model::default();
    let now = |mode| at(1_700_000_000, 0).mode(mode);
    model.add("", now(0o755), Spec::Dir);
    model.add("bin/tool", now(0o755), Spec::File(noise(1000)));
    model.add("bin/copy", now(0o755), Spec::File(noise(1000)));
    model.add("bin/alias", now(0), Spec::Link(b"bin/tool".to_vec()));
    model.add("etc/empty", now(0o600), Spec::File(vec![]));
    model.add("etc/late", at(1_700_000_001, 5), Spec::File(vec![7]));
    model.add(
        "etc/link",
        now(0o777),
        Spec::Symlink(b"../bin/tool".to_vec()),
    );
    model.add("etc/long", now(0o777), Spec::Symlink(vec![b'x'; 600]));
    model.add("dev/null", now(0o666), Spec::Char(1, 3));
    model.add("dev/disk", now(0o660), Spec::Block(259, 300));
    model.add("dev/pipe", now(0o600), Spec::Fifo);
    model.add("dev/socket", now(0o600), Spec::Socket);
    let label = ("security.selinux", &b"system_u:object_r:bin_t:s0\0"[..]);
    let acl = acl();
    let xattrs = [
        ("user.own", &b"value"[..]),
        label,
        ("system.posix_acl_access", &acl),
    ];
    model.add("var/a", with_xattrs(&xattrs), Spec::Dir);
    model.add("var/b", with_xattrs(&xattrs[1..2]), Spec::File(vec![]));
    for i in 0..30 {
        model.add(format!("var/many/{i}"), now(0o644), Spec::File(vec![]));
    }
    model
}

/// What the reader sees in the image, without the numbers of those bytes that encoders may choose.
fn dumped(model: &Model, options: Options) -> String {
    let (bytes, _) = model.build(options).unwrap();
    let mut text = Vec::new();
    dump(&Image::open(&bytes[..]).unwrap(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn compressed(change: impl Fn(&mut Options)) -> String {
    let zeros = |length: usize| Spec::File(vec![0; length]);
    let mut model = Model::default();
    model.add("blocks", at(0, 0), zeros(20_000));
    model.add("same", at(0, 0), zeros(20_000));
    model.add("short", at(0, 0), zeros(100));
    model.add("plain", at(0, 0), Spec::File(noise(5000)));
    model.add(
        "mixed",
        at(0, 0),
        Spec::File([noise(8192), vec![0; 9000]].concat()),
    );
    // Codes of zeros are the same with every version of LZ4.
    let mut options = crate::compressed::options(Algorithm::Lz4, 0, 4096);
    options.uuid = Uuid::Nil;
    change(&mut options);
    dumped(&model, options)
}

#[test]
fn fields_of_compressed_files_equal_the_snapshots() {
    insta::assert_snapshot!("compressed", compressed(|_| {}));
    insta::assert_snapshot!(
        "compressed_full_indexes",
        compressed(|options| options.full_indexes = true)
    );
    insta::assert_snapshot!(
        "compressed_tail_packing",
        compressed(|options| options.tail_packing = true)
    );
    insta::assert_snapshot!(
        "compressed_fragments",
        compressed(|options| options.fragments = Fragments::Tails)
    );
    insta::assert_snapshot!(
        "compressed_dedupe",
        compressed(|options| options.dedupe_extents = true)
    );
}

#[test]
fn bytes_of_an_image_equal_the_snapshot() {
    let options = Options::default().label(Label::new("golden").unwrap());
    let (bytes, _) = model().build(options).unwrap();
    let mut text = Vec::new();
    dump(&Image::open(&bytes[..]).unwrap(), &mut text).unwrap();
    let mut text = String::from_utf8(text).unwrap();
    text.push_str("\nbytes that are not zero, contents left out:\n");
    let contents = 1536..1536 + 1024;
    for (i, line) in bytes.chunks(32).enumerate() {
        if !contents.contains(&(i * 32)) && line.iter().any(|&byte| byte != 0) {
            write!(text, "{:06x}", i * 32).unwrap();
            for word in line.chunks(4) {
                text.push(' ');
                word.iter()
                    .for_each(|byte| write!(text, "{byte:02x}").unwrap());
            }
            text.push('\n');
        }
    }
    insta::assert_snapshot!(text);
}
