//! Builds OCI images, good ones and others, from what a test says.

use std::{collections::BTreeMap, io::Write};

use protocol_types::{AppName, ApplicationSpec, Digest, Network, ReadyCheck, RunSettings};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// The architecture of this machine in OCI's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An archive in the making.
pub struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub fn entry(mut self, kind: EntryType, path: &str, link: Option<&str>, bytes: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        // Raw, because the library itself refuses what these tests need.
        let name = header.as_gnu_mut().unwrap();
        name.name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(link) = link {
            name.linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }

    pub fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, None, bytes)
    }

    pub fn folder(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, None, b"")
    }

    pub fn symlink(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, path, Some(to), b"")
    }

    pub fn hardlink(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Link, path, Some(to), b"")
    }

    pub fn header(mut self, header: &Header, bytes: &[u8]) -> Self {
        self.0.append(header, bytes).unwrap();
        self
    }

    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// busybox with the applets that the tests use.
pub fn busybox() -> Layer {
    let bytes = std::fs::read("/bin/busybox").expect("the Debian package busybox-static is needed");
    ["sh", "httpd", "wget", "sleep", "cat", "id", "touch", "mount", "ls", "dd", "grep", "yes", "nc", "unshare"]
        .iter()
        .fold(Layer::new().folder("bin").file("bin/busybox", &bytes), |layer, applet| {
            layer.symlink(&format!("bin/{applet}"), "busybox")
        })
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// One image and the release that names it.
#[derive(Clone)]
pub struct Image {
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub spec: ApplicationSpec,
    pub manifest: Digest,
}

/// An image in the making; every part can be bent.
pub struct Recipe {
    pub layers: Vec<(String, Vec<u8>, Digest)>,
    pub config: Value,
    pub bend_config: fn(&mut Value),
    pub bend_manifest: fn(&mut Value),
    pub bend_index: fn(&mut Value),
    pub spec: ApplicationSpec,
}

impl Recipe {
    pub fn new(command: &[&str]) -> Self {
        let spec = ApplicationSpec {
            name: AppName::new("hello").unwrap(),
            version: "1.0.0".parse().unwrap(),
            digest: Digest::of(b""),
            size: 0,
            run: RunSettings { network: Network::None, memory_bytes: 32 << 20, pids: 32, ready: None },
        };
        let config = json!({ "Cmd": command, "Env": ["PATH=/bin", "GREETING=hello"], "WorkingDir": "/" });
        Self { layers: vec![], config, bend_config: |_| {}, bend_manifest: |_| {}, bend_index: |_| {}, spec }
    }

    /// An application made of busybox that runs a shell script.
    pub fn script(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script]).gzip(busybox())
    }

    pub fn layer(mut self, media_type: &str, blob: Vec<u8>, diff_id: Digest) -> Self {
        self.layers.push((media_type.to_owned(), blob, diff_id));
        self
    }

    pub fn plain(self, layer: Layer) -> Self {
        let tar = layer.tar();
        let digest = Digest::of(&tar);
        self.layer(TAR, tar, digest)
    }

    pub fn gzip(self, layer: Layer) -> Self {
        let tar = layer.tar();
        self.layer(GZIP, gzip(&tar), Digest::of(&tar))
    }

    pub fn zstd(self, layer: Layer) -> Self {
        let tar = layer.tar();
        self.layer(ZSTD, zstd(&tar), Digest::of(&tar))
    }

    pub fn ready(mut self, command: &[&str]) -> Self {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.spec.run.ready = Some(ReadyCheck { command, interval_s: 1, timeout_s: 2 });
        self
    }

    pub fn run(mut self, change: impl FnOnce(&mut RunSettings)) -> Self {
        change(&mut self.spec.run);
        self
    }

    pub fn named(mut self, name: &str) -> Self {
        self.spec.name = AppName::new(name).unwrap();
        self
    }

    pub fn config(mut self, bend: fn(&mut Value)) -> Self {
        self.bend_config = bend;
        self
    }

    pub fn manifest(mut self, bend: fn(&mut Value)) -> Self {
        self.bend_manifest = bend;
        self
    }

    pub fn index(mut self, bend: fn(&mut Value)) -> Self {
        self.bend_index = bend;
        self
    }

    pub fn build(mut self) -> Image {
        let mut blobs = BTreeMap::new();
        let mut keep = |bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            let size = bytes.len();
            blobs.insert(digest, bytes);
            (digest, size)
        };
        let diff_ids: Vec<String> = self.layers.iter().map(|(_, _, id)| id.to_string()).collect();
        let mut config = json!({ "architecture": architecture(), "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        (self.bend_config)(&mut config);
        let (config_digest, config_size) = keep(serde_json::to_vec(&config).unwrap());
        let layers: Vec<Value> = std::mem::take(&mut self.layers)
            .into_iter()
            .map(|(media_type, blob, _)| {
                let (digest, size) = keep(blob);
                json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
            })
            .collect();
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": { "mediaType": CONFIG, "digest": config_digest.to_string(), "size": config_size } });
        (self.bend_manifest)(&mut manifest);
        let (manifest, size) = keep(serde_json::to_vec(&manifest).unwrap());
        let mut index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
            { "mediaType": MANIFEST, "digest": manifest.to_string(), "size": size,
              "platform": { "os": "linux", "architecture": architecture() } } ] });
        (self.bend_index)(&mut index);
        let (digest, size) = keep(serde_json::to_vec(&index).unwrap());
        (self.spec.digest, self.spec.size) = (digest, size as u64);
        Image { blobs, spec: self.spec, manifest }
    }
}

impl Image {
    /// The key of the set that holds this image alone.
    pub fn release(&self) -> Digest {
        Digest::of(format!("{:?}", self.spec).as_bytes())
    }
}
