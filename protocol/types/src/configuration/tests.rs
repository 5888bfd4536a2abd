//! Claims about the form and the rules of configurations.

use proptest::prelude::*;

use super::Configuration;

const WHOLE: &str = r#"{
    "hostname": "kiln-7",
    "time_servers": ["ntp.example", "192.0.2.123"],
    "log_levels": { "agent": "debug", "apps": "warn" },
    "update_window": { "from": "22:00", "to": "04:30" },
    "network": { "eth0": { "addresses": ["192.0.2.7/24"], "gateway": "192.0.2.1", "dns": ["192.0.2.53"] } },
    "applications": { "hello": { "greeting": "good morning", "nested": { "n": [1, 2] } } },
    "contact_limit_s": 60
}"#;

#[test]
fn a_document_with_every_setting_is_read_and_reads_back() {
    let read = Configuration::parse(WHOLE.as_bytes()).unwrap();
    assert_eq!(read.update_window.unwrap().to.unwrap().minutes(), 270);
    let text = serde_json::to_vec(&read).unwrap();
    assert_eq!(Configuration::parse(&text).unwrap(), read);
}

#[test]
fn null_takes_a_setting_away_in_a_level() {
    let level = r#"{ "hostname": null, "network": { "eth0": null, "eth1": { "gateway": null } }, "update_window": { "to": null } }"#;
    let read = Configuration::parse_level(level.as_bytes()).unwrap();
    assert_eq!(read.hostname, None);
}

#[test]
fn a_wrong_value_is_refused_by_its_name() {
    for (text, says) in [
        (r#"{ "hostnam": "a" }"#, "hostnam"),
        (r#"{ "hostname": "A b" }"#, "host name"),
        (r#"{ "time_servers": ["a", "a"] }"#, "twice"),
        (r#"{ "time_servers": ["1a","2a","3a","4a","5a","6a","7a","8a","9a"] }"#, "at most 8"),
        (r#"{ "log_levels": { "agent": "loud" } }"#, "loud"),
        (r#"{ "update_window": { "from": "24:00" } }"#, "HH:MM"),
        (r#"{ "update_window": { "from": "+1:00" } }"#, "HH:MM"),
        (r#"{ "network": { "lo": {} } }"#, "interface"),
        (r#"{ "network": { "eth0": { "addresses": ["0.0.0.0/8"] } } }"#, "no address of one host"),
        (r#"{ "applications": { "hello": 7 } }"#, "map"),
        (r#"{ "contact_limit_s": 9 }"#, "from 10 to 3600"),
        (r#"[]"#, "object"),
        ("", "object"),
    ] {
        let error = Configuration::parse_level(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let long = format!("{{ \"hostname\": null{} }}", " ".repeat(Configuration::MAX_BYTES));
    assert!(Configuration::parse_level(long.as_bytes()).is_err());
}

#[test]
fn what_must_stand_together_is_asked_of_the_whole_document_alone() {
    for text in [
        r#"{ "network": { "eth0": { "gateway": "192.0.2.1" } } }"#,
        r#"{ "network": { "eth0": { "gateway": "192.0.2.1", "addresses": ["2001:db8::1/64"] } } }"#,
        r#"{ "update_window": { "from": "22:00" } }"#,
        r#"{ "update_window": { "from": "22:00", "to": "22:00" } }"#,
    ] {
        assert!(Configuration::parse_level(text.as_bytes()).is_ok(), "{text}");
        assert!(Configuration::parse(text.as_bytes()).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn whatever_bytes_come_they_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _either = Configuration::parse(&bytes);
    }
}

#[test]
fn an_update_window_is_open_from_its_first_minute_to_the_one_before_its_end_also_past_midnight() {
    let window = |from: &str, to: &str| {
        let (from, to) = (from.parse().ok(), to.parse().ok());
        move |minute| super::UpdateWindow { from, to }.is_open(minute)
    };
    let day = window("09:00", "17:30");
    assert_eq!([539, 540, 1049, 1050].map(day), [false, true, true, false]);
    let night = window("22:00", "04:30");
    assert_eq!([1319, 1320, 1439, 0, 269, 270].map(night), [false, true, true, true, true, false]);
}
