//! Where this machine gets Debian from, read from its own apt sources, and a source list for another Debian release from there.
//! Addresses stay in the cache: no file of the tree names a mirror.

/// The two archives that a Debian release comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    archive: Source,
    security: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    address: String,
    keyring: Option<String>,
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names of Debian releases, which tell Debian's own archives from those of others.
const RELEASES: [&str; 9] =
    ["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];

impl Mirror {
    /// Reads source files in either of apt's two formats, in the order in which apt reads them.
    pub(crate) fn read<'a>(files: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let (mut archive, mut security) = (None, None);
        for (suite, source) in files.into_iter().flat_map(|text| deb822(text).into_iter().chain(one_line(text))) {
            let (release, rest) = suite.split_at(suite.find(['-', '/']).unwrap_or(suite.len()));
            if RELEASES.contains(&release) {
                match rest {
                    "-security" | "/updates" => security = security.or(Some(source)),
                    "" | "-updates" => archive = archive.or(Some(source)),
                    _ => {}
                }
            }
        }
        Some(Self { archive: archive?, security: security? })
    }

    /// The addresses of the archives, the one with everything first.
    pub(crate) fn addresses(&self) -> [&str; 2] {
        [&self.archive.address, &self.security.address].map(|address| address.trim_end_matches('/'))
    }

    /// A source list in the one-line format for `release` with its updates and security updates; `kind` is `deb` for packages and
    /// `deb-src` for their sources.
    pub(crate) fn list(&self, kind: &str, release: &str) -> String {
        let line = |source: &Source, suite: &str| {
            let keyring = source.keyring.as_deref().unwrap_or(KEYRING);
            format!("{kind} [signed-by={keyring}] {} {suite} main\n", source.address)
        };
        [
            line(&self.archive, release),
            line(&self.archive, &format!("{release}-updates")),
            line(&self.security, &format!("{release}-security")),
        ]
        .concat()
    }
}

/// The suites of a file in the format `deb822` (sources.list(5)); a file in the other format has none.
fn deb822(text: &str) -> Vec<(String, Source)> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        };
        let words = |name: &str| field(name).map(|(_, value)| value.split_whitespace()).into_iter().flatten();
        let disabled = words("Enabled").any(|word| word.eq_ignore_ascii_case("no"));
        let Some(address) = words("URIs").next().filter(|_| !disabled && words("Types").any(|word| word == "deb"))
        else {
            continue;
        };
        let keyring = words("Signed-By").next().filter(|path| path.starts_with('/')).map(str::to_owned);
        let source = Source { address: address.to_owned(), keyring };
        found.extend(words("Suites").map(|suite| (suite.to_owned(), source.clone())));
    }
    found
}

/// The suites of a file of lines `deb [OPTIONS] ADDRESS SUITE COMPONENT...`.
fn one_line(text: &str) -> Vec<(String, Source)> {
    let line = |line: &str| {
        let mut rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let mut keyring = None;
        if let Some(options) = rest.strip_prefix('[') {
            let (options, after) = options.split_once(']')?;
            keyring = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
            rest = after;
        }
        let mut words = rest.split_whitespace();
        let (address, suite) = (words.next()?, words.next()?);
        let source = Source { address: address.to_owned(), keyring: keyring.map(str::to_owned) };
        Some((suite.to_owned(), source))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb\n# note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: \
                          main\nSigned-By: /keys/a.gpg\n\nTypes: deb\nURIs: http://mirror.example/debian-security\nSuites: \
                          bookworm-security\nComponents: main\n";
    const OTHERS: &str = "Types: deb\nURIs: http://other.example/node\nSuites: nodistro\nComponents: main\n";
    const ONE_LINE: &str = "# deb http://no.example x main\ndeb http://other.example/x cloud-sdk-bookworm main\ndeb [arch=amd64 \
                            signed-by=/keys/b.gpg] http://one.example/debian stable main\ndeb http://one.example/sec \
                            stable/updates main\n";

    #[test]
    fn both_formats_of_apt_are_understood() {
        let list = Mirror::read([OTHERS, DEB822]).unwrap().list("deb", "trixie");
        assert_eq!(
            list,
            format!(
                "deb [signed-by=/keys/a.gpg] http://mirror.example/debian trixie main\ndeb [signed-by=/keys/a.gpg] \
                 http://mirror.example/debian trixie-updates main\ndeb [signed-by={KEYRING}] \
                 http://mirror.example/debian-security trixie-security main\n"
            )
        );
        let mirror = Mirror::read([ONE_LINE]).unwrap();
        assert_eq!(mirror.addresses(), ["http://one.example/debian", "http://one.example/sec"]);
        let list = mirror.list("deb-src", "trixie");
        assert!(list.starts_with("deb-src [signed-by=/keys/b.gpg] http://one.example/debian trixie main\n"), "{list}");
        assert!(list.ends_with("http://one.example/sec trixie-security main\n"), "{list}");
    }

    #[test]
    fn the_sources_of_others_are_not_debian() {
        assert_eq!(Mirror::read([OTHERS]), None);
        let disabled = DEB822.replace("Types: deb", "Enabled: no\nTypes: deb");
        assert_eq!(Mirror::read([disabled.as_str()]), None);
    }
}
