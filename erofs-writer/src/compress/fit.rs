//! The most input that fits into a cluster, found by trial: for encoders that take all of their
//! input or fail.

use std::io;

use super::encode::Packed;

/// The number of trials after which the best one is used.
const TRIALS: u32 = 7;

/// Keeps the compression ratio, since the following contents mostly shrink alike.
#[derive(Debug)]
pub(crate) struct Fit {
    /// Input bytes for 256 bytes of output.
    ratio: usize,
    /// The accepted unused part of a cluster: a 2^n-th of it.
    shift: u32,
    trial: Vec<u8>,
}

impl Fit {
    /// With a larger `shift`, clusters are filled better at the cost of more trials.
    pub(crate) fn new(shift: u32) -> Self {
        Self {
            ratio: 3 * 256,
            shift,
            trial: Vec::new(),
        }
    }

    /// Resets the ratio, so that the next contents do not depend on it.
    pub(crate) fn reset(&mut self) {
        self.ratio = 3 * 256;
    }

    /// Encodes as much of `input` as fits into `capacity` bytes. `encode` writes the code of its
    /// whole input into a buffer of any length. So a failed trial also shows by how much it failed.
    pub(crate) fn pack(
        &mut self,
        input: &[u8],
        capacity: usize,
        mut encode: impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<Packed> {
        let mut best = Packed {
            consumed: 0,
            bytes: Vec::new(),
        };
        let (mut fits, mut fails) = (0, input.len() + 1);
        let mut next = scaled(capacity, self.ratio, 256);
        for _ in 0..TRIALS {
            let length = next.clamp(fits + 1, fails - 1);
            encode(&input[..length], &mut self.trial)?;
            let size = self.trial.len();
            if size <= capacity {
                fits = length;
                best.consumed = length;
                std::mem::swap(&mut best.bytes, &mut self.trial);
            } else {
                fails = length;
            }
            let ratio = scaled(length, 256, size.max(1));
            let close = capacity >> self.shift;
            if size <= capacity {
                self.ratio = ratio.max(256);
            }
            let failed = fails <= input.len();
            let narrow = failed && fits > 0 && fails - fits <= fits >> self.shift;
            let full = size <= capacity && capacity - size <= close;
            // Input that has not shrunk by then will not shrink.
            if fails <= capacity || fits + 1 >= fails || narrow || full {
                break;
            }
            // A little less than would just fit, because a trial that is too large is wasted.
            next = scaled(capacity - close / 2, length, size.max(1));
            if next >= fails && !failed {
                next = input.len();
            } else if next <= fits || next >= fails {
                next = fits.midpoint(fails);
            }
        }
        Ok(best)
    }
}

/// Returns `value * factor / divisor`, or the greatest number: the product of two lengths is more
/// than 32 bits hold.
fn scaled(value: usize, factor: usize, divisor: usize) -> usize {
    let scaled = value as u64 * factor as u64 / divisor as u64;
    usize::try_from(scaled).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_product_of_two_lengths_may_take_more_than_32_bits() {
        let most = u32::MAX as usize;
        assert_eq!(scaled(most, 256, 256), most);
        assert_eq!(scaled(1 << 20, 1 << 24, 1 << 20), 1 << 24);
    }

    proptest! {
        #[test]
        fn largest_fitting_input_is_found_and_nearly_fills_the_cluster(
            length in 0..100_000_usize,
            capacity in 64..8192_usize,
            percent in 1..150_usize,
        ) {
            let input = vec![0; length];
            let mut fit = Fit::new(6);
            for _ in 0..3 {
                let size = |bytes: usize| 10 + bytes * percent / 100;
                let packed = fit.pack(&input, capacity, |input, out| {
                    out.resize(size(input.len()), 0);
                    Ok(())
                }).unwrap();
                prop_assert_eq!(packed.bytes.len(), if packed.consumed > 0 { size(packed.consumed) } else { 0 });
                prop_assert!(packed.bytes.len() <= capacity);
                let worth = size(capacity) < capacity;
                let full = packed.consumed == length || packed.bytes.len() * 100 >= capacity * 94;
                prop_assert!(!worth || full, "{} of {}, {} of {}", packed.consumed, length, packed.bytes.len(), capacity);
            }
        }
    }
}
