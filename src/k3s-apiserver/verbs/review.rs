//! Kinds that are only created and never stored: reviews and bindings.

use bytes::Bytes;
use http::Response;

use crate::body::Body;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::status::Status;

pub async fn serve(_call: &Call<'_>, kind: &Kind, _body: Bytes) -> Result<Response<Body>, Status> {
    Err(Status::plain(format!("{} is not served yet", kind.kind)))
}
