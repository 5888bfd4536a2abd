//! `mbl-apps` killed at any moment, a disk that lies, an agent that comes and goes: everything converges.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use protocol_types::{Digest, Network, socket::UpdaterToApps};
use support::{
    Device,
    image::{Image, Layer, Recipe, busybox},
    until,
};

const PIECE: u64 = 256 * 1024;

/// An image with one large blob, and the digest of that blob.
fn large() -> (Image, Digest) {
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let image = Recipe::new(&["/bin/hello"]).plain(Layer::new().file("large", &bytes)).build();
    let digest = *image.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().0;
    (image, digest)
}

/// Lets five pieces of the image arrive, then cuts the power.
fn cut_while_fetching(device: &mut Device, image: &Image, blob: &Digest) {
    device.shelf.lock().unwrap().pieces_left = Some(3 + 5);
    device.start();
    device.offer(image);
    device.send(UpdaterToApps::Prepare { release: image.release(), applications: vec![image.spec.clone()] });
    let partial = device.state().join("blobs/partial").join(blob.hex());
    until("five pieces", || fs::metadata(&partial).is_ok_and(|meta| meta.len() == 5 * PIECE));
    device.kill();
    let mut shelf = device.shelf.lock().unwrap();
    shelf.asked.clear();
    shelf.pieces_left = None;
}

fn offsets(device: &Device, blob: &Digest) -> Vec<u64> {
    device.shelf.lock().unwrap().asked.iter().filter(|(digest, _)| digest == blob).map(|(_, at)| *at).collect()
}

#[test]
fn a_blob_that_was_cut_off_goes_on_where_it_stopped() {
    let (image, blob) = large();
    let mut device = Device::new(&[]);
    cut_while_fetching(&mut device, &image, &blob);
    device.start();
    device.prepare(&image).unwrap();
    assert_eq!(offsets(&device, &blob).first(), Some(&(5 * PIECE)));
}

#[test]
fn a_partial_blob_that_the_disk_changed_is_fetched_from_the_beginning() {
    let (image, blob) = large();
    let mut device = Device::new(&[]);
    cut_while_fetching(&mut device, &image, &blob);
    let mut partial = File::options().write(true).open(device.state().join("blobs/partial").join(blob.hex())).unwrap();
    partial.seek(SeekFrom::Start(4 * PIECE)).unwrap();
    partial.write_all(&[0; 4096]).unwrap();
    device.start();
    device.prepare(&image).unwrap();
    let asked = offsets(&device, &blob);
    assert_eq!(asked.first(), Some(&(5 * PIECE)));
    assert!(asked.contains(&0), "{asked:?}");
}

#[test]
fn a_stored_blob_that_the_disk_changed_is_fetched_again() {
    let (image, blob) = large();
    let other = Recipe::new(&["/bin/other"]);
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.prepare(&image).unwrap();
    let path = device.state().join("blobs/sha256").join(blob.hex());
    let mut stored = File::options().write(true).open(&path).unwrap();
    stored.seek(SeekFrom::Start(1_000_000)).unwrap();
    stored.write_all(b"damaged").unwrap();
    device.shelf.lock().unwrap().asked.clear();
    // Another image with the same layer has to unpack it again.
    let layer = image.blobs[&blob].clone();
    let other = other.layer(support::image::TAR, layer, blob).build();
    device.offer(&other);
    device.prepare(&other).unwrap();
    assert!(offsets(&device, &blob).contains(&0), "the damage was not noticed");
    assert_eq!(Digest::of(&fs::read(path).unwrap()), blob);
}

#[test]
fn an_agent_that_comes_back_lets_the_work_go_on() {
    let (image, blob) = large();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.shelf.lock().unwrap().pieces_left = Some(6);
    device.send(UpdaterToApps::Prepare { release: image.release(), applications: vec![image.spec.clone()] });
    until("three pieces", || {
        let partial = device.state().join("blobs/partial").join(blob.hex());
        fs::metadata(&partial).is_ok_and(|meta| meta.len() == 3 * PIECE)
    });
    device.shelf.lock().unwrap().pieces_left = None;
    device.prepared(image.release()).unwrap();
    let mut asked = offsets(&device, &blob);
    asked.dedup();
    assert!(asked.is_sorted() && asked.iter().filter(|at| **at == 0).count() == 1, "{asked:?}");
}

#[test]
fn a_wish_to_run_what_is_there_does_not_wait_for_one_that_cannot_be_fetched() {
    let (stuck, _) = large();
    let good = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&[]);
    device.offer(&good);
    device.prepare(&good).unwrap();
    device.shelf.lock().unwrap().pieces_left = Some(0);
    device.send(UpdaterToApps::Prepare { release: stuck.release(), applications: vec![stuck.spec.clone()] });
    device.run(&good);
    device.ready(&good);
    // And it did not forget the other.
    device.offer(&stuck);
    device.shelf.lock().unwrap().pieces_left = None;
    device.prepared(stuck.release()).unwrap();
}

/// An image of many files, each of which says what it must hold.
fn many_files() -> Image {
    let lower = (0..1500).fold(Layer::new(), |layer, n| layer.file(&format!("d{}/f{n}", n % 40), &vec![b'x'; n * 7]));
    let upper = (0..200).fold(Layer::new(), |layer, n| layer.file(&format!("d{}/.wh.f{n}", n % 40), b""));
    Recipe::new(&["/bin/hello"]).gzip(lower).zstd(upper).build()
}

fn sizes(dir: &Path, into: &mut BTreeMap<String, u64>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            sizes(&path, into);
        } else {
            into.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), meta.len());
        }
    }
}

