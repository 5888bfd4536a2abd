//! A bucket of an S3-compatible object store. An object appears whole, after its digest was found right, or not at all; none is ever removed.

use std::{
    collections::BTreeMap,
    fmt, fs,
    future::ready,
    io,
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::{
    BackoffConfig, Error, GetOptions, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::AmazonS3Builder,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use protocol_types::{AccountName, Digest};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    BucketFault, BucketSettings, ByteStream, Checked, blocking,
    http::Http,
    source::{Source, Taken},
};
use crate::durable::{self, Audience};

/// How long the object store may take for its first answers, at the start of the service.
const FIRST_ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to accept a connection, and be silent in an answer.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(30);
/// How long a connection may rest before it is no longer used.
const IDLE: Duration = Duration::from_secs(15);
/// Bytes of one part, of which every upload holds one in memory; S3 takes none below 5 MiB but the last.
const PART: u64 = 8 << 20;
/// Parts of one upload; S3 takes ten thousand.
const PARTS: u64 = 9_000;
/// Uploads at a time; others wait. With [`PART`] they bound the memory.
const UPLOADS: usize = 4;
/// The object that says whose prefix it is, and what it says.
const ABOUT: &str = "mbl-service.json";
const ABOUT_TEXT: &[u8] = b"{\"format\":1,\"holds\":\"artifacts of mbl-service\"}\n";

/// What a client of an object store can do for us.
trait Objects: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Objects for T {}

/// An open bucket. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bucket {
    objects: Arc<dyn Objects>,
    /// Its name and prefix, for people.
    name: String,
    prefix: Path,
    uploads: Arc<Semaphore>,
    /// Bytes of a part, at least.
    part: u64,
}

