//! k3s-apiserver
