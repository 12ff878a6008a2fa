//! Copying matches: repetitions of earlier output.

/// The length of most matches. Shorter ones are copied in two halves of constant size.
const STEP: usize = 16;
const HALF: usize = 8;

/// The number of bytes that such a copy may write.
const ROOM: usize = STEP + HALF;

/// By distance: the factor that repeats the lowest bytes of a word over the whole word, and the
/// number of bytes in whole repetitions.
const REPETITIONS: [(u64, usize); HALF] = [
    (0, 8),
    (0x0101_0101_0101_0101, 8),
    (0x0001_0001_0001_0001, 8),
    (0x0001_0000_0100_0001, 6),
    (0x0000_0001_0000_0001, 8),
    (0x0000_0100_0000_0001, 5),
    (0x0001_0000_0000_0001, 6),
    (0x0100_0000_0000_0001, 7),
];

/// Fills `length` bytes from `output[done]`, or as many as there are, with what begins `distance`
/// bytes before it, and returns where they end; `None` where that is before the output. The two may
/// overlap: then bytes repeat.
///
/// Up to 23 bytes after the end may be written too. Later output overwrites them.
#[inline(always)]
pub(super) fn repeat(
    output: &mut [u8],
    done: usize,
    length: usize,
    distance: usize,
) -> Option<usize> {
    let from = done.checked_sub(distance)?;
    if length > STEP || output.len().saturating_sub(done) < ROOM {
        return long(output, done, length, distance);
    }
    if distance >= HALF {
        let window = output.get_mut(from..)?;
        let window = window.get_mut(..distance.wrapping_add(STEP))?;
        // The second half may begin with what the first one wrote.
        for half in [0, HALF] {
            let bytes: [u8; HALF] = *window.get(half..)?.first_chunk()?;
            let to = window.get_mut(distance.wrapping_add(half)..)?;
            *to.first_chunk_mut()? = bytes;
        }
    } else {
        near(output, done, distance)?;
    }
    Some(done.wrapping_add(length))
}

/// A short match whose distance is less than 8, where there is room for more than it.
#[inline(always)]
fn near(output: &mut [u8], done: usize, distance: usize) -> Option<()> {
    if distance == 0 {
        return None;
    }
    let from = output.get(done.checked_sub(distance)?..)?;
    let word = u64::from_le_bytes(*from.first_chunk()?);
    let &(factor, whole) = REPETITIONS.get(distance)?;
    let bits = u32::try_from(distance).ok()?.wrapping_mul(8);
    let word = word & 1_u64.wrapping_shl(bits).wrapping_sub(1);
    let pattern = word.wrapping_mul(factor).to_le_bytes();
    let to: &mut [u8; ROOM] = output.get_mut(done..)?.first_chunk_mut()?;
    for step in [0, 1, 2] {
        *to.get_mut(whole.wrapping_mul(step)..)?.first_chunk_mut()? = pattern;
    }
    Some(())
}

/// A match of any length, wherever the output ends.
#[inline(never)]
fn long(output: &mut [u8], done: usize, length: usize, distance: usize) -> Option<usize> {
    let mut from = done.checked_sub(distance)?;
    let mut to = done;
    let end = done.saturating_add(length).min(output.len());
    let length = end.checked_sub(done)?;
    if distance >= STEP && length <= STEP.wrapping_mul(4) && output.len().wrapping_sub(end) >= STEP
    {
        while to < end {
            let step: [u8; STEP] = *output.get(from..)?.first_chunk()?;
            *output.get_mut(to..)?.first_chunk_mut()? = step;
            (from, to) = (from.wrapping_add(STEP), to.wrapping_add(STEP));
        }
        return Some(end);
    }
    if distance == 1 {
        let byte = *output.get(from)?;
        output.get_mut(done..end)?.fill(byte);
        return Some(end);
    }
    if distance == 0 {
        return None;
    }
    // What is there doubles with every step.
    while to < end {
        let step = to.wrapping_sub(from).min(end.wrapping_sub(to));
        output.copy_within(from..from.checked_add(step)?, to);
        to = to.wrapping_add(step);
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_of_any_length_and_distance_repeat_earlier_bytes() {
        for done in [0, 1, 3, 15, 16, 17, 40, 100] {
            for distance in 0..done + 2 {
                for length in 0..100 {
                    for room in [0, 1, 15, 16, 23, 24, 40] {
                        let mut output: Vec<u8> = (0..done as u8).collect();
                        output.resize(done + length + room, 0xee);
                        let repeated = repeat(&mut output, done, length, distance);
                        if distance > done || distance == 0 {
                            assert_eq!(repeated, None);
                            continue;
                        }
                        assert_eq!(repeated, Some(done + length));
                        let byte = |at: usize| {
                            (at.checked_sub(done)).map_or(at, |at| done - distance + at % distance)
                        };
                        let expected: Vec<u8> =
                            (0..done + length).map(|at| byte(at) as u8).collect();
                        assert_eq!(output[..done + length], expected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_match_ends_where_the_output_does() {
        for length in [3, 16, 17, 100] {
            for left in 0..length {
                let mut output = vec![b'x'; 20];
                output.resize(20 + left, 0xee);
                assert_eq!(repeat(&mut output, 20, length, 20), Some(20 + left));
                assert_eq!(output, vec![b'x'; 20 + left]);
            }
        }
    }
}
