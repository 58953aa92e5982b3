//! Which volume a claim gets, and what phase a volume is in. Pure.

use std::sync::Arc;

use crate::{
    amounts::Amount,
    types::storage::{Claim, Volume},
};

/// Set on claims and volumes whose binding this controller chose.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Set on claims whose binding is complete.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// What a claim needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClaimStep {
    /// To be bound, or whatever of that is still missing.
    Bind(String),
    /// No volume fits: a new one is asked for, or waited for.
    Provision,
    /// Its volume is not there yet.
    Wait,
    /// It asks for a volume that does not fit, and why.
    Mismatch(&'static str),
    /// Its volume is gone: reason and message.
    Lose(&'static str, &'static str),
}

/// What a volume needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum VolumeStep {
    Phase(&'static str),
    /// Its claim is gone.
    Release,
    /// Its claim got another volume.
    Unbind,
    /// Its claim is to be bound.
    Wake,
}

pub(super) fn claim(claim: &Claim, volumes: &[Arc<Volume>], waits_for_consumer: bool) -> ClaimStep {
    let named = &claim.spec.volume_name;
    let volume = volumes.iter().find(|it| it.metadata.name == *named);
    if claim.metadata.annotation(BIND_COMPLETED).is_some() {
        return match volume {
            _ if named.is_empty() => ClaimStep::Lose(
                "ClaimLost",
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
            ),
            None => ClaimStep::Lose(
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            ),
            Some(volume) if volume.spec.claim_ref.is_none() || is_for(volume, claim) => {
                ClaimStep::Bind(named.clone())
            }
            Some(_) => ClaimStep::Lose(
                "ClaimMisbound",
                "Two claims are bound to the same volume, this one is bound incorrectly",
            ),
        };
    }
    if named.is_empty() {
        return match best(claim, volumes, waits_for_consumer) {
            Some(volume) => ClaimStep::Bind(volume.metadata.name.clone()),
            None => ClaimStep::Provision,
        };
    }
    match volume {
        None => ClaimStep::Wait,
        Some(volume) if volume.spec.claim_ref.is_none() => match mismatch(claim, volume) {
            Some(why) => ClaimStep::Mismatch(why),
            None => ClaimStep::Bind(named.clone()),
        },
        Some(volume) if is_for(volume, claim) => ClaimStep::Bind(named.clone()),
        Some(_) => ClaimStep::Wait,
    }
}

/// The volume kept for the claim, else the smallest available one that fits.
fn best<'a>(
    claim: &Claim,
    volumes: &'a [Arc<Volume>],
    waits_for_consumer: bool,
) -> Option<&'a Arc<Volume>> {
    let fits = |volume: &&Arc<Volume>| {
        !volume.metadata.is_deleting()
            && mode(volume.spec.volume_mode.as_ref()) == mode(claim.spec.volume_mode.as_ref())
            && has_modes(claim, volume)
            && capacity(volume) >= request(claim)
    };
    let kept = volumes.iter().filter(fits).find(|volume| is_for(volume, claim));
    if kept.is_some() || waits_for_consumer {
        return kept;
    }
    let free = volumes.iter().filter(fits).filter(|volume| {
        volume.spec.claim_ref.is_none()
            && volume.status.phase == "Available"
            && class(volume) == claim.class()
            && volume.spec.volume_attributes_class_name == claim.spec.volume_attributes_class_name
            && claim.spec.selector.as_ref().is_none_or(|it| it.matches(&volume.metadata.labels))
    });
    free.min_by(|a, b| {
        capacity(a).cmp(&capacity(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    })
}

fn mismatch(claim: &Claim, volume: &Volume) -> Option<&'static str> {
    if capacity(volume) < request(claim) {
        return Some("requested PV is too small");
    }
    if class(volume) != claim.class() {
        return Some("storageClassName does not match");
    }
    if mode(volume.spec.volume_mode.as_ref()) != mode(claim.spec.volume_mode.as_ref()) {
        return Some("incompatible volumeMode");
    }
    (!has_modes(claim, volume)).then_some("incompatible accessMode")
}

