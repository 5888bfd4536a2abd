//! Narrows a filter to the few devices that it can be true for: those that pass the rarest of its tests. The narrowed filter means the
//! same; it spares a database that keeps no statistics the walk through all devices. Never counts by itself.

use protocol_types::UnixSeconds;

use super::{
    Check, Clause, Node, Place, Resolved,
    field::{Field, Source},
    sql::{Writer, rows_of},
};

/// Most tests of one filter that are counted; the others are taken for true for many devices.
const MOST_COUNTED: usize = 16;
/// Most devices to which a filter is narrowed: to collect more takes longer than to walk in the order of names until a page is full.
/// In tests so small that filters over some tens of devices go both ways.
const FEW: u64 = if cfg!(test) { 15 } else { 20_000 };

/// A number of devices that is not exceeded, and tests of which each of them passes one.
type Candidates = (u64, Vec<(Field, Check)>);

impl Resolved {
    /// One query for each test that may narrow the filter: it counts the devices that pass, up to [`FEW`] and one more. `$1` is the
    /// account, and the number stands in the column `n`.
    pub(crate) fn counts(&self) -> Vec<Clause> {
        let mut tests = Vec::new();
        self.root.collect_countable(&mut tests);
        // None of these tests asks for the time.
        let place = Place { report: "", first: 2, now: UnixSeconds(0) };
        let one = |(field, check): (&Field, &Check)| {
            let mut writer = Writer::new(place);
            writer.text("SELECT COUNT(*) AS n FROM (");
            writer.names(field, check);
            writer.text(&format!(" LIMIT {}) AS few", FEW + 1));
            writer.clause()
        };
        tests.into_iter().take(MOST_COUNTED).map(one).collect()
    }

    /// The same filter, narrowed by what its [`Self::counts`] have counted.
    #[must_use]
    pub(crate) fn narrowed(self, counted: &[u64]) -> Self {
        let few = self.root.fewest(&mut counted.iter().copied());
        Self { among: few.map(|(_, tests)| tests).unwrap_or_default(), ..self }
    }
}

/// Whether the database finds the devices that pass a test by an index.
fn is_countable(field: &Field, check: &Check) -> bool {
    match &field.source {
        Source::Device("endpoint") => matches!(check, Check::OneOf(_)),
        source => rows_of(source, check).is_some(),
    }
}

impl Node {
    /// The tests that may narrow the filter, in the order in which [`Self::fewest`] asks for their numbers.
    fn collect_countable<'a>(&'a self, found: &mut Vec<(&'a Field, &'a Check)>) {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.collect_countable(found)),
            Self::Test(field, check) if is_countable(field, check) => found.push((field, check)),
            // What is true where a test is not is true for many.
            Self::Test(..) | Self::Not(_) => {}
        }
    }

    /// The smallest lot of devices in which all are that this is true for; `None` if it may be many.
    fn fewest(&self, counted: &mut impl Iterator<Item = u64>) -> Option<Candidates> {
        match self {
            Self::All(nodes) => {
                let lots: Vec<_> = nodes.iter().map(|node| node.fewest(counted)).collect();
                lots.into_iter().flatten().min_by_key(|(devices, _)| *devices)
            }
            Self::Any(nodes) => {
                let lots: Vec<_> = nodes.iter().map(|node| node.fewest(counted)).collect();
                let lots: Vec<Candidates> = lots.into_iter().collect::<Option<_>>()?;
                let devices = lots.iter().fold(0, |sum: u64, (devices, _)| sum.saturating_add(*devices));
                let tests: Vec<_> = lots.into_iter().flat_map(|(_, tests)| tests).collect();
                (devices <= FEW && !tests.is_empty()).then_some((devices, tests))
            }
            Self::Test(field, check) if is_countable(field, check) => {
                let devices = counted.next().filter(|devices| *devices <= FEW)?;
                Some((devices, vec![(field.clone(), check.clone())]))
            }
            Self::Test(..) | Self::Not(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Filter,
        filter::{Bind, version_key},
    };

    const PLACE: Place = Place { report: "r", first: 2, now: UnixSeconds(0) };

    fn resolved(text: &str) -> Resolved {
        text.parse::<Filter>().unwrap().resolved(&|_| Vec::new())
    }

    /// What is bound before the condition itself: what the filter is narrowed to.
    fn among(text: &str, counted: &[u64]) -> Vec<String> {
        let plain = resolved(text);
        let whole = plain.clone().narrowed(counted).clause(PLACE);
        let added = whole.binds.len() - plain.clause(PLACE).binds.len();
        assert_eq!(whole.sql.starts_with("(d.endpoint IN (SELECT x.endpoint FROM "), added > 0, "{}", whole.sql);
        let text = |bind: &Bind| match bind {
            Bind::Text(text) => text.clone(),
            other => format!("{other:?}"),
        };
        whole.binds[..added].iter().map(text).collect()
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn the_rarest_of_several_tests_narrows_and_frequent_ones_do_not() {
        let text = r#"tag = "fleet" and attribute.site = "7" and os.version < "1.1.0""#;
        assert_eq!(resolved(text).counts().len(), 3);
        assert_eq!(among(text, &[FEW + 1, FEW, 3]), ["os".to_owned(), version_key("1.1.0").unwrap()]);
        assert_eq!(among(text, &[FEW + 1, FEW, FEW + 1]), ["site", "7"]);
        assert_eq!(among(text, &[0, FEW, 3]), ["fleet"], "a test that nothing passes is the rarest");
        assert_eq!(among(text, &[FEW + 1; 3]), NOTHING);
    }

    #[test]
    fn every_part_of_an_or_must_be_rare_and_what_is_not_so_narrows_nothing() {
        let text = r#"tag = "a" or name in ("gate-1", "gate-2")"#;
        assert_eq!(among(text, &[1, 2]), ["a", "gate-1", "gate-2"]);
        assert_eq!(among(text, &[FEW - 1, 2]), NOTHING, "together they are too many");
        assert_eq!(among(r#"tag = "a" or standing = suspended"#, &[1]), NOTHING);
        assert_eq!(among(r#"tag = "b" and (tag = "a" or not tag = "c")"#, &[9, 3]), ["b"]);
        let uncounted = r#"not tag = "a" and standing = suspended and name ~ "gate*" and last_seen < ago(2h)"#;
        assert!(resolved(uncounted).counts().is_empty());
    }

    #[test]
    fn only_so_many_tests_are_counted_and_the_others_narrow_nothing() {
        let many: Vec<String> = (0..40).map(|n| format!("tag = \"t{n}\"")).collect();
        let (any, all) = (many.join(" or "), many.join(" and "));
        let counted = vec![0; resolved(&any).counts().len()];
        assert_eq!(counted.len(), MOST_COUNTED);
        assert_eq!(among(&any, &counted), NOTHING);
        assert_eq!(among(&all, &counted), ["t0"]);
    }

    #[test]
    fn a_count_has_its_own_placeholders_and_ends_early() {
        let [count] = &resolved(r#"attribute.site = "7""#).counts()[..] else { panic!("one test is one count") };
        assert_eq!(
            count.sql,
            format!(
                "SELECT COUNT(*) AS n FROM (SELECT x.endpoint FROM device_attributes x WHERE x.account = $1 AND x.key = $2 AND \
                 x.value IS NOT NULL AND x.value IN ($3) LIMIT {}) AS few",
                FEW + 1
            )
        );
        assert_eq!(count.binds, [Bind::Text("site".into()), Bind::Text("7".into())]);
    }
}
