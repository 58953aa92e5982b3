//! How components talk to the API server: a kubeconfig becomes a `kube::Client`; a [`Reflector`]
//! keeps one resource in the component's own trimmed structs; a [`WorkQueue`] and
//! [`run_workers`] turn changes into reconciliations; a [`Recorder`] reports Events.
//!
//! Nothing here knows a component or a kind. Nothing here limits the rate of requests.

mod connect;
mod controller;
mod events;
mod follow;
mod meta;
mod queue;
mod reflector;
mod resource;
mod rest;
mod store;

pub use connect::{connect, connect_to, user_agent, wait_until_ready};
pub use controller::{Action, run_workers};
pub use events::{EventSink, EventType, ObjectReference, Recorder, recorder};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
pub use meta::{
    HasMeta, Key, Labels, Meta, OwnerReference, PartialObject, Raw, now, null_default,
    parse_duration, rfc3339, rfc3339_micros,
};
pub use queue::WorkQueue;
pub use reflector::{Event, Reflector, Selection};
pub use resource::{Resource, escape};
pub use rest::{Error, List, Patch, Preconditions, Propagation, Rest, describe};
pub use rest::{is_already_exists, is_conflict, is_forbidden, is_gone, is_invalid};
pub use rest::{is_namespace_terminating, is_not_found};
pub use store::{Index, Lister};
