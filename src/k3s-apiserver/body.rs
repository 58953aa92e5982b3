//! Bodies of answers: whole, in chunks, or as an endless stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use apimachinery::status::Status;
use bytes::Bytes;
use futures::{FutureExt, Stream};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};

/// The body of every answer.
pub enum Body {
    Whole(Full<Bytes>),
    Pieces(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// All of a body that is there already.
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            Self::Whole(whole) => {
                let collected = whole.clone().collect().now_or_never()?;
                collected.ok().map(|all| all.to_bytes())
            }
            Self::Pieces(_) => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Pieces(pieces) => {
                pieces.as_mut().poll_next(cx).map(|piece| piece.map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Body::Whole(Full::new(bytes.into()))
}

/// A body that comes in pieces.
pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::Pieces(Box::pin(pieces))
}

/// An answer with a content type.
pub fn answer(code: StatusCode, content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A short text.
pub fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    answer(code, TEXT, full(text.into()))
}

/// JSON made from a tree.
pub fn json(code: StatusCode, value: &serde_json::Value) -> Response<Body> {
    answer(code, JSON, full(format!("{value}\n")))
}

/// A refusal as JSON.
pub fn refusal(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_value());
    if let Some(seconds) = status.retry_after() {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    crate::verbs::render::warn(&mut response, &status.warnings);
    response
}
