//! CertificateSubjectRestriction: nobody asks for a client certificate of `system:masters`.

use apimachinery::status::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::{FromDer, X509CertificationRequest, parse_x509_pem};

use super::Attributes;
use crate::registry::Object;
use crate::registry::value::text;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

/// Refuses a request whose subject is in the group that nothing is forbidden to.
pub(super) fn subject(cx: &Attributes<'_>, request: &Object) -> Result<(), Status> {
    if text(request, "spec.signerName") != SIGNER || !is_for_masters(text(request, "spec.request"))
    {
        return Ok(());
    }
    let detail = format!("use of {SIGNER} signer with {MASTERS} group is not allowed");
    Err(cx.forbidden_for(Some(request), &detail))
}

/// What cannot be read is for validation to refuse.
fn is_for_masters(encoded: &str) -> bool {
    let Ok(pem) = STANDARD.decode(encoded) else { return false };
    let Ok((_, pem)) = parse_x509_pem(&pem) else { return false };
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else { return false };
    request
        .certification_request_info
        .subject
        .iter_organization()
        .any(|organization| organization.as_str() == Ok(MASTERS))
}