#[test]
fn a_power_cut_while_unpacking_never_leaves_half_an_image_under_its_name() {
    let image = many_files();
    let mut device = Device::new(&[]);
    device.offer(&image);
    let mut cut_in_the_middle = 0;
    for delay_ms in [0, 5, 10, 20, 40, 60, 80, 100, 130, 160, 200, 250] {
        device.start();
        device.send(UpdaterToApps::Prepare { release: image.release(), applications: vec![image.spec.clone()] });
        let unpacking = device.state().join("images/unpacking");
        until("the first file, or the end", || unpacking.exists() || !device.unpacked().is_empty());
        let (_never, wait) = std::sync::mpsc::channel::<()>();
        let _time_is_up = wait.recv_timeout(Duration::from_millis(delay_ms));
        device.kill();
        cut_in_the_middle += usize::from(unpacking.exists());
        assert_whole(&device, &image);
        let recorded = !support::names(&device.state().join("sets")).is_empty();
        assert!(!recorded || whole_images(&device) == 1, "a set was recorded without its image");
    }
    assert!(cut_in_the_middle > 0, "no cut hit the middle of the work");
    device.start();
    device.prepare(&image).unwrap();
    assert_eq!(whole_images(&device), 1);
    assert_whole(&device, &image);
}

fn whole_images(device: &Device) -> usize {
    device.unpacked().iter().filter(|name| *name != "unpacking").count()
}

/// Whatever bears an image's name holds every file of the image and no other.
fn assert_whole(device: &Device, image: &Image) {
    for name in device.unpacked().iter().filter(|name| *name != "unpacking") {
        assert!(name.starts_with(&image.manifest.hex()));
        let mut found = BTreeMap::new();
        sizes(&device.state().join("images").join(name).join("rootfs"), &mut found);
        let expected: BTreeMap<_, _> = (200..1500u64).map(|n| (format!("f{n}"), n * 7)).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn what_was_prepared_before_a_cut_is_ready_without_asking_the_agent() {
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    let mut device = Device::running(&[]);
    device.offer(&image);
    device.prepare(&image).unwrap();
    device.kill();
    device.start();
    device.shelf.lock().unwrap().pieces_left = Some(0);
    device.run(&image);
    device.ready(&image);
}

#[test]
fn a_container_that_outlived_its_keeper_gives_its_port_back() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = |word: &str| {
        let script =
            format!("mkdir -p /tmp/www; echo {word} > /tmp/www/x; exec /bin/busybox httpd -f -p {port} -h /tmp/www");
        Recipe::new(&["/bin/sh", "-c", &script]).gzip(busybox()).run(|run| run.network = Network::Host)
    };
    let check = format!("http://127.0.0.1:{port}/x");
    let (old, new) = (server("old").build(), server("new").ready(&["/bin/wget", "-q", "-O", "-", &check]).build());
    let mut device = Device::running(&[]);
    device.offer(&old);
    device.offer(&new);
    device.run(&old);
    device.ready(&old);
    let open = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    until("the port", open);
    device.kill();
    assert!(open(), "the container did not outlive its keeper, so this test shows nothing");
    device.start();
    assert!(!open(), "the old container still runs");
    device.run(&new);
    let status = device.ready(&new);
    assert_eq!(status.restarts, 0);
}

#[test]
fn killed_again_and_again_while_switching_it_ends_with_exactly_the_wanted_set() {
    let image = |word: &str| Recipe::script(&format!("echo {word}; trap exit TERM; sleep 600 & wait")).build();
    let (one, two) = (image("one"), image("two"));
    let mut device = Device::running(&[]);
    device.offer(&one);
    device.offer(&two);
    device.prepare(&one).unwrap();
    device.prepare(&two).unwrap();
    for delay_ms in [0, 10, 30, 50, 80, 120, 200] {
        device.run(&one);
        device.run(&two);
        let (_never, wait) = std::sync::mpsc::channel::<()>();
        let _time_is_up = wait.recv_timeout(Duration::from_millis(delay_ms));
        device.kill();
        device.start();
    }
    device.run(&two);
    let status = device.ready(&two);
    assert_eq!(status.digest, two.spec.digest);
    device.stop();
    let dir = device.dir.path().canonicalize().unwrap();
    let instance = &Digest::of(dir.to_str().unwrap().as_bytes()).hex()[..12];
    assert!(!Path::new("/run/mbl-apps").join(instance).exists(), "an orderly stop left something behind");
    let groups = Path::new("/sys/fs/cgroup")
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().path().join(format!("mbl-{instance}-hello")));
    assert_eq!(groups.filter(|group| group.exists()).count(), 0, "a control group was left behind");
}

#[test]
fn a_device_without_applications_leaves_nothing_in_run_either() {
    let mut device = Device::running(&[]);
    let dir = device.dir.path().canonicalize().unwrap();
    let volatile = Path::new("/run/mbl-apps").join(&Digest::of(dir.to_str().unwrap().as_bytes()).hex()[..12]);
    assert!(volatile.exists());
    device.stop();
    assert!(!volatile.exists());
}

#[test]
fn only_one_process_serves_a_device() {
    let mut device = Device::running(&[]);
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_mbl-apps"));
    let status = second.args(["run", "--device-dir"]).arg(device.dir.path()).status().unwrap();
    assert!(!status.success());
    // The first one was not disturbed.
    let image = Recipe::script("trap exit TERM; sleep 600 & wait").build();
    device.offer(&image);
    device.prepare(&image).unwrap();
}
