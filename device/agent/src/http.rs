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

/// The longest wait for one answer with its body.
const LIMIT: Duration = Duration::from_secs(60);
/// The longest wait for a broken connection to say why it broke.
const SETTLE: Duration = Duration::from_secs(1);
/// What hyper may buffer of one answer; the rest waits in the kernel.
const BUFFER: usize = 64 * 1024;

/// An open connection.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    requests: http1::SendRequest<Empty<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
    host: HeaderValue,
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
    #[error("no answer within {} seconds", LIMIT.as_secs())]
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
        Ok(Self { requests, driver: tokio::spawn(connection), host })
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
        let exchanged = timeout(LIMIT, self.exchange(path, range, most)).await.unwrap_or(Err(HttpError::Late));
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
        self.requests.ready().await?;
        let answer = self.requests.send_request(request).await?;
        let status = answer.status();
        let range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| parse_range(value.to_str().ok()?));
        let mut incoming = answer.into_body();
        let (mut body, mut cut) = (Vec::new(), false);
        while let Some(frame) = incoming.frame().await {
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

    use super::*;

    #[test]
    fn only_a_consistent_range_is_read() {
        assert_eq!(parse_range("bytes 5-9/20"), Some(ContentRange { first: 5, total: Some(20) }));
        assert_eq!(parse_range("bytes 0-0/*"), Some(ContentRange { first: 0, total: None }));
        for bad in ["bytes 9-5/20", "bytes 5-20/20", "bytes */20", "items 0-1/2", "bytes +1-2/3", "bytes -1/3", ""] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_range_is_read_without_panic(text: String) {
            for text in [text.clone(), format!("bytes {text}")] {
                if let Some(ContentRange { first, total: Some(total) }) = parse_range(&text) {
                    prop_assert!(first < total);
                }
            }
        }
    }
}
