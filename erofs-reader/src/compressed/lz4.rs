//! The LZ4 block format.

use super::copy::repeat;

/// Decodes `input` until `output` is full. `None` where the input is malformed, or ends before
/// that.
///
/// Written for clusters: their decoded size is known, and they may hold more than is requested,
/// which other libraries report as an error.
pub(super) fn decode(input: &[u8], output: &mut [u8]) -> Option<()> {
    let mut input = Input(input);
    let mut done = 0_usize;
    while done < output.len() {
        done = decode_short(&mut input, output, done)?;
        let token = input.byte()?;
        let literals = input.length(token >> 4)?;
        let source = input.take(literals)?;
        let end = done.saturating_add(literals).min(output.len());
        let target = output.get_mut(done..end)?;
        target.copy_from_slice(source.get(..target.len())?);
        done = end;
        if done == output.len() {
            break;
        }
        let distance = usize::from(u16::from_le_bytes([input.byte()?, input.byte()?]));
        let matched = input.length(token & 15)?.saturating_add(4);
        done = repeat(output, done, matched, distance)?;
    }
    Some(())
}

/// Most sequences are short, and far from both ends: their lengths fit in the token, and more bytes
/// than that may be copied, in pieces of constant size. Decodes such sequences up to the first
/// other one, and returns the end of the output.
#[inline(always)]
fn decode_short(input: &mut Input<'_>, output: &mut [u8], mut done: usize) -> Option<usize> {
    /// The size of a copy of literals, of which there are at most 14.
    const LITERALS: usize = 16;
    /// The longest match whose length fits in the token.
    const MATCH: usize = 18;
    let mut rest = input.0;
    while let Some([token, bytes @ ..]) = rest.first_chunk::<{ 1 + LITERALS + 1 }>()
        && let Some(room) = output
            .get_mut(done..)?
            .first_chunk_mut::<{ LITERALS + MATCH }>()
    {
        let literals = usize::from(token >> 4);
        let length = usize::from(token & 15);
        if literals == 15 || length == 15 {
            break;
        }
        *room.first_chunk_mut()? = *bytes.first_chunk::<LITERALS>()?;
        let distance = bytes.get(literals..)?.first_chunk()?;
        let distance = usize::from(u16::from_le_bytes(*distance));
        // Far less than the input and the output have.
        done = done.wrapping_add(literals);
        let length = length.wrapping_add(4);
        let (before, after) = output.split_at_mut_checked(done)?;
        let matched = before.get(done.checked_sub(distance)?..)?;
        if let Some(matched) = matched.first_chunk::<MATCH>() {
            *after.first_chunk_mut()? = *matched;
        } else {
            repeat(output, done, length, distance)?;
        }
        done = done.wrapping_add(length);
        rest = rest.get(literals.wrapping_add(3)..)?;
    }
    input.0 = rest;
    Some(done)
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A length that begins with four bits of the token: 15 says that bytes follow, of which 255
    /// says that more do.
    fn length(&mut self, nibble: u8) -> Option<usize> {
        let mut length = usize::from(nibble);
        if nibble == 15 {
            loop {
                let byte = self.byte()?;
                length = length.saturating_add(byte.into());
                if byte != 255 {
                    break;
                }
            }
        }
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut output = vec![0; length];
        decode(input, &mut output).map(|()| output)
    }

    #[test]
    fn overlapping_matches_repeat() {
        // Two literals, a match of 8 at distance 2, five literals.
        let block = b"\x24ab\x02\x00\x50vwxyz";
        assert_eq!(
            decoded(block, 15).unwrap(),
            b"ababababab"
                .iter()
                .chain(b"vwxyz")
                .copied()
                .collect::<Vec<_>>()
        );
        assert_eq!(decoded(block, 5).unwrap(), b"ababa");
        assert_eq!(decoded(block, 16), None);
    }

    #[test]
    fn long_lengths_take_more_bytes() {
        let mut block = vec![0xf0, 255, 3];
        block.extend([b'x'; 15 + 255 + 3]);
        assert_eq!(decoded(&block, 273).unwrap(), [b'x'; 273]);
        assert_eq!(decoded(&block[..200], 273), None);
    }

    #[test]
    fn a_match_before_the_beginning_is_malformed() {
        assert_eq!(decoded(b"\x14a\x02\x00\x50vwxyz", 14), None);
        assert_eq!(decoded(b"\x14a\x00\x00\x50vwxyz", 14), None);
        assert_eq!(decoded(b"", 1), None);
        assert_eq!(decoded(b"", 0).unwrap(), b"");
    }
}
