//! The container image of the service, built as `deploy/container/build` builds it and run as an engine runs it.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use fleet_api::{Client, ClientConfig};
use serde_json::{Value, json};
use testbed::{Running, programs::program, until};

use crate::world::PATIENCE;

/// The user of the image.
const USER: u32 = 65532;
/// The name of the container.
const NAME: &str = "mbl-service-of-a-test";

/// Runs a command to its end; what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Images in a folder of the test's own.
struct Images(PathBuf);

impl Images {
    fn new(folder: &Path) -> Self {
        let path = folder.join("storage.conf");
        let (graph, run) = (folder.join("images"), folder.join("images-run"));
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            graph.display(),
            run.display()
        );
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).env("CONTAINERS_STORAGE_CONF", &self.0);
        command
    }
}

/// What an engine makes of an image's own settings (OCI runtime specification 1.0), without a network of its own.
fn bundle(config: &Value, root: &str, mounts: [(&str, &Path); 2]) -> Value {
    let words = |key: &str| config[key].as_array().unwrap().clone();
    let arguments = [words("Entrypoint"), words("Cmd")].concat();
    let user: Vec<u32> = config["User"].as_str().unwrap().split(':').map(|id| id.parse().unwrap()).collect();
    let [volume, settings] = mounts.map(|(destination, source)| {
        json!({ "destination": destination, "source": source, "type": "bind", "options": ["bind"] })
    });
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "cwd": "/", "noNewPrivileges": true, "env": config["Env"],
            "user": { "uid": user[0], "gid": user[1] },
            "args": arguments,
            "capabilities": { "bounding": [], "effective": [], "permitted": [] },
        },
        "root": { "path": root, "readonly": true },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }, volume, settings],
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }] },
    })
}

#[test]
fn container_the_image_is_built_from_nothing_but_this_machine_and_runs_the_service_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let images = Images::new(folder.path());
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut build = images.command(deploy.join("container/build"), &[]);
    succeed(build.env("PROGRAM", program("mbl-service").unwrap()));
    let about: Value =
        serde_json::from_str(&succeed(&mut images.command("buildah", &["inspect", "--type", "image", "mbl-service"])))
            .unwrap();
    let config = &about["OCIv1"]["config"];
    let volume = config["Volumes"].as_object().unwrap().keys().next().unwrap();
    let container = succeed(&mut images.command("buildah", &["from", "mbl-service"]));
    let root = succeed(&mut images.command("buildah", &["mount", &container]));

    let (state, settings) = (folder.path().join("state"), folder.path().join("mbl-service.toml"));
    fs::create_dir(&state).unwrap();
    chown(&state, Some(USER), Some(USER)).unwrap();
    let example = fs::read_to_string(deploy.join("mbl-service.toml")).unwrap();
    let (general, _) = example.split_once("[listen]").unwrap();
    let general = general.replace("fleet.example.com", "127.0.0.1");
    let listen = ["api", "bootstrap", "lwm2m", "artifacts"].map(|port| format!("{port} = \"127.0.0.1:0\"\n")).concat();
    fs::write(&settings, format!("{general}[listen]\n{listen}")).unwrap();
    let bundle =
        bundle(config, &root, [(volume.as_str(), state.as_path()), ("/etc/mbl-service.toml", settings.as_path())]);
    fs::write(folder.path().join("config.json"), bundle.to_string()).unwrap();

    let runc = || {
        let mut command = Command::new("runc");
        command.arg("--root").arg(folder.path().join("runc"));
        command
    };
    let mut run = runc();
    run.arg("run").arg("--bundle").arg(folder.path()).arg(NAME);
    let mut running = Running::start("runc", &mut run, &folder.path().join("runc.log")).unwrap();
    let addresses: Value = until(PATIENCE, "the service to listen", || {
        anyhow::ensure!(running.is_running()?, "it ended: {}", running.output()?);
        let text = fs::read(state.join("addresses.json"));
        Ok(text.ok().and_then(|text| serde_json::from_slice(&text).ok()))
    })
    .unwrap();
    let client = Client::new(&ClientConfig {
        address: format!("https://{}", addresses["api"].as_str().unwrap()),
        authority_pem: fs::read_to_string(state.join("service-authority.pem")).unwrap(),
        token: None,
    })
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(client.ready()).unwrap());

    let signal = config["StopSignal"].as_str().unwrap();
    succeed(runc().args(["kill", NAME, signal]));
    until(PATIENCE, "the container to end", || Ok((!running.is_running()?).then_some(()))).unwrap();
    assert!(running.output().unwrap().contains("service stopping"), "it ended in order");
    assert!(!state.join("addresses.json").exists(), "it has put away what belongs to one run");
}