fn has_modes(claim: &Claim, volume: &Volume) -> bool {
    claim.spec.access_modes.iter().all(|it| volume.spec.access_modes.contains(it))
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

fn class(volume: &Volume) -> &str {
    let old = volume.metadata.annotation("volume.beta.kubernetes.io/storage-class");
    old.unwrap_or(&volume.spec.storage_class_name)
}

fn capacity(volume: &Volume) -> Amount {
    volume.spec.capacity.get("storage").copied().unwrap_or(Amount::ZERO)
}

fn request(claim: &Claim) -> Amount {
    claim.spec.resources.requests.get("storage").copied().unwrap_or(Amount::ZERO)
}

/// Whether the volume is bound to, or kept for, this claim.
fn is_for(volume: &Volume, claim: &Claim) -> bool {
    volume.spec.claim_ref.as_ref().is_some_and(|it| {
        it.name == claim.metadata.name
            && it.namespace == claim.metadata.namespace
            && (it.uid.is_empty() || it.uid == claim.metadata.uid)
    })
}

/// `owner` is the claim of the name that the volume refers to.
pub(super) fn volume(volume: &Volume, owner: Option<&Claim>) -> VolumeStep {
    let Some(reference) = &volume.spec.claim_ref else { return VolumeStep::Phase("Available") };
    if reference.uid.is_empty() {
        return match owner {
            Some(claim) if claim.spec.volume_name == volume.metadata.name => VolumeStep::Wake,
            _ => VolumeStep::Phase("Available"),
        };
    }
    match owner.filter(|claim| claim.metadata.uid == reference.uid) {
        None => VolumeStep::Release,
        Some(claim) if claim.spec.volume_name.is_empty() => VolumeStep::Wake,
        Some(claim) if claim.spec.volume_name == volume.metadata.name => VolumeStep::Phase("Bound"),
        Some(_)
            if volume.metadata.annotation(PROVISIONED_BY).is_some()
                && volume.spec.persistent_volume_reclaim_policy == "Delete" =>
        {
            VolumeStep::Release
        }
        Some(_) => VolumeStep::Unbind,
    }
}

/// Why nobody will ever reclaim a released volume; `None` when nobody has to, or a provisioner will.
pub(super) fn unreclaimable(volume: &Volume) -> Option<(&'static str, String)> {
    let external = volume
        .metadata
        .annotation(PROVISIONED_BY)
        .is_some_and(|it| !it.starts_with("kubernetes.io/"));
    match volume.spec.persistent_volume_reclaim_policy.as_str() {
        "Delete" if !external => {
            let name = &volume.metadata.name;
            let text = format!(
                "error getting deleter volume plugin for volume {name:?}: no volume plugin matched"
            );
            Some(("VolumeFailedDelete", text))
        }
        "Recycle" => {
            Some(("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_claim(text: &str) -> Claim {
        serde_json::from_str(text).unwrap()
    }

    fn a_volume(name: &str, size: &str, rest: &str) -> Arc<Volume> {
        let text = format!(
            r#"{{"metadata": {{"name": "{name}"}}, "status": {{"phase": "Available"}},
                "spec": {{"capacity": {{"storage": "{size}"}}, "accessModes": ["ReadWriteOnce"] {rest}}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    const PLAIN: &str = r#"{"metadata": {"name": "c", "namespace": "n", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}}"#;

    #[test]
    fn the_smallest_volume_that_fits_is_chosen() {
        let check = |volumes: &[Arc<Volume>], waits, want: Option<&str>| {
            let step = claim(&a_claim(PLAIN), volumes, waits);
            let want = want.map_or(ClaimStep::Provision, |name| ClaimStep::Bind(name.to_owned()));
            assert_eq!(step, want);
        };
        let (small, good, big) =
            (a_volume("s", "1Gi", ""), a_volume("g", "2Gi", ""), a_volume("b", "9Gi", ""));
        let other = a_volume("o", "2Gi", r#", "storageClassName": "fast""#);
        let taken = a_volume("t", "2Gi", r#", "claimRef": {"namespace": "n", "name": "x"}"#);
        let kept = a_volume("k", "5Gi", r#", "claimRef": {"namespace": "n", "name": "c"}"#);
        let block = a_volume("m", "2Gi", r#", "volumeMode": "Block""#);
        check(&[big.clone(), small.clone(), good.clone()], false, Some("g"));
        check(&[small, other, taken, block], false, None);
        check(&[good.clone(), kept.clone()], false, Some("k"));
        check(&[good], true, None);
        check(&[kept], true, Some("k"));
        check(&[big], false, Some("b"));
    }

    #[test]
    fn claims_keep_their_volume_or_lose_it() {
        let mut bound = a_claim(PLAIN);
        bound.spec.volume_name = "v".into();
        assert_eq!(claim(&bound, &[], false), ClaimStep::Wait);
        let small = a_volume("v", "1Gi", "");
        assert!(matches!(claim(&bound, &[small], false), ClaimStep::Mismatch(_)));
        bound.metadata.annotations.insert(BIND_COMPLETED.into(), "yes".into());
        assert!(matches!(claim(&bound, &[], false), ClaimStep::Lose("ClaimLost", _)));
        let with = |uid: &str| {
            let rest =
                format!(r#", "claimRef": {{"namespace": "n", "name": "c", "uid": "{uid}"}}"#);
            a_volume("v", "2Gi", &rest)
        };
        assert_eq!(claim(&bound, &[with("u")], false), ClaimStep::Bind("v".into()));
        assert!(matches!(claim(&bound, &[with("w")], false), ClaimStep::Lose("ClaimMisbound", _)));
    }

    #[test]
    fn volumes_follow_their_claim() {
        let check = |rest: &str, owner: Option<&Claim>, want| {
            assert_eq!(volume(&a_volume("v", "1Gi", rest), owner), want, "{rest}");
        };
        let bound = r#", "claimRef": {"namespace": "n", "name": "c", "uid": "u"}"#;
        let mut owner = a_claim(PLAIN);
        check("", None, VolumeStep::Phase("Available"));
        check(r#", "claimRef": {"name": "c"}"#, None, VolumeStep::Phase("Available"));
        check(bound, None, VolumeStep::Release);
        check(bound, Some(&owner), VolumeStep::Wake);
        owner.spec.volume_name = "v".into();
        check(bound, Some(&owner), VolumeStep::Phase("Bound"));
        owner.spec.volume_name = "w".into();
        check(bound, Some(&owner), VolumeStep::Unbind);
        owner.metadata.uid = "another".into();
        check(bound, Some(&owner), VolumeStep::Release);
    }

    #[test]
    fn only_what_a_provisioner_made_is_deleted_by_one() {
        let check = |policy: &str, by: &str, want: bool| {
            let mut volume = Volume::default();
            volume.spec.persistent_volume_reclaim_policy = policy.into();
            if !by.is_empty() {
                volume.metadata.annotations.insert(PROVISIONED_BY.into(), by.into());
            }
            assert_eq!(unreclaimable(&volume).is_some(), want, "{policy} {by}");
        };
        check("Retain", "", false);
        check("Delete", "", true);
        check("Delete", "rancher.io/local-path", false);
        check("Recycle", "", true);
    }
}
