//! Kubeconfig files (`client.config.k8s.io` v1): the administrator's with everything inside, the
//! components' with paths, so that a renewed certificate needs no new kubeconfig.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// A kubeconfig with certificates embedded; names are k3s' `default`.
pub fn embedded(server: &str, ca_pem: &str, cert_pem: &str, key_pem: &str) -> String {
    render(&[
        format!("    certificate-authority-data: {}", BASE64_STANDARD.encode(ca_pem)),
        format!("    server: {server}"),
        format!("    client-certificate-data: {}", BASE64_STANDARD.encode(cert_pem)),
        format!("    client-key-data: {}", BASE64_STANDARD.encode(key_pem)),
    ])
}

/// A kubeconfig that names its certificates by path.
pub fn by_path(server: &str, ca: &Path, cert: &Path, key: &Path) -> String {
    render(&[
        format!("    certificate-authority: {}", ca.display()),
        format!("    server: {server}"),
        format!("    client-certificate: {}", cert.display()),
        format!("    client-key: {}", key.display()),
    ])
}

fn render([ca, server, cert, key]: &[String; 4]) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n{ca}\n{server}\n\
         contexts:\n- name: default\n  context:\n    cluster: default\n    user: default\n\
         current-context: default\npreferences: {{}}\nusers:\n- name: default\n  user:\n{cert}\n{key}\n"
    )
}
