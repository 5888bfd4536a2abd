//! The corpus before three clients: ours, python-tuf and `tough`. Each must reach the verdict that the corpus names.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use protocol_release::document::Release;
use protocol_types::UnixSeconds;
use serde_json::{Value, json};
use tough::{FilesystemTransport, IntoVec, RepositoryLoader, TargetName};

use crate::{
    corpus::{self, Case, Says},
    device::visit,
    world::{Served, block_on},
};

fn present() -> UnixSeconds {
    UnixSeconds(u64::try_from(jiff::Timestamp::now().as_second()).unwrap())
}

#[test]
fn three_clients_reach_the_verdicts_of_the_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let cases = corpus::all(present());
    let folders: Vec<_> = cases.iter().enumerate().map(|(n, case)| Folder::write(folder.path(), n, case)).collect();
    let python = ask_python_tuf(&folders);
    let mut wrong = Vec::new();
    for (case, folder) in cases.iter().zip(&folders) {
        let ours = ask_ourselves(case);
        if ours != case.ours {
            wrong.push(format!("{}: this crate says {ours}, expected {}", case.name, case.ours));
        }
        let tough = ask_tough(folder);
        for (client, expected, said) in
            [("python-tuf", case.python_tuf, &python[case.name]), ("tough", case.tough, &tough)]
        {
            let accepts = expected == Says::Accepts;
            if said.is_none() != accepts {
                wrong.push(format!("{}: {client} was expected to say {expected:?}, said {said:?}", case.name));
            }
            if accepts != (case.ours == "verified") && case.because.is_empty() {
                wrong.push(format!("{}: {client} differs without a settled reason", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(cases.len() > 50, "the corpus shrank to {}", cases.len());
}

fn ask_ourselves(case: &Case) -> &'static str {
    let mut state = case.world.provisioned();
    let mut verdict = "never visited";
    for served in &case.visits {
        let visit = visit(served, state, &case.wish, case.world.now);
        verdict = visit.verdict();
        state = visit.state;
    }
    verdict
}

/// A case as files: what each client reads.
struct Folder {
    name: &'static str,
    root: PathBuf,
    visits: Vec<PathBuf>,
    state: PathBuf,
    /// Path, digest and length of everything that the release consists of.
    targets: Vec<(String, String, u64)>,
}

impl Folder {
    fn write(base: &Path, number: usize, case: &Case) -> Self {
        let base = base.join(number.to_string());
        let targets = targets(case);
        let mut visits = Vec::new();
        for (n, served) in case.visits.iter().enumerate() {
            let visit = base.join(format!("visit-{n}"));
            for (name, bytes) in &served.metadata {
                write(&visit.join("metadata").join(name), bytes);
            }
            write_targets(&visit, served, &targets);
            visits.push(visit);
        }
        let root = base.join("1.root.json");
        write(&root, &case.world.first_root);
        Self { name: case.name, root, visits, state: base.join("state"), targets }
    }
}

fn targets(case: &Case) -> Vec<(String, String, u64)> {
    let wish = &case.wish;
    // The document as it was published, before anybody tampered with what is served.
    let document = case.visits.iter().find_map(|served| {
        let bytes = served.artifacts.get(&wish.digest)?;
        Some((bytes.len() as u64, Release::parse(bytes).ok()))
    });
    let (size, release) = document.unwrap_or((0, None));
    let mut targets = vec![(wish.release.to_string(), wish.digest.hex(), size)];
    let components = release.map(|release| release.components).unwrap_or_default();
    targets.extend(components.iter().map(|c| (c.path.to_string(), c.digest.hex(), c.size)));
    targets
}

/// With consistent snapshots python-tuf puts the digest before the last part of the path, `tough` before the first.
fn write_targets(visit: &Path, served: &Served, targets: &[(String, String, u64)]) {
    for (path, digest, _) in targets {
        let Some((_, bytes)) = served.artifacts.iter().find(|(key, _)| key.hex() == *digest) else { continue };
        let (folder, file) = path.rsplit_once('/').unwrap();
        write(&visit.join("targets").join(folder).join(format!("{digest}.{file}")), bytes);
        write(&visit.join("targets").join(format!("{digest}.{path}")), bytes);
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// `tough`'s verdict: nothing, or why it refuses.
fn ask_tough(folder: &Folder) -> Option<String> {
    let datastore = folder.state.join("tough");
    fs::create_dir_all(&datastore).unwrap();
    let root = fs::read(&folder.root).unwrap();
    let mut said = Some("never visited".to_owned());
    for visit in &folder.visits {
        said = block_on(async {
            let url = |part: &str| format!("file://{}/", visit.join(part).display());
            fs::create_dir_all(visit.join("targets")).unwrap();
            let loader =
                RepositoryLoader::new(&root, url("metadata").parse().unwrap(), url("targets").parse().unwrap())
                    .transport(FilesystemTransport)
                    .datastore(&datastore);
            let repository = loader.load().await.map_err(|e| e.to_string())?;
            for (path, digest, size) in &folder.targets {
                let name = TargetName::new(path).map_err(|e| e.to_string())?;
                let stream = repository.read_target(&name).await.map_err(|e| e.to_string())?;
                let bytes = stream.ok_or("not listed")?.into_vec().await.map_err(|e| e.to_string())?;
                if hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes)) != *digest
                    || bytes.len() as u64 != *size
                {
                    return Err(format!("{path} is listed with another digest"));
                }
            }
            Ok::<(), String>(())
        })
        .err();
    }
    said
}

/// python-tuf's verdict on every case: nothing, or why it refuses.
fn ask_python_tuf(folders: &[Folder]) -> BTreeMap<&'static str, Option<String>> {
    let cases: Vec<Value> = folders
        .iter()
        .map(|folder| {
            json!({ "name": folder.name, "root": folder.root, "visits": folder.visits, "targets": folder.targets,
                    "state": folder.state.join("python-tuf") })
        })
        .collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/client.py");
    let mut python = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testbed/oracles/python"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    python.stdin.take().unwrap().write_all(&serde_json::to_vec(&cases).unwrap()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the oracle ended with {}", output.status);
    let mut verdicts: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut said = |folder: &Folder| verdicts.remove(folder.name).unwrap()["said"].as_str().map(str::to_owned);
    folders.iter().map(|folder| (folder.name, said(folder))).collect()
}
