//! ServiceCIDRs.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{age, column, name};
use crate::registry::validate::{IMMUTABLE, cidr, spec};
use crate::registry::value::{at, list, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn resource(&self) -> &'static str {
        "servicecidrs.networking.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let path = spec().child("cidrs");
        let cidrs: Vec<&str> = texts(obj, "spec.cidrs").collect();
        if cidrs.is_empty() {
            errs.required(path, "at least one CIDR required");
            return;
        }
        let mut families = Vec::new();
        for (n, text) in cidrs.iter().enumerate() {
            if let Some(block) = cidr(errs, &path.index(n), text) {
                families.push(block.is_ipv4());
                if block.network() != block.ip() {
                    errs.invalid(path.index(n), *text, "must be the canonical form of the CIDR");
                }
            }
        }
        let twice = families.len() == 2 && families[0] == families[1];
        if cidrs.len() > 2 || twice {
            let shown = at(obj, "spec.cidrs").clone();
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errs.invalid(path, shown, detail);
        }
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if !cx.subresource.is_empty() {
            return;
        }
        let (had, have) = (list(old, "spec.cidrs"), list(new, "spec.cidrs"));
        let path = spec().child("cidrs");
        // The second family may be added later.
        if had.len() != have.len() && (had.len(), have.len()) != (1, 2) {
            errs.invalid(path, at(new, "spec.cidrs").clone(), IMMUTABLE);
            return;
        }
        for (n, (had, have)) in had.iter().zip(have).enumerate() {
            if had != have {
                errs.invalid(path.index(n), have.clone(), IMMUTABLE);
            }
        }
        self.validate(cx, new, errs);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("CIDRs"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let cidrs = texts(obj, "spec.cidrs").collect::<Vec<_>>().join(",");
        vec![name(obj), json!(cidrs), age(obj, now)]
    }
}
