//! Randomness in larger pieces: an event needs six small ones, and each would be a call into the kernel.

use std::sync::{Arc, Mutex, PoisonError};

use cogward_model::Entropy;
use zeroize::Zeroize;

const POOL_BYTES: usize = 4_096;

/// Hands out each byte of its source once.
pub(crate) struct Pool {
    source: Arc<dyn Entropy>,
    unused: Mutex<Vec<u8>>,
}

impl Pool {
    pub(crate) fn new(source: Arc<dyn Entropy>) -> Self {
        Self { source, unused: Mutex::default() }
    }
}

impl Entropy for Pool {
    fn fill(&self, buffer: &mut [u8]) {
        if buffer.len() > POOL_BYTES / 4 {
            return self.source.fill(buffer);
        }
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.len() < buffer.len() {
            unused.resize(POOL_BYTES, 0);
            self.source.fill(&mut unused);
        }
        let keep = unused.len() - buffer.len();
        let given = unused.get_mut(keep..).unwrap_or_default();
        buffer.copy_from_slice(given);
        // A salt must not be found in our memory once the value it hides is sealed.
        given.zeroize();
        unused.truncate(keep);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::atomic::{AtomicU64, Ordering},
    };

    use super::*;

    /// Eight bytes at a time, none of them twice.
    #[derive(Default)]
    struct Counting(AtomicU64);

    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            for part in buffer.chunks_mut(8) {
                let next = self.0.fetch_add(1, Ordering::SeqCst) + 1;
                part.copy_from_slice(&next.to_le_bytes()[..part.len()]);
            }
        }
    }

    #[test]
    fn no_byte_is_handed_out_twice() {
        let pool = Pool::new(Arc::new(Counting::default()));
        let mut seen = HashSet::new();
        for n in 0..5_000 {
            let mut buffer = vec![0; [8, 16, 64, 2_048][n % 4]];
            pool.fill(&mut buffer);
            for part in buffer.as_chunks::<8>().0 {
                assert_ne!(*part, [0; 8]);
                assert!(seen.insert(*part));
            }
        }
    }
}
