//! The etcd v3 gRPC API as Kubernetes and `etcdctl` use it: messages, a client and the server
//! glue, straight on HTTP/2. It knows neither Kubernetes nor any database.
//!
//! Invariant: an error that etcd has a text for is that text, byte for byte ([`status`]).

mod authority;
mod client;
mod endpoint;
pub mod etcdserverpb;
mod frame;
mod grpc;
pub mod mvccpb;
pub mod server;
pub mod status;
mod watch;

pub use client::Client;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use etcdserverpb::prefix_end;
pub use status::{Code, Status};
pub use watch::{Progress, Watch};
