//! k3s-store
