//! Bad images, each refused with its own code by the real process, and nothing left behind.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

mod support;

use std::{fs, path::PathBuf};

use protocol_types::{
    Digest, ReasonCode,
    socket::{FetchError, UpdaterToApps},
};
use serde_json::json;
use support::{
    Device,
    image::{GZIP, Image, Layer, Recipe, TAR, ZSTD, gzip, zstd},
};
use tar::{EntryType, Header};

/// Prepares `image` on a device with `options`; the code of the refusal. Nothing may be unpacked or recorded then.
fn refusal_with(options: &[&str], image: &Image) -> ReasonCode {
    let mut device = Device::running(options);
    device.offer(image);
    refusal_on(&mut device, image)
}

fn refusal_on(device: &mut Device, image: &Image) -> ReasonCode {
    let refused = device.prepare(image).expect_err("the image was accepted");
    assert_eq!(device.unpacked(), [""; 0], "a refused image left something behind: {refused}");
    assert_eq!(support::names(&device.state().join("sets")), [""; 0], "a refused set was recorded");
    refused.code
}

fn refusal(image: &Image) -> ReasonCode {
    refusal_with(&[], image)
}

fn recipe() -> Recipe {
    Recipe::new(&["/bin/hello"])
}

fn layer(layer: Layer) -> ReasonCode {
    refusal(&recipe().gzip(layer).build())
}

fn hello() -> Layer {
    Layer::new().folder("bin").file("bin/hello", b"#!")
}

#[test]
fn an_index_that_is_not_json_is_malformed() {
    let mut image = recipe().gzip(hello()).build();
    let bytes = b"{\"schemaVersion\": 2, \"manifests\": [".to_vec();
    (image.spec.digest, image.spec.size) = (Digest::of(&bytes), bytes.len() as u64);
    image.blobs.insert(image.spec.digest, bytes);
    assert_eq!(refusal(&image), ReasonCode::MalformedImage);
}

#[test]
fn a_manifest_with_a_wrong_shape_is_malformed() {
    let bent = recipe().gzip(hello()).manifest(|m| m["layers"] = json!("none")).build();
    assert_eq!(refusal(&bent), ReasonCode::MalformedImage);
}

#[test]
fn a_document_that_is_both_index_and_manifest_is_malformed() {
    let bent = recipe().gzip(hello()).index(|index| index["layers"] = json!([])).build();
    assert_eq!(refusal(&bent), ReasonCode::MalformedImage);
}

#[test]
fn a_configuration_without_a_command_is_malformed() {
    let bent = recipe().gzip(hello()).config(|c| c["config"] = json!({})).build();
    assert_eq!(refusal(&bent), ReasonCode::MalformedImage);
}

#[test]
fn a_configuration_with_another_number_of_layers_is_malformed() {
    let bent = recipe().gzip(hello()).config(|c| c["rootfs"]["diff_ids"] = json!([])).build();
    assert_eq!(refusal(&bent), ReasonCode::MalformedImage);
}

#[test]
fn a_layer_of_an_unknown_media_type_is_malformed() {
    let bent = recipe().layer("application/vnd.example.layer+xz", vec![1], Digest::of(b"")).build();
    assert_eq!(refusal(&bent), ReasonCode::MalformedImage);
}

#[test]
fn an_image_for_other_processors_only_is_of_the_wrong_architecture() {
    let other = recipe().gzip(hello()).index(|i| i["manifests"][0]["platform"]["architecture"] = json!("riscv64"));
    assert_eq!(refusal(&other.build()), ReasonCode::WrongArchitecture);
}

#[test]
fn a_configuration_for_another_processor_is_of_the_wrong_architecture() {
    let other = recipe().gzip(hello()).config(|c| c["architecture"] = json!("s390x")).build();
    assert_eq!(refusal(&other), ReasonCode::WrongArchitecture);
}

#[test]
fn a_layer_with_an_upward_path_is_unsafe() {
    assert_eq!(layer(hello().file("bin/../../../etc/cron.d/x", b"x")), ReasonCode::UnsafeLayer);
}

#[test]
fn a_layer_with_an_absolute_path_is_unsafe() {
    assert_eq!(layer(hello().file("/etc/cron.d/x", b"x")), ReasonCode::UnsafeLayer);
}

#[test]
fn a_layer_that_writes_through_its_own_symbolic_link_is_unsafe() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    assert_eq!(layer(hello().symlink("door", target).file("door/x", b"x")), ReasonCode::UnsafeLayer);
    assert_eq!(support::names(outside.path()), [""; 0], "something was written outside");
}

