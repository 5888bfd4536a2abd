//! The API as its description promises it: judged by Schemathesis, and used by clients that are generated from the description.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use fleet_api::{CreateToken, TokenScope};
use serde_json::Value;
use testbed::{
    Service,
    crowd::{Factory, Simulated},
};

/// What decides which requests Schemathesis makes; printed with what it found.
const SEED: &str = "20261126";
/// Requests of chance for each operation, beside those that cover its description.
const EXAMPLES: &str = "3";
/// Devices for lists that have several pages.
const DEVICES: usize = 5;

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Python with the pinned packages.
fn python() -> Command {
    Command::new(tree("testbed/oracles/python"))
}

/// Runs a command to its end; everything that it wrote to the standard output.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}\n{said}\n{complained}", output.status);
    said
}

/// Where a client finds the service, and with what: in its environment, as an argument list is for everybody to read.
fn toward<'a>(command: &'a mut Command, service: &Service, token: &str) -> &'a mut Command {
    let authority = service.data_dir().join("service-authority.pem");
    command
        .env("MBL_API", format!("https://{}", service.addresses().api))
        .env("MBL_TOKEN", token)
        .env("MBL_AUTHORITY", &authority)
        .env("NODE_EXTRA_CA_CERTS", &authority)
}

/// The committed description without the answers that stand for all others: whatever is not listed by its status is undocumented.
fn strict_description() -> Value {
    let text = fs::read_to_string(tree("fleet/api/openapi.json")).unwrap();
    let mut description: Value = serde_json::from_str(&text).unwrap();
    let paths = description["paths"].as_object_mut().unwrap();
    for operation in paths.values_mut().flat_map(|item| item.as_object_mut().unwrap().values_mut()) {
        let responses = operation["responses"].as_object_mut().unwrap();
        responses.remove("default");
        assert!(responses.len() > 1, "an operation lists its refusals");
    }
    description
}

#[test]
fn api_schemathesis_finds_no_error_of_the_service_and_no_answer_that_is_not_described() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mbl-service.toml");
    // Thousands of requests without a token come from one address here, and each shall reach its handler.
    fs::write(&config, "[limits]\nopen_requests_per_minute = 1000000\nopen_burst = 1000000\n").unwrap();
    let flags = ["--config", config.to_str().unwrap()];
    let service = Service::start_with(&folder.path().join("service"), &flags).unwrap();
    let description = folder.path().join("openapi.json");
    fs::write(&description, strict_description().to_string()).unwrap();
    let mut schemathesis = python();
    schemathesis
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(tree("testbed/oracles/schemathesis.toml"))
        .arg("run")
        .arg(&description)
        .args(["--url", &format!("https://{}", service.addresses().api), "--tls-verify"])
        .arg(service.data_dir().join("service-authority.pem"))
        .args(["--seed", SEED, "--max-examples", EXAMPLES, "--no-color"])
        .env("PYTHONPATH", tree("testbed/oracles"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.path());
    let token = fs::read_to_string(service.data_dir().join("first-token")).unwrap();
    let report = succeed(toward(&mut schemathesis, &service, token.trim()));
    assert!(report.contains(&format!("Seed: {SEED}")), "{report}");
    let log = service.log().unwrap();
    assert!(!log.contains("a request handler panicked"), "{log}");
}

/// A service with devices.
struct Populated {
    service: Service,
    devices: Simulated,
    /// The names of the devices, as a JSON array.
    names: String,
    /// The secret of an administrator's token.
    token: String,
}

async fn populated(folder: &Path) -> Populated {
    let service = Service::start(&folder.join("service")).unwrap();
    let factory = Factory::open(&service).await.unwrap();
    let devices = Simulated::enrol(&factory, DEVICES).await.unwrap();
    let names: Vec<String> = devices.facts().iter().map(|(endpoint, _)| endpoint.to_string()).collect();
    assert_eq!(names.len(), DEVICES);
    let names = serde_json::to_string(&names).unwrap();
    let asked =
        CreateToken { name: "client".to_owned(), scopes: vec![TokenScope::Admin], expires: None, principal: None };
    let token = factory.client().create_token(&asked).await.unwrap().secret.unwrap();
    Populated { service, devices, names, token }
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_the_generated_typescript_client_is_type_checked_and_works_with_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("client");
    copy(&tree("testbed/clients/typescript"), &project);
    succeed(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&project));
    let program = |name: &str| {
        let mut command = Command::new(project.join("node_modules/.bin").join(name));
        command.current_dir(&project);
        command
    };
    let description = tree("fleet/api/openapi.json");
    succeed(program("openapi-typescript").arg(description).args(["--output", "schema.ts"]));
    succeed(program("tsc").args(["--project", "tsconfig.json"]));

    let Populated { service, devices, names, token } = populated(folder.path()).await;
    let mut exercise = Command::new("node");
    exercise.arg("out/exercise.js").env("MBL_DEVICES", names).current_dir(&project);
    let report: Value = serde_json::from_str(&succeed(toward(&mut exercise, &service, &token))).unwrap();
    assert_eq!(report["devices"], DEVICES, "{report}");
    devices.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_the_generated_python_client_is_type_checked_and_works_with_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("client");
    copy(&tree("testbed/clients/python"), &project);
    succeed(
        python()
            .args(["-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"])
            .args(["--config", "generator.yaml", "--output-path", "mbl_api_client", "--path"])
            .arg(tree("fleet/api/openapi.json"))
            .current_dir(&project),
    );
    succeed(python().args(["-m", "mypy", "--strict", "exercise.py"]).current_dir(&project));

    let Populated { service, devices, names, token } = populated(folder.path()).await;
    let mut exercise = python();
    exercise.arg("exercise.py").env("MBL_DEVICES", names).current_dir(&project);
    let report: Value = serde_json::from_str(&succeed(toward(&mut exercise, &service, &token))).unwrap();
    assert_eq!(report["devices"], DEVICES, "{report}");
    devices.stop().await.unwrap();
}
