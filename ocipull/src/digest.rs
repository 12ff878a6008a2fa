//! Content digests: the names of everything in an image.

use std::fmt;
use std::io::{self, Read};

use sha2::Digest as _;

/// A digest in one of the two algorithms that the OCI image specification registers with a fixed
/// length.
///
/// The text is `sha256:` and 64, or `sha512:` and 128, lower-case hexadecimal digits. A digest can
/// therefore be part of a path or a URL without further checks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    /// Algorithm, colon and digits.
    text: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl Digest {
    /// Returns the SHA-256 digest of `bytes`.
    ///
    /// ```
    /// let digest = ocipull::Digest::sha256(b"");
    /// assert!(digest.as_str().starts_with("sha256:e3b0c44298fc1c14"));
    /// ```
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the SHA-256 digest of all bytes of `input`.
    ///
    /// ```
    /// use ocipull::Digest;
    ///
    /// let digest = Digest::sha256_of(&mut &b"hello"[..])?;
    /// assert_eq!(digest, Digest::sha256(b"hello"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn sha256_of(input: &mut impl Read) -> io::Result<Self> {
        let mut hasher = Hasher::sha256();
        let mut chunk = vec![0; 64 << 10];
        loop {
            match input.read(&mut chunk) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(count) => hasher.update(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the algorithm's name: `sha256` or `sha512`.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm.name()
    }

    /// Returns the digits, without the algorithm.
    pub fn hex(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, digits)| digits)
    }

    /// Returns the algorithm and the digits, joined by a colon.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether this is the digest of `bytes`.
    ///
    /// ```
    /// use ocipull::Digest;
    ///
    /// let digest: Digest = Digest::sha256(b"hello").as_str().parse()?;
    /// assert!(digest.is_of(b"hello"));
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        self.same_of(bytes) == *self
    }

    /// A hasher of the same algorithm.
    pub(crate) fn hasher(&self) -> Hasher {
        Hasher::new(self.algorithm)
    }

    /// The digest of `bytes` in the same algorithm.
    pub(crate) fn same_of(&self, bytes: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl Digest {
    /// Parses a digest; `None` if `text` is not a valid one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (algorithm, digits) = match text.split_once(':')? {
            ("sha256", digits) if digits.len() == 64 => (Algorithm::Sha256, digits),
            ("sha512", digits) if digits.len() == 128 => (Algorithm::Sha512, digits),
            _ => return None,
        };
        let hexadecimal = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        digits.bytes().all(hexadecimal).then(|| Self {
            algorithm,
            text: text.into(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A running hash.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::sha256(),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    pub(crate) fn sha256() -> Self {
        Self::Sha256(sha2::Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => digest(Algorithm::Sha256, &hasher.finalize()),
            Self::Sha512(hasher) => digest(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let mut text = String::with_capacity(7 + 2 * bytes.len());
    text.push_str(algorithm.name());
    text.push(':');
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    Digest {
        algorithm,
        text: text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn digests_are_those_of_the_standard() {
        // FIPS 180-4's example "abc".
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::sha256(b"abc").as_str(), abc);
        let parsed: Digest = abc.parse().unwrap();
        assert_eq!(parsed, Digest::sha256(b"abc"));
        assert_eq!((parsed.algorithm(), parsed.hex()), ("sha256", &abc[7..]));
        let sha512 = format!("sha512:{}", "0".repeat(128))
            .parse::<Digest>()
            .unwrap();
        assert!(sha512.same_of(b"abc").is_of(b"abc") && !sha512.is_of(b"abc"));
        assert!(sha512.same_of(b"abc").hex().starts_with("ddaf35a193617aba"));
    }

    #[test]
    fn digest_with_path_components_is_rejected() {
        let hex = "0".repeat(64);
        for text in [
            "",
            "sha256:",
            "sha256:../..",
            &hex,
            &format!("sha256:{}", "0".repeat(63)),
            &format!("sha256:{}/", "0".repeat(63)),
            &format!("sha256:{}A", "0".repeat(63)),
            &format!("SHA256:{hex}"),
            &format!("sha512:{hex}"),
            &format!("md5:{}", "0".repeat(32)),
            &format!("sha256:{hex}\n"),
        ] {
            assert!(
                matches!(text.parse::<Digest>(), Err(Error::InvalidDigest { .. })),
                "{text:?}"
            );
        }
    }
}
