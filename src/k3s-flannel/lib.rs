//! k3s-flannel
