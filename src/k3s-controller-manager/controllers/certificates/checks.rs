//! What `kubernetes.io/*` signers demand of a request. Pure.

use pki::Request;

pub(super) const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

const NODES: &str = "system:nodes";
const NODE: &str = "system:node:";

/// Why the signer does not sign this; `Ok` when it does.
pub(super) fn check(signer: &str, request: &Request, usages: &[String]) -> Result<(), String> {
    match signer {
        API_CLIENT => api_client(usages),
        KUBELET_CLIENT => kubelet_client(request, usages),
        KUBELET_SERVING => kubelet_serving(request, usages),
        _ => Ok(()),
    }
}

fn api_client(usages: &[String]) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    let known = usages.iter().all(|it| allowed.contains(&it.as_str()));
    match known && usages.iter().any(|it| it == "client auth") {
        true => Ok(()),
        false => Err(format!("invalid usages for client certificate: {}", usages.join(","))),
    }
}

pub(super) fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    node_subject(request)?;
    if request.dns_names() > 0 {
        return Err("DNS subjectAltNames are not allowed".into());
    }
    if !request.addresses().is_empty() {
        return Err("IP subjectAltNames are not allowed".into());
    }
    node_usages(usages, "client auth")
}

fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    node_subject(request)?;
    if request.dns_names() == 0 && request.addresses().is_empty() {
        return Err("DNS or IP subjectAltName is required".into());
    }
    node_usages(usages, "server auth")
}

fn node_subject(request: &Request) -> Result<(), String> {
    if request.organizations() != [NODES] {
        return Err(format!("subject organization is not {NODES}"));
    }
    if request.other_names() > 0 {
        return Err("email and URI subjectAltNames are not allowed".into());
    }
    match request.common_name().starts_with(NODE) {
        true => Ok(()),
        false => Err(format!("subject common name does not begin with {NODE}")),
    }
}

/// The purpose, `digital signature`, and `key encipherment` or not.
fn node_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let has = |name: &str| usages.iter().any(|it| it == name);
    let rest = usages.iter().filter(|it| *it != "key encipherment").count();
    match has(purpose) && has("digital signature") && rest == 2 {
        true => Ok(()),
        false => Err(format!("usages did not match: {}", usages.join(","))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_what_the_signer_is_for() {
        let list = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
        let client = |text: &str| api_client(&list(text)).is_ok();
        assert!(client("client auth"));
        assert!(client("client auth,digital signature,key encipherment"));
        assert!(!client("digital signature"));
        assert!(!client("client auth,server auth"));
        let node = |text: &str| node_usages(&list(text), "server auth").is_ok();
        assert!(node("server auth,digital signature"));
        assert!(node("key encipherment,server auth,digital signature"));
        assert!(!node("server auth"));
        assert!(!node("client auth,digital signature"));
        assert!(!node("server auth,digital signature,client auth"));
    }
}
