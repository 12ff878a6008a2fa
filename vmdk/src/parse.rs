//! Descriptor text to [`Descriptor`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::descriptor::sum;
use crate::{
    Access, Descriptor, Error, Extent, ExtentKind, MAX_DESCRIPTOR, NO_PARENT, SyntaxProblem, name,
};

/// The heading of every descriptor, without the blanks and capitals that tools disagree about.
const SIGNATURE: &str = "#diskdescriptorfile";

/// Types that exist and that this crate does not read.
const OTHER_TYPES: [&str; 4] = ["VMFSSPARSE", "VMFSRDM", "VMFSRAW", "SESPARSE"];

impl Descriptor {
    /// Parses a descriptor. The text ends at the first NUL, as it does where it is embedded in an
    /// image.
    ///
    /// Reads what VMware's products, ESXi, VirtualBox, QEMU and others write: any heading that
    /// means the same, comments, keys and types in any case, any line ends, keys that it does not
    /// know (which it keeps), and attributes after an extent's fields. Strict where a mistake would
    /// change the disk's bytes: two different values of one key, extents with missing or malformed
    /// fields, and names that are absolute or could end their quotes are refused. What the format
    /// defines and this crate cannot read (differential disks, `VMFSSPARSE`) parses, so that a
    /// caller can name it.
    ///
    /// ```
    /// let text = b"# Disk Descriptor File\r\nversion=1\r\nCID=1\r\nparentCID=ffffffff\r\ncreateType=\"vmfs\"\r\n\
    ///              RW 8 VMFS \"disk-flat.vmdk\"\r\nddb.thinProvisioned = \"1\"\r\n";
    /// let descriptor = vmdk::Descriptor::parse(text)?;
    /// assert_eq!(descriptor.size(), 4096);
    /// assert_eq!(descriptor.extents()[0].file(), Some("disk-flat.vmdk"));
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`] with the line, [`Error::Name`], [`Error::TooLong`], [`Error::NoExtents`],
    /// [`Error::Overflow`], and [`Error::Unsupported`] for an undefined version, for text
    /// in an encoding other than UTF-8 and windows-1252, and for an encrypted disk.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_DESCRIPTOR {
            return Err(Error::TooLong {
                bytes: bytes.len() as u64,
            });
        }
        // A NUL ends the text, as for all readers in C. QEMU leaves rests of a longer text after it
        // when it writes a CID of six digits or fewer.
        let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = decode(bytes)?;
        let mut signed = false;
        let mut keys = Keys::default();
        let mut extents = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() {
                continue;
            }
            if line.starts_with('#') {
                signed |= is_signature(line);
                continue;
            }
            if !signed {
                // Without its heading a descriptor begins with its version, as QEMU has it.
                if !is_version(line) {
                    return Err(syntax(number, SyntaxProblem::NoSignature));
                }
                signed = true;
            }
            match extent(line) {
                Some(Ok(extent)) => extents.push(extent),
                Some(Err(Problem::Field(field))) => {
                    return Err(syntax(number, SyntaxProblem::Extent(field)));
                }
                Some(Err(Problem::Name(error))) => return Err(error),
                None => keys
                    .insert(line)
                    .map_err(|problem| syntax(number, problem))?,
            }
        }
        if !signed {
            return Err(syntax(1, SyntaxProblem::NoSignature));
        }
        let descriptor = keys.finish(extents)?;
        sum(&descriptor.extents)?;
        Ok(descriptor)
    }
}

/// The text of a descriptor in its encoding.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Error> {
    if bytes.is_ascii() {
        // Every encoding that a descriptor can name, but UTF-16, has ASCII in it.
        return Ok(String::from_utf8_lossy(bytes));
    }
    let encoding = bytes.split(|&byte| byte == b'\n').find_map(|line| {
        let (key, value) = std::str::from_utf8(line).ok()?.split_once('=')?;
        let same = key.trim().eq_ignore_ascii_case("encoding");
        same.then(|| unquote(value.trim()).unwrap_or_default())
    });
    match encoding {
        Some(name) if is_any(name, &["windows-1252", "ISO-8859-1"]) => {
            Ok(bytes.iter().map(|&byte| windows_1252(byte)).collect())
        }
        Some(name) if !is_any(name, &["UTF-8", "UTF8", "US-ASCII"]) => Err(Error::Unsupported {
            what: format!("encoding {name:?}"),
        }),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(syntax(0, SyntaxProblem::NotText)),
        },
    }
}

fn is_any(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn windows_1252(byte: u8) -> char {
    /// The characters of the bytes 0x80 to 0x9f. The five undefined bytes are control characters.
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

fn is_signature(line: &str) -> bool {
    let squeezed: String = line
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    squeezed.starts_with(SIGNATURE)
}

fn is_version(line: &str) -> bool {
    line.split_once('=')
        .is_some_and(|(key, _)| key.trim().eq_ignore_ascii_case("version"))
}

fn syntax(line: usize, problem: SyntaxProblem) -> Error {
    Error::Syntax { line, problem }
}

enum Problem {
    Field(&'static str),
    Name(Error),
}

/// The extent that `line` describes, or `None` where it does not begin like one.
fn extent(line: &str) -> Option<Result<Extent, Problem>> {
    let (first, rest) = line.split_once([' ', '\t'])?;
    let &(_, access) = Access::NAMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(first))?;
    Some(extent_fields(access, rest))
}

fn extent_fields(access: Access, rest: &str) -> Result<Extent, Problem> {
    let (sectors, rest) = word(rest);
    let sectors = number(sectors)
        .filter(|&sectors| sectors > 0)
        .ok_or(Problem::Field("size"))?;
    let (kind, rest) = word(rest);
    let kind = kind.to_ascii_uppercase();
    let (kind, rest) = match kind.as_str() {
        "FLAT" => {
            let (file, rest) = quoted(rest)?;
            let (offset, rest) = word(rest);
            let offset_sectors = number(offset).ok_or(Problem::Field("offset"))?;
            let kind = ExtentKind::Flat {
                file,
                offset_sectors,
            };
            (kind, rest)
        }
        "SPARSE" => {
            let (file, rest) = quoted(rest)?;
            (ExtentKind::Sparse { file }, no_offset(rest))
        }
        "VMFS" => {
            let (file, rest) = quoted(rest)?;
            (ExtentKind::Vmfs { file }, no_offset(rest))
        }
        "ZERO" => (ExtentKind::Zero, no_offset(rest)),
        _ if OTHER_TYPES.contains(&kind.as_str()) => {
            if rest.contains(char::is_control) {
                return Err(Problem::Field("end"));
            }
            let rest = rest.to_owned();
            (ExtentKind::Other { name: kind, rest }, "")
        }
        // An extent without access may have no type.
        "" if access == Access::None => (ExtentKind::Zero, ""),
        _ => return Err(Problem::Field("type")),
    };
    let attributes = attributes(rest)?;
    Ok(Extent::parsed(access, sectors, kind, attributes))
}

/// The text after an offset of 0. VMware sometimes writes one where no other offset has a meaning.
fn no_offset(rest: &str) -> &str {
    match word(rest) {
        ("0", rest) => rest,
        _ => rest,
    }
}

/// The attributes after an extent's fields, such as `partitionUUID …`: words, of which the first is
/// a name.
fn attributes(rest: &str) -> Result<String, Problem> {
    if rest.starts_with('#') {
        return Ok(String::new());
    }
    let named = rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_alphabetic());
    if !named || rest.contains(|c: char| c.is_control() && c != '\t') {
        return Err(Problem::Field("end"));
    }
    Ok(rest.to_owned())
}

/// The first word, and what follows it without leading blanks.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let (first, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (first, rest.trim_start())
}

/// Decimal digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn quoted(text: &str) -> Result<(String, &str), Problem> {
    let (file, rest) = text
        .strip_prefix('"')
        .and_then(|text| text.split_once('"'))
        .ok_or(Problem::Field("file name"))?;
    name::relative(file).map_err(Problem::Name)?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return Err(Problem::Field("file name"));
    }
    Ok((file.to_owned(), rest.trim()))
}

/// The `key=value` lines seen so far.
#[derive(Default)]
struct Keys {
    header: BTreeMap<&'static str, String>,
    ddb: BTreeMap<String, String>,
    other: BTreeMap<String, String>,
}

impl Keys {
    /// The keys that say what the disk is.
    const KNOWN: [&str; 6] = [
        "version",
        "encoding",
        "CID",
        "parentCID",
        "createType",
        "parentFileNameHint",
    ];

    fn insert(&mut self, line: &str) -> Result<(), SyntaxProblem> {
        let (key, value) = line.split_once('=').ok_or(SyntaxProblem::Unintelligible)?;
        let key = key.trim();
        if !name::is_key(key) {
            return Err(SyntaxProblem::Unintelligible);
        }
        let value = unquote(value.trim())
            .filter(|value| name::is_value(value))
            .ok_or_else(|| SyntaxProblem::Value(key.to_owned()))?;
        let known = Self::KNOWN
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(key));
        if let Some(known) = known {
            return match self.header.insert(known, value.to_owned()) {
                Some(other) if other != value => Err(SyntaxProblem::Duplicate(known.to_owned())),
                _ => Ok(()),
            };
        }
        // Of two values of a key without a meaning here, the first counts, as in QEMU.
        let (map, key) = match key.split_at_checked(4) {
            Some((ddb, item)) if ddb.eq_ignore_ascii_case("ddb.") && name::is_key(item) => {
                (&mut self.ddb, item)
            }
            _ => (&mut self.other, key),
        };
        map.entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
        Ok(())
    }

    fn finish(mut self, extents: Vec<Extent>) -> Result<Descriptor, Error> {
        if let Some(key) = self.other.keys().find(|key| is_encryption(key)) {
            return Err(Error::Unsupported {
                what: format!("an encrypted disk (it has {key:?})"),
            });
        }
        let mut take = |key| {
            self.header
                .remove(key)
                .ok_or(syntax(0, SyntaxProblem::Missing(key)))
        };
        let bad = |key: &str| syntax(0, SyntaxProblem::Value(key.to_owned()));
        let version = number(&take("version")?)
            .and_then(|version| u32::try_from(version).ok())
            .ok_or_else(|| bad("version"))?;
        if !(1..=3).contains(&version) {
            return Err(Error::Unsupported {
                what: format!("version {version}"),
            });
        }
        let mut id = |key| {
            let digits = take(key)?;
            u32::from_str_radix(&digits, 16)
                .ok()
                .filter(|_| !digits.starts_with('+'))
                .ok_or_else(|| bad(key))
        };
        let cid = id("CID")?;
        // Tools that know no differential disks may leave it out.
        let parent_cid = match id("parentCID") {
            Err(Error::Syntax {
                problem: SyntaxProblem::Missing(_),
                ..
            }) => NO_PARENT,
            id => id?,
        };
        Ok(Descriptor {
            version,
            cid,
            parent_cid,
            create_type: take("createType")?,
            parent_hint: take("parentFileNameHint")
                .ok()
                .filter(|hint| !hint.is_empty()),
            extents,
            ddb: self.ddb,
            other: self.other,
        })
    }
}

/// Whether VMware Workstation stores the encryption keys of a disk under this key.
fn is_encryption(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["encryption", "crypto", "keysafe"]
        .iter()
        .any(|start| key.starts_with(start))
}

/// A value without its quotes, and without a comment after them; `None` where text follows the
/// quotes.
fn unquote(value: &str) -> Option<&str> {
    let Some(quoted) = value.strip_prefix('"') else {
        return Some(value);
    };
    let (value, rest) = quoted.split_once('"')?;
    let rest = rest.trim_start();
    (rest.is_empty() || rest.starts_with('#')).then_some(value)
}
