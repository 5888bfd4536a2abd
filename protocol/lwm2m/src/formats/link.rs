//! CoRE link format (RFC 6690), as registration and Discover use it. Never resolves a target.

use super::FormatError;
use crate::{coap::ContentFormat, object::Path};

/// One link: a target and its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// What stands between `<` and `>`.
    pub target: String,
    /// Names and, where there is one, values without their quotes.
    pub attributes: Vec<(String, Option<String>)>,
}

impl Link {
    /// A link to an object, instance or resource.
    pub fn to(path: &Path) -> Self {
        Self { target: path.to_string(), attributes: Vec::new() }
    }

    /// Adds an attribute with a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.push((name.to_owned(), Some(value.into())));
        self
    }

    /// The path of the target, below the root path `root` (`/` for most clients).
    pub fn path(&self, root: &str) -> Option<Path> {
        let below = self.target.strip_prefix(root.trim_end_matches('/'))?;
        if below.is_empty() { Some(Path::ROOT) } else { below.parse().ok() }
    }

    /// The value of an attribute; `Some("")` for one without value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_deref().unwrap_or(""))
    }
}

/// Reads links; an empty text is no links.
pub fn parse(bytes: &[u8]) -> Result<Vec<Link>, FormatError> {
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8"))?;
    let mut links = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (link, after) = parse_link(rest)?;
        links.push(link);
        rest = after.trim_start();
        if let Some(next) = rest.strip_prefix(',') {
            rest = next.trim_start();
            if rest.is_empty() {
                return Err(malformed("a comma has no link behind it"));
            }
        } else if !rest.is_empty() {
            return Err(malformed("two links have no comma between them"));
        }
    }
    Ok(links)
}

fn parse_link(text: &str) -> Result<(Link, &str), FormatError> {
    let inner = text.strip_prefix('<').ok_or(malformed("a link does not start with `<`"))?;
    let (target, mut rest) = inner.split_once('>').ok_or(malformed("a target does not end with `>`"))?;
    let mut attributes = Vec::new();
    while let Some(after) = rest.trim_start().strip_prefix(';') {
        let after = after.trim_start();
        let end = after.find(['=', ';', ',']).unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        let name = name.trim_end();
        if name.is_empty() || name.contains(['<', '>', '"', ' ']) {
            return Err(malformed("an attribute has no valid name"));
        }
        let (value, tail) = match tail.strip_prefix('=') {
            Some(value) => parse_value(value).map(|(value, tail)| (Some(value), tail))?,
            None => (None, tail),
        };
        attributes.push((name.to_owned(), value));
        rest = tail;
    }
    Ok((Link { target: target.to_owned(), attributes }, rest))
}

/// A token, or a quoted string whose backslashes quote the character behind them.
fn parse_value(text: &str) -> Result<(String, &str), FormatError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', '"', '<', '>', ' ']).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return if token.is_empty() {
            Err(malformed("an attribute has no value"))
        } else {
            Ok((token.to_owned(), rest))
        };
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, quoted.get(at + 1..).unwrap_or_default())),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    Err(malformed("a quoted value does not end"))
}

/// Writes links. A target with `>` in it, and a name that is no token, cannot come from this crate and is passed over.
pub fn write(links: &[Link]) -> String {
    let mut out = String::new();
    for link in links.iter().filter(|link| !link.target.contains('>')) {
        if !out.is_empty() {
            out.push(',');
        }
        out.extend(["<", &link.target, ">"]);
        for (name, value) in link.attributes.iter().filter(|(name, _)| is_token(name)) {
            out.extend([";", name]);
            match value {
                None => {}
                // The standard writes these two in quotes even around a single token.
                Some(value) if is_token(value) && name != "rt" && name != "if" => out.extend(["=", value]),
                Some(value) => {
                    out.push_str("=\"");
                    value.chars().for_each(|c| {
                        if matches!(c, '"' | '\\') {
                            out.push('\\');
                        }
                        out.push(c);
                    });
                    out.push('"');
                }
            }
        }
    }
    out
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
}

const fn malformed(what: &'static str) -> FormatError {
    FormatError::Malformed { format: ContentFormat::LINK, what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 6690 section 5.
        let text = r#"</sensors>;ct=40;title="Sensor Index",</sensors/temp>;rt="temperature-c";if="sensor",<http://www.example.com/sensors/t123>;anchor="/sensors/temp";rel="describedby",</t>;anchor="/sensors/temp";rel="alternate""#;
        let links = parse(text.as_bytes()).unwrap();
        assert_eq!(links.len(), 4);
        assert_eq!(links[0].attribute("title"), Some("Sensor Index"));
        assert_eq!(links[1].attribute("rt"), Some("temperature-c"));
        assert_eq!(links[2].target, "http://www.example.com/sensors/t123");
        let firmware = parse(br#"</firmware/v2.1>;rt="firmware";sz=262144"#).unwrap();
        assert_eq!(firmware[0].attribute("sz"), Some("262144"));
        assert_eq!(write(&firmware), r#"</firmware/v2.1>;rt="firmware";sz=262144"#);
    }

    #[test]
    fn a_registration_names_its_paths_below_its_root() {
        let links = parse(br#"</>;rt="oma.lwm2m";ct=112,</1/0>,</3/0>,</26241>;ver=1.0,<9>"#).unwrap();
        let paths: Vec<_> = links.iter().map(|link| link.path("/")).collect();
        let expected = [
            Some(Path::ROOT),
            Some(Path::instance(1, 0)),
            Some(Path::instance(3, 0)),
            Some(Path::object(26_241)),
            None,
        ];
        assert_eq!(paths, expected);
        assert_eq!(parse(b"</lwm2m/3/0>").unwrap()[0].path("/lwm2m"), Some(Path::instance(3, 0)));
    }

    #[test]
    fn damaged_links_are_refused() {
        for bad in
            ["<", "</a", "</a>,", "</a>;", "</a>;=1", "</a>;b=", "</a>;b=\"c", "</a></b>", "a", "</a>;b=1 2", "\u{e9}"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?} was read");
        }
        assert!(parse(&[0xff]).is_err());
    }

    proptest! {
        #[test]
        fn links_read_back_as_written(
            list in proptest::collection::vec(
                ("[^<>]{0,20}", proptest::collection::vec(("[a-z]{1,6}", proptest::option::of(".{0,12}")), 0..4)), 0..6),
        ) {
            let links: Vec<_> = list.into_iter().map(|(target, attributes)| Link { target, attributes }).collect();
            prop_assert_eq!(parse(write(&links).as_bytes()), Ok(links));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[<>/;,=\"\\\\a-c1 ]{0,60}") {
            for input in [&bytes[..], text.as_bytes()] {
                if let Ok(links) = parse(input) {
                    prop_assert!(links.len() <= input.len());
                }
            }
        }
    }
}
