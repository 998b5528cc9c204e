//! Pages of lists: by key, so that a list stays right while rows come and go.

/// The most rows of one page.
const LIMIT_MAX: u32 = 500;

/// Which page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// The key after which it starts: [`Page::next`] of the page before. `None` for the first.
    pub after: Option<String>,
    /// How many rows, held between 1 and 500.
    pub limit: u32,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { after: None, limit: 100 }
    }
}

impl PageRequest {
    /// One row more than asked for: whether it is there says whether there is a next page.
    pub(crate) fn fetch(&self) -> i64 {
        i64::from(self.limit.clamp(1, LIMIT_MAX)) + 1
    }
}

/// Some rows of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` when this is the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    pub(crate) fn cut(mut items: Vec<T>, request: &PageRequest, key: impl Fn(&T) -> String) -> Self {
        let limit = request.limit.clamp(1, LIMIT_MAX) as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(key) } else { None };
        Self { items, next }
    }
}
