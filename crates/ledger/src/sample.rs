//! An auditor's sample: leaves drawn by a number that the auditor chose and a root that the plane had signed before.
//!
//! Neither side can steer it alone: the plane has signed the root before it knows the number, and the auditor, who
//! committed to the number before, cannot know the root. `seed = SHA-256("cogward sample v1" 00 root 00 number)`; draw i
//! is the first eight bytes of SHA-256(seed, i) modulo the size, numbers that come again are passed over.

use std::collections::BTreeSet;

use aws_lc_rs::digest;

use crate::{Hash, leaf::to_hash};

/// Most leaves of one sample.
pub const SAMPLE_MAX: u64 = 10_000;

/// The leaves that a number draws from a log.
#[must_use]
pub fn draw(root: &Hash, nonce: &str, size: u64, count: u64) -> BTreeSet<u64> {
    let text = [b"cogward sample v1\0", root.as_slice(), b"\0", nonce.as_bytes()].concat();
    let seed = to_hash(&digest::digest(&digest::SHA256, &text));
    let count = count.min(size).min(SAMPLE_MAX);
    let mut drawn = BTreeSet::new();
    // A sample of nearly everything needs some draws more than it has leaves; of all of them it needs none.
    if count == size {
        return (0..size).collect();
    }
    for number in 0_u64.. {
        if drawn.len() as u64 >= count {
            break;
        }
        let hash = digest::digest(&digest::SHA256, &[seed.as_slice(), &number.to_be_bytes()].concat());
        let first = hash.as_ref().first_chunk().copied().map_or(0, u64::from_be_bytes);
        drawn.insert(first % size);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_depends_on_root_and_number_and_is_of_the_asked_size() {
        let one = draw(&[1; 32], "n", 1_000_000, 50);
        assert_eq!(one.len(), 50);
        assert_eq!(one, draw(&[1; 32], "n", 1_000_000, 50));
        assert!(one.is_superset(&draw(&[1; 32], "n", 1_000_000, 20)));
        assert_ne!(one, draw(&[2; 32], "n", 1_000_000, 50));
        assert_ne!(one, draw(&[1; 32], "m", 1_000_000, 50));
        assert_eq!(draw(&[1; 32], "n", 10, 99), (0..10).collect());
        assert_eq!(draw(&[1; 32], "n", 300, 299).len(), 299);
        assert!(draw(&[1; 32], "n", 0, 5).is_empty());
    }
}
