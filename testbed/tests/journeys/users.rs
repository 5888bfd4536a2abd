//! People, from the invitation to the lock: an administrator at one desk, the person at another, and an authenticator in a pocket.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Output,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use data_encoding::BASE32_NOPAD;
use serde_json::Value;
use testbed::{Operator, Service, until};

use super::monitoring::mail_server;

const PASSWORD: &str = "correct horse battery staple";

/// A service, and two desks that have nothing in common but a folder for files that change hands.
struct Office {
    admin: Operator,
    anna: Operator,
    service: Service,
    folder: tempfile::TempDir,
}

impl Office {
    fn new() -> Self {
        Self::with("")
    }

    /// A service with these settings.
    fn with(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mbl-service.toml");
        fs::write(&config, settings).unwrap();
        let flags = ["--config", config.to_str().unwrap()];
        let service = Service::start_with(&folder.path().join("service"), &flags).unwrap();
        let desk = |name: &str| Operator::new(&folder.path().join(name), folder.path());
        let office = Self { admin: desk("admin"), anna: desk("anna"), service, folder };
        json(&office.admin, "service token --data-dir service");
        office.write("password", PASSWORD);
        office
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, line: &str) {
        fs::write(self.path(name), format!("{line}\n")).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Invites Anna and lets her accept; answers her authenticator, and the time step of the code that it showed last.
    fn join(&self, role: &str) -> (Key, u64) {
        json(&self.admin, &format!("user invite anna --email anna@example.com --role {role} --output invitation"));
        let told = json(&self.anna, "user invitation invitation --output address");
        assert_eq!((told["account"].as_str(), told["name"].as_str()), (Some("default"), Some("anna")));
        let address = self.read("address");
        let secret = address.split("secret=").nth(1).unwrap().split('&').next().unwrap();
        let secret = BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
        let phone = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret);
        let step = step_now();
        self.write("code", &code(&phone, step));
        json(&self.anna, "user accept invitation --password-file password --code-file code --recovery-output recovery");
        (phone, step)
    }
}

/// The time step of the present (RFC 6238).
#[expect(clippy::disallowed_methods, reason = "an authenticator has a clock of its own")]
fn step_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 30
}

