//! k3s-proxy
