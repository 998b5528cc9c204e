//! Vectors: finite numbers, as many as the operator said, and comparable.

/// Most numbers in a vector. The largest of today's embedding models have 3,072 and 4,096.
pub const DIMENSIONS_MAX: u32 = 4_096;

/// A vector that a text is found by, as an agent had it made.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding(Vec<f32>);

/// Why numbers are no vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingError {
    /// Another length than all others have.
    #[error("the vector has {found} numbers and must have {wanted}")]
    Length {
        /// How many there are.
        found: usize,
        /// How many there must be.
        wanted: u32,
    },
    /// The store keeps no vectors.
    #[error("this memory keeps no vectors")]
    None,
    /// A number that is none, or too large for 32 bits.
    #[error("the vector has a number that is not finite in 32 bits")]
    NotFinite,
    /// A vector without a direction is near to nothing.
    #[error("the vector has no direction: all its numbers are zero, or as good as zero or too large to be compared")]
    NoDirection,
}

impl Embedding {
    /// A vector of exactly so many finite numbers.
    ///
    /// # Errors
    /// [`EmbeddingError`].
    pub fn new(numbers: &[f64], dimensions: Option<u32>) -> Result<Self, EmbeddingError> {
        let wanted = dimensions.ok_or(EmbeddingError::None)?;
        if numbers.len() != wanted as usize {
            return Err(EmbeddingError::Length { found: numbers.len(), wanted });
        }
        #[expect(clippy::cast_possible_truncation, reason = "what does not fit becomes infinite, and is refused below")]
        let numbers: Vec<f32> = numbers.iter().map(|number| *number as f32).collect();
        Self::checked(numbers)
    }

    fn checked(numbers: Vec<f32>) -> Result<Self, EmbeddingError> {
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(EmbeddingError::NotFinite);
        }
        let vector = Self(numbers);
        // Some stores compare in 32 bits: what has no length there has none here.
        #[expect(clippy::cast_possible_truncation, reason = "the length as such a store has it")]
        let length = vector.length() as f32;
        if (f32::MIN_POSITIVE..1e18).contains(&length) { Ok(vector) } else { Err(EmbeddingError::NoDirection) }
    }

    /// The numbers.
    #[must_use]
    pub fn numbers(&self) -> &[f32] {
        &self.0
    }

    /// Its bytes as they are kept: each number in 4 bytes, the lowest first.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    /// A vector from its bytes; none where they are not those of one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return None;
        }
        Self::checked(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()).ok()
    }

    fn length(&self) -> f64 {
        self.0.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt()
    }

    /// How alike two are, from -1 to 1; none where they have different lengths.
    #[must_use]
    pub fn cosine(&self, other: &Self) -> Option<f64> {
        if self.0.len() != other.0.len() {
            return None;
        }
        let product: f64 = self.0.iter().zip(&other.0).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        Some((product / (self.length() * other.length())).clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_vector_is_refused() {
        let refused = |numbers: &[f64]| Embedding::new(numbers, Some(2)).unwrap_err();
        assert_eq!(refused(&[1.0]), EmbeddingError::Length { found: 1, wanted: 2 });
        assert_eq!(refused(&[1.0; 3]), EmbeddingError::Length { found: 3, wanted: 2 });
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert_eq!(refused(&[bad, 1.0]), EmbeddingError::NotFinite);
        }
        assert_eq!(refused(&[0.0, 0.0]), EmbeddingError::NoDirection);
        assert_eq!(refused(&[1e-300, 0.0]), EmbeddingError::NoDirection);
        assert_eq!(refused(&[3e38, 3e38]), EmbeddingError::NoDirection);
        assert_eq!(Embedding::new(&[1.0], None), Err(EmbeddingError::None));
        assert_eq!(Embedding::from_bytes(&[0, 0, 128]), None);
    }

    proptest! {
        #[test]
        fn bytes_come_back_and_likeness_is_a_number(numbers in proptest::collection::vec(-1e6..1e6_f64, 1..64)) {
            let dimensions = Some(u32::try_from(numbers.len()).unwrap());
            if let Ok(vector) = Embedding::new(&numbers, dimensions) {
                prop_assert_eq!(Embedding::from_bytes(&vector.to_bytes()), Some(vector.clone()));
                prop_assert!((vector.cosine(&vector).unwrap() - 1.0).abs() < 1e-6);
            }
        }
    }
}
