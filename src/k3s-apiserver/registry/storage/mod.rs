//! `storage.k8s.io`.

mod csidriver;
mod small;
mod storageclass;
mod volumeattachment;

use super::Strategy;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[
    &csidriver::CsiDriver,
    &small::CsiNode,
    &small::CsiStorageCapacity,
    &storageclass::StorageClass,
    &volumeattachment::VolumeAttachment,
    &small::VolumeAttributesClass,
];
