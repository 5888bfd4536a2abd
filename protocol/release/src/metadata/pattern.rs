//! Path patterns of delegations (TUF specification, section 4.5, PATHPATTERN).

/// Whether `pattern` covers `path`: part by part, `*` and `?` within a part only, everything else literally.
///
/// The specification allows all of shell globbing; brackets and braces, on which clients disagree, match nothing but themselves
/// here, and no target path can hold them.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if part_matches(pattern.as_bytes(), part.as_bytes()) => {}
            _ => return false,
        }
    }
}

/// Greedy matching with one point to return to, so the time is at most the product of both lengths.
fn part_matches(pattern: &[u8], part: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < part.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                t += 1;
            }
            Some(literal) if part.get(t) == Some(literal) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                p = star_at + 1;
                t = taken + 1;
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wildcard_stays_within_its_part() {
        for (pattern, path, covered) in [
            ("os/*/*.json", "os/host/1.1.0.json", true),
            ("os/*/*.json", "os/host/x/1.1.0.json", false),
            ("os/*/*.json", "os/1.1.0.json", false),
            ("apps/hello/*.json", "apps/hello/1.json", true),
            ("apps/hello/*.json", "apps/hello2/1.json", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("[a]", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, path), covered, "{pattern} against {path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_without_wildcards_covers_itself_alone(a in "[a-c/]{0,8}", b in "[a-c/]{0,8}") {
            prop_assert_eq!(matches(&a, &b), a == b);
        }

        #[test]
        fn any_pattern_is_matched_in_bounded_time(pattern in "[*?a/]{0,200}", path in "[ab/]{0,200}") {
            let _ = matches(&pattern, &path);
        }
    }
}
