//! Inclusion and consistency proofs (RFC 9162, 2.1.3 and 2.1.4).

use std::collections::HashMap;

use crate::{
    Hash,
    tree::{Frontier, empty_root, node_hash},
};

/// A tree whose leaf hashes are at hand: makes proofs.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    leaves: Vec<Hash>,
}

impl Tree {
    /// Takes leaf hashes in order.
    #[must_use]
    pub fn new(leaves: Vec<Hash>) -> Self {
        Self { leaves }
    }

    /// The root over the first `size` leaves, `None` when there are fewer.
    #[must_use]
    pub fn root(&self, size: usize) -> Option<Hash> {
        self.leaves.get(..size).map(root)
    }

    /// The path from a leaf to the root over the first `size` leaves.
    #[must_use]
    pub fn inclusion(&self, index: usize, size: usize) -> Option<Vec<Hash>> {
        let leaves = self.leaves.get(..size)?;
        (index < size).then(|| {
            let mut proof = Vec::new();
            path(index, leaves, &mut proof);
            proof
        })
    }

    /// That the tree over `old` leaves is a beginning of the one over `size`.
    #[must_use]
    pub fn consistency(&self, old: usize, size: usize) -> Option<Vec<Hash>> {
        let leaves = self.leaves.get(..size)?;
        (0 < old && old <= size).then(|| {
            let mut proof = Vec::new();
            subproof(old, leaves, true, &mut proof);
            proof
        })
    }
}

/// The paths of some leaves, made while all leaves pass by once.
///
/// What is held is what the paths are made of: for each at most as many hashes as the tree is high, squared. How long the log is
/// makes no other difference, and how many paths there are makes none to the time that a leaf takes.
#[derive(Debug, Clone)]
pub struct PassingPaths {
    size: u64,
    indexes: Vec<u64>,
    /// The complete subtrees that the paths need, by height and number, once they have passed.
    wanted: HashMap<(u32, u64), Option<Hash>>,
    tree: Frontier,
}

/// The subtrees beside the path, from the leaf to the root: first leaf and first behind.
fn beside(index: u64, size: u64) -> Vec<(u64, u64)> {
    let (mut from, mut to, mut found) = (0, size, Vec::new());
    while to - from > 1 {
        // The largest power of two that is smaller.
        let middle = from + (1 << (63 - (to - from - 1).leading_zeros()));
        if index < middle {
            found.push((middle, to));
            to = middle;
        } else {
            found.push((from, middle));
            from = middle;
        }
    }
    found.reverse();
    found
}

/// The complete subtrees that a part is made of, from left to right, by height and number.
fn complete((from, to): (u64, u64)) -> impl Iterator<Item = (u32, u64)> {
    let mut at = from;
    std::iter::from_fn(move || {
        let height = 63_u32.checked_sub((to - at).leading_zeros())?;
        let number = at >> height;
        at += 1 << height;
        Some((height, number))
    })
}

impl PassingPaths {
    /// The paths from these leaves to the root over the first `size`; `None` when one of them is behind that.
    #[must_use]
    pub fn new(indexes: &[u64], size: u64) -> Option<Self> {
        if indexes.iter().any(|index| *index >= size) {
            return None;
        }
        let parts = indexes.iter().flat_map(|index| beside(*index, size));
        let wanted = parts.flat_map(complete).map(|subtree| (subtree, None)).collect();
        Some(Self { size, indexes: indexes.to_vec(), wanted, tree: Frontier::default() })
    }

    /// The next leaf's hash. What is behind the size is passed over.
    pub fn push(&mut self, leaf: Hash) {
        if self.tree.size() >= self.size {
            return;
        }
        let (mut number, mut hash, mut height, mut left) =
            (self.tree.size(), leaf, 0, self.tree.subtrees().iter().rev());
        loop {
            if let Some(wanted) = self.wanted.get_mut(&(height, number)) {
                *wanted = Some(hash);
            }
            // A right one is complete with its left neighbour.
            let Some(beside) = left.next().filter(|_| number & 1 == 1) else { break };
            hash = node_hash(beside, &hash);
            (number, height) = (number >> 1, height + 1);
        }
        self.tree.push(leaf);
    }

    /// From each leaf's sibling to the root; `None` when there were fewer leaves.
    #[must_use]
    pub fn finish(self) -> Option<Vec<Vec<Hash>>> {
        let root = |part: (u64, u64)| {
            let hashes: Option<Vec<Hash>> = complete(part).map(|subtree| *self.wanted.get(&subtree)?).collect();
            hashes?.into_iter().rev().reduce(|right, left| node_hash(&left, &right))
        };
        let paths = self.indexes.iter().map(|index| beside(*index, self.size).into_iter().map(root).collect());
        paths.collect()
    }
}

