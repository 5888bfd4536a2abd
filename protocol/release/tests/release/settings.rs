//! The document `system`, as its format page describes it.

use proptest::prelude::*;
use protocol_release::document::SystemConfiguration;
use protocol_types::{LogLevel, Reason, ReasonCode};
use serde_json::{Value, json};

/// What is broken, and what must be said of it.
type Broken = (fn(&mut Value), &'static str);

/// The document of the format page.
fn document() -> Value {
    json!({
      "format": 1,
      "hostname": "kiln-7",
      "time_servers": ["ntp.example", "192.0.2.123"],
      "log_level": "info",
      "journal_mib": 64,
      "network": [
        { "kind": "ethernet", "interface": "enp0s1",
          "ipv4": { "addresses": ["192.0.2.7/24"], "gateway": "192.0.2.1", "dns": ["192.0.2.53"] },
          "ipv6": { "dns": ["2001:db8::53"] } }
      ]
    })
}

fn parse(value: &Value) -> Result<SystemConfiguration, Reason> {
    SystemConfiguration::parse(&serde_json::to_vec(value).unwrap()).map_err(Reason::from)
}

#[test]
fn the_settings_of_the_format_page_read_back_as_themselves() {
    let page = include_str!("../../../../docs/formats/system-configuration.md");
    let shown = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(serde_json::from_str::<Value>(shown).unwrap(), document());
    let parsed = parse(&document()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&parsed.to_bytes().unwrap()).unwrap(), document());
    assert_eq!(parsed.log_level, Some(LogLevel::Info));
    assert_eq!(parse(&json!({ "format": 1 })).unwrap(), SystemConfiguration::default());
}

#[test]
fn settings_that_break_a_rule_are_refused_by_name() {
    let broken: &[Broken] = &[
        (|d| d["format"] = json!(2), "format 2"),
        (|d| d["later"] = json!(1), "unknown field `later`"),
        (|d| d["network"][0]["later"] = json!(1), "unknown field `later`"),
        (|d| d["network"][0]["ipv4"]["later"] = json!(1), "unknown field `later`"),
        (|d| d["network"][0]["kind"] = json!("wifi"), "unknown variant `wifi`"),
        (|d| d["hostname"] = json!("Kiln"), "is not a host name"),
        (|d| d["hostname"] = json!("kiln.example"), "is not a host name"),
        (|d| d["time_servers"][0] = json!("a\nallow"), "is not the name of a server"),
        (|d| d["time_servers"] = json!(["a", "a"]), "names a twice"),
        (|d| d["time_servers"] = json!(["a", "b", "c", "d", "e", "f", "g", "h", "i"]), "9 entries"),
        (|d| d["log_level"] = json!("trace"), "unknown variant `trace`"),
        (|d| d["journal_mib"] = json!(7), "`journal_mib` is 7"),
        (|d| d["journal_mib"] = json!(513), "`journal_mib` is 513"),
        (|d| d["network"][0]["interface"] = json!("../eth0"), "is not the name of a network interface"),
        (|d| d["network"] = json!([d["network"][0], d["network"][0]]), "two connections for enp0s1"),
        (|d| d["network"][0]["ipv4"]["addresses"][0] = json!("192.0.2.7"), "not an address with a prefix"),
        (|d| d["network"][0]["ipv4"]["addresses"][0] = json!("192.0.2.7/33"), "not an address with a prefix"),
        (|d| d["network"][0]["ipv4"]["addresses"][0] = json!("192.0.2.7/024"), "not an address with a prefix"),
        (|d| d["network"][0]["ipv4"]["addresses"][0] = json!("192.0.2.7/+8"), "not an address with a prefix"),
        (|d| d["network"][0]["ipv4"]["addresses"][0] = json!("2001:db8::7/64"), "`ipv4` names 2001:db8::7"),
        (|d| d["network"][0]["ipv4"]["addresses"][0] = json!("0.0.0.0/8"), "`ipv4` names 0.0.0.0"),
        (|d| d["network"][0]["ipv4"]["gateway"] = json!("224.0.0.1"), "`ipv4` names 224.0.0.1"),
        (|d| d["network"][0]["ipv4"]["addresses"] = json!([]), "has a `gateway` but no `addresses`"),
        (|d| d["network"][0]["ipv6"]["dns"] = json!(["::1", "::2", "::3", "::4", "::5"]), "5 entries in `dns`"),
    ];
    for (number, (breaks, says)) in broken.iter().enumerate() {
        let mut value = document();
        breaks(&mut value);
        let reason = parse(&value).unwrap_err();
        assert_eq!(reason.code, ReasonCode::MalformedRelease, "case {number}: {reason}");
        assert!(reason.text.contains(says), "case {number}: {says:?} is not in {reason}");
    }
}

#[test]
fn more_bytes_than_settings_have_are_refused_before_they_are_read() {
    let mut bytes = serde_json::to_vec(&document()).unwrap();
    bytes.resize(SystemConfiguration::MAX_BYTES, b' ');
    assert!(SystemConfiguration::parse(&bytes).is_ok());
    bytes.push(b' ');
    assert_eq!(Reason::from(SystemConfiguration::parse(&bytes).unwrap_err()).code, ReasonCode::Oversized);
}

proptest! {
    #[test]
    fn any_bytes_are_settings_that_read_back_as_themselves_or_none(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
        let mut nearly = serde_json::to_vec(&document()).unwrap();
        let at = at.index(nearly.len());
        nearly[at] = byte;
        for bytes in [bytes, nearly] {
            if let Ok(parsed) = SystemConfiguration::parse(&bytes) {
                prop_assert_eq!(SystemConfiguration::parse(&parsed.to_bytes().unwrap()).unwrap(), parsed);
            }
        }
    }
}
