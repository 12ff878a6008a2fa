//! MicroLZMA: one raw LZMA stream without a header. Its first byte, always 0 otherwise, holds the
//! properties, inverted.
//!
//! The format is that of the LZMA specification by Igor Pavlov. The output of a cluster is its
//! dictionary.

use alloc::boxed::Box;
use core::hint::select_unpredictable;

use super::copy::repeat;

/// log2 of a probability's denominator, and how fast one adapts.
const PROBABILITY_BITS: u32 = 11;
const ADAPTION: u32 = 5;
const EVEN: u16 = 1 << (PROBABILITY_BITS - 1);

/// The number of states, and the first one after a match.
const STATES: usize = 12;
const FIRST_MATCH_STATE: usize = 7;
/// Positions modulo 2^pb that there are at most.
const POSITIONS: usize = 16;
/// Probabilities of a literal in one context, and contexts that there are at most, as lc + lp is 4
/// at most.
const LITERAL: usize = 0x300;
const CONTEXTS: usize = 16;
/// The shortest match.
const SHORTEST: usize = 2;

/// The probability of a 0, in 2048ths.
type Probability = u16;

/// How the length of a match is coded.
#[derive(Clone)]
struct Lengths {
    choice: [Probability; 2],
    low: [[Probability; 8]; POSITIONS],
    middle: [[Probability; 8]; POSITIONS],
    high: [Probability; 256],
}

impl Lengths {
    const EVEN: Self = Self {
        choice: [EVEN; 2],
        low: [[EVEN; 8]; POSITIONS],
        middle: [[EVEN; 8]; POSITIONS],
        high: [EVEN; 256],
    };
}

/// All adaptive probabilities but those of literals.
#[derive(Clone)]
struct Model {
    is_match: [[Probability; POSITIONS]; STATES],
    is_repeat: [Probability; STATES],
    is_repeat_0: [Probability; STATES],
    is_repeat_1: [Probability; STATES],
    is_repeat_2: [Probability; STATES],
    is_long_repeat_0: [[Probability; POSITIONS]; STATES],
    slots: [[Probability; 64]; 4],
    special: [Probability; 128],
    align: [Probability; 16],
    match_length: Lengths,
    repeat_length: Lengths,
}

impl Model {
    const EVEN: Self = Self {
        is_match: [[EVEN; POSITIONS]; STATES],
        is_repeat: [EVEN; STATES],
        is_repeat_0: [EVEN; STATES],
        is_repeat_1: [EVEN; STATES],
        is_repeat_2: [EVEN; STATES],
        is_long_repeat_0: [[EVEN; POSITIONS]; STATES],
        slots: [[EVEN; 64]; 4],
        special: [EVEN; 128],
        align: [EVEN; 16],
        match_length: Lengths::EVEN,
        repeat_length: Lengths::EVEN,
    };
}

/// Probabilities, kept from one cluster to the next for their memory alone.
pub(super) struct Decoder {
    model: Box<Model>,
    literals: Box<[[Probability; LITERAL]; CONTEXTS]>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            model: Box::new(Model::EVEN),
            literals: Box::new([[EVEN; LITERAL]; CONTEXTS]),
        }
    }
}

