//! SHA-1's compression: of one digest, or of several in the lanes of vector registers.
//!
//! There are no intrinsics here: [`rounds`] is a loop over lanes whose body has neither branches nor loops, which
//! the compiler turns into vector code for whatever the function around it may use (docs/adr/0011).

use multiversion::multiversion;

/// What SHA-1 compresses at a time.
pub(super) type Block = [u8; 64];
/// The chaining value of `L` digests: the same word of all of them stands together.
pub(super) type Chains<const L: usize> = [[u32; L]; 5];

/// The chaining value of an empty digest.
pub(super) const START: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// How many digests go side by side, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lanes {
    /// One after another.
    One,
    /// Eight, with what every machine of this architecture has.
    Eight,
    /// Eight, with AVX2.
    EightAvx2,
    /// Eight, with what AVX-512 adds for registers of 256 bits.
    EightAvx512,
    /// Sixteen, with AVX-512.
    SixteenAvx512,
}

/// What a processor has of which we make use.
#[derive(Clone, Copy, Debug, Default)]
struct Processor {
    /// Instructions for SHA-1, which the crate `sha1` uses.
    sha: bool,
    avx2: bool,
    avx512: bool,
    /// AVX-512 without running slower for a while after each use of registers of 512 bits, which would slow down
    /// everything else: known by something else that came with it.
    avx512_at_speed: bool,
}

impl Processor {
    #[cfg(target_arch = "x86_64")]
    fn this() -> Self {
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        Self {
            sha: is_x86_feature_detected!("sha"),
            avx2: is_x86_feature_detected!("avx2"),
            avx512,
            avx512_at_speed: avx512 && is_x86_feature_detected!("avx512vbmi2"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn this() -> Self {
        Self::default()
    }
}

impl Lanes {
    /// The fastest for many digests, on this machine.
    pub(super) fn best() -> Self {
        match Processor::this() {
            Processor {
                avx512_at_speed: true, ..
            } => Self::SixteenAvx512,
            // Eight lanes are hardly faster than instructions for SHA-1.
            Processor { sha: true, .. } => Self::One,
            Processor { avx512: true, .. } => Self::EightAvx512,
            Processor { avx2: true, .. } => Self::EightAvx2,
            _ => Self::Eight,
        }
    }

    /// The fewest digests that are faster side by side than one after another.
    pub(super) fn worth(self) -> usize {
        match self {
            Self::One | Self::Eight => 4,
            _ if Processor::this().sha => 8,
            _ => 2,
        }
    }

    /// All of them, for tests. One that the machine does not have does its work with what there is.
    #[cfg(test)]
    pub(super) const ALL: [Self; 5] = [
        Self::One,
        Self::Eight,
        Self::EightAvx2,
        Self::EightAvx512,
        Self::SixteenAvx512,
    ];
}

/// Compresses a block of one digest.
#[inline]
pub(super) fn alone(chain: &mut [u32; 5], block: &Block) {
    sha1::compress(chain, core::slice::from_ref(block.into()));
}

/// Compresses a block of each of eight digests.
pub(super) fn eight(chains: &mut Chains<8>, blocks: &[Block; 8]) {
    rounds(chains, &transpose(blocks));
}

/// [`eight`] with AVX2.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn eight_avx2(chains: &mut Chains<8>, blocks: &[Block; 8]) {
    rounds(chains, &transpose(blocks));
}

/// [`eight`] with AVX-512. Allowed AVX-512, the compiler would transpose in registers of 512 bits.
pub(super) fn eight_avx512(chains: &mut Chains<8>, blocks: &[Block; 8]) {
    let mut words = [[0; 8]; 16];
    transpose_eight_avx2(blocks, &mut words);
    rounds_eight_avx512(chains, &words);
}

#[multiversion(targets("x86_64+avx2"))]
fn transpose_eight_avx2(blocks: &[Block; 8], words: &mut [[u32; 8]; 16]) {
    *words = transpose(blocks);
}

#[multiversion(targets("x86_64+avx512f+avx512vl"))]
fn rounds_eight_avx512(chains: &mut Chains<8>, words: &[[u32; 8]; 16]) {
    rounds(chains, words);
}

/// Compresses a block of each of sixteen digests.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl"))]
pub(super) fn sixteen_avx512(chains: &mut Chains<16>, blocks: &[Block; 16]) {
    rounds(chains, &transpose(blocks));
}

/// Compresses the words of a block of each of `L` digests. Inlined, because only then it is compiled for its caller's
/// vectors.
#[inline(always)]
fn rounds<const L: usize>(chains: &mut Chains<L>, words: &[[u32; L]; 16]) {
    for lane in 0..L {
        let chain = compress(
            core::array::from_fn(|i| chains[i][lane]),
            core::array::from_fn(|t| words[t][lane]),
        );
        for i in 0..5 {
            chains[i][lane] = chain[i];
        }
    }
}

/// The blocks' words, each beside the same word of the other blocks. `L` is a power of two.
///
/// Riffling, as one does with cards, rotates the bits of each word's index by one, which compilers know as an
/// interleaving of two vectors. When all bits of a block's number have gone to the other end, the whole is transposed.
/// Fetching the words one at a time would take as long as the rounds.
#[inline(always)]
fn transpose<const L: usize>(blocks: &[Block; L]) -> [[u32; L]; 16] {
    let mut words = [[0; L]; 16];
    for (word, bytes) in words
        .as_flattened_mut()
        .iter_mut()
        .zip(blocks.as_flattened().as_chunks().0)
    {
        *word = u32::from_be_bytes(*bytes);
    }
    for _ in 0..L.ilog2() {
        let mut riffled = [[0; L]; 16];
        let (low, high) = words.as_flattened().split_at(8 * L);
        let pairs = riffled.as_flattened_mut().as_chunks_mut::<2>().0;
        for ((pair, low), high) in pairs.iter_mut().zip(low).zip(high) {
            *pair = [*low, *high];
        }
        words = riffled;
    }
    words
}

/// The compression function (FIPS 180-4, 6.1.2), without a branch or a loop.
#[inline(always)]
#[allow(clippy::many_single_char_names)] // The standard's names.
fn compress(chain: [u32; 5], mut w: [u32; 16]) -> [u32; 5] {
    let [mut a, mut b, mut c, mut d, mut e] = chain;
    macro_rules! rounds {
        ($k:literal, $f:expr, $($t:literal)*) => {$(
            if $t >= 16 {
                w[$t % 16] = (w[($t + 13) % 16] ^ w[($t + 8) % 16] ^ w[($t + 2) % 16] ^ w[$t % 16]).rotate_left(1);
            }
            let next = a
                .rotate_left(5)
                .wrapping_add($f)
                .wrapping_add(e)
                .wrapping_add($k)
                .wrapping_add(w[$t % 16]);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        )*};
    }
    rounds!(0x5a82_7999u32, d ^ (b & (c ^ d)), 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
    rounds!(0x6ed9_eba1u32, b ^ c ^ d, 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
    rounds!(0x8f1b_bcdcu32, (b & c) | (d & (b | c)), 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59);
    rounds!(0xca62_c1d6u32, b ^ c ^ d, 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79);
    [
        chain[0].wrapping_add(a),
        chain[1].wrapping_add(b),
        chain[2].wrapping_add(c),
        chain[3].wrapping_add(d),
        chain[4].wrapping_add(e),
    ]
}
