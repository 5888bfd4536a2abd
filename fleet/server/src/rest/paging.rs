//! Turns the last key of one page into the cursor of the next. Cursors are opaque to callers.

use data_encoding::BASE64URL_NOPAD;
use fleet_api::{Page, PageQuery, ProblemCode};

use crate::rest::{Refusal, Reply};

/// Where a page begins and how long it is.
pub(crate) struct Paging {
    after: String,
    limit: u32,
}

impl Paging {
    pub(crate) fn read(query: &PageQuery) -> Reply<Self> {
        let limit = Self::limit(query.limit)?;
        let after = match &query.cursor {
            None => String::new(),
            Some(cursor) => {
                let key = BASE64URL_NOPAD.decode(cursor.as_bytes()).ok().and_then(|key| String::from_utf8(key).ok());
                // No key holds U+0000, and not every database takes a text with it.
                key.filter(|key| !key.contains('\0')).ok_or_else(|| {
                    let problem =
                        fleet_api::Problem::new(ProblemCode::MalformedRequest, "this is no cursor of this list");
                    Refusal::from(problem.in_field("cursor"))
                })?
            }
        };
        Ok(Self { after, limit })
    }

    /// How many items a caller asks for.
    pub(crate) fn limit(asked: Option<u32>) -> Reply<u32> {
        let limit = asked.unwrap_or(PageQuery::DEFAULT_LIMIT);
        if !(1..=PageQuery::MAX_LIMIT).contains(&limit) {
            let detail = format!("a page has 1 to {} items", PageQuery::MAX_LIMIT);
            return Err(Refusal::value("limit", detail));
        }
        Ok(limit)
    }

    /// The key after which the page begins; empty for the first page.
    pub(crate) fn after(&self) -> &str {
        &self.after
    }

    /// The number after which the page begins, for lists in the order of numbers.
    pub(crate) fn after_number(&self) -> Reply<u64> {
        if self.after.is_empty() {
            return Ok(0);
        }
        self.after.parse().map_err(|_| Refusal::new(ProblemCode::MalformedRequest, "this is no cursor of this list"))
    }

    /// How many rows to ask for: one more than the page has, to learn whether another page follows.
    pub(crate) fn rows(&self) -> u32 {
        self.limit + 1
    }

    /// The page made of rows that were asked for with [`Paging::rows`].
    pub(crate) fn page<R, T>(&self, mut rows: Vec<R>, key: impl Fn(&R) -> String, view: impl Fn(R) -> T) -> Page<T> {
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > most;
        rows.truncate(most);
        let next = rows.last().filter(|_| more).map(|row| BASE64URL_NOPAD.encode(key(row).as_bytes()));
        Page { items: rows.into_iter().map(view).collect(), next }
    }

    /// The same of rows that the store may hold damaged.
    pub(crate) fn try_page<R, T>(
        &self,
        rows: Vec<R>,
        key: impl Fn(&R) -> String,
        view: impl Fn(R) -> Reply<T>,
    ) -> Reply<Page<T>> {
        let Page { items, next } = self.page(rows, key, view);
        Ok(Page { items: items.into_iter().collect::<Reply<_>>()?, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let all: Vec<u64> = (1..=7).collect();
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let paging = Paging::read(&PageQuery { cursor, limit: Some(3) }).unwrap();
            let after = paging.after_number().unwrap();
            let rows = all.iter().copied().filter(|n| *n > after).take(4).collect();
            let page = paging.page(rows, u64::to_string, |n| n);
            seen.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }
}
