//! Lists that the service tells page by page.

use fleet_api::{Page, PageQuery};

/// Every item of a list, in its order; `page` asks for one page.
pub(crate) async fn all_pages<T, E>(page: impl AsyncFnMut(PageQuery) -> Result<Page<T>, E>) -> Result<Vec<T>, E> {
    first_of(usize::MAX, page).await
}

/// The first `most` items of a list, in its order; asks for no page beyond them.
pub(crate) async fn first_of<T, E>(
    most: usize,
    mut page: impl AsyncFnMut(PageQuery) -> Result<Page<T>, E>,
) -> Result<Vec<T>, E> {
    let (mut found, mut query) = (Vec::new(), PageQuery::default());
    while found.len() < most {
        let Page { items, next } = page(query).await?;
        found.extend(items);
        match next {
            Some(next) => query = PageQuery { cursor: Some(next), limit: None },
            None => break,
        }
    }
    found.truncate(most);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use fleet_api::ClientError;

    use super::*;

    /// Three pages of two numbers each, and the pages that were asked for.
    fn page_of(query: &PageQuery, asked: &mut Vec<i32>) -> Result<Page<i32>, ClientError> {
        let at = query.cursor.as_deref().map_or(0, |cursor| cursor.parse().unwrap());
        asked.push(at);
        Ok(Page { items: vec![2 * at, 2 * at + 1], next: (at < 2).then(|| (at + 1).to_string()) })
    }

    #[tokio::test]
    async fn every_page_is_asked_for_once_by_the_cursor_of_the_page_before() {
        let mut asked = Vec::new();
        let all = all_pages(async |query| page_of(&query, &mut asked)).await.unwrap();
        assert_eq!((all, asked), (vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2]));
    }

    #[tokio::test]
    async fn nothing_is_asked_for_beyond_what_is_wanted() {
        for (most, wanted, pages) in [(0, vec![], vec![]), (2, vec![0, 1], vec![0]), (3, vec![0, 1, 2], vec![0, 1])] {
            let mut asked = Vec::new();
            let found = first_of(most, async |query| page_of(&query, &mut asked)).await.unwrap();
            assert_eq!((found, asked), (wanted, pages));
        }
    }

    #[tokio::test]
    async fn a_page_that_fails_is_no_end_of_the_list() {
        let all = all_pages(async |query| match query.cursor {
            None => Ok(Page { items: vec![1], next: Some("2".to_owned()) }),
            Some(_) => anyhow::bail!("the service went away"),
        });
        assert!(all.await.is_err());
    }
}
