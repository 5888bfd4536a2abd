//! Applications built from recipes: what an OCI tool would read from the layout.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a layout that cannot be read should stop its test at once")]

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use image_builder::{
    application::{self, AppLayout, BLOBS, Recipe},
    sbom::BILL,
};
use oci_spec::image::{Arch, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use protocol_types::Digest;

const RECIPE: &str = r#"
name = "hello"
version = "1.0.0"
architecture = "x86_64"
entrypoint = ["/bin/busybox", "httpd"]
arguments = ["-f"]
environment = { PORT = "8080", GREETING = "hello" }
folder = "root"

[[files]]
target = "/www/index.html"
text = "hello\n"

[[files]]
target = "/bin/busybox"
source = "busybox"
mode = 0o755

[[links]]
target = "/bin/sh"
to = "busybox"

[run]
network = "host"
memory_bytes = 33554432
pids = 32
"#;

/// A folder with what the recipe names.
fn sources(more: &str) -> (tempfile::TempDir, Recipe) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/etc")).unwrap();
    fs::write(dir.path().join("root/etc/passwd"), "nobody:x:65534:65534::/:/bin/false\n").unwrap();
    fs::write(dir.path().join("busybox"), vec![7; 100_000]).unwrap();
    let recipe = Recipe::parse(&format!("{more}\n{RECIPE}"), Path::new("app.toml")).unwrap();
    (dir, recipe)
}

fn blob(layout: &Path, digest: &oci_spec::image::Digest) -> Vec<u8> {
    let bytes = fs::read(layout.join(BLOBS).join(digest.digest())).unwrap();
    assert_eq!(Digest::of(&bytes).to_string(), digest.to_string());
    bytes
}

/// Path, kind, mode and content or link of every entry of the only layer, and the digest of its tar.
fn unpack(layout: &Path, manifest: &ImageManifest) -> (BTreeMap<String, (tar::EntryType, u32, String)>, Digest) {
    let layer = &manifest.layers()[0];
    let bytes = blob(layout, layer.digest());
    let mut plain = Vec::new();
    match layer.media_type() {
        MediaType::ImageLayerGzip => flate2::read::GzDecoder::new(&*bytes).read_to_end(&mut plain).unwrap(),
        MediaType::ImageLayerZstd => zstd::Decoder::new(&*bytes).unwrap().read_to_end(&mut plain).unwrap(),
        other => panic!("unexpected layer {other}"),
    };
    let mut archive = tar::Archive::new(&*plain);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
        let mut content = String::new();
        match entry.link_name().unwrap() {
            Some(to) => content.push_str(to.to_str().unwrap()),
            None => drop(entry.read_to_string(&mut content).unwrap()),
        }
        let path = entry.path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned();
        (path, (header.entry_type(), header.mode().unwrap(), content))
    });
    (entries.collect(), Digest::of(&plain))
}

fn read(layout: &Path) -> (ImageIndex, ImageManifest, ImageConfiguration) {
    let index = ImageIndex::from_file(layout.join("index.json")).unwrap();
    let manifest = ImageManifest::from_reader(&*blob(layout, index.manifests()[0].digest())).unwrap();
    let configuration = ImageConfiguration::from_reader(&*blob(layout, manifest.config().digest())).unwrap();
    (index, manifest, configuration)
}

