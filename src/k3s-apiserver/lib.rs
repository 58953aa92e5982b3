//! The Kubernetes API server: one table-driven implementation of every verb for every kind.
//!
//! `run` puts it together: the store's watch fills the caches, `server` accepts connections,
//! `filter` takes each request through authentication and authorisation to `dispatch`, and `verbs`
//! answer it. What is particular about a kind is its `registry::Strategy`.

pub mod admission;
pub mod aggregation;
pub mod api_server;
pub mod args;
pub mod audit;
pub mod auth;
pub mod body;
pub mod bootstrap;
pub mod cluster;
pub mod companions;
pub mod custom;
pub mod discovery;
pub mod dispatch;
pub mod documents;
pub mod expressions;
pub mod filter;
pub mod flowcontrol;
pub mod health;
pub mod kinds;
pub mod metrics;
pub mod negotiate;
pub mod openapi;
pub mod proxy;
pub mod registry;
pub mod remote;
pub mod request;
pub mod rewrite;
pub mod server;
pub mod start;
pub mod startup;
pub mod storage;
pub mod supervisor;
pub mod tls;
pub mod user;
pub mod verbs;
pub mod zpages;

pub use args::Args;
pub use start::run;

/// Names on the bus and in the journal.
pub const COMPONENT: daemon::Component =
    daemon::Component { name: "k3s-apiserver", bus: "io.k3s.ApiServer1" };
