//! Single sign-on with an OpenID provider that others wrote (`oidc-provider`), as administrators set it up and people use it: the real
//! service, the real `mbl`, and a person at a browser that follows the provider's own pages.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use testbed::{Operator, Running, Service, until};

/// Its packages may have to be fetched first.
const PATIENCE: Duration = Duration::from_secs(180);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("providers/openid").join(name)
}

/// An OpenID provider.
pub(crate) struct Provider {
    pub(crate) address: String,
    process: Option<Running>,
    folder: PathBuf,
    /// Where the service wants browsers back.
    redirect: String,
}

impl Provider {
    /// Starts one whose people are those of `people.json` in the folder.
    pub(crate) fn start(folder: &Path, redirect: &str) -> Self {
        let mut provider =
            Self { address: String::new(), process: None, folder: folder.to_owned(), redirect: redirect.to_owned() };
        provider.run(&[("PORT", "0")]);
        provider
    }

    fn run(&mut self, settings: &[(&str, &str)]) {
        let client = json!({"id": "mbl", "secret": "s&cret: %", "redirect": self.redirect});
        let mut command = Command::new(script("run"));
        command.arg("provider.mjs").env("CLIENT", client.to_string()).env("PEOPLE", self.folder.join("people.json"));
        command.envs(settings.iter().copied());
        let log = self.folder.join("provider.log");
        let mut process = Running::start("openid provider", &mut command, &log).unwrap();
        self.address = until(PATIENCE, "the provider to listen", || {
            anyhow::ensure!(process.is_running()?, "it ended: {}", process.output()?);
            let said = fs::read_to_string(&log).unwrap_or_default();
            let last = said.rsplit_once("listening at ").and_then(|(_, rest)| rest.split_once('\n'));
            Ok(last.map(|(address, _)| address.to_owned()))
        })
        .unwrap();
        self.process = Some(process);
    }

    fn stop(&mut self) {
        self.process.take().map_or(Ok(()), Running::kill).unwrap();
        fs::remove_file(self.folder.join("provider.log")).unwrap();
    }

    /// Ends and starts at the same address: with keys that nobody knows yet.
    fn restart(&mut self, settings: &[(&str, &str)]) {
        self.stop();
        let port = self.address.rsplit(':').next().unwrap().to_owned();
        self.run(&[&[("PORT", port.as_str())][..], settings].concat());
    }
}

/// A service whose account `default` signs in with a provider, and desks.
struct Office {
    admin: Operator,
    provider: Provider,
    service: Service,
    folder: tempfile::TempDir,
}

impl Office {
    fn new(other: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let config = path("mbl-service.toml");
        fs::write(&config, "[single_sign_on]\nallow = [\"127.0.0.1\"]\n").unwrap();
        let service = Service::start_with(&path("service"), &["--config", config.to_str().unwrap()]).unwrap();
        let redirect = format!("https://{}/api/v1/single-sign-on/callback", service.addresses().api);
        let provider = Provider::start(folder.path(), &redirect);
        let admin = Operator::new(&path("admin"), folder.path());
        let office = Self { admin, provider, service, folder };
        office.json("service token --data-dir service");
        office.write("secret", "s&cret: %");
        office.people(&json!({
            "anna": {"email": "Anna@example.com", "email_verified": true, "name": "Anna", "groups": ["ops"]},
            "carl": {"email": "carl@elsewhere.example", "email_verified": true, "name": "Carl", "groups": ["ops"]},
            "dora": {"email": "dora@example.com", "email_verified": false, "name": "Dora", "groups": []},
        }));
        let saved = office.json(&office.save(other));
        assert_eq!(
            (saved["redirect_uri"].as_str(), saved["has_secret"].as_bool()),
            (Some(redirect.as_str()), Some(true))
        );
        office
    }

    fn save(&self, other: &str) -> String {
        let issuer = &self.provider.address;
        format!("identity-provider save {issuer} --client-id mbl --secret-file secret --domain example.com{other}")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, line: &str) {
        fs::write(self.path(name), format!("{line}\n")).unwrap();
    }

    fn people(&self, people: &Value) {
        self.write("people.json", &people.to_string());
    }

    fn json(&self, line: &str) -> Value {
        self.admin.json(&words(line)).unwrap()
    }

    fn desk(&self, name: &str) -> Operator {
        Operator::new(&self.path(name), self.folder.path())
    }

    /// The command with which somebody signs in at their desk; `person` is who sits at the browser.
    fn sign_in(&self, desk: &Operator, person: &str, how: &str) -> Command {
        let at =
            format!("--service https://{} --authority service/service-authority.pem", self.service.addresses().api);
        let mut command =
            desk.command(&words(&format!("--json user sign-in --sso --account default {at}{how}"))).unwrap();
        command
            .env("MBL_BROWSER", script("person"))
            .env("PERSON", person)
            .env("VISITED", self.path("visited"))
            .env("NODE_EXTRA_CA_CERTS", self.path("service/service-authority.pem"));
        command
    }

