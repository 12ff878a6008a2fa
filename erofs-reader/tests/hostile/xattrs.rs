//! Areas of xattrs that do not hold what they say.

use erofs_reader::{Detail as C, Error, Problem, Unsupported as U};

use crate::common::hostile::{assert_corrupt, assert_found};
use crate::common::lab::{Lab, SUPER};
use crate::problems;

#[test]
fn xattr_areas_must_fit_their_stated_size() {
    let area = |lab: &Lab| lab.inode("file") + 64;
    let found = problems(|lab| {
        let at = lab.inode("file");
        lab.put(at + 2, &[1, 0]);
    });
    assert_found!(found, Problem::Unsupported(U::EmptyXattrArea));
    let found = problems(|lab| {
        let at = area(lab);
        lab.0[at + 4] = 255;
    });
    assert_corrupt!(found, C::SharedXattrCount { shared: 255, .. });
    let found = problems(|lab| {
        let at = area(lab);
        lab.put(at + 12 + 2, &[0xff, 0xff]);
    });
    assert_corrupt!(found, C::XattrLength { .. });
    let found = problems(|lab| {
        let at = area(lab);
        lab.0[at + 12 + 1] = 0x80 | 5;
    });
    assert_corrupt!(found, C::XattrPrefix(5));
    let found = problems(|lab| {
        let at = area(lab);
        lab.0[at + 12 + 1] = 77;
    });
    assert_corrupt!(found, C::XattrIndex(77));
    let found = problems(|lab| {
        let at = area(lab);
        lab.0[at + 12 + 4 + 1] = 0;
    });
    assert_corrupt!(found, C::XattrName(_));
    // A filter of ones says that no xattr is there.
    let found = problems(|lab| {
        lab.0[SUPER + 8] |= 4;
        let at = area(lab);
        lab.put(at, &[0xff; 4]);
    });
    assert_corrupt!(found, C::XattrFilter(_));
    // An area that reaches past the end of the image.
    let mut lab = Lab::new();
    let at = lab.inode("file");
    lab.put(at + 2, &[0xff, 0xff]);
    let image = lab.image();
    let result = image.xattrs(&image.metadata("file").unwrap());
    assert!(matches!(
        result,
        Err(Error::Corrupt { what, .. })
            if what.kind() == erofs_reader::CorruptionKind::Bounds
    ));
}

#[test]
fn shared_xattrs_must_exist() {
    let found = problems(|lab| {
        let at = lab.inode("shared-a") + 64;
        assert_eq!(lab.0[at + 4], 1, "the writer shares it");
        lab.put(at + 12, &[0xff; 4]);
    });
    assert_corrupt!(found, C::BeyondDevice { .. });
}