impl Decoder {
    /// Decodes `input` until `output` is full. `None` where the input is malformed, or ends before
    /// that.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Option<()> {
        let (&first, rest) = input.split_first()?;
        let properties = usize::from(!first);
        // As of every LZMA stream: (pb * 5 + lp) * 9 + lc.
        if properties >= 225 {
            return None;
        }
        let lc = properties.checked_rem(9)?;
        let lp = properties.checked_div(9)?.checked_rem(5)?;
        let pb = properties.checked_div(45)?;
        // liblzma, which the kernel's decoder follows, allows no more.
        let contexts = lc.checked_add(lp).filter(|&bits| bits <= 4)?;
        *self.model = Model::EVEN;
        for literal in self.literals.iter_mut().take(1_usize << contexts) {
            literal.fill(EVEN);
        }
        self.run(Range::new(rest)?, output, Shape { lc, lp, pb })
    }

    fn run(&mut self, mut range: Range<'_>, output: &mut [u8], shape: Shape) -> Option<()> {
        let model = &mut *self.model;
        let position_mask = (1_usize << shape.pb).wrapping_sub(1);
        let literal_mask = (1_usize << shape.lp).wrapping_sub(1);
        let mut state = 0_usize;
        let mut distances = [1_usize; 4];
        let mut done = 0_usize;
        while done < output.len() {
            let position = done & position_mask & (POSITIONS - 1);
            if range.bit(model.is_match.get_mut(state)?.get_mut(position)?) == 0 {
                let previous = done.checked_sub(1).and_then(|at| output.get(at).copied());
                let previous = usize::from(previous.unwrap_or(0));
                let context = ((done & literal_mask) << shape.lc)
                    | (previous >> 8_usize.wrapping_sub(shape.lc));
                let literal = self.literals.get_mut(context)?;
                let byte = if state < FIRST_MATCH_STATE {
                    range.tree(literal.first_chunk_mut::<256>()?)
                } else {
                    let [distance, ..] = distances;
                    let matched = *output.get(done.checked_sub(distance)?)?;
                    range.matched_literal(literal, matched.into())?
                };
                *output.get_mut(done)? = byte.to_le_bytes()[0];
                done = done.wrapping_add(1);
                state = match state {
                    0..4 => 0,
                    4..10 => state.wrapping_sub(3),
                    _ => state.wrapping_sub(6),
                };
                continue;
            }
            let after_literal = state < FIRST_MATCH_STATE;
            let length;
            if range.bit(model.is_repeat.get_mut(state)?) == 0 {
                length = range.length(&mut model.match_length, position)?;
                let [first, second, third, _] = distances;
                let distance = range.distance(model, length)?;
                distances = [distance, first, second, third];
                state = if after_literal { 7 } else { 10 };
            } else {
                let [first, second, third, fourth] = distances;
                if range.bit(model.is_repeat_0.get_mut(state)?) == 0 {
                    let long = model.is_long_repeat_0.get_mut(state)?.get_mut(position)?;
                    if range.bit(long) == 0 {
                        state = if after_literal { 9 } else { 11 };
                        *output.get_mut(done)? = *output.get(done.checked_sub(first)?)?;
                        done = done.wrapping_add(1);
                        continue;
                    }
                } else if range.bit(model.is_repeat_1.get_mut(state)?) == 0 {
                    distances = [second, first, third, fourth];
                } else if range.bit(model.is_repeat_2.get_mut(state)?) == 0 {
                    distances = [third, first, second, fourth];
                } else {
                    distances = [fourth, first, second, third];
                }
                length = range.length(&mut model.repeat_length, position)?;
                state = if after_literal { 8 } else { 11 };
            }
            let [distance, ..] = distances;
            done = repeat(output, done, length.wrapping_add(SHORTEST), distance)?;
        }
        // Bytes after the input were taken to be 0.
        (range.next <= range.input.len()).then_some(())
    }
}

/// Bits of the last byte and of the position that choose a literal's context, and of the position
/// that choose others.
#[derive(Clone, Copy)]
struct Shape {
    lc: usize,
    lp: usize,
    pb: usize,
}

/// The range decoder.
struct Range<'a> {
    input: &'a [u8],
    /// The next byte of the input, beyond its end where too many were taken.
    next: usize,
    range: u32,
    code: u32,
}

impl<'a> Range<'a> {
    fn new(input: &'a [u8]) -> Option<Self> {
        let code = u32::from_be_bytes(*input.first_chunk()?);
        Some(Self {
            input,
            next: 4,
            range: u32::MAX,
            code,
        })
    }

    #[inline(always)]
    fn normalize(&mut self) {
        if self.range < 1 << 24 {
            let byte = self.input.get(self.next).copied().unwrap_or(0);
            self.next = self.next.wrapping_add(1);
            self.range <<= 8;
            self.code = (self.code << 8) | u32::from(byte);
        }
    }

    /// A bit with a predictable branch.
    #[inline(always)]
    fn bit(&mut self, probability: &mut Probability) -> usize {
        self.normalize();
        let p = u32::from(*probability);
        let bound = (self.range >> PROBABILITY_BITS).wrapping_mul(p);
        if self.code < bound {
            self.range = bound;
            *probability =
                probability.wrapping_add((2048_u16.wrapping_sub(*probability)) >> ADAPTION);
            0
        } else {
            self.range = self.range.wrapping_sub(bound);
            self.code = self.code.wrapping_sub(bound);
            *probability = probability.wrapping_sub(*probability >> ADAPTION);
            1
        }
    }

    /// A bit that is decoded without a branch. Returns whether it is 0, and the new probability.
    #[inline(always)]
    fn random_bit(&mut self, probability: Probability) -> (bool, Probability) {
        self.normalize();
        let bound = (self.range >> PROBABILITY_BITS).wrapping_mul(probability.into());
        let zero = self.code < bound;
        let range = self.range.wrapping_sub(bound);
        let code = self.code.wrapping_sub(bound);
        self.range = select_unpredictable(zero, bound, range);
        self.code = select_unpredictable(zero, self.code, code);
        let more = probability.wrapping_add(2048_u16.wrapping_sub(probability) >> ADAPTION);
        let less = probability.wrapping_sub(probability >> ADAPTION);
        (zero, select_unpredictable(zero, more, less))
    }

