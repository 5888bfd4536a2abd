//! Claims about recovery keys, with the real `cryptsetup` on a volume in a file.

use std::process::{Command, Stdio};

use protocol_types::{boot_record::Format1, recovery::Sealed};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as HPKE,
    hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey},
};

use super::*;

const VOLUME: &str = "7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c11";
const OTHER_VOLUME: &str = "7a4d3c60-5c1e-4a0b-9a57-0f6d2b1e8c12";
const KEY: &[u8] = b"the key that a TEE would give";

/// An account's recovery key.
struct Account {
    private: HpkePrivateKey,
    public: RecoveryKey,
}

impl Account {
    fn new() -> Self {
        let (public, private) = HPKE.generate_key_pair().unwrap();
        Self { private, public: RecoveryKey::from_bytes(public.0.try_into().unwrap()) }
    }

    fn open(&self, sealed: &SealedRecoveryKey) -> Option<Vec<u8>> {
        let (encapsulated, ciphertext) = sealed.sealed.parts();
        let (secret, volume) = (EncapsulatedSecret(encapsulated.to_vec()), sealed.volume.as_str().as_bytes());
        HPKE.open(&secret, SealedRecoveryKey::PURPOSE, volume, ciphertext, &self.private).ok()
    }
}

/// A state whose key is in a file.
struct Board(tempfile::TempDir);

impl Board {
    fn new() -> Self {
        let board = Self(tempfile::tempdir().unwrap());
        for folder in ["state", "run"] {
            fs::create_dir(board.0.path().join(folder)).unwrap();
        }
        let places = board.places();
        File::create(&places.device).unwrap().set_len(20 << 20).unwrap();
        let key = board.key();
        let (key_file, device) = (key.path(), places.device.to_str().unwrap());
        let format = ["luksFormat", "--batch-mode", "--type=luks2", "--uuid", VOLUME, "--pbkdf=pbkdf2"];
        let quick = ["--pbkdf-force-iterations=1000", "--key-file", &key_file, device];
        assert!(board.cryptsetup(&[&format[..], &quick[..]].concat()));
        drop(key);
        board
    }

    fn places(&self) -> Places {
        let at = |name| self.0.path().join(name);
        Places { device: at("device"), state: at("state"), factory: at("factory"), run: at("run") }
    }

    fn key(&self) -> KeyFile {
        KeyFile::holding(&self.places().run.join(OLD_KEY), KEY).unwrap()
    }

