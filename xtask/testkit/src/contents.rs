//! Reproducible contents of files.

/// Returns bytes without repetitions, different for each seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..length).map(|_| (random.next() >> 56) as u8).collect()
}

/// Returns bytes with many repetitions, like text.
pub fn text(seed: u64, length: usize) -> Vec<u8> {
    let words = noise(4097, 4096);
    let mut random = Random(seed);
    let mut text = Vec::with_capacity(length + 32);
    while text.len() < length {
        let next = random.next();
        let at = (next >> 40) as usize % 4000;
        text.extend_from_slice(&words[at..at + 3 + (next >> 58) as usize / 4]);
    }
    text.truncate(length);
    text
}

/// A linear congruential generator, whose high bits are good enough here.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        self.0
    }
}
