//! An account: the keys that its officers keep offline, the factory whose devices it trusts, and the releases that it publishes through
//! the API. Each byte that one of its devices may hold names the account.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use device_agent::{
    factory::{Begun, FactoryStep},
    key_store::KeyStore,
    layout::DeviceFolder,
};
use fleet_api::{PublishMetadata, RepositoryKeys, ServiceFacts};
use protocol_release::{
    document::{
        BLOCK_BYTES, Blocks, Component, FormatOne, Health, HostUki, Kind, OsIndex, Release, Section, SectionName,
    },
    metadata::{Delegate, PublicKey},
    signing::{Algorithm, Holders, RootDraft, SignedFile, SigningKey, TargetsDraft},
};
use protocol_types::{AccountName, Digest, EndpointName, FactoryDocument, SecurityVersion, TargetPath, UnixSeconds};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};

use crate::operator::Operator;

/// No metadata of a simulation ends, apart from the timestamps that the service keeps fresh.
const FAR: UnixSeconds = UnixSeconds(4_000_000_000);
/// When the devices were made.
pub(crate) const PROVISIONED: UnixSeconds = UnixSeconds(1_798_000_000);
/// Blocks of an operating system, most of them the same in every version.
const IMAGE_BLOCKS: u32 = 5;
/// How long a trial may take, and how long without any network.
const HEALTH: Health = Health { time_limit_s: 180, no_contact_limit_s: 900 };

/// An operating system, as it lies in a slot.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) image: Vec<u8>,
    pub(crate) uki: Vec<u8>,
    /// What the loader calls it.
    pub(crate) root: Digest,
}

/// A release as the simulation knows it, whatever the service says of it.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) version: String,
    pub(crate) digest: Digest,
    pub(crate) root: Digest,
    pub(crate) security_version: SecurityVersion,
    pub(crate) raises_floor: bool,
    /// In so many of a thousand devices it does not prove itself.
    pub(crate) bad: u64,
}

struct Inner {
    name: AccountName,
    operator: Operator,
    facts: ServiceFacts,
    factory: Issuer<'static, KeyPair>,
    release: SigningKey,
    publisher: SigningKey,
    root: String,
    drafts: RefCell<Drafts>,
    published: RefCell<Vec<Published>>,
    /// Every digest that a device of the account may ask for.
    digests: RefCell<BTreeSet<Digest>>,
}

struct Drafts {
    targets: TargetsDraft,
    os: TargetsDraft,
}

/// An account. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Account(Rc<Inner>);

fn key() -> SigningKey {
    SigningKey::generate(Algorithm::Ed25519).expect("a key")
}

impl Account {
    /// Makes the account through `administrator`, with a root of trust and a factory, and lets it enrol every device of the factory.
    pub(crate) async fn open(administrator: &Operator, name: &str) -> Self {
        let made = administrator.post("/accounts", &json!({ "name": name }), None).await;
        let operator = administrator.with_token(made["token"]["secret"].as_str().expect("a token"));
        let facts: ServiceFacts = serde_json::from_value(operator.get("/service").await).expect("service facts");
        let (certificate, factory) = factory(name);
        let authority = json!({ "name": "factory", "certificate": certificate });
        let authority = operator.post("/authorities", &authority, None).await;
        operator.post("/enrolments", &json!({ "authority": authority["id"] }), None).await;

        let repository = operator.get("/repository").await;
        let keys: RepositoryKeys = serde_json::from_value(repository["keys"].clone()).expect("repository keys");
        let (officer, release, publisher) = (key(), key(), key());
        let online = |value: &Value| serde_json::from_value::<PublicKey>(value.clone()).expect("a public key");
        let root = RootDraft {
            version: 1,
            expires: FAR,
            root: Holders::one(officer.public()),
            targets: Holders::one(release.public()),
            snapshot: Holders::one(&online(&keys.snapshot)),
            timestamp: Holders::one(&online(&keys.timestamp)),
        };
        let root = root.sign(&[officer.source()]).await.expect("a signed root");
        let inner = Inner {
            name: name.parse().expect("an account name"),
            operator,
            facts,
            factory,
            release,
            publisher,
            root: String::from_utf8(root.bytes).expect("JSON"),
            drafts: RefCell::new(Drafts { targets: TargetsDraft::new(0, FAR), os: TargetsDraft::new(0, FAR) }),
            published: RefCell::default(),
            digests: RefCell::default(),
        };
        Self(Rc::new(inner))
    }