/// Why the bucket of the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// A file that the settings name.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The settings contradict themselves.
    #[error("the settings of the bucket are not usable")]
    Fault(#[from] BucketFault),
    /// Not PEM, or a TLS that cannot be set up.
    #[error("cannot prepare TLS for the object store; `bucket.authority_file` holds PEM certificates")]
    Tls(#[source] reqwest::Error),
    /// The client of the object store takes no such settings.
    #[error("cannot prepare the bucket `{bucket}`")]
    Prepare {
        /// The bucket.
        bucket: String,
        /// Why it failed.
        source: Error,
    },
    /// It answered, but not as it must.
    #[error("cannot use the bucket `{bucket}`: {hint}")]
    Refused {
        /// The bucket.
        bucket: String,
        /// What to look at.
        hint: &'static str,
        /// What it said.
        source: Error,
    },
    /// Nobody answered.
    #[error("the object store of the bucket `{0}` did not answer within {s} s; look at `bucket.endpoint`", s = FIRST_ANSWER.as_secs())]
    Silent(String),
    /// Something else is kept there.
    #[error("the bucket `{0}` holds something else under this prefix; set `bucket.prefix` to one of the service's own")]
    Foreign(String),
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Opens the bucket and asks it once whether it can be read and written.
    pub(crate) async fn open(settings: &BucketSettings) -> Result<Self, BucketError> {
        let bucket = Self::new(connect(settings)?, settings, PART);
        match timeout(FIRST_ANSWER, bucket.ask()).await {
            Ok(answer) => answer.map(|()| bucket),
            Err(_) => Err(BucketError::Silent(bucket.name)),
        }
    }

    fn new(objects: impl Objects, settings: &BucketSettings, part: u64) -> Self {
        let parts = settings.prefix.split('/').filter(|part| !part.is_empty());
        Self {
            objects: Arc::new(objects),
            name: [&settings.name, &settings.prefix].map(String::as_str).join("/").trim_end_matches('/').to_owned(),
            prefix: Path::from_iter(parts),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            part,
        }
    }

    /// A bucket in memory, for tests, with parts of a few bytes.
    #[cfg(test)]
    pub(crate) fn in_memory(objects: object_store::memory::InMemory) -> Self {
        let settings = BucketSettings {
            name: "memory".to_owned(),
            endpoint: None,
            region: String::new(),
            prefix: "a/b".to_owned(),
            path_style: true,
            access_key: None,
            secret_key_file: None,
            authority_file: None,
        };
        Self::new(objects, &settings, 16)
    }

    /// Its name and prefix.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reads the object that says whose prefix this is, and writes it the first time.
    async fn ask(&self) -> Result<(), BucketError> {
        let about = self.prefix.clone().join(ABOUT);
        let found = async { self.objects.get(&about).await?.bytes().await };
        match found.await {
            Ok(text) if text == ABOUT_TEXT => Ok(()),
            Ok(_) => Err(BucketError::Foreign(self.name.clone())),
            Err(Error::NotFound { .. }) => {
                let put = self.objects.put(&about, PutPayload::from_static(ABOUT_TEXT)).await;
                put.map(drop).map_err(|source| self.refused(source))
            }
            Err(source) => Err(self.refused(source)),
        }
    }

    fn refused(&self, source: Error) -> BucketError {
        let hint = match &source {
            Error::NotFound { .. } => {
                "there is no such bucket; make it, or look at `bucket.name` and `bucket.endpoint`"
            }
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                "the key is not allowed to; look at `bucket.access_key`, `bucket.secret_key_file` and `bucket.region`"
            }
            _ => "it does not answer as it should; look at `bucket.endpoint` and `bucket.authority_file`",
        };
        BucketError::Refused { bucket: self.name.clone(), hint, source }
    }

    /// What the names of all artifacts begin with.
    fn folder(&self) -> Path {
        self.prefix.clone().join("artifacts")
    }

    fn key(&self, account: &AccountName, digest: &Digest) -> Path {
        self.folder().join(account.as_str()).join(digest.hex())
    }

    /// The length of an artifact; `None` if it is not there.
    pub(super) async fn length(&self, account: &AccountName, digest: &Digest) -> io::Result<Option<u64>> {
        match self.objects.head(&self.key(account, digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// A part of an artifact, as it comes. What breaks off is asked for again from there on by the client.
    pub(super) async fn read(
        &self,
        account: &AccountName,
        digest: &Digest,
        range: Range<u64>,
    ) -> io::Result<ByteStream> {
        let options = GetOptions::default().with_range(Some(range));
        let found = self.objects.get_opts(&self.key(account, digest), options).await.map_err(failed)?;
        Ok(found.into_stream().map_err(failed).boxed())
    }

    /// A small artifact, whole.
    pub(super) async fn read_all(&self, account: &AccountName, digest: &Digest) -> io::Result<Vec<u8>> {
        let found = self.objects.get(&self.key(account, digest)).await.map_err(failed)?;
        Ok(found.bytes().await.map_err(failed)?.into())
    }

    /// The length of every artifact by its name, as in `ACCOUNT/HEX`.
    pub(crate) async fn list(&self) -> io::Result<BTreeMap<String, u64>> {
        let folder = self.folder();
        let listed = self.objects.list(Some(&folder)).map_err(failed);
        listed
            .try_filter_map(|meta| {
                let parts = meta
                    .location
                    .prefix_match(&folder)
                    .map(|parts| parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
                ready(Ok(parts.map(|name| (name, meta.size))))
            })
            .try_collect()
            .await
    }

    /// Copies `file` into the bucket while its digest is computed. The object appears if that is the digest of its name. `note` is a file that
    /// remembers an upload in parts, so that whoever comes after a crash can take it back.
    pub(super) async fn put(
        &self,
        (account, digest): (&AccountName, &Digest),
        file: fs::File,
        note: &FilePath,
    ) -> io::Result<Checked> {
        let _place = self.uploads.acquire().await.map_err(io::Error::other)?;
        self.take_back((account, digest), note).await?;
        let size = file.metadata()?.len();
        let key = self.key(account, digest);
        let part = size.div_ceil(PARTS).max(self.part);
        let taken = Source::new(file).take(part).await?;
        if size > part {
            return self.put_parts((&key, digest), (taken, part), note).await;
        }
        if !taken.is_end_with(digest) {
            return Ok(Checked::Discarded);
        }
        self.objects.put(&key, PutPayload::from(taken.bytes)).await.map_err(failed)?;
        Ok(Checked::Kept)
    }

    async fn put_parts(
        &self,
        (key, digest): (&Path, &Digest),
        (first, part): (Taken, u64),
        note: &FilePath,
    ) -> io::Result<Checked> {
        let id = self.objects.create_multipart(key).await.map_err(failed)?;
        let (path, text) = (note.to_owned(), id.clone());
        blocking(move || durable::write(&path, text.as_bytes(), Audience::Owner)).await?;
        let sent = self.send_parts((key, &id), (first, part)).await;
        let ended = match sent {
            Ok((parts, last)) if last.is_end_with(digest) => {
                self.objects.complete_multipart(key, &id, parts).await.map(|_| Checked::Kept).map_err(failed)
            }
            Ok(_) => Ok(Checked::Discarded),
            Err(error) => Err(error),
        };
        if !matches!(ended, Ok(Checked::Kept)) && self.objects.abort_multipart(key, &id).await.is_err() {
            // The note is still there: it is taken back by the next try, or after the next start.
            return ended;
        }
        let path = note.to_owned();
        blocking(move || durable::remove(&path)).await?;
        ended
    }

    /// Sends part after part; what the last one left behind knows the digest of them all.
    async fn send_parts(
        &self,
        (key, id): (&Path, &String),
        (mut taken, part): (Taken, u64),
    ) -> io::Result<(Vec<PartId>, Taken)> {
        let mut parts = Vec::new();
        loop {
            let bytes = Bytes::from(std::mem::take(&mut taken.bytes));
            if bytes.is_empty() {
                return Ok((parts, taken));
            }
            parts.push(self.objects.put_part(key, id, parts.len(), bytes.into()).await.map_err(failed)?);
            taken = taken.rest.take(part).await?;
        }
    }

    /// Takes back an upload in parts that `note` remembers, so that its parts are not paid for until the end of days.
    pub(super) async fn take_back(
        &self,
        (account, digest): (&AccountName, &Digest),
        note: &FilePath,
    ) -> io::Result<()> {
        let id = match tokio::fs::read_to_string(note).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match self.objects.abort_multipart(&self.key(account, digest), &id).await {
            // It was completed, or taken back by somebody else.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        let path = note.to_owned();
        blocking(move || durable::remove(&path)).await
    }
}

/// The client of the object store.
fn connect(settings: &BucketSettings) -> Result<impl Objects + use<>, BucketError> {
    let mut http = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .pool_idle_timeout(IDLE)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(path) = &settings.authority_file {
        let pem = fs::read(path).map_err(|source| BucketError::Read { path: path.clone(), source })?;
        http = http.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).map_err(BucketError::Tls)?);
    }
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 6,
        retry_timeout: Duration::from_secs(60),
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&settings.name)
        .with_region(&settings.region)
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_http_connector(Http(http.build().map_err(BucketError::Tls)?))
        .with_retry(retry);
    if let Some(address) = settings.address()? {
        builder = builder.with_endpoint(address.as_str().trim_end_matches('/'));
    }
    if let (Some(id), Some(path)) = (&settings.access_key, &settings.secret_key_file) {
        let text = fs::read_to_string(path).map_err(|source| BucketError::Read { path: path.clone(), source })?;
        builder = builder.with_access_key_id(id).with_secret_access_key(text.lines().next().unwrap_or_default().trim());
    }
    builder.build().map_err(|source| BucketError::Prepare { bucket: settings.name.clone(), source })
}

/// An error of the object store as one of input and output. Whatever is neither missing nor forbidden counts as not reached: it may go away.
fn failed(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::NotConnected,
    };
    io::Error::new(kind, error)
}
