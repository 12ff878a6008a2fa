//! Matches: what the output already holds, once more.

/// Bytes copied at once where there is room for more than are wanted.
const STEP: usize = 16;

/// Fills `output[done..end]` with what begins `distance` bytes before it; `None` where that is before the output. The two may
/// overlap: then bytes repeat.
///
/// Up to 15 bytes behind `end` may be written too, which whoever goes on writes over.
#[inline]
pub(super) fn repeat(output: &mut [u8], done: usize, end: usize, distance: usize) -> Option<()> {
    let mut from = done.checked_sub(distance)?;
    let mut to = done;
    let length = end.checked_sub(done)?;
    if distance >= STEP && length <= STEP.wrapping_mul(4) && output.len().wrapping_sub(end) >= STEP
    {
        while to < end {
            let step: [u8; STEP] = *output.get(from..)?.first_chunk()?;
            *output.get_mut(to..)?.first_chunk_mut()? = step;
            (from, to) = (from.wrapping_add(STEP), to.wrapping_add(STEP));
        }
        return Some(());
    }
    if distance == 1 {
        let byte = *output.get(from)?;
        output.get_mut(done..end)?.fill(byte);
        return Some(());
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
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_of_any_length_and_distance_repeat_what_was_before() {
        for done in [0, 1, 3, 15, 16, 17, 40, 100] {
            for distance in 0..done + 2 {
                for length in 0..100 {
                    for room in [0, 1, 15, 16, 40] {
                        let mut output: Vec<u8> = (0..done as u8).collect();
                        output.resize(done + length + room, 0xee);
                        let repeated = repeat(&mut output, done, done + length, distance);
                        if distance > done || distance == 0 {
                            assert_eq!(repeated, None);
                            continue;
                        }
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
}
