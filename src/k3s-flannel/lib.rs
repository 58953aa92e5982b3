//! k3s-flannel
pub mod cni;
pub mod network;