#[test]
fn a_layer_that_writes_through_a_symbolic_link_of_a_lower_layer_is_unsafe() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "kept").unwrap();
    let lower = hello().symlink("door", outside.path().to_str().unwrap());
    for upper in [Layer::new().file("door/victim", b"x"), Layer::new().file("door/.wh.victim", b"")] {
        let lower = lower_again(&outside);
        assert_eq!(refusal(&recipe().gzip(lower).zstd(upper).build()), ReasonCode::UnsafeLayer);
    }
    drop(lower);
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"kept");
}

fn lower_again(outside: &tempfile::TempDir) -> Layer {
    hello().symlink("door", outside.path().to_str().unwrap())
}

#[test]
fn a_relative_symbolic_link_that_leads_upwards_is_never_followed() {
    assert_eq!(layer(hello().symlink("up", "../../..").file("up/x", b"x")), ReasonCode::UnsafeLayer);
}

#[test]
fn a_hard_link_to_something_outside_is_unsafe() {
    assert_eq!(layer(hello().hardlink("shadow", "/etc/shadow")), ReasonCode::UnsafeLayer);
    assert_eq!(layer(hello().hardlink("shadow", "../../../../etc/shadow")), ReasonCode::UnsafeLayer);
}

#[test]
fn a_hard_link_through_a_symbolic_link_is_unsafe() {
    assert_eq!(layer(hello().symlink("door", "/etc").hardlink("shadow", "door/shadow")), ReasonCode::UnsafeLayer);
}

#[test]
fn a_hard_link_to_what_is_not_there_is_malformed() {
    assert_eq!(layer(hello().hardlink("x", "bin/nothing")), ReasonCode::MalformedImage);
}

#[test]
fn device_files_and_pipes_are_unsafe() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        assert_eq!(layer(hello().entry(kind, "dev/x", None, b"")), ReasonCode::UnsafeLayer, "{kind:?}");
    }
}

#[test]
fn an_owner_that_is_no_id_of_a_container_is_unsafe() {
    let mut header = Header::new_gnu();
    header.set_path("x").unwrap();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_gid(0);
    header.set_uid(1_000_000);
    header.set_cksum();
    assert_eq!(layer(hello().header(&header, b"")), ReasonCode::UnsafeLayer);
}

#[test]
fn a_layer_that_unpacks_to_more_than_the_limit_is_oversized() {
    let zeros = vec![0; 32 << 20];
    for media_type in [GZIP, ZSTD] {
        let tar = hello().file("bomb", &zeros).tar();
        let blob = if media_type == GZIP { gzip(&tar) } else { zstd(&tar) };
        assert!(blob.len() < 1 << 20, "the bomb is small");
        let bomb = recipe().layer(media_type, blob, Digest::of(&tar)).build();
        assert_eq!(refusal_with(&["--max-image-bytes", "16777216"], &bomb), ReasonCode::Oversized, "{media_type}");
    }
}

#[test]
fn an_image_with_more_entries_than_the_limit_is_oversized() {
    let many = (0..200).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), b""));
    let more = (0..200).fold(Layer::new(), |layer, n| layer.file(&format!("g{n}"), b""));
    let image = recipe().gzip(many).gzip(more).build();
    assert_eq!(refusal_with(&["--max-image-entries", "300"], &image), ReasonCode::Oversized);
}

#[test]
fn folders_that_only_paths_name_count_as_entries_do() {
    let deep = (0..20).fold(hello(), |layer, n| layer.file(&format!("{n}/{}f", "a/".repeat(45)), b""));
    let image = recipe().gzip(deep).build();
    assert_eq!(refusal_with(&["--max-image-entries", "300"], &image), ReasonCode::Oversized);
}

#[test]
fn a_layer_larger_than_the_limit_for_blobs_is_oversized_before_it_is_fetched() {
    let image = recipe().plain(hello().file("large", &[7; 200_000])).build();
    let mut device = Device::running(&["--max-blob-bytes", "100000"]);
    device.offer(&image);
    assert_eq!(refusal_on(&mut device, &image), ReasonCode::Oversized);
    let large = image.blobs.iter().find(|(_, bytes)| bytes.len() > 100_000).unwrap().0;
    assert!(device.shelf.lock().unwrap().asked.iter().all(|(digest, _)| digest != large), "it was asked for");
}

#[test]
fn a_document_of_more_than_a_mebibyte_is_oversized() {
    let image = recipe().gzip(hello()).manifest(|m| m["annotations"] = json!({ "x": "y".repeat(1 << 20) })).build();
    assert_eq!(refusal(&image), ReasonCode::Oversized);
}

