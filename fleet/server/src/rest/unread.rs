//! Takes in what is left of the body of a refused request. A connection that is closed while the client still sends is reset, and the
//! client never reads why it was refused.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::Response,
};
use futures_util::StreamExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::{sync::oneshot, time::timeout};

use crate::fleet::Fleet;

/// Most bytes that are taken in for an answer's sake.
const MOST: usize = super::BODY_BYTES;

/// A body that comes back when whoever was to read it drops it.
struct Lent {
    body: Body,
    back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // Nobody waits for it if the request was given up.
            drop(back.send(mem::take(&mut self.body)));
        }
    }
}

/// Runs the request, and before a refusal goes out takes in what of its body nobody has read.
pub(crate) async fn take_in(State(fleet): State<Fleet>, request: Request, next: Next) -> Response {
    // Who asks before sending (RFC 9110, section 10.1.1) has sent nothing that would be in the way.
    if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let (back, mut left) = oneshot::channel();
    let lent = Body::new(Lent { body, back: Some(back) });
    let answer = next.run(Request::from_parts(parts, lent)).await;
    let status = answer.status();
    if (status.is_client_error() || status.is_server_error())
        && status != StatusCode::REQUEST_TIMEOUT
        && let Ok(body) = left.try_recv()
    {
        // Whoever is too slow even for this gets the answer while sending.
        drop(timeout(fleet.config.limits.slow_sender(), drain(body)).await);
    }
    answer
}

async fn drain(body: Body) {
    let mut pieces = body.into_data_stream();
    let mut taken = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        taken += piece.len();
        if taken > MOST {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use axum::{
        body::{Body, Bytes},
        extract::Request,
        http::StatusCode,
    };
    use futures_util::{StreamExt as _, stream};
    use tower::ServiceExt as _;

    use super::MOST;
    use crate::test_service::TestService;

    const PIECE: usize = 64 * 1024;

    #[tokio::test]
    async fn the_body_of_a_refused_request_is_taken_in_up_to_a_bound() {
        let service = TestService::start().await;
        for (sent, taken) in [(10, 10), (100, MOST / PIECE + 1)] {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let pieces = stream::iter(0..sent).map(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(Bytes::from(vec![b' '; PIECE]))
            });
            let request = Request::post("/api/v1/groups").body(Body::from_stream(pieces)).unwrap();
            let answer = service.router().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(count.load(Ordering::SeqCst), taken, "of {sent} pieces");
        }
    }
}
