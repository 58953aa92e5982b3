//! k3s-controller-manager
