//! Lists that the service tells page by page.

use fleet_api::{Page, PageQuery};

/// Every item of a list, in its order; `page` asks for one page.
pub(crate) async fn all_pages<T>(
    mut page: impl AsyncFnMut(PageQuery) -> anyhow::Result<Page<T>>,
) -> anyhow::Result<Vec<T>> {
    let (mut all, mut query) = (Vec::new(), PageQuery::default());
    loop {
        let Page { items, next } = page(query).await?;
        all.extend(items);
        match next {
            Some(next) => query = PageQuery { cursor: Some(next), limit: None },
            None => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_page_is_asked_for_once_by_the_cursor_of_the_page_before() {
        let mut asked = Vec::new();
        let all = all_pages(async |query| {
            let at = query.cursor.as_deref().map_or(0, |cursor| cursor.parse().unwrap());
            asked.push(at);
            Ok(Page { items: vec![2 * at, 2 * at + 1], next: (at < 2).then(|| (at + 1).to_string()) })
        });
        assert_eq!(all.await.unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(asked, [0, 1, 2]);
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
