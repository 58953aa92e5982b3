//! What every process of the house needs and Kubernetes has no part in: configuration files,
//! logging, sockets handed over by a supervisor, readiness, the health port, D-Bus, and supervision
//! itself.
//!
//! Deliberately knows nothing of Kubernetes. Invariant: a component reaches the outside only
//! through its `Context`, so it behaves the same under systemd, under `k3s server` and in a test.

mod authorize;
mod bus;
mod component;
pub mod config;
mod context;
mod files;
pub mod health;
mod interface;
mod journal;
mod listen;
mod log;
pub mod supervise;
mod sys;
pub mod systemd;
mod watchdog;

pub use authorize::{MANAGE, MANAGE_NODE, authorize};
pub use bus::{Bus, PATH as BUS_PATH, attend as attend_bus, connect as connect_bus};
pub use component::{Component, ConfigError, Flavour, main};
pub use context::Context;
pub use files::Changes;
pub use interface::Component1Proxy;
pub use listen::{Address, Listener, Socket, bind_tcp, bind_udp, bind_unix};
pub use listen::{entrust, exec, reclaim};
pub use log::{init as init_log, set_level as set_log_level};
