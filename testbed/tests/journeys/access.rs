//! Who may do what, as administrators meet it: the tree of accounts, programs with roles, policies, the question why, and the log.

use std::{fs, process::Output};

use serde_json::Value;
use testbed::{Operator, Service};

use crate::world::{ENDPOINT, World};

/// A service, and an administrator at the command line; devices are not needed for everything.
struct Desk {
    operator: Operator,
    /// Ends with the desk.
    _service: Service,
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start(&folder.path().join("service")).unwrap();
        let operator = Operator::new(&folder.path().join("config"), folder.path());
        let desk = Self { operator, _service: service, folder };
        desk.mbl("service token --data-dir service");
        desk
    }

    fn mbl(&self, line: &str) -> Value {
        self.operator.json(&line.split(' ').collect::<Vec<_>>()).unwrap()
    }

    fn run(&self, line: &str) -> Output {
        self.operator.run(&line.split(' ').collect::<Vec<_>>()).unwrap()
    }
}

/// The command was refused with exit status 3; what it said.
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    said
}

#[test]
fn fleet_a_program_with_a_role_for_some_devices_acts_on_these_alone_and_mbl_says_why() {
    let world = World::new();
    let run = |words: &[&str]| world.stage.operator.run(words).unwrap();
    world.mbl("service-account create ci --title Builds");
    world.mbl(&format!("device set {ENDPOINT} --tag lab"));
    let granted = run(&["access", "grant", "service/ci", "operator", "--filter", "tag = \"lab\""]);
    assert!(granted.status.success(), "{granted:?}");
    world.mbl("token create nightly --principal service/ci --scope admin --into-context ci");
    assert_eq!(world.mbl("--context ci device list").as_array().unwrap().len(), 1);
    world.mbl(&format!("--context ci device suspend {ENDPOINT} --reason test"));
    world.mbl(&format!("--context ci device resume {ENDPOINT}"));
    assert!(refused(&run(&["--context", "ci", "group", "list"])).contains("access_denied"));

    let answer = world.mbl(&format!("access check service/ci suspend_device --device {ENDPOINT}"));
    assert_eq!((&answer["allowed"], answer["policies"][0]["id"].as_str()), (&Value::Bool(true), Some("role-operator")));
    world.mbl(&format!("device set {ENDPOINT} --untag lab"));
    let said = refused(&run(&["--context", "ci", "device", "suspend", ENDPOINT, "--reason", "test"]));
    assert!(said.contains("no policy permits it"), "{said}");
    assert_eq!(world.mbl("--context ci device list").as_array().unwrap().len(), 0);
    let why = run(&["access", "check", "service/ci", "suspend_device", "--device", ENDPOINT]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.starts_with("no: no policy permits it\n") && why.contains("does not count here"), "{why}");

    world.mbl(&format!("device set {ENDPOINT} --tag lab"));
    let file = world.stage.at_operator("careful.cedar");
    fs::write(&file, "forbid(principal is Servise, action, resource);").unwrap();
    let said = refused(&run(&["policy", "save", "careful", "careful.cedar"]));
    assert!(said.contains("malformed_policy") && said.contains("^^^^"), "it points at the place: {said}");
    fs::write(&file, "forbid(principal is Service, action == Action::\"suspend_device\", resource);").unwrap();
    world.mbl("policy save careful careful.cedar");
    let said = refused(&run(&["--context", "ci", "device", "suspend", ENDPOINT, "--reason", "test"]));
    assert!(said.contains("`default/careful` forbids it"), "{said}");
    world.mbl(&format!("device suspend {ENDPOINT} --reason test"));
    world.mbl("service-account disable ci");
    let said = refused(&run(&["--context", "ci", "device", "list"]));
    assert!(said.contains("principal_disabled"), "{said}");
}