    pub(crate) fn name(&self) -> &AccountName {
        &self.0.name
    }

    pub(crate) fn operator(&self) -> &Operator {
        &self.0.operator
    }

    /// The release with this digest, if the account published it.
    pub(crate) fn release(&self, digest: Digest) -> Option<Published> {
        self.0.published.borrow().iter().find(|release| release.digest == digest).cloned()
    }

    /// The release whose operating system the loader calls `root`.
    pub(crate) fn release_of_root(&self, root: Digest) -> Option<Published> {
        self.0.published.borrow().iter().find(|release| release.root == root).cloned()
    }

    /// Whether the account published an artifact with this digest.
    pub(crate) fn owns(&self, digest: Digest) -> bool {
        self.0.digests.borrow().contains(&digest)
    }

    /// What the factory writes onto a new device.
    pub(crate) fn first_system(&self) -> System {
        system(self.0.name.as_str(), "1.0.0")
    }

    /// Does the factory step of a new device in `folder`; answers the digest that its key store recorded.
    pub(crate) fn provision(&self, folder: &DeviceFolder, endpoint: &EndpointName) -> Digest {
        let who = Some((self.0.name.clone(), endpoint.clone()));
        let begun = FactoryStep::begin(folder.clone(), KeyStore::of(folder, None), who, None).expect("a factory step");
        let Begun::Waiting(step) = begun else { unreachable!("{endpoint} is new") };
        let request = step.request().expect("a request");
        let mut request = CertificateSigningRequestParams::from_pem(&request).expect("a request");
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = request.signed_by(&self.0.factory).expect("a certificate").pem();
        let package = json!({ "document": self.document(endpoint), "certificate": certificate });
        step.accept(package.to_string().as_bytes()).expect("a package that fits")
    }

    fn document(&self, endpoint: &EndpointName) -> FactoryDocument {
        FactoryDocument {
            format: 1,
            endpoint: endpoint.clone(),
            account: self.0.name.clone(),
            board: "host".parse().expect("a board"),
            architecture: std::env::consts::ARCH.parse().expect("an architecture"),
            bootstrap_uri: self.0.facts.bootstrap_uri.clone(),
            service_authority: self.0.facts.authority.clone(),
            tuf_root: self.0.root.clone(),
            time_key: self.0.facts.time_key.clone(),
            provisioned: PROVISIONED,
            recovery_key: None,
        }
    }

