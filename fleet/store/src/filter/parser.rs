//! From tokens to a tree, by recursive descent. `or` binds loosest, then `and`, then `not`.

use std::{mem, ops::Range};

use super::{
    Check, FilterError, MAX_DEPTH, MAX_TESTS, MAX_VALUES, Node,
    field::{Field, Kind as FieldKind, lookup, resembling},
    lexer::{Kind, Token, tokens},
    value::{Order, Pattern, Time, Value, duration},
};

/// The tree of a whole filter; white space alone asks nothing.
pub(super) fn parse(text: &str) -> Result<Node, FilterError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens: &tokens, tests: 0 };
    if parser.peek().kind == Kind::End {
        return Ok(Node::All(Vec::new()));
    }
    let root = parser.any(0)?;
    match parser.peek().kind {
        Kind::End => Ok(root),
        _ => Err(parser.unexpected("`and`, `or` or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token<'a>],
    tests: usize,
}

const END: Token<'static> = Token { kind: Kind::End, at: 0..0 };

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a Token<'a> {
        self.tokens.first().unwrap_or(&END)
    }

    /// Takes the next token; the end stays.
    fn next(&mut self) -> &'a Token<'a> {
        let token = self.peek();
        if token.kind != Kind::End {
            self.tokens = self.tokens.get(1..).unwrap_or_default();
        }
        token
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = matches!(self.peek().kind, Kind::Word(next) if next.eq_ignore_ascii_case(word));
        if found {
            self.next();
        }
        found
    }

    fn error(&self, at: &Range<usize>, message: impl Into<String>) -> FilterError {
        FilterError::new(self.text, at.clone(), message)
    }

    fn unexpected(&self, wanted: &str) -> FilterError {
        let Token { kind, at } = self.peek();
        self.error(at, format!("{wanted} is expected here, not {}", kind.name()))
    }

    fn any(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut nodes = vec![self.all(depth)?];
        while self.takes("or") {
            nodes.push(self.all(depth)?);
        }
        Ok(alone_or(nodes, Node::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut nodes = vec![self.term(depth)?];
        while self.takes("and") {
            nodes.push(self.term(depth)?);
        }
        Ok(alone_or(nodes, Node::All))
    }

    fn term(&mut self, depth: usize) -> Result<Node, FilterError> {
        if depth >= MAX_DEPTH {
            let at = &self.peek().at;
            return Err(self.error(at, format!("parentheses and `not` are nested at most {MAX_DEPTH} deep")));
        }
        if self.takes("not") {
            return Ok(Node::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.peek().kind != Kind::Open {
            return self.test();
        }
        self.next();
        let node = self.any(depth + 1)?;
        match self.peek().kind {
            Kind::Close => self.next(),
            _ => return Err(self.unexpected("`)`")),
        };
        Ok(node)
    }

    fn test(&mut self) -> Result<Node, FilterError> {
        let Token { kind: Kind::Word(word), at } = self.peek() else { return Err(self.unexpected("a field")) };
        let Some(field) = lookup(word) else {
            let refused = self.error(at, format!("there is no field `{word}`"));
            return Err(match resembling(word) {
                Some(meant) => refused.with_hint(format!("did you mean `{meant}`?")),
                None => refused.with_hint("the fields are listed in docs/formats/filter.md"),
            });
        };
        self.next();
        self.tests += 1;
        if self.tests > MAX_TESTS {
            return Err(self.error(at, format!("a filter has at most {MAX_TESTS} tests")));
        }
        if field.kind != FieldKind::Group && self.takes("exists") {
            return Ok(Node::Test(field, Check::Exists));
        }
        if self.takes("in") {
            let values = self.values(&field)?;
            return Ok(Node::Test(field, Check::OneOf(values)));
        }
        let Token { kind: Kind::Operator(operator), at } = self.peek() else {
            return Err(self.unexpected("`=`, `!=`, `<`, `<=`, `>`, `>=`, `~`, `in` or `exists`"));
        };
        self.next();
        self.compared(field, operator, at)
    }

    fn compared(&mut self, field: Field, operator: &str, at: &Range<usize>) -> Result<Node, FilterError> {
        let order = match operator {
            "=" | "!=" => {
                let value = self.value(&field)?;
                let test = Node::Test(field, Check::OneOf(vec![value]));
                return Ok(if operator == "=" { test } else { Node::Not(Box::new(test)) });
            }
            "~" => return self.matched(field, at),
            "<" => Order::Less,
            "<=" => Order::AtMost,
            ">" => Order::More,
            _ => Order::AtLeast,
        };
        let has_order = match field.kind {
            FieldKind::Version | FieldKind::Number | FieldKind::Time | FieldKind::Attribute => true,
            FieldKind::Text | FieldKind::Choice(_) | FieldKind::Truth | FieldKind::Names | FieldKind::Group => false,
        };
        if !has_order {
            let refused = self.error(at, "this field has no order");
            return Err(refused.with_hint("use `=`, `!=`, `~` or `in`"));
        }
        let value_at = self.peek().at.clone();
        let value = self.value(&field)?;
        if field.kind == FieldKind::Attribute && value.text().is_some() {
            let refused = self.error(&value_at, "attributes are ordered as numbers");
            return Err(refused.with_hint("write the number without quotes"));
        }
        Ok(Node::Test(field, Check::Compare(order, value)))
    }

    fn matched(&mut self, field: Field, at: &Range<usize>) -> Result<Node, FilterError> {
        match field.kind {
            FieldKind::Text | FieldKind::Attribute | FieldKind::Names => {}
            FieldKind::Choice(_)
            | FieldKind::Version
            | FieldKind::Number
            | FieldKind::Truth
            | FieldKind::Time
            | FieldKind::Group => {
                let refused = self.error(at, "no pattern can be held against this field");
                return Err(refused.with_hint("use `=`, `!=` or `in`"));
            }
        }
        let Kind::Text(pattern) = &self.peek().kind else {
            return Err(self.unexpected("a pattern in double quotes"));
        };
        self.next();
        Ok(Node::Test(field, Check::Matches(Pattern(pattern.clone()))))
    }

    fn values(&mut self, field: &Field) -> Result<Vec<Value>, FilterError> {
        if self.peek().kind != Kind::Open {
            return Err(self.unexpected("`(`"));
        }
        self.next();
        let mut values = Vec::new();
        loop {
            let at = &self.peek().at;
            let value = self.value(field)?;
            if values.first().is_some_and(|first| mem::discriminant(first) != mem::discriminant(&value)) {
                return Err(self
                    .error(at, "numbers and texts are never equal")
                    .with_hint("ask for each kind on its own"));
            }
            values.push(value);
            if values.len() > MAX_VALUES {
                return Err(self.error(at, format!("`in` has at most {MAX_VALUES} values")));
            }
            match self.peek().kind {
                Kind::Comma => self.next(),
                Kind::Close => {
                    self.next();
                    return Ok(values);
                }
                _ => return Err(self.unexpected("`,` or `)`")),
            };
        }
    }

    /// A value of the field's kind.
    fn value(&mut self, field: &Field) -> Result<Value, FilterError> {
        let Token { kind, at } = self.peek();
        let value = match (field.kind, kind) {
            (FieldKind::Text | FieldKind::Names | FieldKind::Group | FieldKind::Attribute, Kind::Text(text)) => {
                Value::Text(text.clone())
            }
            (FieldKind::Choice(words), Kind::Text(text)) => return self.choice(words, text, at),
            (FieldKind::Choice(words), Kind::Word(word)) => return self.choice(words, word, at),
            (FieldKind::Version, Kind::Text(text)) => Value::Version(text.parse().map_err(|_| {
                let refused = self.error(at, format!("`{text}` is no version"));
                refused.with_hint("write three numbers, as in \"1.2.0\"")
            })?),
            (FieldKind::Number | FieldKind::Attribute, Kind::Word(word)) => Value::Number(self.number(word, at)?),
            (FieldKind::Truth, Kind::Word("true")) => Value::Truth(true),
            (FieldKind::Truth, Kind::Word("false")) => Value::Truth(false),
            (FieldKind::Time, Kind::Text(text)) => Value::Time(Time::parse(text).ok_or_else(|| {
                let refused = self.error(at, format!("`{text}` is no time"));
                refused.with_hint("write it as in \"2026-11-26T04:00:00Z\", or as in ago(2h)")
            })?),
            (FieldKind::Time, Kind::Word("ago")) => return self.ago(),
            _ => return Err(self.unexpected(wanted(field.kind))),
        };
        self.next();
        Ok(value)
    }

    fn choice(&mut self, words: &[&str], word: &str, at: &Range<usize>) -> Result<Value, FilterError> {
        if !words.contains(&word) {
            let refused = self.error(at, format!("this field is never `{word}`"));
            return Err(refused.with_hint(format!("it is one of {}", words.join(", "))));
        }
        self.next();
        Ok(Value::Text(word.to_owned()))
    }

    fn number(&self, word: &str, at: &Range<usize>) -> Result<f64, FilterError> {
        word.parse::<f64>()
            .ok()
            .filter(|number| number.is_finite() && !word.starts_with(char::is_alphabetic))
            .ok_or_else(|| {
                let refused = self.error(at, format!("`{word}` is no number"));
                refused.with_hint("put texts into double quotes")
            })
    }

    /// `ago(2h)`
    fn ago(&mut self) -> Result<Value, FilterError> {
        self.next();
        if self.peek().kind != Kind::Open {
            return Err(self.unexpected("`(`"));
        }
        self.next();
        let Token { kind: Kind::Word(word), at } = self.peek() else {
            return Err(self.unexpected("a length of time"));
        };
        let before = duration(word).ok_or_else(|| {
            let refused = self.error(at, format!("`{word}` is no length of time"));
            refused.with_hint("write 90s, 15m, 2h or 30d")
        })?;
        self.next();
        match self.peek().kind {
            Kind::Close => self.next(),
            _ => return Err(self.unexpected("`)`")),
        };
        Ok(Value::Time(Time::Ago(before)))
    }
}

fn alone_or(mut nodes: Vec<Node>, joined: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(only) if nodes.is_empty() => only,
        Some(last) => {
            nodes.push(last);
            joined(nodes)
        }
        None => joined(nodes),
    }
}

/// What a value of this kind looks like.
fn wanted(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Text | FieldKind::Names | FieldKind::Group => "a text in double quotes",
        FieldKind::Choice(_) => "a word",
        FieldKind::Version => "a version in double quotes",
        FieldKind::Number => "a number",
        FieldKind::Truth => "`true` or `false`",
        FieldKind::Time => "a time in double quotes, or `ago(…)`,",
        FieldKind::Attribute => "a text in double quotes or a number",
    }
}