fn split(size: usize) -> usize {
    // The largest power of two smaller than the size; sizes of 2 and more only.
    1 << (usize::BITS - 1 - (size - 1).leading_zeros())
}

fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

fn path(index: usize, leaves: &[Hash], proof: &mut Vec<Hash>) {
    if leaves.len() < 2 {
        return;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if index < left.len() {
        path(index, left, proof);
        proof.push(root(right));
    } else {
        path(index - left.len(), right, proof);
        proof.push(root(left));
    }
}

fn subproof(old: usize, leaves: &[Hash], whole: bool, proof: &mut Vec<Hash>) {
    if old == leaves.len() {
        if !whole {
            proof.push(root(leaves));
        }
        return;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if old <= left.len() {
        subproof(old, left, whole, proof);
        proof.push(root(right));
    } else {
        subproof(old - left.len(), right, false, proof);
        proof.push(root(left));
    }
}

/// Whether `proof` leads from the leaf to the root (RFC 9162, 2.1.3.2).
#[must_use]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for step in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the older tree is a beginning of the newer (RFC 9162, 2.1.4.2).
#[must_use]
pub fn verify_consistency(old: u64, old_root: &Hash, size: u64, root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 || old > size {
        return false;
    }
    if old == size {
        return proof.is_empty() && old_root == root;
    }
    let mut steps = proof.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { steps.next() };
    let Some(first) = first else { return false };
    let (mut node, mut last) = (old - 1, size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut from_old, mut from_new) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            from_old = node_hash(step, &from_old);
            from_new = node_hash(step, &from_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, step);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::leaf_hash;

    #[test]
    fn paths_are_made_of_what_passes_by_and_little_of_it_is_held() {
        let leaves: Vec<Hash> = (0_u8..70).map(|n| leaf_hash(&[n])).collect();
        let tree = Tree::new(leaves.clone());
        for size in 1..=leaves.len() {
            let all: Vec<u64> = (0..size as u64).collect();
            let mut paths = PassingPaths::new(&all, size as u64).unwrap();
            leaves.iter().take(size - 1).for_each(|leaf| paths.push(*leaf));
            assert!(size == 1 || paths.clone().finish().is_none(), "a leaf is missing");
            leaves.iter().skip(size - 1).for_each(|leaf| paths.push(*leaf));
            let wanted: Option<Vec<_>> = (0..size).map(|index| tree.inclusion(index, size)).collect();
            assert_eq!(paths.finish(), wanted, "{size}");
            assert!(PassingPaths::new(&[0, size as u64], size as u64).is_none());
        }
        let size = 300_001_u64;
        let leaf = |n: u64| leaf_hash(&n.to_be_bytes());
        let indexes = [0, 77_777, 262_143, 299_999, 300_000];
        let (mut paths, mut whole) = (PassingPaths::new(&indexes, size).unwrap(), Frontier::default());
        assert!(paths.wanted.len() < 150, "{} hashes are held", paths.wanted.len());
        for n in 0..size {
            paths.push(leaf(n));
            whole.push(leaf(n));
        }
        let paths = paths.finish().unwrap();
        for (index, path) in indexes.iter().zip(paths) {
            assert!(verify_inclusion(&leaf(*index), *index, size, &path, &whole.root()), "{index}");
        }
    }

    #[test]
    fn every_proof_of_every_small_tree_holds_and_holds_for_nothing_else() {
        let leaves: Vec<Hash> = (0_u8..70).map(|n| leaf_hash(&[n])).collect();
        let tree = Tree::new(leaves.clone());
        let mut frontier = Frontier::default();
        let mut roots = vec![frontier.root()];
        for (n, leaf) in leaves.iter().enumerate() {
            frontier.push(*leaf);
            roots.push(frontier.root());
            assert_eq!(tree.root(n + 1), Some(frontier.root()));
        }
        for size in 1..=leaves.len() {
            for (index, leaf) in leaves.iter().enumerate().take(size) {
                let proof = tree.inclusion(index, size).unwrap();
                let (at, n) = (index as u64, size as u64);
                assert!(verify_inclusion(leaf, at, n, &proof, &roots[size]));
                assert!(!verify_inclusion(&leaf_hash(b"x"), at, n, &proof, &roots[size]));
                assert!(!verify_inclusion(leaf, at, n, &proof, &[0; 32]));
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(!verify_inclusion(leaf, at, n, shorter, &roots[size]));
                }
                let old = index + 1;
                let proof = tree.consistency(old, size).unwrap();
                assert!(verify_consistency(old as u64, &roots[old], n, &roots[size], &proof), "{old} {size}");
                assert!(!verify_consistency(old as u64, &[0; 32], n, &roots[size], &proof));
                assert!(!verify_consistency(old as u64, &roots[old], n, &[0; 32], &proof));
            }
        }
        assert_eq!(tree.inclusion(70, 70), None);
        assert_eq!(tree.consistency(0, 70), None);
    }
}
