//! Wraps a bare x86-64 kernel image in an ELF file (`man 5 elf`; the note: Linux's
//! `include/xen/interface/elfnote.h`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `Elf64_Ehdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    e_ident: [u8; 16],
    e_type: U16,
    e_machine: U16,
    e_version: U32,
    e_entry: U64,
    e_phoff: U64,
    e_shoff: U64,
    e_flags: U32,
    e_ehsize: U16,
    e_phentsize: U16,
    e_phnum: U16,
    e_shentsize: U16,
    e_shnum: U16,
    e_shstrndx: U16,
}
const _: () = assert!(size_of::<Header>() == 64);

/// `Elf64_Phdr`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Segment {
    p_type: U32,
    p_flags: U32,
    p_offset: U64,
    p_vaddr: U64,
    p_paddr: U64,
    p_filesz: U64,
    p_memsz: U64,
    p_align: U64,
}
const _: () = assert!(size_of::<Segment>() == 56);

/// A Xen note whose description is an address; QEMU reads 64 bits of it in a 64-bit file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct EntryNote {
    namesz: U32,
    descsz: U32,
    note_type: U32,
    name: [u8; 4],
    entry: U64,
}
const _: () = assert!(size_of::<EntryNote>() == 24);

const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_RWX: u32 = 7;
const PF_R: u32 = 4;

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the physical address of the 32-bit PVH entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// The offset of the kernel's image in the file: one page, as `p_align` requires.
const IMAGE_OFFSET: u64 = 4096;

/// Wraps `image`; `None` if it has no PVH note, or is at an address beyond 32-bit entry points.
pub(super) fn wrap(load_address: u64, entry: u64, image: &[u8]) -> Option<Vec<u8>> {
    let pvh_entry = find_entry(image)?;
    let segments_at = size_of::<Header>();
    let note_at = segments_at + 2 * size_of::<Segment>();
    let note_len = size_of::<EntryNote>() as u64;
    let image_len = image.len() as u64;

    let header = Header {
        e_ident: [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        e_type: ET_EXEC.into(),
        e_machine: EM_X86_64.into(),
        e_version: 1.into(),
        e_entry: entry.into(),
        e_phoff: (segments_at as u64).into(),
        e_shoff: 0.into(),
        e_flags: 0.into(),
        e_ehsize: (size_of::<Header>() as u16).into(),
        e_phentsize: (size_of::<Segment>() as u16).into(),
        e_phnum: 2.into(),
        e_shentsize: 0.into(),
        e_shnum: 0.into(),
        e_shstrndx: 0.into(),
    };
    let load = Segment {
        p_type: PT_LOAD.into(),
        p_flags: PF_RWX.into(),
        p_offset: IMAGE_OFFSET.into(),
        p_vaddr: load_address.into(),
        p_paddr: load_address.into(),
        p_filesz: image_len.into(),
        p_memsz: image_len.into(),
        p_align: IMAGE_OFFSET.into(),
    };
    let note_segment = Segment {
        p_type: PT_NOTE.into(),
        p_flags: PF_R.into(),
        p_offset: (note_at as u64).into(),
        p_vaddr: 0.into(),
        p_paddr: 0.into(),
        p_filesz: note_len.into(),
        p_memsz: note_len.into(),
        p_align: 4.into(),
    };
    let note = EntryNote {
        namesz: 4.into(),
        descsz: 8.into(),
        note_type: XEN_ELFNOTE_PHYS32_ENTRY.into(),
        name: *b"Xen\0",
        entry: u64::from(pvh_entry).into(),
    };

    let mut file = Vec::with_capacity(image.len() + IMAGE_OFFSET as usize);
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(load.as_bytes());
    file.extend_from_slice(note_segment.as_bytes());
    file.extend_from_slice(note.as_bytes());
    file.resize(IMAGE_OFFSET as usize, 0);
    file.extend_from_slice(image);
    Some(file)
}

/// Returns the PVH entry point of the image, from the note that Linux's `head_64.S` puts in it.
fn find_entry(image: &[u8]) -> Option<u32> {
    let signature = [4_u32, 8, XEN_ELFNOTE_PHYS32_ENTRY]
        .map(u32::to_le_bytes)
        .concat();
    let short = [4_u32, 4, XEN_ELFNOTE_PHYS32_ENTRY]
        .map(u32::to_le_bytes)
        .concat();
    image.windows(24).step_by(4).find_map(|window| {
        let head = window.get(..12)?;
        let is_note = (head == signature || head == short) && window.get(12..16)? == b"Xen\0";
        let address: [u8; 4] = window.get(16..20)?.try_into().ok()?;
        is_note.then_some(u32::from_le_bytes(address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an image with the note of Linux's `head_64.S`: `ELFNOTE(Xen,
    /// XEN_ELFNOTE_PHYS32_ENTRY, .quad ...)`.
    fn image() -> Vec<u8> {
        let mut image = vec![0x90; 512];
        let mut note = [4_u32, 8, 18].map(u32::to_le_bytes).concat();
        note.extend_from_slice(b"Xen\0");
        note.extend_from_slice(&0x0100_0000_u64.to_le_bytes());
        image[64..64 + note.len()].copy_from_slice(&note);
        image
    }

    #[test]
    fn the_wrapped_kernel_carries_both_entry_points() {
        let image = image();
        let file = wrap(0x0100_0000, 0x0100_0123, &image).unwrap();
        let (header, rest) = Header::ref_from_prefix(&file).unwrap();
        let (segments, _) = <[Segment; 2]>::ref_from_prefix(rest).unwrap();
        assert_eq!(header.e_entry.get(), 0x0100_0123);
        let [load, note] = segments;
        assert_eq!(load.p_paddr.get(), 0x0100_0000);
        let start = load.p_offset.get() as usize;
        assert_eq!(file[start..], image);
        let start = note.p_offset.get() as usize;
        let (note, _) = EntryNote::ref_from_prefix(&file[start..]).unwrap();
        assert_eq!((note.note_type.get(), note.entry.get()), (18, 0x0100_0000));
    }

    #[test]
    fn an_image_without_a_pvh_entry_is_refused() {
        assert_eq!(wrap(0, 0, &[0; 4096]), None);
        assert_eq!(wrap(0, 0, b"Xen\0"), None);
    }
}
