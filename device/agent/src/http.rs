//! One kept-alive HTTP/1.1 connection over a secure stream that asks for bounded pieces. Never follows redirects and never interprets bytes.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    dial::{Verdict, verdict},
    network::Stream,
};

/// How long a server may be silent, before its answer and in it, and how long a whole answer may take: a piece of 256 KiB comes over
/// a slow network, too.
const PATIENCE: Patience = Patience { silence: Duration::from_secs(60), whole: Duration::from_secs(300) };
/// The longest wait for a broken connection to say why it broke.
const SETTLE: Duration = Duration::from_secs(1);
/// What hyper may buffer of one answer; the rest waits in the kernel.
const BUFFER: usize = 64 * 1024;

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    silence: Duration,
    whole: Duration,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    requests: http1::SendRequest<Empty<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
    host: HeaderValue,
    patience: Patience,
}

/// The bytes of one answer, as far as they were allowed.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// First byte and total length that the answer says it has, from `Content-Range`.
    pub(crate) range: Option<ContentRange>,
    pub(crate) body: Vec<u8>,
    /// Whether the body went on beyond what was allowed; the connection cannot be used again then.
    pub(crate) cut: bool,
}

/// A `Content-Range` header (RFC 9110, section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: u64,
    pub(crate) total: Option<u64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
    #[error("the connection failed")]
    Connection(#[from] hyper::Error),
    #[error("no answer in time: {} seconds without a byte, or {} in all", PATIENCE.silence.as_secs(), PATIENCE.whole.as_secs())]
    Late,
}

impl HttpError {
    /// What the failure says about this device.
    pub(crate) fn verdict(&self) -> Verdict {
        let Self::Connection(error) = self else { return Verdict::TryAgain };
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        cause.map_or(Verdict::TryAgain, verdict)
    }
}

impl HttpConnection {
    /// Begins HTTP on a connection whose handshake is done; `host` is `HOST:PORT`.
    pub(crate) async fn open(stream: Box<dyn Stream>, host: &str) -> Result<Self, HttpError> {
        let host = HeaderValue::from_str(host).map_err(http::Error::from)?;
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .max_headers(32)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await?;
        Ok(Self { requests, driver: tokio::spawn(connection), host, patience: PATIENCE })
    }

    /// Whether the connection may take another request.
    pub(crate) fn is_usable(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Asks for `path`, optionally for `range` (first byte, last byte), and reads at most `most` bytes of the body.
    pub(crate) async fn get(
        &mut self,
        path: &str,
        range: Option<(u64, u64)>,
        most: usize,
    ) -> Result<Answer, HttpError> {
        let whole = self.patience.whole;
        let exchanged = timeout(whole, self.exchange(path, range, most)).await.unwrap_or(Err(HttpError::Late));
        let Err(HttpError::Connection(_)) = &exchanged else { return exchanged };
        // A request only learns that the connection ended; why it ended, such as a refused certificate, the driver knows.
        match timeout(SETTLE, &mut self.driver).await {
            Ok(Ok(Err(cause))) => Err(HttpError::Connection(cause)),
            _ => exchanged,
        }
    }

    async fn exchange(&mut self, path: &str, range: Option<(u64, u64)>, most: usize) -> Result<Answer, HttpError> {
        let mut request = Request::get(path).header(header::HOST, self.host.clone());
        if let Some((first, last)) = range {
            request = request.header(header::RANGE, format!("bytes={first}-{last}"));
        }
        let request = request.body(Empty::new())?;
        let silence = self.patience.silence;
        let asked = async {
            self.requests.ready().await?;
            self.requests.send_request(request).await
        };
        let answer = timeout(silence, asked).await.map_err(|_| HttpError::Late)??;
        let status = answer.status();
        let range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| parse_range(value.to_str().ok()?));
        let mut incoming = answer.into_body();
        let (mut body, mut cut) = (Vec::new(), false);
        while let Some(frame) = timeout(silence, incoming.frame()).await.map_err(|_| HttpError::Late)? {
            let Ok(data) = frame?.into_data() else { continue };
            let room = most.saturating_sub(body.len());
            body.extend_from_slice(data.get(..room).unwrap_or(&data));
            if data.len() > room {
                cut = true;
                break;
            }
        }
        Ok(Answer { status, range, body, cut })
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Reads `bytes FIRST-LAST/TOTAL`; `None` if it is not of that form.
pub(crate) fn parse_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some(ContentRange { first, total })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::sleep,
    };

    use super::*;

    #[test]
    fn only_a_consistent_range_is_read() {
        assert_eq!(parse_range("bytes 5-9/20"), Some(ContentRange { first: 5, total: Some(20) }));
        assert_eq!(parse_range("bytes 0-0/*"), Some(ContentRange { first: 0, total: None }));
        for bad in ["bytes 9-5/20", "bytes 5-20/20", "bytes */20", "items 0-1/2", "bytes +1-2/3", "bytes -1/3", ""] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }

    /// Asks a server that sends so many bytes, one after each pause.
    async fn trickle(bytes: u32, pause: Duration, patience: Patience) -> Result<Answer, HttpError> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let mut request = [0; 1024];
            assert!(theirs.read(&mut request).await.unwrap() > 0);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
            theirs.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..bytes {
                sleep(pause).await;
                theirs.write_all(b"x").await.unwrap();
            }
            sleep(Duration::from_secs(60)).await;
        });
        let mut connection = HttpConnection::open(Box::new(ours), "fleet.example:443").await.unwrap();
        connection.patience = patience;
        connection.get("/", None, 100).await
    }

    #[tokio::test]
    async fn a_slow_answer_is_waited_for_and_a_silent_one_is_not() {
        let (short, long) = (Duration::from_millis(10), Duration::from_secs(30));
        let slow = trickle(20, short, Patience { silence: long, whole: long }).await.unwrap();
        assert_eq!(slow.body, b"x".repeat(20));
        for patience in [Patience { silence: short, whole: long }, Patience { silence: long, whole: short }] {
            assert!(matches!(trickle(1, long, patience).await, Err(HttpError::Late)), "{patience:?}");
        }
    }

    proptest! {
        #[test]
        fn any_range_is_read_without_panic(text in "bytes [0-9]{0,21}-[0-9]{1,3}/([0-9]{1,4}|\\*)", other: String) {
            if let Some(ContentRange { first, total: Some(total) }) = parse_range(&text) {
                prop_assert!(first < total);
            }
            prop_assert!(other.starts_with("bytes ") || parse_range(&other).is_none());
        }
    }
}