#[test]
fn fleet_roles_of_a_customer_reach_its_sites_and_neither_rivals_nor_the_organisation() {
    let desk = Desk::new();
    desk.mbl("account create org");
    desk.mbl("account create customer --parent org --into-context customer");
    desk.mbl("account create site --parent customer");
    desk.mbl("account create rival --parent org --into-context rival");
    desk.mbl("--context customer service-account create ci");
    desk.mbl("--context customer access grant service/ci operator");
    desk.mbl("--context customer token create ci --principal service/ci --scope admin --into-context ci");
    desk.mbl("--context ci --in-account site group create doors");
    assert_eq!(desk.mbl("--context ci --in-account site group list")[0]["name"], "doors");
    assert_eq!(desk.mbl("--context ci group list").as_array().unwrap().len(), 0);
    for account in ["org", "rival", "default"] {
        let said = refused(&desk.run(&format!("--context ci --in-account {account} group list")));
        assert!(said.contains("not_found"), "{account}: {said}");
    }
    let names = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|account| account["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&desk.mbl("--context customer account list")), ["customer", "site"]);
    assert!(refused(&desk.run("account move org --parent site")).contains("below itself"));
    desk.mbl("account move site --parent rival");
    assert!(refused(&desk.run("--context ci --in-account site group list")).contains("not_found"));
    assert_eq!(names(&desk.mbl("--context rival account list")), ["rival", "site"]);
}

#[test]
fn fleet_the_audit_log_leaves_the_service_and_verifies_without_it_and_tampering_is_seen() {
    let desk = Desk::new();
    for group in ["one", "two", "three"] {
        desk.mbl(&format!("group create {group}"));
    }
    assert_eq!(desk.run("group create two").status.code(), Some(3));
    let exported = desk.mbl("audit export log.jsonl");
    assert_eq!((exported["first"].as_u64(), exported["account"].as_str()), (Some(1), Some("default")), "{exported}");
    let head = exported["head"].as_str().unwrap();
    let file = desk.folder.path().join("log.jsonl");
    let log = fs::read_to_string(&file).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.contains("\"outcome\":\"already_exists\"") && last.contains("\"address\":\"127.0.0.1\""), "{last}");
    assert!(!log.contains("mblt_"), "no secret leaves in the log");

    // From here on there is neither a service nor a token.
    let stranger = Operator::new(&desk.folder.path().join("nothing"), desk.folder.path());
    let verify = |words: &[&str]| stranger.run(&[&["audit", "verify", "log.jsonl"], words].concat()).unwrap();
    let whole = verify(&["--head", head]);
    assert!(whole.status.success(), "{whole:?}");
    let lines: Vec<&str> = log.lines().collect();
    let without = |gone: usize| {
        let kept = lines.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, line)| *line);
        kept.collect::<Vec<_>>().join("\n") + "\n"
    };
    for (what, text) in [
        ("is missing", without(1)),
        ("was changed", log.replace("groups/two", "groups/ten")),
        ("no entry", log.trim_end().to_owned()),
    ] {
        fs::write(&file, text).unwrap();
        let output = verify(&[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(what), "{what}: {said}");
    }
    fs::write(&file, without(lines.len() - 1)).unwrap();
    assert!(verify(&[]).status.success(), "what was cut off the end shows only by the head");
    let output = verify(&["--head", head]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cut off the end"), "{output:?}");
}

#[test]
fn fleet_an_organisation_bounds_what_its_customers_and_their_sites_may_have_together() {
    let desk = Desk::new();
    desk.mbl("account create org --into-context org");
    desk.mbl("account create customer --parent org --into-context customer");
    desk.mbl("account create site --parent customer --into-context site");
    let set = desk.mbl("--context org account quota customer --set groups=2 --set devices=100");
    assert_eq!((&set[0]["most"], &set[2]["most"]), (&Value::from(100), &Value::from(2)), "{set}");
    desk.mbl("--context site group create doors");
    desk.mbl("--context customer group create gates");
    let said = refused(&desk.run("--context site group create lifts"));
    assert!(said.contains("quota_exceeded") && said.contains("hint: ") && said.contains("`customer`"), "{said}");
    assert!(refused(&desk.run("--context customer account quota customer --set groups=9")).contains("access_denied"));
    desk.mbl("--context customer account quota site --set groups=0");
    let set = desk.mbl("--context org account quota customer --set groups=none");
    assert_eq!((&set[2]["used"], &set[0]["most"]), (&Value::from(2), &Value::from(100)), "the others stay: {set}");
    assert!(set[2].get("most").is_none(), "{set}");
    desk.mbl("--context customer group create lifts");
    assert!(refused(&desk.run("--context site group create lifts")).contains("quota_exceeded"));
    assert_eq!(desk.run("account quota customer --set doors=1").status.code(), Some(2), "no such kind");
}
