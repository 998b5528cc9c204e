//! A sum over the last while, in buckets, so that its size does not grow with the number of calls.
//!
//! A window of an hour is kept in minutes. What is counted to hold a limit is rounded up: a bucket counts
//! until its last moment is out of the window. What is counted as something that was done before ("only
//! after") is rounded down: a bucket counts as long as its first moment is within.

use std::{collections::VecDeque, time::Duration};

/// Into how many parts a window is divided.
const PARTS: u64 = 60;

/// Which way a bucket on the edge of the window counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// It counts: the sum is never too small.
    Counts,
    /// It does not: the sum is never too large.
    DoesNot,
}

/// A sum, for ever or over a window that slides.
#[derive(Debug, Default)]
pub(super) struct Sum {
    /// Milliseconds of one bucket and of the window; none for a sum for ever.
    window: Option<(u64, u64)>,
    // Wider than what is added, so that taking back is exact however much was added.
    total: i128,
    buckets: VecDeque<(u64, i128)>,
}

impl Sum {
    pub(super) fn over(window: Option<Duration>) -> Self {
        let millis = |window: Duration| u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { window: window.map(millis).map(|whole| (whole.div_ceil(PARTS), whole)), ..Self::default() }
    }

    /// All that is in it, oldest first.
    pub(super) fn parts(&self) -> (i128, impl Iterator<Item = (u64, i128)>) {
        (self.total, self.buckets.iter().copied())
    }

    /// A sum as its parts were; none when they cannot have been.
    pub(super) fn of_parts(window: Option<Duration>, total: i128, buckets: Vec<(u64, i128)>) -> Option<Self> {
        let sum = Self { total, buckets: buckets.into(), ..Self::over(window) };
        let ordered = sum.buckets.iter().zip(sum.buckets.iter().skip(1)).all(|(before, after)| before.0 < after.0);
        let summed = sum.window.is_none() || sum.buckets.iter().map(|(_, part)| part).sum::<i128>() == sum.total;
        (ordered && summed && (sum.window.is_some() || sum.buckets.is_empty())).then_some(sum)
    }

    /// The bucket of a moment.
    pub(super) fn bucket(&self, now: u64) -> u64 {
        self.window.map_or(0, |(part, _)| now / part)
    }

    /// Adds to the bucket of `now`, and says which that is. Time does not go back here; the caller sees to it.
    pub(super) fn add(&mut self, now: u64, amount: i64) -> u64 {
        self.forget(now);
        let bucket = self.bucket(now);
        self.total += i128::from(amount);
        if self.window.is_some() {
            match self.buckets.back_mut() {
                Some((last, sum)) if *last >= bucket => *sum += i128::from(amount),
                _ => self.buckets.push_back((bucket, i128::from(amount))),
            }
        }
        bucket
    }

    /// Takes back what was added to a bucket, as far as it is still there.
    pub(super) fn take_back(&mut self, bucket: u64, amount: i64) {
        if self.window.is_none() {
            self.total -= i128::from(amount);
        } else if let Some((_, sum)) = self.buckets.iter_mut().find(|(number, _)| *number == bucket) {
            *sum -= i128::from(amount);
            self.total -= i128::from(amount);
        }
    }

    /// The sum at a moment, held within what a policy can read.
    pub(super) fn value(&mut self, now: u64, edge: Edge) -> i64 {
        self.forget(now);
        let mut value = self.total;
        if let (Some((part, whole)), Edge::DoesNot, Some((first, sum))) = (self.window, edge, self.buckets.front())
            && first.saturating_mul(part) < now.saturating_sub(whole)
        {
            value -= sum;
        }
        i64::try_from(value).unwrap_or(if value < 0 { 0 } else { i64::MAX })
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&mut self, now: u64) -> bool {
        self.forget(now);
        self.total == 0
    }

    /// Drops the buckets that have no moment within the window.
    fn forget(&mut self, now: u64) {
        let Some((part, whole)) = self.window else { return };
        let from = now.saturating_sub(whole);
        while let Some((bucket, sum)) = self.buckets.front()
            && bucket.saturating_add(1).saturating_mul(part) <= from
        {
            self.total -= sum;
            self.buckets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_window_nothing_is_forgotten() {
        let mut sum = Sum::over(None);
        let bucket = sum.add(1, 5);
        sum.add(u64::MAX, i64::MAX);
        assert_eq!(sum.value(u64::MAX, Edge::Counts), i64::MAX, "held, not wrapped");
        sum.take_back(bucket, 5);
        assert_eq!(sum.value(u64::MAX, Edge::Counts), i64::MAX);
        sum.take_back(0, i64::MAX);
        assert!(sum.is_empty(u64::MAX), "taking back after the limit is exact");
    }

    #[test]
    fn what_is_out_of_the_window_is_forgotten_and_cannot_be_taken_back() {
        let mut sum = Sum::over(Some(Duration::from_secs(60)));
        let first = sum.add(500, 1);
        sum.add(30_000, 1);
        assert_eq!(sum.value(60_400, Edge::Counts), 2);
        assert_eq!(sum.value(62_000, Edge::Counts), 1);
        sum.take_back(first, 1);
        assert_eq!(sum.value(62_000, Edge::Counts), 1);
        assert!(sum.is_empty(200_000));
    }

    proptest! {
        /// Against every call kept by itself: one side never less, the other never more, and neither by more than a bucket.
        #[test]
        fn the_sum_is_right_but_for_its_edge(
            steps in prop::collection::vec((0_u64..5_000, 0_i64..100, any::<bool>()), 1..200),
            window in 1_u64..20_000,
        ) {
            let mut sum = Sum::over(Some(Duration::from_millis(window)));
            let mut kept: Vec<(u64, i64)> = Vec::new();
            let mut now = 0;
            for (pause, amount, stays) in steps {
                now += pause;
                let bucket = sum.add(now, amount);
                if stays {
                    kept.push((now, amount));
                } else {
                    sum.take_back(bucket, amount);
                }
                let within = |whole: u64| -> i64 {
                    kept.iter().filter(|(at, _)| at + whole > now).map(|(_, amount)| amount).sum()
                };
                let part = window.div_ceil(PARTS);
                let (upper, lower) = (sum.value(now, Edge::Counts), sum.value(now, Edge::DoesNot));
                prop_assert!(upper >= within(window) && upper <= within(window + part));
                prop_assert!(lower <= within(window + 1) && lower >= within(window.saturating_sub(part)));
                prop_assert!(sum.buckets.len() as u64 <= PARTS + 2);
            }
        }
    }
}
