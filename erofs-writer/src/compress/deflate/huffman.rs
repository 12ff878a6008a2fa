//! Prefix codes of limited length.

/// The longest code of literals, lengths and distances.
pub(super) const LONGEST: usize = 15;
/// Symbols of the largest alphabet.
const SYMBOLS: usize = 288;

/// Finds code lengths of at most `limit` bits for symbols with these counts: 0 for symbols that do
/// not occur. Some decoders accept only complete codes, so at least two symbols get a code.
pub(super) fn lengths(counts: &[u32], limit: usize, lengths: &mut [u8]) {
    lengths.fill(0);
    // By count; the symbol makes them distinct.
    let mut sorted = [0_u64; SYMBOLS];
    let mut used = 0;
    for (symbol, &count) in (0_u64..).zip(counts) {
        if count > 0 {
            sorted[used] = u64::from(count) << 9 | symbol;
            used += 1;
        }
    }
    let mut unused = (0_u64..).zip(counts).filter(|&(_, &count)| count == 0);
    while used < 2
        && let Some((symbol, _)) = unused.next()
    {
        sorted[used] = 1 << 9 | symbol;
        used += 1;
    }
    let sorted = &mut sorted[..used];
    sorted.sort_unstable();
    let mut tree = [0_u32; SYMBOLS];
    for (node, key) in tree.iter_mut().zip(&*sorted) {
        *node = (key >> 9) as u32;
    }
    let mut of_length = depths(&mut tree[..used], limit);
    // The rarest have the longest.
    let mut length = limit;
    for key in sorted {
        while of_length[length] == 0 {
            length -= 1;
        }
        of_length[length] -= 1;
        lengths[(*key & 0x1ff) as usize] = length as u8;
    }
}

/// Returns the number of leaves at each depth of the Huffman tree of at least two weights in
/// ascending order, with at most `limit` levels. Works in place, by the algorithm of Moffat and
/// Katajainen.
fn depths(tree: &mut [u32], limit: usize) -> [u32; LONGEST + 1] {
    let nodes = tree.len() - 1;
    // Weights become those of inner nodes, then the numbers of their parents.
    let (mut leaf, mut inner) = (0, 0);
    for next in 0..nodes {
        let mut weight = 0;
        for _ in 0..2 {
            if leaf > nodes || (inner < next && tree[inner] < tree[leaf]) {
                weight += std::mem::replace(&mut tree[inner], next as u32);
                inner += 1;
            } else {
                weight += tree[leaf];
                leaf += 1;
            }
        }
        tree[next] = weight;
    }
    // From the root on, the depths of inner nodes; the other nodes of a level are leaves.
    let mut of_length = [0; LONGEST + 1];
    tree[nodes - 1] = 0;
    for node in (0..nodes - 1).rev() {
        tree[node] = tree[tree[node] as usize] + 1;
    }
    let (mut free, mut depth, mut node) = (1, 0, nodes);
    while free > 0 {
        let mut here = 0;
        while node > 0 && tree[node - 1] == depth {
            node -= 1;
            here += 1;
        }
        of_length[(depth as usize).min(limit)] += free - here;
        free = 2 * here;
        depth += 1;
    }
    // Leaves that were moved up take too many codes, so others move down until all have one.
    let codes = 1_u32 << limit;
    let taken = |of_length: &[u32; LONGEST + 1]| -> u32 {
        (1..=limit)
            .map(|length| of_length[length] << (limit - length))
            .sum()
    };
    let mut over = taken(&of_length).saturating_sub(codes);
    while over > 0 {
        let Some(length) = (1..limit).rev().find(|&length| of_length[length] > 0) else {
            break;
        };
        // The leaf becomes the parent of itself and of one of the deepest leaves.
        of_length[length] -= 1;
        of_length[length + 1] += 2;
        of_length[limit] -= 1;
        over -= 1;
    }
    of_length
}

/// The canonical codes of these lengths, their first bit lowest.
pub(super) fn codes(lengths: &[u8], codes: &mut [u16]) {
    let mut of_length = [0_u16; LONGEST + 1];
    for &length in lengths {
        of_length[usize::from(length)] += 1;
    }
    of_length[0] = 0;
    let mut next = [0_u16; LONGEST + 1];
    for length in 1..=LONGEST {
        next[length] = (next[length - 1] + of_length[length - 1]) << 1;
    }
    for (code, &length) in codes.iter_mut().zip(lengths) {
        if length > 0 {
            let next = &mut next[usize::from(length)];
            *code = next.reverse_bits() >> (16 - length);
            *next += 1;
        }
    }
}
