//! Debian control stanzas as apt prints them, and the dependency fields in them. Never asks whether a dependency can be met.

use protocol_types::Digest;

/// What one stanza says about a package, as far as a lock needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    /// `Pre-Depends` and `Depends`: for each dependency the names of which one is enough.
    pub(crate) depends: Vec<Vec<String>>,
    pub(crate) provides: Vec<String>,
}

/// Every stanza of `text` that names a file to download; others describe what is only installed.
pub(crate) fn stanzas(text: &str) -> Vec<Control> {
    text.split("\n\n").filter_map(stanza).collect()
}

fn stanza(text: &str) -> Option<Control> {
    let field = |name: &str| {
        let start = text.lines().position(|line| value_of(line, name).is_some())?;
        let mut lines = text.lines().skip(start);
        let mut value = value_of(lines.next()?, name)?.to_owned();
        for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
            value.push_str(line);
        }
        Some(value)
    };
    let name = field("Package").filter(|name| is_name(name))?;
    let version = field("Version").filter(|version| is_version(version))?;
    let architecture = field("Architecture").filter(|name| is_name(name))?;
    let depends = ["Pre-Depends", "Depends"].into_iter().filter_map(field).flat_map(|value| groups(&value)).collect();
    Some(Control {
        name,
        version,
        architecture,
        size: field("Size")?.parse().ok()?,
        digest: Digest::from_hex(&field("SHA256")?).ok()?,
        depends,
        provides: field("Provides").map(|value| groups(&value).concat()).unwrap_or_default(),
    })
}

fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix(name)?.strip_prefix(':').map(str::trim)
}

/// `a (>= 1) | b, c:any` as `[[a, b], [c]]`: versions are left to apt, which has resolved them.
fn groups(value: &str) -> Vec<Vec<String>> {
    let bare = |alternative: &str| {
        let name = alternative.trim().split([' ', ':', '(', '[']).next().unwrap_or_default();
        is_name(name).then(|| name.to_owned())
    };
    let group = |group: &str| group.split('|').filter_map(bare).collect::<Vec<_>>();
    value.split(',').map(group).filter(|group| !group.is_empty()).collect()
}

/// Whether `text` may be a package's or an architecture's name (Debian policy 5.6.1), which can stand in a path of ours.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

/// Whether `text` may be a package's version (Debian policy 5.6.12).
pub(crate) fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-:~".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stanza_is_read_with_its_dependencies() {
        let digest = Digest::of(b"package");
        let text = format!(
            "Package: chrony\nVersion: 1:4.6-3\nArchitecture: arm64\nProvides: time-daemon (= 1)\nPre-Depends: init\nDepends: \
             libc6 (>= 2.38), a | b:any,\n c [linux-any]\nSize: 12\nSHA256: {}\nDescription: x\n",
            digest.hex()
        );
        let read = stanzas(&format!("{text}\n\nPackage: installed-only\nVersion: 1\n"));
        let [read] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!((read.name.as_str(), read.version.as_str(), read.size), ("chrony", "1:4.6-3", 12));
        assert_eq!(read.digest, digest);
        assert_eq!(read.depends, [vec!["init"], vec!["libc6"], vec!["a", "b"], vec!["c"]]);
        assert_eq!(read.provides, ["time-daemon"]);
    }

    #[test]
    fn a_name_that_leaves_a_folder_is_no_name() {
        for name in ["", "../x", "a/b", ".a", "A"] {
            assert!(!is_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = stanzas(&text);
        }
    }
}
