//! Trust: certificate authorities, leaf certificates, kubeconfigs and join tokens, in k3s' layout.
//!
//! Knows nothing of HTTP or of processes. Invariant: a private key is written once, atomically and
//! with mode 0600; nothing that exists and is valid is ever overwritten.

mod anyone;
mod authority;
mod expiration;
mod files;
mod inspect;
pub mod jwt;
pub mod kubeconfig;
mod live;
mod request;
pub mod tls;
pub mod token;
pub mod trust;

pub use anyone::anyone;
pub use authority::{Authority, LIFETIME_VARIABLES, Leaf, Usage, ensure_signing_key};
pub use expiration::expiration_metric;
pub use files::{Durability, write_atomic, write_with};
pub use inspect::{Certificate, continues, inspect, inspect_file, leaf_of};
pub use live::Live;
pub use request::{Request, key_request};
