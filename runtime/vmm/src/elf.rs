//! Reads shared libraries of Linux without loading them (`man 5 elf`). Their bytes are not trusted.

use object::LittleEndian;
use object::elf::{
    EM_AARCH64, EM_X86_64, FileHeader64, PT_LOAD, ProgramHeader64, SHT_DYNSYM, Sym64,
};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};

use super::Arch;

/// The most symbols of a library that are looked at. libkrunfw has ten.
const SYMBOLS: usize = 4096;

const ENDIAN: LittleEndian = LittleEndian;

/// A little-endian ELF file of 64 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Library<'a> {
    bytes: &'a [u8],
    header: &'a FileHeader64<LittleEndian>,
}

impl<'a> Library<'a> {
    /// Reads the header; `None` if `bytes` are another file.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = FileHeader64::<LittleEndian>::parse(bytes).ok()?;
        header.endian().ok()?;
        Some(Self { bytes, header })
    }

    /// Returns the architecture that the file is for, if guests can have it.
    pub(super) fn arch(&self) -> Option<Arch> {
        match self.header.e_machine(ENDIAN) {
            EM_X86_64 => Some(Arch::X86_64),
            EM_AARCH64 => Some(Arch::Aarch64),
            _ => None,
        }
    }

    /// Returns whether the file has all bytes of its segments.
    pub(super) fn is_whole(&self) -> bool {
        let end = |segment: &ProgramHeader64<_>| {
            let start = segment.p_offset(ENDIAN);
            start.saturating_add(segment.p_filesz(ENDIAN))
        };
        let length = self.bytes.len() as u64;
        let segments = self.segments();
        segments.is_some_and(|segments| segments.iter().all(|segment| end(segment) <= length))
    }

    /// Returns the contents of the exported object `name`.
    pub(super) fn object(&self, name: &str) -> Option<&'a [u8]> {
        let (address, size) = self.symbol(name)?;
        let mut loaded = self.segments()?.iter();
        loaded.find_map(|segment| match segment.p_type(ENDIAN) {
            PT_LOAD => segment
                .data_range(ENDIAN, self.bytes, address, size)
                .ok()
                .flatten(),
            _ => None,
        })
    }

    /// Returns the address and the size of the exported symbol `name`.
    fn symbol(&self, name: &str) -> Option<(u64, u64)> {
        let sections = self.header.section_headers(ENDIAN, self.bytes).ok()?;
        let table = sections
            .iter()
            .find(|section| section.sh_type(ENDIAN) == SHT_DYNSYM)?;
        let symbols: &[Sym64<_>] = table.data_as_array(ENDIAN, self.bytes).ok()?;
        let names = sections.get(table.sh_link(ENDIAN) as usize)?;
        let names = names.data(ENDIAN, self.bytes).ok()?;
        let is_called = |symbol: &&Sym64<_>| {
            let rest = names.get(symbol.st_name(ENDIAN) as usize..);
            let end = rest.and_then(|rest| rest.strip_prefix(name.as_bytes()));
            end.is_some_and(|end| end.first() == Some(&0))
        };
        let found = symbols.iter().take(SYMBOLS).find(is_called)?;
        Some((found.st_value(ENDIAN), found.st_size(ENDIAN)))
    }

    fn segments(&self) -> Option<&'a [ProgramHeader64<LittleEndian>]> {
        self.header.program_headers(ENDIAN, self.bytes).ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns a library for `machine` (`e_machine`) that exports `contents` as the object `name`:
    /// a header, a segment of everything, two symbols, their names, the object, and three sections.
    pub(crate) fn library(machine: u16, name: &str, contents: &[u8]) -> Vec<u8> {
        let u16s = |values: &[u16]| {
            values
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect::<Vec<_>>()
        };
        let u32s = |values: &[u32]| {
            values
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect::<Vec<_>>()
        };
        let u64s = |values: &[u64]| {
            values
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect::<Vec<_>>()
        };
        /// Where the segment is in memory.
        const BASE: u64 = 0x10000;
        let names = [b"\0", name.as_bytes(), b"\0"].concat();
        let symbols_at = 64 + 56;
        let names_at = symbols_at + 2 * 24;
        let object_at = names_at + names.len() as u64;
        let sections_at = object_at + contents.len() as u64;
        let end = sections_at + 3 * 64;
        let section = |kind: u32, at: u64, size: u64, link: u32, entry: u64| {
            let head = [u32s(&[0, kind]), u64s(&[0, 0, at, size])].concat();
            [head, u32s(&[link, 0]), u64s(&[1, entry])].concat()
        };
        [
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
            u16s(&[3, machine]),
            u32s(&[1]),
            u64s(&[0, 64, sections_at]),
            u32s(&[0]),
            u16s(&[64, 56, 1, 64, 3, 2]),
            u32s(&[1, 6]),
            u64s(&[0, BASE, BASE, end, end, 1]),
            vec![0; 24],
            u32s(&[1]),
            vec![0x11, 0, 1, 0],
            u64s(&[BASE + object_at, contents.len() as u64]),
            names.clone(),
            contents.to_vec(),
            vec![0; 64],
            section(11, symbols_at, 2 * 24, 2, 24),
            section(3, names_at, names.len() as u64, 0, 0),
        ]
        .concat()
    }

    #[test]
    fn an_exported_object_is_found_by_its_whole_name() {
        let bytes = library(183, "KERNEL", b"contents");
        let library = Library::parse(&bytes).unwrap();
        assert_eq!(library.arch(), Some(Arch::Aarch64));
        assert!(library.is_whole());
        assert_eq!(library.object("KERNEL"), Some(&b"contents"[..]));
        for other in ["", "KERNE", "KERNEL_", "ERNEL_"] {
            assert_eq!(library.object(other), None, "{other}");
        }
    }

    #[test]
    fn a_library_that_is_cut_off_is_not_whole() {
        let bytes = library(62, "KERNEL", b"contents");
        for length in 0..bytes.len() {
            let whole = Library::parse(&bytes[..length]).is_some_and(|library| library.is_whole());
            assert!(!whole, "{length}");
        }
    }

    fn read(bytes: &[u8]) {
        if let Some(library) = Library::parse(bytes) {
            let _ = (library.arch(), library.is_whole());
            if let Some(contents) = library.object("KERNEL") {
                assert!(contents.len() <= bytes.len());
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much_for_the_reader(
            changes in prop::collection::vec((0_usize..1000, any::<u8>()), 0..8),
            length in 0_usize..1000,
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = library(183, "KERNEL", b"contents");
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            read(&bytes);
            bytes.truncate(length);
            bytes.extend(rest);
            read(&bytes);
        }
    }
}