    /// Builds, uploads, signs and publishes a release.
    pub(crate) async fn publish(&self, version: &str, (security_version, raises_floor): (u32, bool), bad: u64) {
        let System { image, uki, root } = system(self.0.name.as_str(), version);
        let list = block_list(&image);
        let blocks = Blocks { size: size(&list), digest: Digest::of(&list) };
        let sections = vec![
            Section { name: SectionName::Root, digest: Digest::of(&image), size: size(&image), blocks },
            self.small_section(SectionName::Uki, &uki).await,
        ];
        let board = "host".parse().expect("a board");
        let number = version.parse().expect("a version");
        let index = OsIndex { format: FormatOne, board, version: number, sections, root_hash: None };
        let index = index.to_bytes().expect("an index");
        let path: TargetPath = format!("os/host/{version}.json").parse().expect("a path");
        let component = Component {
            kind: Kind::Os,
            path: path.clone(),
            digest: Digest::of(&index),
            size: size(&index),
            version: version.parse().expect("a version"),
            boards: Vec::new(),
            architectures: Vec::new(),
            minimum_updater: 1,
        };
        let release = Release {
            format: FormatOne,
            version: version.parse().expect("a version"),
            security_version: SecurityVersion(security_version),
            raises_floor,
            health: HEALTH,
            components: vec![component],
        };
        let document = release.to_bytes().expect("a release");
        let digest = Digest::of(&document);
        for bytes in [&image, &list, &uki, &index, &document] {
            self.upload(bytes).await;
        }
        self.0.published.borrow_mut().push(Published {
            version: version.to_owned(),
            digest,
            root,
            security_version: SecurityVersion(security_version),
            raises_floor,
            bad,
        });
        {
            let mut drafts = self.0.drafts.borrow_mut();
            drafts.os.insert(path, &index);
            drafts.targets.insert(release.target_path().expect("a path"), &document);
        }
        self.sign_and_send().await;
    }

    /// A section that is one block list of its own.
    async fn small_section(&self, name: SectionName, bytes: &[u8]) -> Section {
        let list = block_list(bytes);
        self.upload(&list).await;
        let blocks = Blocks { size: size(&list), digest: Digest::of(&list) };
        Section { name, digest: Digest::of(bytes), size: size(bytes), blocks }
    }

    async fn upload(&self, bytes: &[u8]) {
        let digest = Digest::of(bytes);
        self.0.digests.borrow_mut().insert(digest);
        self.0.operator.upload(&digest.to_string(), &digest.hex(), bytes).await;
    }

    async fn sign_and_send(&self) {
        let (targets, os) = {
            let mut drafts = self.0.drafts.borrow_mut();
            drafts.targets.version += 1;
            drafts.os.version += 1;
            drafts.targets.delegations = BTreeMap::from([(Delegate::Os, Holders::one(self.0.publisher.public()))]);
            (drafts.targets.clone(), drafts.os.clone())
        };
        let targets = targets.sign(&[self.0.release.source()]).await.expect("signed targets");
        let os = os.sign_as(&Delegate::Os, &[self.0.publisher.source()]).await.expect("signed targets of the OS");
        let text = |file: SignedFile| (file.name, String::from_utf8(file.bytes).expect("JSON"));
        let mut files = BTreeMap::from([text(targets), text(os)]);
        files.insert("1.root.json".to_owned(), self.0.root.clone());
        let body = serde_json::to_value(PublishMetadata { files }).expect("JSON");
        self.0.operator.post("/repository/metadata", &body, None).await;
    }
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a small file")
}

/// An operating system: a few blocks, the first of which say whose it is and which version.
fn system(account: &str, version: &str) -> System {
    let block = usize::try_from(BLOCK_BYTES).expect("a small block");
    let mut image = Vec::new();
    for number in 0..IMAGE_BLOCKS {
        let changes = number < 2;
        let text = if changes { format!("{account} {version} {number};") } else { format!("{account} {number};") };
        image.extend(text.bytes().cycle().take(block));
    }
    let root = Digest::of(&block_list(&image));
    let os_release = [("VERSION_ID".to_owned(), version.to_owned())].into();
    let uki = HostUki { root, size: size(&image), os_release }.to_bytes().expect("a kernel image");
    System { image, uki, root }
}

fn block_list(bytes: &[u8]) -> Vec<u8> {
    let block = usize::try_from(BLOCK_BYTES).expect("a small block");
    let mut list = Vec::new();
    for piece in bytes.chunks(block) {
        let mut whole = piece.to_vec();
        whole.resize(block, 0);
        list.extend_from_slice(Digest::of(&whole).as_bytes());
    }
    list
}

/// A factory's authority: its certificate in PEM, and what it signs with.
fn factory(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("factory of {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    (certificate, Issuer::new(params, key))
}