#[test]
fn a_truncated_gzip_or_zstd_stream_is_malformed() {
    let tar = hello().file("noise", &noise(100_000)).tar();
    for (media_type, blob) in [(GZIP, gzip(&tar)), (ZSTD, zstd(&tar))] {
        let cut = blob[..blob.len() / 2].to_vec();
        let image = recipe().layer(media_type, cut, Digest::of(&tar)).build();
        assert_eq!(refusal(&image), ReasonCode::MalformedImage, "{media_type}");
    }
}

#[test]
fn a_truncated_archive_is_malformed() {
    let tar = hello().file("noise", &noise(100_000)).tar();
    let cut = tar[..50_000].to_vec();
    let digest = Digest::of(&cut);
    assert_eq!(refusal(&recipe().layer(TAR, cut, digest).build()), ReasonCode::MalformedImage);
}

#[test]
fn a_blob_with_other_bytes_than_its_digest_is_a_mismatch() {
    let image = recipe().gzip(hello().file("noise", &noise(300_000))).build();
    let (digest, bytes) = image.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let mut device = Device::running(&[]);
    device.offer(&image);
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    device.shelf.lock().unwrap().blobs.insert(*digest, other);
    assert_eq!(refusal_on(&mut device, &image), ReasonCode::DigestMismatch);
    assert_eq!(support::names(&device.state().join("blobs/partial")), [""; 0], "the wrong bytes were kept");
    // Nothing is poisoned: with the right bytes the same set is accepted.
    device.offer(&image);
    device.prepare(&image).unwrap();
}

#[test]
fn a_layer_with_another_diff_id_is_a_mismatch() {
    let tar = hello().tar();
    assert_eq!(refusal(&recipe().layer(GZIP, gzip(&tar), Digest::of(b"other")).build()), ReasonCode::DigestMismatch);
}

#[test]
fn a_blob_that_the_source_lacks_is_not_found() {
    let mut image = recipe().gzip(hello()).build();
    image.blobs.retain(|digest, _| *digest != image.manifest);
    assert_eq!(refusal(&image), ReasonCode::NotFound);
}

#[test]
fn a_blob_that_ends_early_is_truncated() {
    let image = recipe().gzip(hello()).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.shelf.lock().unwrap().instead.insert(image.manifest, Ok(b"{".to_vec()));
    assert_eq!(refusal_on(&mut device, &image), ReasonCode::Truncated);
}

#[test]
fn a_source_that_sends_more_than_was_asked_for_is_oversized() {
    let image = recipe().gzip(hello()).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.shelf.lock().unwrap().instead.insert(image.manifest, Ok(vec![b' '; 200_000]));
    assert_eq!(refusal_on(&mut device, &image), ReasonCode::Oversized);
}

#[test]
fn a_source_that_refuses_the_device_is_reported_at_once() {
    let image = recipe().gzip(hello()).build();
    let mut device = Device::running(&[]);
    device.shelf.lock().unwrap().instead.insert(image.spec.digest, Err(FetchError::Refused));
    assert_eq!(refusal_on(&mut device, &image), ReasonCode::Unreachable);
}

#[test]
fn a_user_that_the_image_does_not_define_is_told_when_it_should_start() {
    let image = Recipe::script("sleep 60").config(|c| c["config"]["User"] = json!("nobody-here")).build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.prepare(&image).unwrap();
    device.run(&image);
    let failed = device
        .status("a failed start", &image, |status| status.state == protocol_types::socket::ApplicationState::Failed);
    assert_eq!(failed.reason.unwrap().code, ReasonCode::MalformedImage);
}

