//! Descriptions of types and fields, for `kubectl explain`.
//!
//! They are the documentation of the `k8s-openapi` types, asked for when a document is rendered and
//! dropped with it.

use serde_json::{Map, Value, json};

use k8s_openapi::schemars::generate::SchemaSettings;
use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};

/// Adds the schema of each type that is wanted, and of all that it refers to, to a generator.
macro_rules! add {
    ($generator:ident, $wanted:ident: $($ty:path,)*) => {
        $(if $wanted.contains_key(&*<$ty>::schema_name()) {
            let _ = $generator.subschema_for::<$ty>();
        })*
    };
}

/// Adds descriptions to schemas, which are named as published.
pub(super) fn describe(schemas: &mut Map<String, Value>) {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    add_roots(&mut generator, schemas);
    copy(schemas, generator.definitions());
    super::enums::add(schemas);
}

fn add_roots(generator: &mut SchemaGenerator, wanted: &Map<String, Value>) {
    use k8s_openapi::*;
    add! { generator, wanted:
        api::admissionregistration::v1::MutatingAdmissionPolicy,
        api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
        api::admissionregistration::v1::MutatingWebhookConfiguration,
        api::admissionregistration::v1::ValidatingAdmissionPolicy,
        api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        api::admissionregistration::v1::ValidatingWebhookConfiguration,
        api::apps::v1::ControllerRevision,
        api::apps::v1::DaemonSet,
        api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet,
        api::apps::v1::StatefulSet,
        api::authentication::v1::SelfSubjectReview,
        api::authentication::v1::TokenRequest,
        api::authentication::v1::TokenReview,
        api::authorization::v1::LocalSubjectAccessReview,
        api::authorization::v1::SelfSubjectAccessReview,
        api::authorization::v1::SelfSubjectRulesReview,
        api::authorization::v1::SubjectAccessReview,
        api::autoscaling::v1::HorizontalPodAutoscaler,
        api::autoscaling::v1::Scale,
        api::autoscaling::v2::HorizontalPodAutoscaler,
        api::batch::v1::CronJob,
        api::batch::v1::Job,
        api::certificates::v1::CertificateSigningRequest,
        api::coordination::v1::Lease,
        api::core::v1::Binding,
        api::core::v1::ComponentStatus,
        api::core::v1::ConfigMap,
        api::core::v1::Endpoints,
        api::core::v1::Event,
        api::core::v1::LimitRange,
        api::core::v1::Namespace,
        api::core::v1::Node,
        api::core::v1::PersistentVolume,
        api::core::v1::PersistentVolumeClaim,
        api::core::v1::Pod,
        api::core::v1::PodTemplate,
        api::core::v1::ReplicationController,
        api::core::v1::ResourceQuota,
        api::core::v1::Secret,
        api::core::v1::Service,
        api::core::v1::ServiceAccount,
        api::discovery::v1::EndpointSlice,
        api::events::v1::Event,
        api::flowcontrol::v1::FlowSchema,
        api::flowcontrol::v1::PriorityLevelConfiguration,
        api::networking::v1::IPAddress,
        api::networking::v1::Ingress,
        api::networking::v1::IngressClass,
        api::networking::v1::NetworkPolicy,
        api::networking::v1::ServiceCIDR,
        api::node::v1::RuntimeClass,
        api::policy::v1::Eviction,
        api::policy::v1::PodDisruptionBudget,
        api::rbac::v1::ClusterRole,
        api::rbac::v1::ClusterRoleBinding,
        api::rbac::v1::Role,
        api::rbac::v1::RoleBinding,
        api::resource::v1::DeviceClass,
        api::resource::v1::ResourceClaim,
        api::resource::v1::ResourceClaimTemplate,
        api::resource::v1::ResourceSlice,
        api::scheduling::v1::PriorityClass,
        api::storage::v1::CSIDriver,
        api::storage::v1::CSINode,
        api::storage::v1::CSIStorageCapacity,
        api::storage::v1::StorageClass,
        api::storage::v1::VolumeAttachment,
        api::storage::v1::VolumeAttributesClass,
        apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        kube_aggregator::pkg::apis::apiregistration::v1::APIService,
        apimachinery::pkg::apis::meta::v1::APIGroupList,
        apimachinery::pkg::apis::meta::v1::APIResourceList,
        apimachinery::pkg::apis::meta::v1::APIVersions,
        apimachinery::pkg::apis::meta::v1::DeleteOptions,
        apimachinery::pkg::apis::meta::v1::Status,
        apimachinery::pkg::version::Info,
    }
}

/// Copies descriptions into schemas of the same name.
fn copy(schemas: &mut Map<String, Value>, known: &Map<String, Value>) {
    for (name, schema) in schemas {
        let (Some(known), Value::Object(schema)) = (known.get(name), schema) else { continue };
        if let Some(text) = known.get("description") {
            schema.insert("description".to_owned(), text.clone());
        }
        let Some(Value::Object(properties)) = schema.get_mut("properties") else { continue };
        for (key, property) in properties {
            let text = known["properties"][key]["description"].as_str();
            let (Some(text), Value::Object(property)) = (text, property) else { continue };
            property.insert("description".to_owned(), text.into());
            // A reference stands alone in version 3, so what is said beside it goes around it.
            let target = property.get("$ref").and_then(Value::as_str).unwrap_or_default();
            if target.starts_with("#/components/") {
                let target = target.to_owned();
                property.remove("$ref");
                property.insert("allOf".to_owned(), json!([{"$ref": target}]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let mut schemas = Map::new();
        let container = json!({"properties": {
            "imagePullPolicy": {"type": "string"},
            "lifecycle": {"$ref": "#/components/schemas/io.k8s.api.core.v1.Lifecycle"},
        }});
        schemas.insert("io.k8s.api.core.v1.Container".to_owned(), container);
        schemas.insert("io.k8s.api.core.v1.Pod".to_owned(), json!({}));
        describe(&mut schemas);
        let container = &schemas["io.k8s.api.core.v1.Container"];
        assert!(container["description"].as_str().is_some_and(|text| text.contains("container")));
        assert!(container["properties"]["imagePullPolicy"]["description"].is_string());
        assert!(container["properties"]["lifecycle"]["allOf"][0]["$ref"].is_string());
    }
}
