//! The guide says what the program does: its verbs, its options and its recipes are tried.

use std::{fs, path::Path};

use protocol_types::ReasonCode;

use super::Desk;

fn guide() -> String {
    read("command-line.md")
}

fn read(guide: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides").join(guide);
    fs::read_to_string(path).unwrap()
}

/// The code blocks of one language.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let parts = guide.split("```").collect::<Vec<_>>();
    let inside = parts.iter().skip(1).step_by(2);
    inside.filter_map(|block| block.strip_prefix(&format!("{language}\n"))).map(str::to_owned).collect()
}

#[test]
fn every_noun_and_verb_of_the_table_exists() {
    let (desk, guide) = (Desk::new(), guide());
    let table =
        guide.lines().skip_while(|line| !line.starts_with("| Noun")).skip(2).take_while(|line| line.starts_with('|'));
    let mut nouns = 0;
    for row in table {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let noun = cells[1].trim_matches('`');
        nouns += 1;
        for verb in cells[2].split('`').map(str::trim).filter(|verb| !verb.is_empty()) {
            let seen = desk.see(&format!("{noun} {verb} --help"));
            assert!(seen.starts_with("exit 0\n"), "mbl {noun} {verb}: {seen}");
        }
    }
    assert_eq!(nouns, 26);
}

#[test]
fn every_option_in_the_guides_commands_exists() {
    let desk = Desk::new();
    let mut commands = 0;
    for block in [guide(), read("keys-and-trust.md")].iter().flat_map(|guide| blocks(guide, "sh")) {
        let joined = block.replace("\\\n", " ");
        for line in joined.lines().filter_map(|line| line.trim().strip_prefix("mbl ")) {
            let own = line.split(" -- ").next().unwrap().split('#').next().unwrap();
            let words: Vec<&str> = own.split_whitespace().collect();
            let nouns: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with('-')).collect();
            // The last plain word may be a value; what clap knows as a verb it shows help for.
            let verbs = if nouns.len() > 2 && nouns[0] != "factory" { &nouns[..2] } else { &nouns[..] };
            let help = desk.see(&format!("{} --help", verbs.join(" ")));
            assert!(help.starts_with("exit 0\n"), "mbl {line}: {help}");
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "`mbl {}` has no {option}: {help}", verbs.join(" "));
            }
            commands += 1;
        }
    }
    assert!(commands >= 27, "only {commands} commands were found");
}

#[test]
fn every_command_of_a_reasons_hint_exists_with_its_options() {
    let desk = Desk::new();
    let mut commands = 0;
    for code in ReasonCode::ALL {
        // What stands between two backquotes is typed.
        let typed = code.hint().split('`').skip(1).step_by(2);
        for line in typed.filter_map(|line| line.strip_prefix("mbl ")) {
            let verbs = line.split(" --").next().unwrap();
            let help = desk.see(&format!("{verbs} --help"));
            assert!(help.starts_with("exit 0\n"), "{code}: mbl {line}: {help}");
            for option in line.split_whitespace().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{code}: `mbl {verbs}` has no {option}: {help}");
            }
            commands += 1;
        }
    }
    assert!(commands >= 6, "only {commands} commands were found");
    let hint = ReasonCode::ApplicationNotReady.hint();
    assert!(hint.contains("`mbl job start logs --application "), "an application's log is nowhere else: {hint}");
}

#[test]
fn the_guides_recipes_are_read() {
    let desk = Desk::new();
    desk.service_keys();
    let [app, release] = <[String; 2]>::try_from(blocks(&guide(), "toml")).unwrap();
    desk.write("app.toml", &app);
    let seen = desk.see("app build --out hello-1.0.0");
    assert!(seen.starts_with("exit 0\n--- stdout\nhello 1.0.0 sha256:"), "{seen}");

    desk.see("-q keys init --dir keys --app hello --service-keys service-keys.json");
    desk.write("base.json", "{}");
    let without_os: String =
        release.lines().filter(|line| !line.starts_with("os = ")).map(|line| format!("{line}\n")).collect();
    assert_ne!(without_os, release);
    desk.write("release.toml", &without_os);
    let seen = desk.see("release create --from release.toml --keys keys --out release");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    // The operating system takes a network to build; its line is read all the same.
    desk.write("release.toml", &release);
    let seen = desk.see("release create --from release.toml --keys keys --out other");
    assert!(seen.contains("cannot read os-1.0.0/os.json"), "{seen}");
}