    /// A number of log2(N) bits, highest first, each with a probability for what came before it.
    #[inline(always)]
    fn tree<const N: usize>(&mut self, probabilities: &mut [Probability; N]) -> usize {
        let mask = N.wrapping_sub(1);
        let mut symbol = 1_usize;
        let mut probability = probabilities.get(symbol).copied().unwrap_or(EVEN);
        for _ in 0..N.trailing_zeros() {
            // Both possible next probabilities are loaded while this bit is decoded. There is none
            // after the last bit.
            let next = symbol << 1;
            let if_zero = probabilities.get(next & mask).copied().unwrap_or(EVEN);
            let if_one = probabilities.get((next | 1) & mask).copied();
            let if_one = if_one.unwrap_or(EVEN);
            let (zero, adapted) = self.random_bit(probability);
            if let Some(probability) = probabilities.get_mut(symbol & mask) {
                *probability = adapted;
            }
            symbol = (symbol << 1) | usize::from(!zero);
            probability = select_unpredictable(zero, if_zero, if_one);
        }
        symbol.wrapping_sub(N)
    }

    /// A number of `bits` bits, lowest first.
    #[inline(always)]
    fn reverse_tree(&mut self, probabilities: &mut [Probability], bits: usize) -> Option<usize> {
        let mut symbol = 1_usize;
        let mut value = 0;
        for at in 0..bits {
            let probability = probabilities.get_mut(symbol)?;
            let (zero, adapted) = self.random_bit(*probability);
            *probability = adapted;
            let bit = usize::from(!zero);
            symbol = (symbol << 1) | bit;
            value |= bit << at;
        }
        Some(value)
    }

    /// A literal that is not the byte `matched`, which would have been in its place had the last
    /// match gone on.
    #[inline(always)]
    fn matched_literal(
        &mut self,
        probabilities: &mut [Probability; LITERAL],
        mut matched: usize,
    ) -> Option<usize> {
        let mut symbol = 1_usize;
        // 0x100 as long as all bits are those of `matched`.
        let mut same = 0x100_usize;
        for _ in 0..8 {
            matched <<= 1;
            let expected = matched & same;
            let at = same.wrapping_add(expected).wrapping_add(symbol);
            let probability = probabilities.get_mut(at)?;
            let (zero, adapted) = self.random_bit(*probability);
            *probability = adapted;
            symbol = (symbol << 1) | usize::from(!zero);
            same &= select_unpredictable(zero, !expected, expected);
        }
        Some(symbol & 0xff)
    }

    /// The length of a match beyond the shortest.
    #[inline(always)]
    fn length(&mut self, lengths: &mut Lengths, position: usize) -> Option<usize> {
        let [choice, second] = &mut lengths.choice;
        if self.bit(choice) == 0 {
            return Some(self.tree(lengths.low.get_mut(position)?));
        }
        if self.bit(second) == 0 {
            return Some(self.tree(lengths.middle.get_mut(position)?).wrapping_add(8));
        }
        Some(self.tree(&mut lengths.high).wrapping_add(16))
    }

    /// The distance of a match of that length: 1 at least. `None` where it is the end marker.
    #[inline(always)]
    fn distance(&mut self, model: &mut Model, length: usize) -> Option<usize> {
        let slot = self.tree(model.slots.get_mut(length.min(3))?);
        if slot < 4 {
            return Some(slot.wrapping_add(1));
        }
        let bits = (slot >> 1).wrapping_sub(1);
        let high = (2 | (slot & 1)) << bits;
        if slot < 14 {
            let probabilities = model.special.get_mut(high.wrapping_sub(slot)..)?;
            let low = self.reverse_tree(probabilities, bits)?;
            return Some(high.wrapping_add(low).wrapping_add(1));
        }
        let mut middle = 0_usize;
        for _ in 0..bits.wrapping_sub(4) {
            self.normalize();
            self.range >>= 1;
            let below = self.code < self.range;
            self.code = select_unpredictable(below, self.code, self.code.wrapping_sub(self.range));
            middle = (middle << 1) | usize::from(!below);
        }
        let low = self.reverse_tree(&mut model.align, 4)?;
        // At most 32 bits, all 1 in the end marker. No output is large enough for more.
        high.checked_add(middle << 4)?
            .checked_add(low)?
            .checked_add(1)
    }
}