/// The code of a time step (RFC 4226, section 5.3).
fn code(phone: &Key, step: u64) -> String {
    let tag = sign(phone, &step.to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag[19] & 0x0f);
    let word = u32::from_be_bytes(tag[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", word % 1_000_000)
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

fn json(desk: &Operator, line: &str) -> Value {
    desk.json(&words(line)).unwrap()
}

fn run(desk: &Operator, line: &str) -> Output {
    desk.run(&words(line)).unwrap()
}

/// The command was refused with exit status 3; what it said.
fn refused(desk: &Operator, line: &str) -> String {
    let output = run(desk, line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{line}: {said}");
    said
}

const SIGN_IN: &str = "user sign-in anna --account default --password-file password --code-file code";

#[test]
fn fleet_a_person_is_invited_signs_in_with_a_second_factor_acts_by_their_role_and_leaves() {
    let office = Office::new();
    let (phone, step) = office.join("operator");
    for private in ["invitation", "address", "recovery"] {
        let mode = fs::metadata(office.path(private)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{private} is for its owner alone");
    }
    assert!(refused(&office.anna, "user invitation invitation --output other").contains("invitation_refused"));
    json(&office.anna, "group create doors");
    assert!(refused(&office.anna, "user list").contains("access_denied"));
    let listed = json(&office.admin, "user list");
    assert_eq!((listed[0]["state"].as_str(), listed[0]["recovery_codes"].as_u64()), (Some("active"), Some(10)));

    json(&office.anna, "user sign-out");
    assert!(refused(&office.anna, "group list").contains("token_revoked"));
    assert!(refused(&office.anna, SIGN_IN).contains("sign_in_refused"), "a code is taken once");
    office.write("code", &code(&phone, step + 1));
    json(&office.anna, SIGN_IN);
    assert_eq!(json(&office.anna, "group list")[0]["name"], "doors");

    office.write("new", "another horse battery staple");
    let codes = office.read("recovery");
    office.write("code", codes.lines().next().unwrap());
    json(&office.anna, "user password --password-file password --new-password-file new --code-file code");
    assert!(refused(&office.anna, SIGN_IN).contains("sign_in_refused"), "neither password nor code is good any more");

    json(&office.admin, "user disable anna");
    assert!(refused(&office.anna, "group list").contains("principal_disabled"));
    json(&office.admin, "user enable anna");
    json(&office.anna, "group list");
    json(&office.admin, "audit export log.jsonl");
    let log = office.read("log.jsonl");
    for action in ["invite_user", "accept_invitation", "sign_in", "sign_out", "change_password", "change_user"] {
        assert!(log.contains(&format!("\"action\":\"{action}\"")), "{action} is on record");
    }
    for secret in [PASSWORD, "another horse", "mbli_", "mblt_", codes.lines().nth(1).unwrap()] {
        assert!(!log.contains(secret), "no secret leaves in the log");
    }
    assert!(run(&office.admin, "audit verify log.jsonl").status.success());
    json(&office.admin, "user delete anna");
    assert!(refused(&office.anna, "group list").contains("token_revoked"));
}

#[test]
fn fleet_guesses_lock_a_user_a_restart_does_not_help_the_guesser_and_a_reset_lets_the_user_back() {
    let Office { admin, anna, service, folder } = {
        let office = Office::new();
        office.join("viewer");
        office
    };
    let write = |name: &str, line: &str| fs::write(folder.path().join(name), format!("{line}\n")).unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let recovery = read("recovery");
    write("guess", "wrong horse battery staple");
    write("code", recovery.lines().next().unwrap());
    let guess = "user sign-in anna --account default --password-file guess --code-file code";
    for _ in 0..5 {
        assert!(refused(&anna, guess).contains("sign_in_refused"));
    }
    assert!(refused(&anna, SIGN_IN).contains("sign_in_locked"), "not even the right password helps now");
    drop(service);
    let service = Service::start(&folder.path().join("service")).unwrap();
    let addresses: Value = serde_json::from_str(&read("service/addresses.json")).unwrap();
    let port = addresses["api"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let at = format!("--service https://127.0.0.1:{port} --authority service/service-authority.pem");
    assert!(refused(&anna, &format!("{SIGN_IN} {at}")).contains("sign_in_locked"));

    let token = service.command("first-token").unwrap().output().unwrap();
    assert!(token.status.success(), "{token:?}");
    json(&admin, "service token --data-dir service");
    json(&admin, "user reset anna --output invitation");
    let told = json(&anna, "user invitation invitation --output address");
    assert_eq!(told["name"], "anna");
    let secret = read("address");
    let secret = secret.split("secret=").nth(1).unwrap().split('&').next().unwrap();
    let phone = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &BASE32_NOPAD.decode(secret.as_bytes()).unwrap());
    write("code", &code(&phone, step_now()));
    json(&anna, "user accept invitation --password-file password --code-file code --recovery-output recovery");
    write("code", read("recovery").lines().next().unwrap());
    json(&anna, &format!("{SIGN_IN} {at}"));
    json(&anna, "group list");
    drop(service);
}

const PATIENCE: Duration = Duration::from_secs(60);

/// The file that a letter brings, as a mail program would save it.
fn attachment<'a>(letter: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = letter.lines().skip_while(|line| !line.contains(&format!("filename=\"{name}\"")));
    let body = lines.by_ref().skip_while(|line| !line.is_empty()).skip(1);
    body.take_while(|line| !line.starts_with("--") || line.starts_with("-----")).collect()
}

#[test]
fn fleet_an_invitation_comes_by_mail_although_the_mail_server_was_away_and_works_once() {
    // An address at which nobody listens yet.
    let server: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let office = Office::with(&format!(
        "[mail]\nserver = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"Fleet <fleet@example.com>\"\n",
        server.port()
    ));
    json(&office.admin, "user invite anna --email anna@example.com --role operator --mail");
    let letter = |wanted: fn(&Value) -> bool| {
        until(PATIENCE, "the letter to be where it should", || {
            let user = office.admin.json(&words("user show anna"))?;
            Ok(Some(user["letter"].clone()).filter(wanted))
        })
        .unwrap()
    };
    let waiting = letter(|letter| letter["tries"].as_u64().unwrap_or(0) > 0);
    assert_eq!(waiting["state"], "waiting", "{waiting}");
    assert!(waiting["last_failure"].as_str().unwrap().contains("mail server"), "{waiting}");

    let (_, letters) = mail_server(server);
    letter(|letter| letter["state"] == "sent");
    let taken = letters.lock().unwrap().clone();
    let text = taken.first().unwrap();
    assert!(text.contains("RCPT TO:<anna@example.com>") && text.contains("mbl user accept anna.invitation"), "{text}");
    office.write("invitation", &attachment(text, "anna.invitation").join("\n"));
    let secret = text.split("mbli_").nth(1).unwrap().chars().take(52).collect::<String>();
    assert!(!office.service.log().unwrap().contains(&secret), "no secret stands in the log");
    assert!(!office.service.keeps(&secret).unwrap(), "nor in the database");
    assert!(office.service.keeps("anna@example.com").unwrap(), "where the rest of the letter is");

    let told = json(&office.anna, "user invitation invitation --output address");
    assert_eq!((told["account"].as_str(), told["name"].as_str()), (Some("default"), Some("anna")));
    let address = office.read("address");
    let key = address.split("secret=").nth(1).unwrap().split('&').next().unwrap();
    let phone = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &BASE32_NOPAD.decode(key.as_bytes()).unwrap());
    office.write("code", &code(&phone, step_now()));
    let accept = "user accept invitation --password-file password --code-file code --recovery-output recovery";
    json(&office.anna, accept);
    json(&office.anna, "group create doors");
    assert!(refused(&office.anna, accept).contains("invitation_refused"));
    assert_eq!(json(&office.admin, "user show anna")["letter"], Value::Null, "a letter goes away with its invitation");
    assert_eq!(letters.lock().unwrap().len(), 1, "one letter was enough");
}

#[test]
fn fleet_an_address_whose_guesses_fail_waits_a_little_and_whoever_has_a_token_does_not() {
    let office = Office::with("[limits]\nopen_burst = 12\nopen_requests_per_minute = 60\n");
    let api = office.service.addresses().api;
    office.write("code", "000000");
    let guess = |name: &str| {
        let at = format!("--service https://{api} --authority service/service-authority.pem");
        refused(
            &office.anna,
            &format!("user sign-in {name} --account default --password-file password --code-file code {at}"),
        )
    };
    assert!(guess("one").contains("sign_in_refused") && guess("two").contains("sign_in_refused"));
    assert!(guess("three").contains("address_locked"), "each name alone would have had five tries");
    json(&office.admin, "group create doors");
    until(PATIENCE, "the next try", || Ok(Some(()).filter(|()| guess("four").contains("sign_in_refused")))).unwrap();
}

/// A provider that is never asked: what it takes to see who may do without it.
#[test]
fn fleet_where_the_identity_provider_is_required_one_user_breaks_the_glass_and_nobody_else() {
    let office = Office::with("[single_sign_on]\nallow = [\"127.0.0.1\"]\n");
    let (phone, step) = office.join("administrator");
    let provider = super::single_sign_on::Provider::start(office.folder.path(), "https://127.0.0.1:1/");
    let save = |provider: &super::single_sign_on::Provider, name: &str| {
        let how = "--client-id mbl --user-claim preferred_username --required --break-glass";
        format!("identity-provider save {} {how} {name}", provider.address)
    };
    assert!(
        refused(&office.admin, &save(&provider, "bert")).contains("who has a password"),
        "somebody must be able to"
    );
    json(&office.admin, "user invite bert --email bert@example.com --role viewer --output berts");
    json(&office.admin, &save(&provider, "anna"));

    let bert = Operator::new(&office.path("bert"), office.folder.path());
    json(&bert, "user invitation berts --output berts-address");
    let address = office.read("berts-address");
    let key = address.split("secret=").nth(1).unwrap().split('&').next().unwrap();
    let berts = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &BASE32_NOPAD.decode(key.as_bytes()).unwrap());
    office.write("berts-code", &code(&berts, step_now()));
    let accept = "user accept berts --password-file password --code-file berts-code --recovery-output berts-recovery";
    assert!(refused(&bert, accept).contains("single_sign_on_required"));

    drop(provider);
    office.write("code", &code(&phone, step + 1));
    json(&office.anna, SIGN_IN);
    json(&office.anna, "identity-provider delete");
    json(&bert, accept);

    // Whoever guesses a code is told no more than anywhere else: not that the password was right.
    std::fs::remove_file(office.folder.path().join("provider.log")).unwrap();
    let provider = super::single_sign_on::Provider::start(office.folder.path(), "https://127.0.0.1:1/");
    json(&office.anna, &save(&provider, "anna"));
    let sign_in = "user sign-in bert --account default --password-file password --code-file berts-code";
    office.write("berts-code", "abcd-efgh-ijkl-mnop");
    assert!(refused(&bert, sign_in).contains("sign_in_refused"));
    office.write("berts-code", office.read("berts-recovery").lines().next().unwrap());
    assert!(refused(&bert, sign_in).contains("single_sign_on_required"));
}
