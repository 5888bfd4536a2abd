//! Cuts a filter into tokens. Total: any text ends in tokens or in an error that names a place.

use std::ops::Range;

use super::{FilterError, MAX_BYTES};

/// A token and the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) at: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A field, a keyword, a number or a length of time: letters, digits, `_`, `-` and dots.
    Word(&'a str),
    /// Text in double quotes, without them.
    Text(String),
    /// An operator.
    Operator(&'static str),
    Open,
    Close,
    Comma,
    End,
}

impl Kind<'_> {
    /// The token as a person would call it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Text(_) => "a text".to_owned(),
            Self::Operator(operator) => format!("`{operator}`"),
            Self::Open => "`(`".to_owned(),
            Self::Close => "`)`".to_owned(),
            Self::Comma => "`,`".to_owned(),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Longer ones first, so that `<=` is not read as `<`.
const OPERATORS: [&str; 7] = ["!=", "<=", ">=", "=", "<", ">", "~"];

/// All tokens of `text`; the last one is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, FilterError> {
    if text.len() > MAX_BYTES {
        return Err(FilterError::new(text, 0..0, format!("a filter has at most {MAX_BYTES} bytes")));
    }
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let (kind, length) = first(text, at, rest)?;
        if let Some(kind) = kind {
            found.push(Token { kind, at: at..at + length });
        }
        at += length;
    }
    found.push(Token { kind: Kind::End, at: text.len()..text.len() });
    Ok(found)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// The token that `rest` begins with and its length in bytes; no token for white space.
fn first<'a>(text: &str, at: usize, rest: &'a str) -> Result<(Option<Kind<'a>>, usize), FilterError> {
    let blank = rest.len() - rest.trim_start().len();
    if blank > 0 {
        return Ok((None, blank));
    }
    if let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator)) {
        return Ok((Some(Kind::Operator(operator)), operator.len()));
    }
    let single = match rest.as_bytes().first() {
        Some(b'(') => Some(Kind::Open),
        Some(b')') => Some(Kind::Close),
        Some(b',') => Some(Kind::Comma),
        Some(b'"') => return quoted(text, at, rest),
        Some(_) | None => None,
    };
    if single.is_some() {
        return Ok((single, 1));
    }
    let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    match rest.get(..length).filter(|word| !word.is_empty()) {
        Some(word) => Ok((Some(Kind::Word(word)), length)),
        None => {
            let stranger = rest.chars().next().map_or(0, char::len_utf8);
            let refused = FilterError::new(text, at..at + stranger, "this character has no meaning here");
            Err(refused.with_hint("put texts into double quotes"))
        }
    }
}

/// A text in quotes; `\"` and `\\` stand for the character after the backslash.
fn quoted<'a>(text: &str, at: usize, rest: &str) -> Result<(Option<Kind<'a>>, usize), FilterError> {
    let mut content = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((place, c)) = characters.next() {
        match c {
            '"' => return Ok((Some(Kind::Text(content)), place + 1)),
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => content.push(escaped),
                Some((next, other)) => {
                    let bytes = at + place..at + next + other.len_utf8();
                    let refused = FilterError::new(text, bytes, format!("`\\{other}` is no escape"));
                    return Err(refused.with_hint("write `\\\\` for a backslash"));
                }
                None => break,
            },
            c if c.is_control() => {
                let bytes = at + place..at + place + c.len_utf8();
                return Err(FilterError::new(text, bytes, "a text holds no control character"));
            }
            c => content.push(c),
        }
    }
    let refused = FilterError::new(text, at..text.len(), "the text has no end");
    Err(refused.with_hint("close it with a double quote"))
}
