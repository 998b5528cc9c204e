//! The archive of a plane.

use cogward_api::ArchiveStatus;

use super::{Show, time};
use crate::output::{Cell, Tone};

impl Show for ArchiveStatus {
    const PLURAL: &'static str = "archives";
    const HEAD: &'static [&'static str] = &["ARCHIVE", "SEGMENTS", "WAITING", "RELEASED", "STATE"];
    fn row(&self) -> Vec<Cell> {
        let state = match (self.alarm, self.failing_since) {
            (true, _) => Cell::toned("alarm".to_owned(), Tone::Bad),
            (false, Some(_)) => Cell::toned("fails".to_owned(), Tone::Warn),
            (false, None) => Cell::toned("works".to_owned(), Tone::Good),
        };
        vec![Cell::from(&self.archive), self.segments.into(), self.waiting.into(), self.released.into(), state]
    }
    fn name(&self) -> String {
        self.archive.clone()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        all.extend(self.newest_manifest.as_ref().map(|digest| ("NEWEST MANIFEST", Cell::from(digest))));
        all.extend(self.failing_since.map(|since| ("FAILS SINCE", time(since))));
        all.extend(self.failure.as_ref().map(|why| ("WHY", Cell::from(why))));
        all
    }
}
