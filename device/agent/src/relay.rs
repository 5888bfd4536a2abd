//! Brings bytes that the root processes ask for, from the service's artifact port, over one kept-alive connection with mutual
//! TLS. Never interprets them; never fetches anything by itself.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use protocol_types::socket::{Fetch, FetchError, MAX_FETCH};
use rustls::ClientConfig;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{error::Elapsed, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    address::ServerAddress,
    cause::Chain,
    dial::Verdict,
    http::{Answer, HttpConnection},
    network::Network,
};

/// Questions that wait for the connection; those who ask wait beyond that.
const QUEUE: usize = 8;
/// An idle connection is given up after this long.
const IDLE: Duration = Duration::from_secs(60);

/// Where bytes come from.
#[derive(Clone, Debug, Default)]
pub enum Source {
    /// Not known yet: the device has no operational certificate or was not told the address.
    #[default]
    Unknown,
    /// Nothing is fetched: the identity of the device is damaged.
    Forbidden,
    /// The artifact server of the service.
    Server {
        /// Its address.
        address: ServerAddress,
        /// Trust, operational certificate and ALPN `http/1.1`.
        tls: Arc<ClientConfig>,
    },
}

impl Source {
    /// Whether nothing that matters differs.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unknown, Self::Unknown) | (Self::Forbidden, Self::Forbidden) => true,
            (Self::Server { address: a, tls: c }, Self::Server { address: b, tls: d }) => a == b && Arc::ptr_eq(c, d),
            (Self::Unknown | Self::Forbidden | Self::Server { .. }, _) => false,
        }
    }
}

struct Question {
    ask: Ask,
    answer: oneshot::Sender<Result<Vec<u8>, FetchError>>,
}

/// Where questions are put.
#[derive(Clone, Debug)]
pub struct Relay {
    questions: mpsc::Sender<Question>,
}

/// The task behind a [`Relay`].
pub struct RelayTask {
    questions: mpsc::Receiver<Question>,
    source: watch::Receiver<Source>,
    network: Arc<dyn Network>,
    connection: Option<HttpConnection>,
}

impl std::fmt::Debug for RelayTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayTask").field("source", &self.source).finish_non_exhaustive()
    }
}

/// A relay and its task, which must run for questions to be answered; it reaches the source over `network`.
pub fn relay(source: watch::Receiver<Source>, network: Arc<dyn Network>) -> (Relay, RelayTask) {
    let (to, questions) = mpsc::channel(QUEUE);
    (Relay { questions: to }, RelayTask { questions, source, network, connection: None })
}

impl Relay {
    /// Brings what is asked for; at most [`MAX_FETCH`] bytes.
    pub async fn fetch(&self, what: &Fetch) -> Result<Vec<u8>, FetchError> {
        let Some(ask) = Ask::of(what)? else { return Ok(Vec::new()) };
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question { ask, answer }).await.map_err(|_| FetchError::Unreachable)?;
        answered.await.unwrap_or(Err(FetchError::Unreachable))
    }
}

