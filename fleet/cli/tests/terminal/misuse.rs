//! Misuse and missing things: every refusal says what to do next.

use insta::assert_snapshot;

use super::Desk;

#[test]
fn without_a_command_the_nouns_are_listed() {
    let seen = Desk::new().see("");
    assert!(seen.starts_with("exit 2\n"), "{seen}");
    for noun in [
        "keys",
        "service",
        "factory",
        "enrolment",
        "device",
        "group",
        "configuration",
        "app",
        "release",
        "rollout",
        "operation",
        "job",
        "events",
        "image",
    ] {
        assert!(seen.contains(&format!("\n  {noun} ")), "{noun} is not listed: {seen}");
    }
}

#[test]
fn a_desk_without_a_service_says_how_to_get_to_know_one() {
    assert_snapshot!(Desk::new().see("device list"), @r"
    exit 1
    --- stdout
    --- stderr
    error: no service is known in config/contexts.toml
    hint: make a context with `mbl service token --data-dir DIR` on the machine of the service
    ");
}

#[test]
fn a_context_that_does_not_exist_names_those_that_do() {
    assert_snapshot!(Desk::new().see("--context work device list"), @r"
    exit 1
    --- stdout
    --- stderr
    error: there is no context `work` in config/contexts.toml
    hint: known contexts: none
    ");
}

#[test]
fn a_rollout_without_an_audience_is_misuse() {
    let seen = Desk::new().see("rollout start 1.0.0");
    assert!(seen.starts_with("exit 2\n"), "{seen}");
    assert!(seen.contains("<--all|--group <NAME>|--filter <FILTER>|--device <NAME>>"), "{seen}");
}

#[test]
fn a_job_without_an_audience_and_a_time_without_a_unit_are_misuse() {
    let seen = Desk::new().see("job start reboot");
    assert!(seen.starts_with("exit 2\n"), "{seen}");
    assert!(seen.contains("<--all|--group <NAME>|--where <FILTER>|--device <NAME>>"), "{seen}");
    let seen = Desk::new().see("device read gate-1 /3/0/13 --wait 30");
    assert!(seen.starts_with("exit 2\n") && seen.contains("write it as in 30s, 5m, 2h or 1d"), "{seen}");
    let seen = Desk::new().see("device write gate-1 /3303/0/1 5 --type number");
    assert!(seen.starts_with("exit 2\n") && seen.contains("object_link"), "{seen}");
}

#[test]
fn a_rollout_asks_somebody_at_the_device_or_an_operator_and_only_the_first_has_a_deadline() {
    let seen = Desk::new().see("rollout start 1.0.0 --all --ask-device --ask-consent");
    assert!(seen.starts_with("exit 2\n") && seen.contains("cannot be used with"), "{seen}");
    let seen = Desk::new().see("rollout start 1.0.0 --all --ask-until 2027-01-31T22:00:00Z");
    assert!(seen.starts_with("exit 2\n") && seen.contains("--ask-device"), "{seen}");
}

#[test]
fn a_webhook_without_a_place_for_its_secret_and_a_rule_that_looks_for_nothing_are_misuse() {
    let seen = Desk::new().see("subscription create desk --webhook https://hooks.example/in");
    assert!(seen.starts_with("exit 2\n") && seen.contains("--output <FILE>"), "{seen}");
    let seen = Desk::new().see("alert rule create gone --severity critical");
    assert!(seen.starts_with("exit 2\n") && seen.contains("--absence|--when <FILTER>|--count <KINDS>"), "{seen}");
    let seen = Desk::new().see("alert rule create gone --absence --events 3");
    assert!(seen.starts_with("exit 2\n") && seen.contains("--count <KINDS>"), "{seen}");
}

#[test]
fn an_invitation_that_reaches_nobody_and_a_sign_in_of_nobody_are_misuse() {
    for line in ["user invite anna --email anna@example.com", "user reset anna"] {
        let seen = Desk::new().see(line);
        assert!(seen.starts_with("exit 2\n") && seen.contains("--output <FILE>") && seen.contains("--mail"), "{seen}");
    }
    let seen = Desk::new().see("user sign-in --account acme");
    assert!(seen.starts_with("exit 2\n") && seen.contains("<NAME>"), "{seen}");
    let seen = Desk::new().see("user sign-in anna --account acme --sso");
    assert!(seen.starts_with("exit 2\n") && seen.contains("cannot be used with"), "{seen}");
    let seen = Desk::new().see("identity-provider save https://login.example --client-id mbl --required");
    assert!(seen.starts_with("exit 2\n") && seen.contains("--break-glass <NAME>"), "{seen}");
}

#[test]
fn a_name_that_breaks_the_rules_is_misuse_before_anything_is_asked() {
    assert_snapshot!(Desk::new().see("device show ../etc/passwd"), @r"
    exit 2
    --- stdout
    --- stderr
    error: invalid value '../etc/passwd' for '<ENDPOINT>': `../etc/passwd` is not an endpoint name: it must be 1 to 64 ASCII letters, digits, `.`, `_`, `:` or `-`, not starting with `.` or `-`

    For more information, try '--help'.
    ");
}

/// A context of a service at a port that was free a moment ago and on which nobody listens.
fn knows_a_service_that_is_away(desk: &Desk) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    desk.write(
        "config/contexts.toml",
        &format!(
            "current = \"a\"\n[contexts.a]\nservice = \"https://127.0.0.1:{port}\"\nauthority = '''{authority}'''\ntoken = \"mblt_x\"\n"
        ),
    );
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(desk.path("config/contexts.toml"), private).unwrap();
}

#[test]
fn a_service_that_is_away_is_told_apart_from_a_refusal() {
    let desk = Desk::new();
    knows_a_service_that_is_away(&desk);
    let seen = desk.see("device list");
    assert!(
        seen.starts_with("exit 4\n--- stdout\n--- stderr\nerror: cannot reach the service at https://127.0.0.1:"),
        "{seen}"
    );
    assert!(seen.ends_with("hint: check that it runs and that the network reaches it\n"), "{seen}");
    assert!(!seen.contains("mblt_x"), "the token is shown: {seen}");
}

#[test]
fn who_watches_a_service_that_is_away_is_told_so_once_and_waits() {
    let desk = Desk::new();
    knows_a_service_that_is_away(&desk);
    for line in ["device list", "device show gate-1", "device why gate-1", "alert list", "--json alert list"] {
        let seen = desk.see(&format!("{line} --watch --time-limit 2"));
        assert!(
            seen.starts_with("exit 4\n--- stdout\n--- stderr\nthe service at https://127.0.0.1:"),
            "{line}: {seen}"
        );
        assert_eq!(seen.matches("does not answer").count(), 1, "{line}: {seen}");
        assert!(seen.contains("error: the service did not answer within 2 s\nhint: "), "{line}: {seen}");
    }
}

#[test]
fn a_time_for_watching_without_watching_is_misuse() {
    for noun in ["device list", "device show gate-1", "device why gate-1", "alert list", "metrics show gate-1"] {
        let seen = Desk::new().see(&format!("{noun} --time-limit 5"));
        assert!(seen.starts_with("exit 2\n") && seen.contains("--watch"), "{noun}: {seen}");
    }
    let seen = Desk::new().see("device watch gate-1 --until-change --until-version 1.0.0");
    assert!(seen.starts_with("exit 2\n") && seen.contains("cannot be used with"), "{seen}");
}

#[test]
fn recovery_codes_that_could_not_be_written_cost_no_invitation() {
    let desk = Desk::new();
    desk.write("invitation", "service = \"https://127.0.0.1:1\"\nauthority = \"\"\ninvitation = \"mbli_secret\"\n");
    desk.write("password", "correct horse battery staple\n");
    desk.write("code", "123456\n");
    desk.write("folder/file", "");
    for place in ["folder", "/dev/stdout"] {
        let seen = desk.see(&format!(
            "user accept invitation --password-file password --code-file code --recovery-output {place}"
        ));
        let refused = format!("error: cannot write {place}: what stands there is no plain file\n");
        assert_eq!(seen, format!("exit 1\n--- stdout\n--- stderr\n{refused}"));
    }
}

#[test]
fn a_folder_without_a_first_token_says_where_to_get_another() {
    let desk = Desk::new();
    assert_snapshot!(desk.see("service token --data-dir data"), @r"
    exit 1
    --- stdout
    --- stderr
    error: there is no first token in data
    hint: it goes away with its first use; make another with `mbl-service first-token` and the `--config FILE` and `--data-dir DIR` of the service
    ");
}

#[test]
fn settings_that_no_device_would_take_are_refused_with_the_place() {
    let desk = Desk::new();
    let recipe =
        "version = \"1.0.0\"\n[[configuration]]\nname = \"NAME\"\nversion = \"1.0.0\"\nfile = \"settings.json\"\n";
    desk.write("release.toml", &recipe.replace("NAME", "system"));
    desk.write("settings.json", "{\n  \"format\": 1,\n  \"hostname\": \"Kiln 7\",\n  \"journal_mib\": 16\n}\n");
    let create = "release create --from release.toml --keys keys --out release";
    let seen = desk.see(create);
    assert!(seen.starts_with("exit 1\n") && seen.contains("settings.json"), "{seen}");
    assert!(seen.contains("`Kiln 7` is not a host name") && seen.contains("at line 3"), "{seen}");
    desk.write("settings.json", "{\"format\": 1, \"journal_mib\": 4}");
    assert!(desk.see(create).contains("`journal_mib` is 4, but must be from 8 to 512"), "{}", desk.see(create));
    // What is for others is not looked into: there is nothing else to complain of than the missing keys.
    desk.write("release.toml", &recipe.replace("NAME", "base"));
    let seen = desk.see(create);
    assert!(!seen.contains("settings.json") && !seen.starts_with("exit 0"), "{seen}");
}

#[test]
fn a_recipe_with_an_unknown_key_is_refused_by_name_and_line() {
    let desk = Desk::new();
    desk.write("app.toml", "name = \"hello\"\nprivileged = true\n");
    let seen = desk.see("app build --out out");
    assert!(seen.starts_with("exit 1\n") && seen.contains("unknown field `privileged`"), "{seen}");
    assert!(!desk.path("out").exists());
}

#[test]
fn settings_are_those_of_one_level_and_only_a_group_has_a_priority() {
    let seen = Desk::new().see("configuration save all.json --group doors --device gate-1");
    assert!(seen.starts_with("exit 2\n") && seen.contains("cannot be used with"), "{seen}");
    let seen = Desk::new().see("configuration save all.json --priority 7");
    assert!(seen.starts_with("exit 2\n") && seen.contains("--group <NAME>"), "{seen}");
}
