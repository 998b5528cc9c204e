//! Inputs made out of others.

/// Longest input.
const BYTES_MAX: usize = 4 * 1024;
/// Bytes at which readers change their mind.
const TELLING: [u8; 24] = [
    0, 1, 9, 10, 13, 16, 22, 31, b' ', b'"', b'%', b'-', b'.', b'/', b'0', b':', b'@', b'[', b'\\', b'{', 0x7f, 0x80,
    0xc0, 0xff,
];

/// Makes inputs; the same for the same seed.
pub(super) struct Mutator<'a> {
    state: u64,
    dictionary: &'a [&'a [u8]],
}

impl<'a> Mutator<'a> {
    pub(super) fn new(seed: u64, dictionary: &'a [&'a [u8]]) -> Self {
        Self { state: seed, dictionary }
    }

    /// splitmix64: every seed is as good as any.
    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `end`, or 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let number = self.number();
        if end == 0 { 0 } else { usize::try_from(number % end as u64).unwrap_or(0) }
    }

    /// A stretch of `length` bytes at most.
    fn stretch(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length + 1);
        let most = if self.below(4) == 0 { length } else { 8 };
        (from, (from + self.below(most + 1)).min(length))
    }

    /// The next input.
    pub(super) fn next(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = match pool.len() {
            0 => Vec::new(),
            several => pool.get(self.below(several)).cloned().unwrap_or_default(),
        };
        for _ in 0..=self.below(5) {
            self.once(&mut input, pool);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn once(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let length = input.len();
        let at = self.below(length);
        match self.below(11) {
            0 => {
                let bit = self.below(8);
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            1 => {
                let telling = TELLING.get(self.below(TELLING.len())).copied().unwrap_or(0);
                if let Some(byte) = input.get_mut(at) {
                    *byte = telling;
                }
            }
            2 => {
                let telling = TELLING.get(self.below(TELLING.len())).copied().unwrap_or(0);
                input.insert(at, telling);
            }
            3 => {
                let (from, to) = self.stretch(length);
                input.drain(from..to);
            }
            4 => {
                let (from, to) = self.stretch(length);
                let copy = input.get(from..to).unwrap_or_default().to_vec();
                input.splice(at..at, copy);
            }
            // A stretch many times: depth, length and number bounds.
            5 => {
                let (from, to) = self.stretch(length);
                let times = 1 << self.below(8);
                let copy = input.get(from..to).unwrap_or_default().repeat(times);
                input.splice(to..to, copy.into_iter().take(BYTES_MAX));
            }
            6 => {
                let other = pool.get(self.below(pool.len())).cloned().unwrap_or_default();
                let (from, to) = self.stretch(other.len());
                input.splice(at..at, other.get(from..to).unwrap_or_default().to_vec());
            }
            // The beginning of one and the end of another.
            7 => {
                let other = pool.get(self.below(pool.len())).cloned().unwrap_or_default();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(other.get(from..).unwrap_or_default());
            }
            8 => {
                let word = self.dictionary.get(self.below(self.dictionary.len())).copied().unwrap_or_default();
                input.splice(at..at, word.iter().copied());
            }
            // Lengths stand in one, two or three bytes, big end first, or as numbers in text.
            9 => {
                let by = [1_u8, 0xff, 0x80, 2][self.below(4)];
                if let Some(byte) = input.get_mut(at) {
                    *byte = byte.wrapping_add(by);
                }
            }
            _ => input.truncate(at),
        }
    }
}