    fn cryptsetup(&self, arguments: &[&str]) -> bool {
        Command::new(CRYPTSETUP).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    fn boot(&self, account: &Account) -> Result<(), RecoveryError> {
        apply(Some(account.public), &self.places(), || Ok(Opener::Key(self.key())))
    }

    /// What the system is shown.
    fn shown(&self) -> Option<SealedRecoveryKey> {
        fs::read(self.places().run.join(KEPT)).ok().map(|bytes| SealedRecoveryKey::parse(&bytes).unwrap())
    }

    fn opens(&self, passphrase: &[u8]) -> bool {
        let file = KeyFile::holding(&self.0.path().join("passphrase"), passphrase).unwrap();
        let device = self.places().device;
        self.cryptsetup(&["open", "--test-passphrase", "--key-file", &file.path(), device.to_str().unwrap()])
    }

    /// How many key slots are in use.
    fn slots(&self) -> usize {
        let dump = Command::new(CRYPTSETUP).arg("luksDump").arg(self.places().device).output().unwrap();
        String::from_utf8(dump.stdout).unwrap().lines().filter(|line| line.ends_with(": luks2")).count()
    }
}

fn sealed(recipient: RecoveryKey, volume: &str) -> SealedRecoveryKey {
    let sealed = Sealed::new(&[1; 32], &[2; 80]).unwrap();
    SealedRecoveryKey { format: Format1, recipient, volume: volume.parse().unwrap(), sealed }
}

#[test]
fn a_slot_is_made_once_for_each_volume_and_account_and_for_nobody_without_a_key() {
    let (account, other) = (RecoveryKey::from_bytes([1; 32]), RecoveryKey::from_bytes([2; 32]));
    let volume = VOLUME.parse().unwrap();
    let kept = sealed(account, VOLUME);
    assert_eq!(plan(None, &volume, Some(&kept), true), Plan::Nothing);
    assert_eq!(plan(Some(account), &volume, Some(&kept), false), Plan::Show);
    assert_eq!(plan(Some(account), &volume, None, false), Plan::Add { recipient: account, over: false });
    assert_eq!(plan(Some(account), &volume, None, true), Plan::Add { recipient: account, over: true });
    assert_eq!(plan(Some(other), &volume, Some(&kept), false), Plan::Add { recipient: other, over: true });
    let earlier = sealed(account, OTHER_VOLUME);
    assert_eq!(plan(Some(account), &volume, Some(&earlier), false), Plan::Add { recipient: account, over: true });
}

#[test]
fn what_only_the_account_can_read_opens_the_state() {
    let (board, account) = (Board::new(), Account::new());
    board.boot(&account).unwrap();
    let shown = board.shown().unwrap();
    assert_eq!((shown.volume.as_str(), shown.recipient), (VOLUME, account.public));
    assert_eq!(Account::new().open(&shown), None, "another account reads nothing");
    let passphrase = account.open(&shown).unwrap();
    assert!(board.opens(&passphrase) && board.opens(KEY), "both keys open it");
    let moved = SealedRecoveryKey { volume: OTHER_VOLUME.parse().unwrap(), ..shown.clone() };
    assert_eq!(account.open(&moved), None, "it is sealed for one volume");
    // Nothing of it is left where it was handed over, and the next boot changes nothing.
    assert_eq!(fs::read_dir(board.places().run).unwrap().count(), 1);
    let header = fs::read(board.places().device).unwrap();
    board.boot(&account).unwrap();
    assert!(board.shown().unwrap() == shown && fs::read(board.places().device).unwrap() == header);
}

#[test]
fn a_cut_of_power_before_or_behind_the_slot_ends_with_one_slot_and_its_own_sealed_key() {
    let (board, account) = (Board::new(), Account::new());
    let places = board.places();
    // Before the slot: the sealed key is there alone.
    keep(&places.state, &sealed(account.public, VOLUME)).unwrap();
    board.boot(&account).unwrap();
    let first = account.open(&board.shown().unwrap()).unwrap();
    assert!(board.opens(&first) && board.slots() == 2);
    // Behind the slot: it is there, and its sealed key was not given its name yet.
    fs::rename(places.state.join(KEPT), places.state.join(PENDING)).unwrap();
    fs::remove_file(places.run.join(KEPT)).unwrap();
    board.boot(&account).unwrap();
    let second = account.open(&board.shown().unwrap()).unwrap();
    assert!(board.opens(&second) && !board.opens(&first) && board.slots() == 2);
    // A damaged one is as good as none.
    fs::write(places.state.join(KEPT), "{").unwrap();
    board.boot(&account).unwrap();
    let third = account.open(&board.shown().unwrap()).unwrap();
    assert!(board.opens(&third) && !board.opens(&second) && board.slots() == 2);
}

#[test]
fn a_slot_that_cannot_be_made_shows_nothing_and_is_tried_again() {
    let (board, account) = (Board::new(), Account::new());
    let wrong = || {
        let path = board.places().run.join(OLD_KEY);
        Ok(Opener::Key(KeyFile::holding(&path, b"not the key of this state").unwrap()))
    };
    let failed = apply(Some(account.public), &board.places(), wrong);
    assert!(matches!(failed, Err(RecoveryError::Add(_))), "{failed:?}");
    assert!(board.shown().is_none() && board.slots() == 1);
    board.boot(&account).unwrap();
    assert!(board.opens(&account.open(&board.shown().unwrap()).unwrap()));
}
