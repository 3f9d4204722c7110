//! What a client goes on sending after it was refused.
//!
//! A connection that is closed with unread bytes is reset, and a reset may destroy the answer on its way: clients then
//! report a broken pipe and proxies 502 instead of what was wrong. So a body that a refused request left behind is
//! read, up to a bound, before the answer goes out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

/// The most that is read of a body that nobody wants.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest that it may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// A body as its handler sees it.
struct Lent(Arc<Mutex<Body>>);

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// The same body, to be looked at when its handler has ended.
pub struct Leftover(Arc<Mutex<Body>>);

/// Lends `body` to a handler.
pub fn lend(body: Body) -> (Body, Leftover) {
    let shared = Arc::new(Mutex::new(body));
    (Body::new(Lent(shared.clone())), Leftover(shared))
}

impl Leftover {
    /// Reads what is left, within bounds.
    pub async fn drain(self) {
        let mut lent = Lent(self.0);
        let reading = async {
            let mut left = BYTES_MAX;
            while let Some(Ok(frame)) = lent.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        // Cancel safe in the only way that matters: whatever was not read is not wanted.
        let _ = tokio::time::timeout(TIME_MAX, reading).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn what_a_handler_left_is_read_up_to_the_bound() {
        let piece = Bytes::from_static(&[0; 1 << 20]);
        let pieces = stream::iter((0..40).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
        let (mut body, leftover) = lend(Body::from_stream(pieces));
        body.frame().await.unwrap().unwrap();
        leftover.drain().await;
        let mut count = 0;
        while body.frame().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 40 - 1 - 17);
    }
}
