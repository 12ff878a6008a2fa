//! Hand-made tar archives: every byte of a header can be set, valid or not.

/// Builds a tar archive header by header. It writes all values unchanged, where `tar::Builder`
/// would reject or normalise them.
#[derive(Clone, Debug, Default)]
pub struct TarBuilder {
    bytes: Vec<u8>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    attributes: Attributes,
}

#[derive(Clone, Copy, Debug)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: u64,
    device: (u32, u32),
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            device: (0, 0),
        }
    }
}

impl TarBuilder {
    /// Returns an empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the permission bits of the following entries.
    pub fn mode(mut self, mode: u32) -> Self {
        self.attributes.mode = mode;
        self
    }

    /// Sets the owner and group of the following entries.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.attributes.uid, self.attributes.gid) = (uid, gid);
        self
    }

    /// Sets the modification time of the following entries, in seconds.
    pub fn mtime(mut self, mtime: u64) -> Self {
        self.attributes.mtime = mtime;
        self
    }

    /// Adds a PAX record for the next entry.
    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax
            .push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Adds an xattr of the next entry, as a `SCHILY.xattr` record.
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(format!("SCHILY.xattr.{name}"), value)
    }

    /// Adds a regular file.
    pub fn file(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.entry(path, b'0', b"", data)
    }

    /// Adds a directory, with mode 0755 unless [`mode`](Self::mode) was set.
    pub fn dir(mut self, path: impl AsRef<[u8]>) -> Self {
        let mode = self.attributes.mode;
        if mode == Attributes::default().mode {
            self.attributes.mode = 0o755;
        }
        self = self.entry(path, b'5', b"", b"");
        self.attributes.mode = mode;
        self
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(path, b'2', target, b"")
    }

    /// Adds a hard link.
    pub fn link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(path, b'1', target, b"")
    }

    /// Adds a character (`b'3'`) or block (`b'4'`) device.
    pub fn device(mut self, path: impl AsRef<[u8]>, kind: u8, major: u32, minor: u32) -> Self {
        self.attributes.device = (major, minor);
        self = self.entry(path, kind, b"", b"");
        self.attributes.device = (0, 0);
        self
    }

    /// Adds an entry of any type; names too long for the header are truncated, unless a PAX record
    /// overrides them.
    pub fn entry(
        mut self,
        path: impl AsRef<[u8]>,
        kind: u8,
        link: impl AsRef<[u8]>,
        data: impl AsRef<[u8]>,
    ) -> Self {
        let (mut path, link, data) = (path.as_ref(), link.as_ref(), data.as_ref());
        if path.len() > 100 && !self.pax.iter().any(|(key, _)| key == b"path") {
            self.pax.push((b"path".to_vec(), path.to_vec()));
        }
        if link.len() > 100 && !self.pax.iter().any(|(key, _)| key == b"linkpath") {
            self.pax.push((b"linkpath".to_vec(), link.to_vec()));
        }
        if !self.pax.is_empty() {
            let records: Vec<u8> = std::mem::take(&mut self.pax)
                .iter()
                .flat_map(|(key, value)| record(key, value))
                .collect();
            let attributes = std::mem::take(&mut self.attributes);
            self = self.raw(b"PaxHeaders/x", b'x', b"", &records);
            self.attributes = attributes;
        }
        path = &path[..path.len().min(100)];
        self.raw(path, kind, &link[..link.len().min(100)], data)
    }

    /// Adds a global PAX header.
    pub fn pax_global(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let records = record(key.as_ref(), value.as_ref());
        self.raw(b"PaxHeaders/g", b'g', b"", &records)
    }

    /// Adds a header and its data unchanged: `path` and `link` are at most 100 bytes.
    pub fn raw(self, path: &[u8], kind: u8, link: &[u8], data: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        let a = self.attributes;
        header[..path.len()].copy_from_slice(path);
        for (at, width, value) in [
            (100, 8, u64::from(a.mode)),
            (108, 8, u64::from(a.uid)),
            (116, 8, u64::from(a.gid)),
            (124, 12, data.len() as u64),
            (136, 12, a.mtime),
            (329, 8, u64::from(a.device.0)),
            (337, 8, u64::from(a.device.1)),
        ] {
            number(&mut header[at..at + width], value);
        }
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link);
        header[257..265].copy_from_slice(b"ustar\x0000");
        self.header(header).bytes(data).pad()
    }

    /// Adds a header given as bytes, with its checksum corrected.
    pub fn header(mut self, mut header: [u8; 512]) -> Self {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self
    }

    /// Adds any bytes.
    pub fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.bytes.extend_from_slice(bytes.as_ref());
        self
    }

    /// Adds zeros up to the next 512-byte boundary.
    pub fn pad(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// Returns the archive so far, without end-of-archive blocks.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns the archive with its two end-of-archive blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// Writes a number as octal digits and a NUL, or in base 256 if it has too many digits.
fn number(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}\0", width = field.len() - 1);
    if digits.len() == field.len() {
        field.copy_from_slice(digits.as_bytes());
    } else {
        field.fill(0);
        let start = field.len() - 8;
        field[start..].copy_from_slice(&value.to_be_bytes());
        field[0] |= 0x80;
    }
}

/// Returns a PAX record: its own length in decimal, a space, `key=value`, a newline.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}