    fn signs_in(&self, desk: &Operator, person: &str) -> Value {
        let output = self.sign_in(desk, person, "").output().unwrap();
        assert!(output.status.success(), "{person}: {output:?}\n{}", self.service.log().unwrap());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What `mbl` says to somebody who is not let in.
    fn turned_away(&self, person: &str) -> String {
        let output = self.sign_in(&self.desk("nobody"), person, "").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{person}: {said}");
        said
    }

    /// A person goes to an address with a browser; what they see in the end.
    fn browse(&self, person: &str, address: &str) -> String {
        let mut command = Command::new(script("person"));
        command.arg(address).env("PERSON", person);
        let output = command.env("NODE_EXTRA_CA_CERTS", self.path("service/service-authority.pem")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(desk: &Operator, line: &str) -> String {
    let output = desk.run(&words(line)).unwrap();
    assert_eq!(output.status.code(), Some(3), "{line}: {output:?}");
    said(&output)
}

const GROUPS: &str =
    " --scope email --scope profile --scope groups --role-claim groups --role ops=operator --create-users";

#[test]
fn fleet_somebody_the_provider_knows_signs_in_by_a_browser_and_acts_by_the_roles_of_their_claims() {
    let office = Office::new(GROUPS);
    let anna = office.desk("anna");
    let session = office.signs_in(&anna, "anna");
    assert_eq!(session["name"], "anna@example.com");
    anna.json(&words("group create doors")).unwrap();
    let listed = office.json("user list");
    assert_eq!((listed[0]["name"].as_str(), listed[0]["state"].as_str()), (Some("anna@example.com"), Some("active")));

    // Whoever sees the address that the browser came back with can do nothing with it.
    let visited = fs::read_to_string(office.path("visited")).unwrap();
    let callback = visited.lines().find(|line| line.contains("/single-sign-on/callback?")).unwrap();
    assert!(office.browse("anna", callback).contains("single_sign_on_refused"), "a state is taken once");
    assert!(visited.lines().last().unwrap().starts_with("http://127.0.0.1:"), "the code came back to the desk");

    for (person, why) in
        [("carl", "`elsewhere.example` are not let in"), ("dora", "not verified"), ("nobody", "access_denied")]
    {
        let said = office.turned_away(person);
        assert!(said.contains("single_sign_on_refused") && said.contains(why), "{person}: {said}");
    }
    office.people(&json!({"anna": {"email": "anna@example.com", "email_verified": true, "groups": []}}));
    office.signs_in(&anna, "anna");
    assert!(refused(&anna, "group create gates").contains("access_denied"), "the roles are those of the claims");
    office.json("user disable anna@example.com");
    assert!(office.turned_away("anna").contains("may not act"));

    office.json("audit export log.jsonl");
    let log = fs::read_to_string(office.path("log.jsonl")).unwrap();
    for action in ["save_identity_provider", "return_from_identity_provider", "finish_single_sign_on"] {
        assert!(log.contains(&format!("\"action\":\"{action}\"")), "{action} is on record");
    }
    let state = callback.split("state=").nth(1).unwrap().split('&').next().unwrap();
    for secret in ["s&cret", "mblt_", state] {
        assert!(!log.contains(secret) && !office.service.log().unwrap().contains(secret), "{secret} is in no log");
    }
    assert!(!office.service.keeps("s&cret: %").unwrap(), "the client secret is sealed");
}

#[test]
fn fleet_a_person_without_a_browser_at_their_desk_carries_the_code_over_and_keys_that_change_are_found() {
    let mut office = Office::new(GROUPS);
    let anna = office.desk("anna");
    let mut command = office.sign_in(&anna, "anna", " --no-browser --code-file /dev/stdin");
    let mut mbl = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(mbl.stderr.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find(|line| line.trim().starts_with("http://")).unwrap();
    let page = office.browse("anna", address.trim());
    let code = page.split("<code>").nth(1).unwrap_or_else(|| panic!("{page}")).split('<').next().unwrap();
    writeln!(mbl.stdin.take().unwrap(), "{code}").unwrap();
    let output = mbl.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?} {:?}", lines.collect::<Vec<_>>());
    anna.json(&words("group list")).unwrap();

    office.provider.restart(&[]);
    office.signs_in(&anna, "anna");

    // Somebody else in the provider's place.
    office.provider.restart(&[("ISSUER", "http://127.0.0.1:1")]);
    assert!(office.turned_away("anna").contains("another identity provider"));
    let said = refused(&office.admin, &office.save(GROUPS));
    assert!(said.contains("invalid_value") && said.contains("another issuer"), "{said}");
    office.provider.stop();
    let said = refused(&office.admin, &office.save(GROUPS));
    assert!(said.contains("does not answer"), "{said}");
    let elsewhere = office.save(GROUPS).replace("127.0.0.1", "127.0.0.2");
    assert!(refused(&office.admin, &elsewhere).contains("`single_sign_on.allow`"));
}
