//! The language by its examples: what is read, what is refused where, and that nothing else can happen.

use proptest::prelude::*;
use protocol_types::{GroupName, ReleaseVersion, Standing, UnixSeconds};

use super::{Bind, Filter, Place, version_key};

fn sql(text: &str) -> (String, Vec<Bind>) {
    let filter: Filter = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    let clause = filter.resolved(&|_| Vec::new()).clause(Place { report: "r", first: 2, now: UnixSeconds(10_000) });
    (clause.sql, clause.binds)
}

/// The filter with a caret below each character that is to blame, the message and the hint.
fn refusal(text: &str) -> String {
    let refused = text.parse::<Filter>().unwrap_err();
    let carets = "^".repeat(refused.length.max(1));
    format!("{text}\n{}{carets} {} ({})", " ".repeat(refused.at), refused.message, refused.hint)
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    let (sql, binds) = sql(r#"not standing = active and slot = a or floor > 3"#);
    assert_eq!(
        sql,
        "((NOT ((d.standing IS NOT NULL AND d.standing IN ($2))) AND ((r.slot IS NOT NULL AND r.slot IN ($3)))) \
         OR ((r.floor IS NOT NULL AND r.floor > $4)))"
    );
    assert_eq!(binds, [Bind::Text("active".into()), Bind::Text("a".into()), Bind::Real(3.0)]);
}

#[test]
fn values_are_bound_and_never_part_of_the_text() {
    let (sql, binds) = sql(r#"model in ("x' OR 1=1 --", "y\"z") and name ~ "gate-*_%?""#);
    assert!(!sql.contains("OR 1=1"), "{sql}");
    let texts: Vec<_> = binds.iter().map(|bind| format!("{bind:?}")).collect();
    assert_eq!(texts[2], format!("{:?}", Bind::Text(r"gate-%\_\%_".into())));
}

#[test]
fn a_time_may_be_named_or_counted_from_now() {
    assert_eq!(sql(r#"last_seen < ago(2h)"#).1, [Bind::Integer(2_800)]);
    assert_eq!(sql(r#"created >= "1970-01-01T00:01:00Z""#).1, [Bind::Integer(60)]);
}

#[test]
fn an_empty_filter_is_true_for_every_device() {
    assert_eq!(sql("  ").0, "(1 = 1)");
    assert_eq!(Filter::every_device(), "".parse().unwrap());
}

#[test]
fn filters_that_are_made_read_back_as_themselves() {
    let group = Filter::of_group(&GroupName::new("north").unwrap());
    for filter in [
        Filter::connected(true),
        Filter::of_standing(Standing::Suspended),
        group.clone().and(Filter::every_device()),
        group.and(r#"floor > 2 or slot = b"#.parse().unwrap()),
    ] {
        let read: Filter = filter.to_string().parse().unwrap();
        assert_eq!(read.root, filter.root, "{filter}");
    }
}

#[test]
fn a_refusal_points_at_the_place_and_says_what_to_do() {
    let refusals = [
        r#"group = "north" and os.versoin > "1.0.0""#,
        r#"os.version > "1.0""#,
        r#"standing = asleep"#,
        r#"model > "a""#,
        r#"attribute.floor > "3""#,
        r#"attribute.floor in (3, "4")"#,
        r#"connected = yes"#,
        r#"last_seen < ago(2 hours)"#,
        r#"group ~ "n*""#,
        r#"(name = "a""#,
        r#"name = "a" name = "b""#,
        r#"name = "größe" § name = "b""#,
        r#"name = "a"#,
        r#"name = "a\n""#,
        "name",
        "and",
    ]
    .map(refusal)
    .join("\n");
    insta::assert_snapshot!(refusals, @r#"
    group = "north" and os.versoin > "1.0.0"
                        ^^^^^^^^^^ there is no field `os.versoin` (did you mean `os.version`?)
    os.version > "1.0"
                 ^^^^^ `1.0` is no version (write three numbers, as in "1.2.0")
    standing = asleep
               ^^^^^^ this field is never `asleep` (it is one of active, suspended, quarantined, decommissioned)
    model > "a"
          ^ this field has no order (use `=`, `!=`, `~` or `in`)
    attribute.floor > "3"
                      ^^^ attributes are ordered as numbers (write the number without quotes)
    attribute.floor in (3, "4")
                           ^^^ numbers and texts are never equal (ask for each kind on its own)
    connected = yes
                ^^^ `true` or `false` is expected here, not `yes` ()
    last_seen < ago(2 hours)
                    ^ `2` is no length of time (write 90s, 15m, 2h or 30d)
    group ~ "n*"
          ^ no pattern can be held against this field (use `=`, `!=` or `in`)
    (name = "a"
               ^ `)` is expected here, not the end ()
    name = "a" name = "b"
               ^^^^ `and`, `or` or the end is expected here, not `name` ()
    name = "größe" § name = "b"
                   ^ this character has no meaning here (put texts into double quotes)
    name = "a
           ^^ the text has no end (close it with a double quote)
    name = "a\n"
             ^^ `\n` is no escape (write `\\` for a backslash)
    name
        ^ `=`, `!=`, `<`, `<=`, `>`, `>=`, `~`, `in` or `exists` is expected here, not the end ()
    and
    ^^^ there is no field `and` (the fields are listed in docs/formats/filter.md)
    "#);
}

#[test]
fn what_is_too_much_is_refused() {
    let deep = "(".repeat(100) + "name exists" + &")".repeat(100);
    assert!(refusal(&deep).contains("nested at most 32 deep"));
    let many = vec!["name exists"; 101].join(" or ");
    assert!(refusal(&many).contains("at most 100 tests"));
    let values = format!("name in ({})", vec!["\"a\""; 201].join(","));
    assert!(refusal(&values).contains("at most 200 values"));
    assert!(refusal(&format!("name = \"{}\"", "a".repeat(5000))).contains("at most 4096 bytes"));
}

fn version() -> impl Strategy<Value = String> {
    let identifier = "(0|[1-9][0-9]{0,3}|[a-zA-Z-][0-9a-zA-Z-]{0,4})";
    (any::<u16>(), 0..20u8, 0..20u8, prop::collection::vec(identifier, 0..3)).prop_map(|(major, minor, patch, pre)| {
        let pre = if pre.is_empty() { String::new() } else { format!("-{}", pre.join(".")) };
        format!("{major}.{minor}.{patch}{pre}")
    })
}

proptest! {
    #[test]
    fn any_text_is_a_filter_or_is_refused_at_a_place_in_it(text in ".{0,80}") {
        if let Err(refused) = text.parse::<Filter>() {
            prop_assert!(refused.at + refused.length <= text.chars().count());
        }
    }

    #[test]
    fn any_words_are_a_filter_or_are_refused(words in prop::collection::vec(
        prop::sample::select(vec!["and", "or", "not", "(", ")", "name", "floor", "=", "in", "~", "\"a\"", "3", ",", "exists", "ago", "group"]), 0..24)) {
        let text = words.join(" ");
        if let Ok(filter) = text.parse::<Filter>() {
            let clause = filter.resolved(&|_| Vec::new()).clause(Place { report: "r", first: 2, now: UnixSeconds(0) });
            prop_assert_eq!(clause.sql.matches('$').count() - clause.sql.matches("$1 ").count(), clause.binds.len());
            prop_assert_eq!(clause.sql.matches('(').count(), clause.sql.matches(')').count());
        }
    }

    #[test]
    fn keys_of_versions_have_the_order_of_their_precedence(a in version(), b in version()) {
        let order = a.parse::<ReleaseVersion>().unwrap().cmp(&b.parse().unwrap());
        prop_assert_eq!(version_key(&a).cmp(&version_key(&b)), order);
    }
}
