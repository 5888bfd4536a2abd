//! Reads columns of a row into what they stand for. Never asks the database.

use std::str::FromStr;

use sqlx::{Row, any::AnyRow};

use crate::{StoreError, error::cannot};

/// The text in a column, in the form that only the store writes there.
pub(crate) fn formed<T: FromStr>(
    row: &AnyRow,
    doing: &'static str,
    (table, column): (&'static str, &'static str),
) -> Result<T, StoreError> {
    let text: String = row.try_get(column).map_err(cannot(doing))?;
    text.parse().map_err(|_| StoreError::Damaged { table, column })
}

/// A text, if there is one.
pub(crate) fn text(row: &AnyRow, column: &'static str) -> Result<Option<String>, StoreError> {
    row.try_get(column).map_err(cannot("read a column"))
}

/// A column of a joined row whose text has a form, if there is one.
pub(crate) fn parsed<T: FromStr>(row: &AnyRow, column: &'static str) -> Result<Option<T>, StoreError> {
    let Some(found) = text(row, column)? else { return Ok(None) };
    found.parse().map(Some).map_err(|_| StoreError::Damaged { table: "a joined row", column })
}
