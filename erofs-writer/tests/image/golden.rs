//! Every field and every byte of a small image: a change in what is written shows up as a changed line.

use std::fmt::Write;

use erofs_reader::{Image, dump};
use erofs_writer::{Label, Metadata, Options};

use crate::model::{Model, Spec, acl, at, noise, with_xattrs};

fn model() -> Model {
    let mut model = Model::default();
    let now = |mode| Metadata {
        mode,
        ..at(1_700_000_000, 0)
    };
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

#[test]
fn the_bytes_of_an_image() {
    let options = Options {
        label: Label::new("golden").unwrap(),
        ..Options::default()
    };
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
