//! Artifacts: byte sequences addressed by their digest, uploaded in pieces that survive every interruption.

use std::{io::SeekFrom, time::Duration};

use protocol_types::{Digest, UnixSeconds};
use reqwest::{Method, header};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt};
use utoipa::ToSchema;

use crate::{Client, ClientError, Page, PageQuery, ProblemCode};

/// Content type of a piece of an upload.
pub const UPLOAD_CONTENT_TYPE: &str = "application/offset+octet-stream";
/// Where a piece begins, and where the next one must.
pub const UPLOAD_OFFSET: &str = "upload-offset";
/// Length of the whole artifact.
pub const UPLOAD_LENGTH: &str = "upload-length";

/// An artifact, whole or in the making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// Its name.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes that the service has and will not lose; the upload goes on here.
    pub offset: u64,
    /// Whether all of it arrived and its digest was checked.
    pub complete: bool,
    /// When its upload began, in Unix seconds.
    #[schema(value_type = u64)]
    pub created: UnixSeconds,
}

/// Announces an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginArtifact {
    /// Its SHA-256, as `sha256:` and 64 hexadecimal digits.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Bytes that the client sends in one request.
const PIECE: usize = 8 << 20;
/// Failed requests without a byte of progress before an upload gives up.
const TRIES: u32 = 6;

/// Whether the upload may go on after this: the connection broke, the service restarts or waits for its object store, or it still looks at
/// the piece before.
fn is_passing(error: &ClientError) -> bool {
    let code = error.problem().map(|problem| problem.code.as_str());
    matches!(error, ClientError::Unreachable { .. })
        || [ProblemCode::UploadBusy, ProblemCode::Unavailable, ProblemCode::OffsetMismatch]
            .iter()
            .any(|passing| code == Some(passing.as_str()))
}

impl Client {
    /// The artifacts of the account.
    pub async fn artifacts(&self, page: &PageQuery) -> Result<Page<Artifact>, ClientError> {
        self.get("/artifacts", page).await
    }

    /// One artifact, whole or in the making.
    pub async fn artifact(&self, digest: &Digest) -> Result<Artifact, ClientError> {
        self.get(&format!("/artifacts/{}", digest.hex()), &()).await
    }

    /// Announces an artifact; the answer says how much of it the service has already.
    pub async fn begin_artifact(&self, digest: Digest, size: u64) -> Result<Artifact, ClientError> {
        self.post("/artifacts", &BeginArtifact { digest, size }).await
    }

    /// Sends the piece that begins at `offset`; the answer says where the next one begins.
    pub async fn send_piece(&self, digest: &Digest, offset: u64, piece: Vec<u8>) -> Result<Artifact, ClientError> {
        let path = format!("/artifacts/{}", digest.hex());
        let request = self
            .request(Method::PATCH, &path)
            .header(header::CONTENT_TYPE, UPLOAD_CONTENT_TYPE)
            .header(UPLOAD_OFFSET, offset)
            .body(piece);
        self.json(&path, request).await
    }

    /// Uploads what the service does not have yet of an artifact, and goes on after broken connections. `progress` hears how
    /// many bytes the service has.
    pub async fn upload_artifact<R>(
        &self,
        (digest, size): (Digest, u64),
        mut source: R,
        mut progress: impl FnMut(u64),
    ) -> Result<Artifact, ClientError>
    where
        R: AsyncRead + AsyncSeek + Unpin,
    {
        let (mut known, mut failed, mut furthest) = (None::<Artifact>, 0_u32, 0);
        loop {
            let answer = match known.take() {
                // Announcing it again says how much of it has arrived.
                None => self.begin_artifact(digest, size).await,
                Some(artifact) => {
                    progress(artifact.offset);
                    source.seek(SeekFrom::Start(artifact.offset)).await.map_err(ClientError::Read)?;
                    let left = usize::try_from(size.saturating_sub(artifact.offset)).unwrap_or(usize::MAX).min(PIECE);
                    let mut piece = vec![0; left];
                    source.read_exact(&mut piece).await.map_err(ClientError::Read)?;
                    self.send_piece(&digest, artifact.offset, piece).await
                }
            };
            match answer {
                Ok(artifact) if artifact.complete => {
                    progress(size);
                    return Ok(artifact);
                }
                Ok(artifact) => {
                    if artifact.offset > furthest {
                        (furthest, failed) = (artifact.offset, 0);
                    }
                    known = Some(artifact);
                }
                Err(error) if failed < TRIES && is_passing(&error) => {
                    failed += 1;
                    tokio::time::sleep(Duration::from_millis(100 << failed)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The bytes of a complete artifact, as they come; the caller checks the digest.
    pub async fn artifact_content(
        &self,
        digest: &Digest,
    ) -> Result<impl futures_util::Stream<Item = Result<bytes::Bytes, ClientError>> + use<>, ClientError> {
        let path = format!("/artifacts/{}/content", digest.hex());
        let answer = self.send(&path, self.request(Method::GET, &path)).await?;
        let client = self.clone();
        Ok(futures_util::StreamExt::map(answer.bytes_stream(), move |piece| piece.map_err(|e| client.unreachable(e))))
    }
}
