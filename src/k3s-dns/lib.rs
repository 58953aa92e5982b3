//! k3s-dns
