//! Content negotiation: what the client sends and what it wants back.

use apimachinery::decode::Media;
use apimachinery::status::Status;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};

/// What every resource speaks, as refusals list it.
pub const ACCEPTED: &str =
    "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What custom resources speak.
pub const CUSTOM_ACCEPTED: &str = "application/json, application/yaml";

/// What of an object is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Whole,
    /// `as=Table`
    Table,
    /// `as=PartialObjectMetadata(List)`
    Partial,
}

/// The answer that the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    pub media: Media,
    pub shape: Shape,
    /// `v1` or `v1beta1` of `meta.k8s.io`, for tables and partial objects.
    pub meta_version: &'static str,
}

impl Accept {
    pub const JSON: Self = Self { media: Media::Json, shape: Shape::Whole, meta_version: "v1" };

    /// Reads the `Accept` header.
    pub fn read(headers: &HeaderMap) -> Result<Self, Status> {
        Self::first(headers, |_| true)
    }

    /// Reads the `Accept` header for an answer that no table can show.
    pub fn read_without_table(headers: &HeaderMap) -> Result<Self, Status> {
        Self::first(headers, |accept| accept.shape != Shape::Table)
    }

    fn first(headers: &HeaderMap, served: impl Fn(&Self) -> bool) -> Result<Self, Status> {
        let Some(header) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
            return Ok(Self::JSON);
        };
        let mut clauses: Vec<(u32, &str)> =
            header.split(',').take(64).map(|clause| (quality(clause), clause.trim())).collect();
        clauses.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
        clauses
            .iter()
            .filter_map(|(_, clause)| Self::clause(clause))
            .find(served)
            .ok_or_else(|| Status::not_acceptable(ACCEPTED))
    }

    /// The `Accept` header without what custom resources cannot be sent in: whole objects in
    /// protobuf. `None` where nothing is left.
    pub fn without_protobuf(headers: &HeaderMap) -> Option<HeaderValue> {
        let header = headers.get(ACCEPT)?.to_str().ok()?;
        let whole = |clause: &&str| {
            clause.contains("application/vnd.kubernetes.protobuf") && !clause.contains("as=Partial")
        };
        let left: Vec<&str> = header.split(',').filter(|clause| !whole(clause)).collect();
        if left.is_empty() { None } else { HeaderValue::from_str(&left.join(",")).ok() }
    }

    fn clause(clause: &str) -> Option<Self> {
        let mut parts = clause.split(';').map(str::trim);
        let media = match parts.next()? {
            "" | "*/*" | "application/*" | "application/json" => Media::Json,
            "application/yaml" => Media::Yaml,
            "application/vnd.kubernetes.protobuf" => Media::Protobuf,
            _ => return None,
        };
        let (mut form, mut group, mut version) = ("", "", "");
        for part in parts {
            match part.split_once('=') {
                Some(("as", value)) => form = value,
                Some(("g", value)) => group = value,
                Some(("v", value)) => version = value,
                _ => {}
            }
        }
        let shape = match form {
            "" => return Some(Self { media, ..Self::JSON }),
            "Table" if media != Media::Protobuf => Shape::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Partial,
            _ => return None,
        };
        let meta_version = match version {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            _ => return None,
        };
        (group == "meta.k8s.io").then_some(Self { media, shape, meta_version })
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.media {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        })
    }

    /// The `Content-Type` of a watch.
    pub fn stream_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.media {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        })
    }
}

/// The weight of a clause in thousandths.
fn quality(clause: &str) -> u32 {
    let weight = clause.split(';').find_map(|part| part.trim().strip_prefix("q="));
    let weight: f32 = weight.and_then(|text| text.parse().ok()).unwrap_or(1.0);
    (weight.clamp(0.0, 1.0) * 1000.0) as u32
}

/// The encoding of the request's body; JSON when the client does not say.
pub fn content(headers: &HeaderMap) -> Result<Media, Status> {
    match content_type(headers) {
        "" | "application/json" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Media::Protobuf),
        _ => Err(Status::unsupported_media_type(ACCEPTED)),
    }
}

/// The `Content-Type` without parameters.
pub fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &'static str, want: Option<(Media, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(header));
        let have = Accept::read(&headers).ok().map(|accept| (accept.media, accept.shape));
        assert_eq!(have, want, "{header}");
    }

    #[test]
    fn the_best_clause_that_we_serve_wins() {
        check("*/*", Some((Media::Json, Shape::Whole)));
        check("application/xml", None);
        check("text/html, application/yaml;q=0.5, */*;q=0.1", Some((Media::Yaml, Shape::Whole)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Media::Json, Shape::Table)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Media::Json, Shape::Whole)),
        );
        check("application/json;as=Nope;v=v1;g=meta.k8s.io", None);
    }
}
