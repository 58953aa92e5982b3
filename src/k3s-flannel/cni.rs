//! The CNI side: the plugin executable, its protocol with the daemon, and the daemon's answers.
//!
//! The plugin is a messenger: it hands its environment and standard input to the daemon's socket and
//! prints the answer. Invariant: everything that a later DEL needs to know is in the name of the
//! link and in the lease files, so DEL works after any crash and without the namespace.

pub mod attach;
pub mod ipam;
pub mod protocol;
pub mod server;
pub mod shim;

pub use shim::main;
