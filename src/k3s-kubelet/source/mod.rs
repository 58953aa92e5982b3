//! Where pods come from: the API server and a directory of manifests.

pub(crate) mod manifests;
pub(crate) mod watch;
