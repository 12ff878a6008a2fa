//! Descriptor text to [`Descriptor`].

use std::collections::BTreeMap;

use crate::{Access, Descriptor, Error, Extent, ExtentKind, MAX_DESCRIPTOR, SyntaxProblem, name};

const SIGNATURE: &str = "# Disk DescriptorFile";

/// Types that exist and that we do not read.
const OTHER_TYPES: [&str; 5] = ["VMFS", "VMFSSPARSE", "VMFSRDM", "VMFSRAW", "SESPARSE"];

impl Descriptor {
    /// Parses a descriptor. It ends at the first NUL, as it does where it is embedded in an image.
    ///
    /// Strict where readers disagree: unknown or repeated keys, extents with missing or surplus fields, and names that are
    /// absolute or could end their quotes are refused. What the format defines and this crate cannot read
    /// (differential disks, VMFS) parses, so that a caller can say what it is.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`] with the line, [`Error::Name`], [`Error::TooLong`], [`Error::NoExtents`], [`Error::Overflow`], and
    /// [`Error::Unsupported`] for a version or an encoding that nobody defined.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_DESCRIPTOR {
            return Err(Error::TooLong {
                bytes: bytes.len() as u64,
            });
        }
        // A NUL ends the text, as for all readers in C. QEMU leaves rests of a longer text behind it when it writes a CID
        // of six digits or fewer.
        let text = bytes
            .split(|&byte| byte == 0)
            .next()
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .ok_or(syntax(0, SyntaxProblem::NotText))?;
        let mut lines = (1..).zip(text.lines().map(str::trim));
        if lines.next().is_none_or(|(_, line)| line != SIGNATURE) {
            return Err(syntax(1, SyntaxProblem::NoSignature));
        }
        let mut keys = Keys::default();
        let mut extents = Vec::new();
        for (number, line) in lines {
            if line.is_empty() || line.starts_with('#') {
                continue;
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
        let descriptor = keys.finish(extents)?;
        descriptor.sectors()?;
        Ok(descriptor)
    }
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
    let &(_, access) = Access::NAMES.iter().find(|(name, _)| *name == first)?;
    Some(extent_fields(access, rest))
}

fn extent_fields(access: Access, rest: &str) -> Result<Extent, Problem> {
    let (sectors, rest) = word(rest);
    let sectors = number(sectors)
        .filter(|&sectors| sectors > 0)
        .ok_or(Problem::Field("size"))?;
    let (kind, rest) = word(rest);
    let kind = match kind {
        "FLAT" => {
            let (file, rest) = quoted(rest)?;
            let offset_sectors = number(rest).ok_or(Problem::Field("offset"))?;
            ExtentKind::Flat {
                file,
                offset_sectors,
            }
        }
        "SPARSE" => {
            let (file, rest) = quoted(rest)?;
            // VMware writes an offset here now and then; nothing but 0 has a meaning.
            if !matches!(rest, "" | "0") {
                return Err(Problem::Field("offset"));
            }
            ExtentKind::Sparse { file }
        }
        "ZERO" if rest.is_empty() => ExtentKind::Zero,
        "ZERO" => return Err(Problem::Field("end")),
        other if OTHER_TYPES.contains(&other) => ExtentKind::Other {
            name: other.to_owned(),
            rest: rest.to_owned(),
        },
        // What is not accessed may be of no type at all.
        "" if access == Access::None => ExtentKind::Zero,
        _ => return Err(Problem::Field("type")),
    };
    Ok(Extent {
        access,
        sectors,
        kind,
    })
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
}

impl Keys {
    /// Everything the format defines outside the disk data base.
    const KNOWN: [&str; 8] = [
        "version",
        "encoding",
        "CID",
        "parentCID",
        "isNativeSnapshot",
        "createType",
        "parentFileNameHint",
        "changeTrackPath",
    ];

    fn insert(&mut self, line: &str) -> Result<(), SyntaxProblem> {
        let (key, value) = line.split_once('=').ok_or(SyntaxProblem::Unintelligible)?;
        let (key, value) = (key.trim(), unquote(value.trim()));
        if value.contains('"') {
            return Err(SyntaxProblem::Value(key.to_owned()));
        }
        let previous = if let Some(known) = Self::KNOWN.into_iter().find(|&known| known == key) {
            self.header.insert(known, value.to_owned())
        } else if let Some(item) = key.strip_prefix("ddb.").filter(|item| !item.is_empty()) {
            self.ddb.insert(item.to_owned(), value.to_owned())
        } else {
            return Err(SyntaxProblem::UnknownKey(key.to_owned()));
        };
        match previous {
            Some(_) => Err(SyntaxProblem::Duplicate(key.to_owned())),
            None => Ok(()),
        }
    }

    fn finish(mut self, extents: Vec<Extent>) -> Result<Descriptor, Error> {
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
        let (cid, parent_cid) = (id("CID")?, id("parentCID")?);
        let create_type = take("createType")?;
        // Names are ASCII or UTF-8 here; in any other encoding, bytes over 127 would mean something else.
        if let Ok(encoding) = take("encoding")
            && !["UTF-8", "windows-1252", "US-ASCII"]
                .iter()
                .any(|known| known.eq_ignore_ascii_case(&encoding))
        {
            return Err(Error::Unsupported {
                what: format!("encoding {encoding:?}"),
            });
        }
        Ok(Descriptor {
            version,
            cid,
            parent_cid,
            create_type,
            parent_hint: take("parentFileNameHint").ok(),
            extents,
            ddb: self.ddb,
        })
    }
}

fn unquote(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}