#[test]
fn a_release_that_asks_for_the_impossible_is_malformed() {
    let refuse = |recipe: Recipe| refusal(&recipe.gzip(hello()).build());
    assert_eq!(refuse(recipe().ready(&["wget"])), ReasonCode::MalformedRelease);
    assert_eq!(refuse(recipe().run(|run| run.pids = 0)), ReasonCode::MalformedRelease);
    assert_eq!(refuse(recipe().run(|run| run.memory_bytes = 1)), ReasonCode::MalformedRelease);
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Runs `mbl-apps` where `state/apps` is a file system of `size`, in a mount namespace of its own.
fn device_with_disk(size: &str) -> Device {
    let device = Device::new(&[]);
    let state = device.state();
    let mount = format!("mkdir -p {0} && mount -t tmpfs -o size={size} none {0} && exec \"$@\"", state.display());
    device.through(&["unshare", "--mount", "sh", "-c", &mount, "sh"])
}

/// A place in the store as the process sees it, whose mount nobody else does.
fn inside(device: &Device, place: &str) -> PathBuf {
    format!("/proc/{}/root{}", device.pid(), device.state().join(place).display()).into()
}

fn names_inside(device: &Device, folder: &str) -> Vec<String> {
    support::names(&inside(device, folder))
}

#[test]
fn a_blob_that_does_not_fit_the_disk_is_refused_and_leaves_the_room_free() {
    let mut device = device_with_disk("4m");
    device.start();
    let image = recipe().plain(hello().file("noise", &noise(6 << 20))).build();
    device.offer(&image);
    assert_eq!(device.prepare(&image).unwrap_err().code, ReasonCode::NoRoom);
    let small = recipe().gzip(hello()).build();
    device.offer(&small);
    device.prepare(&small).unwrap();
}

#[test]
fn layers_for_which_there_is_no_room_together_are_not_asked_for() {
    let mut device = device_with_disk("4m");
    device.start();
    let half = |name: &str| hello().file(name, &noise(5 << 19));
    let image = recipe().plain(half("a")).plain(half("b")).build();
    device.offer(&image);
    assert_eq!(device.prepare(&image).unwrap_err().code, ReasonCode::NoRoom);
    let shelf = device.shelf.lock().unwrap();
    let is_layer = |digest: &Digest| image.blobs.get(digest).is_some_and(|bytes| bytes.len() > 1 << 20);
    assert!(!shelf.asked.iter().any(|(digest, _)| is_layer(digest)), "some of it was fetched");
}

#[test]
fn what_was_begun_and_is_not_wanted_any_more_makes_room_for_what_is() {
    let mut device = device_with_disk("4m");
    device.start();
    let large = |name: &str| recipe().plain(hello().file(name, &noise(3 << 19))).build();
    let (given_up, wanted) = (large("a"), large("b"));
    let layer_of = |image: &Image| *image.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().0;
    device.offer(&given_up);
    device.offer(&wanted);
    // Index, manifest, configuration and five pieces of its layer.
    device.shelf.lock().unwrap().pieces_left = Some(3 + 5);
    let applications = vec![given_up.spec.clone()];
    device.send(UpdaterToApps::Prepare { release: given_up.release(), applications });
    let partial = inside(&device, &format!("blobs/partial/{}", layer_of(&given_up).hex()));
    support::until("five pieces", || fs::metadata(&partial).is_ok_and(|meta| meta.len() == 5 * 256 * 1024));
    {
        let mut shelf = device.shelf.lock().unwrap();
        shelf.pieces_left = None;
        // Nor can the rest of it come any more.
        shelf.blobs.remove(&layer_of(&given_up));
    }
    // The layer and the image made of it fit only without those pieces.
    device.prepare(&wanted).unwrap();
    assert!(!partial.exists());
    let shelf = device.shelf.lock().unwrap();
    let pieces: Vec<u64> =
        shelf.asked.iter().filter(|(digest, _)| *digest == layer_of(&wanted)).map(|(_, at)| *at).collect();
    assert!(pieces.is_sorted_by(|one, next| one < next), "its own layer was brought twice: {pieces:?}");
}

#[test]
fn an_image_that_does_not_fit_the_disk_is_refused_and_leaves_the_room_free() {
    let mut device = device_with_disk("4m");
    device.start();
    let image = recipe().gzip(hello().file("zeros", &vec![0; 6 << 20])).build();
    device.offer(&image);
    assert_eq!(device.prepare(&image).unwrap_err().code, ReasonCode::NoRoom);
    assert_eq!(names_inside(&device, "images"), [""; 0]);
    let small = recipe().gzip(hello()).build();
    device.offer(&small);
    device.prepare(&small).unwrap();
}

#[test]
fn a_disk_that_fills_while_unpacking_leaves_nothing_behind() {
    // Names take room that no announcement counts: ten thousand links in a file system with few inodes.
    let device = Device::new(&[]);
    let state = device.state();
    let mount =
        format!("mkdir -p {0} && mount -t tmpfs -o size=64m,nr_inodes=200 none {0} && exec \"$@\"", state.display());
    let mut device = device.through(&["unshare", "--mount", "sh", "-c", &mount, "sh"]);
    device.start();
    let many = (0..500).fold(hello(), |layer, n| layer.file(&format!("f{n}"), b"x"));
    let image = recipe().gzip(many).build();
    device.offer(&image);
    assert_eq!(device.prepare(&image).unwrap_err().code, ReasonCode::NoRoom);
    assert_eq!(names_inside(&device, "images"), [""; 0]);
    let small = recipe().gzip(hello()).build();
    device.offer(&small);
    device.prepare(&small).unwrap();
}