impl RelayTask {
    /// Answers questions one after the other until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let question = tokio::select! {
                () = stop.cancelled() => return,
                question = self.next() => question,
            };
            match question {
                Err(_idle) => self.connection = None,
                Ok(None) => return,
                Ok(Some(Question { ask, answer })) => {
                    let result = tokio::select! {
                        () = stop.cancelled() => return,
                        result = self.bring(&ask) => result,
                    };
                    // Whoever asked may have gone meanwhile, which is their affair.
                    drop(answer.send(result));
                }
            }
        }
    }

    /// The next question, or the news that the connection was idle for long. Without one there is nothing to give up: a device that rests
    /// is not woken.
    async fn next(&mut self) -> Result<Option<Question>, Elapsed> {
        match self.connection {
            Some(_) => timeout(IDLE, self.questions.recv()).await,
            None => Ok(self.questions.recv().await),
        }
    }

    async fn bring(&mut self, ask: &Ask) -> Result<Vec<u8>, FetchError> {
        if self.source.has_changed().unwrap_or(false) {
            self.connection = None;
        }
        let source = self.source.borrow_and_update().clone();
        let (address, tls) = match source {
            Source::Unknown => return Err(FetchError::Unreachable),
            Source::Forbidden => return Err(FetchError::Refused),
            Source::Server { address, tls } => (address, tls),
        };
        // A kept connection may have been closed by the server meanwhile; that costs one more try on a fresh one.
        if let Some(kept) = self.connection.take().filter(HttpConnection::is_usable)
            && let Ok(answer) = self.ask(kept, ask).await
        {
            return ask.judge(answer);
        }
        let connected = self.network.dial(None, &address, tls).await.map_err(|e| {
            tracing::warn!(error = %Chain(&e), "artifact server not reached");
            refusal(e.verdict())
        })?;
        let answer = async { self.ask(HttpConnection::open(connected.stream, &address.authority()).await?, ask).await };
        let answer = answer.await.map_err(|e| {
            tracing::warn!(error = %Chain(&e), path = %ask.path, "artifact server gave no answer");
            refusal(e.verdict())
        })?;
        ask.judge(answer)
    }

    /// Asks on `connection` and keeps it if it can be used again.
    async fn ask(&mut self, mut connection: HttpConnection, ask: &Ask) -> Result<Answer, crate::http::HttpError> {
        let answer = connection.get(&ask.path, Some((ask.first, ask.last())), ask.most).await?;
        if !answer.cut {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

const fn refusal(verdict: Verdict) -> FetchError {
    match verdict {
        Verdict::CertificateRefused => FetchError::Refused,
        Verdict::TryAgain | Verdict::ServerUntrusted | Verdict::TimeDoubtful => FetchError::Unreachable,
    }
}

/// One question in the words of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ask {
    path: String,
    first: u64,
    /// Bytes asked for, more than none.
    most: usize,
    /// For a metadata file, which is wanted whole: its greatest length.
    whole: Option<u64>,
}

impl Ask {
    /// `None` if nothing is asked for.
    fn of(what: &Fetch) -> Result<Option<Self>, FetchError> {
        match what {
            Fetch::Metadata { name, max_bytes, offset } => {
                if !is_file_name(name) {
                    return Err(FetchError::NotFound);
                }
                if *max_bytes > MAX_FETCH {
                    return Err(FetchError::TooLong);
                }
                let whole = u64::from(*max_bytes);
                // One byte more than allowed, so that too long a file shows.
                let most = bytes(whole.saturating_sub(*offset)) + 1;
                Ok(Some(Self { path: format!("/v1/metadata/{name}"), first: *offset, most, whole: Some(whole) }))
            }
            Fetch::Artifact { length: 0, .. } => Ok(None),
            Fetch::Artifact { length, .. } if *length > MAX_FETCH => Err(FetchError::TooLong),
            Fetch::Artifact { digest, offset, length } => Ok(Some(Self {
                path: format!("/v1/artifacts/{}", digest.hex()),
                first: *offset,
                most: bytes(u64::from(*length)),
                whole: None,
            })),
        }
    }

    fn last(&self) -> u64 {
        self.first.saturating_add(u64::try_from(self.most).unwrap_or(u64::MAX)).saturating_sub(1)
    }

    /// What an answer is worth.
    fn judge(&self, answer: Answer) -> Result<Vec<u8>, FetchError> {
        let Answer { status, range, body, cut } = answer;
        match status {
            StatusCode::PARTIAL_CONTENT => {}
            // A server may ignore the range; its answer then begins at the first byte.
            StatusCode::OK if self.first == 0 => return self.within(body, cut && self.whole.is_some()),
            StatusCode::RANGE_NOT_SATISFIABLE => return Ok(Vec::new()),
            StatusCode::NOT_FOUND => return Err(FetchError::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(FetchError::Refused),
            _ => return Err(FetchError::Unreachable),
        }
        let Some(range) = range.filter(|range| range.first == self.first) else { return Err(FetchError::Unreachable) };
        let too_long = range.total.zip(self.whole).is_some_and(|(total, whole)| total > whole);
        let end = self.first.saturating_add(u64::try_from(body.len()).unwrap_or(u64::MAX));
        // Fewer bytes than asked for may come only at the end.
        if !cut && !too_long && body.len() < self.most && range.total.is_some_and(|total| end < total) {
            return Err(FetchError::Unreachable);
        }
        self.within(body, cut || too_long)
    }

    fn within(&self, body: Vec<u8>, too_long: bool) -> Result<Vec<u8>, FetchError> {
        let end = self.first.saturating_add(u64::try_from(body.len()).unwrap_or(u64::MAX));
        if too_long || self.whole.is_some_and(|whole| end > whole) { Err(FetchError::TooLong) } else { Ok(body) }
    }
}

fn bytes(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX - 1)
}

/// A name that stays inside the folder of metadata and needs no escaping in a request.
fn is_file_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use protocol_types::Digest;

    use super::*;
    use crate::http::ContentRange;

    fn metadata(max_bytes: u32) -> Ask {
        Ask::of(&Fetch::Metadata { name: "1.root.json".to_owned(), max_bytes, offset: 0 }).unwrap().unwrap()
    }

    fn piece(offset: u64, length: u32) -> Ask {
        Ask::of(&Fetch::Artifact { digest: Digest::of(b""), offset, length }).unwrap().unwrap()
    }

    fn partial(first: u64, total: u64, body: &[u8]) -> Answer {
        let range = Some(ContentRange { first, total: Some(total) });
        Answer { status: StatusCode::PARTIAL_CONTENT, range, body: body.to_vec(), cut: false }
    }

    #[test]
    fn a_name_that_leaves_the_folder_or_needs_escaping_is_never_asked_for() {
        for name in
            ["../1.root.json", "a/b.json", "a b.json", "a%2e.json", "", ".hidden", "a\r\nx: y", &"a".repeat(129)]
        {
            let what = Fetch::Metadata { name: name.to_owned(), max_bytes: 10, offset: 0 };
            assert_eq!(Ask::of(&what), Err(FetchError::NotFound), "{name:?}");
        }
    }

    #[test]
    fn more_than_a_frame_holds_is_never_asked_for() {
        let digest = Digest::of(b"");
        let piece = Fetch::Artifact { digest, offset: 0, length: MAX_FETCH + 1 };
        let file = Fetch::Metadata { name: "a.json".to_owned(), max_bytes: MAX_FETCH + 1, offset: 0 };
        assert_eq!(Ask::of(&piece), Err(FetchError::TooLong));
        assert_eq!(Ask::of(&file), Err(FetchError::TooLong));
        assert_eq!(Ask::of(&Fetch::Artifact { digest, offset: 9, length: 0 }), Ok(None));
    }

    #[test]
    fn a_metadata_file_of_just_the_limit_is_taken_and_one_byte_more_is_not() {
        let ask = metadata(10);
        assert_eq!((ask.first, ask.last()), (0, 10), "one byte more than allowed is asked for");
        assert_eq!(ask.judge(partial(0, 10, &[7; 10])), Ok(vec![7; 10]));
        assert_eq!(ask.judge(partial(0, 11, &[7; 11])), Err(FetchError::TooLong));
        assert_eq!(ask.judge(partial(0, 500, &[7; 11])), Err(FetchError::TooLong));
        let unknown = Answer { range: Some(ContentRange { first: 0, total: None }), ..partial(0, 11, &[7; 11]) };
        assert_eq!(ask.judge(unknown), Err(FetchError::TooLong));
        let whole = Answer { status: StatusCode::OK, range: None, cut: true, ..partial(0, 11, &[7; 11]) };
        assert_eq!(ask.judge(whole), Err(FetchError::TooLong));
    }

    #[test]
    fn a_piece_is_the_one_that_was_asked_for() {
        let ask = piece(100, 50);
        assert_eq!((ask.first, ask.last()), (100, 149));
        assert_eq!(ask.judge(partial(100, 1000, &[1; 50])), Ok(vec![1; 50]));
        assert_eq!(ask.judge(partial(100, 120, &[1; 20])), Ok(vec![1; 20]), "the last piece is shorter");
        assert_eq!(ask.judge(partial(100, 1000, &[1; 20])), Err(FetchError::Unreachable), "short in the middle");
        assert_eq!(ask.judge(partial(0, 1000, &[1; 50])), Err(FetchError::Unreachable), "another piece");
        assert_eq!(ask.judge(Answer { cut: true, ..partial(100, 1000, &[1; 50]) }), Err(FetchError::TooLong));
        let whole = Answer { status: StatusCode::OK, range: None, cut: true, ..partial(0, 1000, &[1; 50]) };
        assert_eq!(ask.judge(whole), Err(FetchError::Unreachable), "a server without ranges cannot give this piece");
    }

    #[test]
    fn each_refusal_of_the_server_has_its_own_error() {
        for (status, expected) in [
            (StatusCode::NOT_FOUND, Err(FetchError::NotFound)),
            (StatusCode::FORBIDDEN, Err(FetchError::Refused)),
            (StatusCode::UNAUTHORIZED, Err(FetchError::Refused)),
            (StatusCode::INTERNAL_SERVER_ERROR, Err(FetchError::Unreachable)),
            (StatusCode::MOVED_PERMANENTLY, Err(FetchError::Unreachable)),
            (StatusCode::RANGE_NOT_SATISFIABLE, Ok(Vec::new())),
        ] {
            let answer = Answer { status, range: None, body: Vec::new(), cut: false };
            assert_eq!(piece(5, 5).judge(answer), expected, "{status}");
        }
    }
}