#[test]
fn the_layout_says_what_the_recipe_says() {
    let (dir, recipe) = sources("");
    let layout = dir.path().join("out/hello");
    let built = application::build(&recipe, dir.path(), &layout).unwrap();
    let (index, manifest, configuration) = read(&layout);
    let platform = index.manifests()[0].platform().as_ref().unwrap();
    assert_eq!(platform.architecture(), &Arch::Amd64);
    assert_eq!(built.index.digest, Digest::of(&fs::read(layout.join("index.json")).unwrap()));

    let config = configuration.config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_ref().unwrap(), &["/bin/busybox", "httpd"]);
    assert_eq!(config.cmd().as_ref().unwrap(), &["-f"]);
    assert_eq!(config.env().as_ref().unwrap(), &["GREETING=hello", "PORT=8080"]);
    assert_eq!(config.user().as_deref(), Some("65534:65534"));

    let (entries, diff_id) = unpack(&layout, &manifest);
    assert_eq!(configuration.rootfs().diff_ids(), &[diff_id.to_string()]);
    let names: Vec<&str> = entries.keys().map(String::as_str).collect();
    assert_eq!(names, ["bin", "bin/busybox", "bin/sh", "etc", "etc/passwd", "www", "www/index.html"]);
    assert_eq!(entries["bin/busybox"].1, 0o755);
    assert_eq!(entries["bin/sh"].2, "busybox");
    assert_eq!(entries["www/index.html"], (tar::EntryType::Regular, 0o644, "hello\n".to_owned()));

    let read_back = AppLayout::load(&layout).unwrap();
    assert_eq!((read_back.facts, read_back.stored), (built.facts, built.index));
    assert_eq!(read_back.artifacts.len(), 4, "index, manifest, configuration, layer");
    for artifact in read_back.artifacts {
        assert_eq!(Digest::of(&fs::read(&artifact.path).unwrap()), artifact.stored.digest);
    }
}

#[test]
fn the_bill_of_materials_has_each_file_with_its_digest() {
    let (dir, recipe) = sources("licence = \"MIT OR Apache-2.0\"");
    let layout = dir.path().join("out");
    let built = application::build(&recipe, dir.path(), &layout).unwrap();
    let bill: serde_json::Value = serde_json::from_slice(&fs::read(layout.join(BILL)).unwrap()).unwrap();
    let product = &bill["metadata"]["component"];
    assert_eq!((&product["name"], &product["version"]), (&"hello".into(), &"1.0.0".into()));
    assert_eq!(product["licenses"][0]["expression"], "MIT OR Apache-2.0");
    assert_eq!(product["hashes"][0]["content"], built.index.digest.hex());
    let files: BTreeMap<&str, &str> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| (file["name"].as_str().unwrap(), file["hashes"][0]["content"].as_str().unwrap()))
        .collect();
    let busybox = Digest::of(&vec![7; 100_000]).hex();
    let index = Digest::of(b"hello\n").hex();
    assert_eq!(files.len(), 3, "{files:?}");
    assert_eq!((files["/bin/busybox"], files["/www/index.html"]), (busybox.as_str(), index.as_str()));
}

#[test]
fn the_same_recipe_and_files_give_the_same_bytes() {
    let builds = [sources(""), sources("")]
        .map(|(dir, recipe)| application::build(&recipe, dir.path(), &dir.path().join("out")).unwrap().index);
    assert_eq!(builds[0], builds[1]);
}

#[test]
fn a_zstd_layer_holds_the_same_tar_as_a_gzip_layer() {
    let [gzip, zstd] = ["", "compression = \"zstd\""].map(|compression| {
        let (dir, recipe) = sources(compression);
        let layout = dir.path().join("out");
        application::build(&recipe, dir.path(), &layout).unwrap();
        unpack(&layout, &read(&layout).1).1
    });
    assert_eq!(gzip, zstd);
}

#[test]
fn building_again_replaces_a_layout_but_nothing_else() {
    let (dir, recipe) = sources("");
    let layout = dir.path().join("out");
    let first = application::build(&recipe, dir.path(), &layout).unwrap();
    assert_eq!(application::build(&recipe, dir.path(), &layout).unwrap().index, first.index);
    let error = application::build(&recipe, dir.path(), &dir.path().join("root")).unwrap_err();
    assert!(error.to_string().contains("is not an image layout"), "{error}");
    assert!(dir.path().join("root/etc/passwd").is_file());
}

#[test]
fn a_socket_in_the_folder_is_refused() {
    let (dir, recipe) = sources("");
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("root/socket")).unwrap();
    let error = application::build(&recipe, dir.path(), &dir.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("neither file, folder nor symbolic link"), "{error}");
    assert!(!dir.path().join("out").exists());
}
