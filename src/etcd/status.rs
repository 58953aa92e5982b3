//! gRPC status, and every error that etcd's services answer with, in etcd's own texts: clients
//! compare them literally.

use std::borrow::Cow;

/// gRPC status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// Anything that is no code is `Unknown`, as gRPC wants it.
    pub fn from_ascii(text: &[u8]) -> Self {
        use Code::*;
        const ALL: [Code; 17] = [
            Ok,
            Canceled,
            Unknown,
            InvalidArgument,
            DeadlineExceeded,
            NotFound,
            AlreadyExists,
            PermissionDenied,
            ResourceExhausted,
            FailedPrecondition,
            Aborted,
            OutOfRange,
            Unimplemented,
            Internal,
            Unavailable,
            DataLoss,
            Unauthenticated,
        ];
        let number = std::str::from_utf8(text).ok().and_then(|t| t.parse::<usize>().ok());
        number.and_then(|n| ALL.get(n).copied()).unwrap_or(Unknown)
    }
}

/// What went wrong, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Status {
    /// One of the constants below, or a text known at compile time.
    pub const fn new(code: Code, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message) }
    }

    /// A text made at run time.
    pub fn with(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: Cow::Owned(message.into()) }
    }

    /// The connection is gone: the request may or may not have been carried out.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::with(Code::Unavailable, message)
    }
}

macro_rules! errors {
    ($($name:ident $code:ident $text:literal)*) => {
        $(#[doc = $text] pub const $name: Status = Status::new(Code::$code, $text);)*
    };
}

errors! {
    EMPTY_KEY           InvalidArgument    "etcdserver: key is not provided"
    KEY_NOT_FOUND       InvalidArgument    "etcdserver: key not found"
    VALUE_PROVIDED      InvalidArgument    "etcdserver: value is provided"
    LEASE_PROVIDED      InvalidArgument    "etcdserver: lease is provided"
    TOO_MANY_OPS        InvalidArgument    "etcdserver: too many operations in txn request"
    DUPLICATE_KEY       InvalidArgument    "etcdserver: duplicate key given in txn request"
    INVALID_SORT_OPTION InvalidArgument    "etcdserver: invalid sort option"
    REQUEST_TOO_LARGE   InvalidArgument    "etcdserver: request is too large"
    COMPACTED           OutOfRange         "etcdserver: mvcc: required revision has been compacted"
    FUTURE_REVISION     OutOfRange         "etcdserver: mvcc: required revision is a future revision"
    NO_SPACE            ResourceExhausted  "etcdserver: mvcc: database space exceeded"
    LEASE_NOT_FOUND     NotFound           "etcdserver: requested lease not found"
    LEASE_EXISTS        FailedPrecondition "etcdserver: lease already exists"
    LEASE_TTL_TOO_LARGE OutOfRange         "etcdserver: too large lease TTL"
    TOO_MANY_REQUESTS   ResourceExhausted  "etcdserver: too many requests"
    STOPPED             Unavailable        "etcdserver: server stopped"
    TIMEOUT             Unavailable        "etcdserver: request timed out"
    CORRUPT             DataLoss           "etcdserver: corrupt cluster"
    AUTH_NOT_ENABLED    FailedPrecondition "etcdserver: authentication is not enabled"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_their_decimal_form() {
        for (text, code) in [
            (&b"0"[..], Code::Ok),
            (b"11", Code::OutOfRange),
            (b"16", Code::Unauthenticated),
            (b"17", Code::Unknown),
            (b"", Code::Unknown),
            (b"-1", Code::Unknown),
        ] {
            assert_eq!(Code::from_ascii(text), code);
        }
    }
}
