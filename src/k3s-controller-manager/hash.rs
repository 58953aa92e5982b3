//! Names for templates: a stable 32-bit hash of the canonical JSON, in the letters that upstream
//! uses for names that must not spell words.

use serde_json::Value;

const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash of a template for this collision count.
pub(crate) fn template_hash(template: &Value, collision_count: Option<i32>) -> String {
    // Maps are sorted by key, so equal templates have equal text.
    let mut hash = fnv1a(0x811c_9dc5, template.to_string().as_bytes());
    if let Some(count) = collision_count {
        hash = fnv1a(hash, &count.to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

fn fnv1a(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn safe_encode(text: &str) -> String {
    let letter = |byte: u8| LETTERS.get(usize::from(byte) % LETTERS.len()).copied().unwrap_or(b'b');
    text.bytes().map(|byte| char::from(letter(byte))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_templates_have_equal_names_and_collisions_change_them() {
        let a = json!({"spec": {"a": 1, "b": 2}});
        let b: Value = serde_json::from_str(r#"{"spec":{"b":2,"a":1}}"#).unwrap();
        assert_eq!(template_hash(&a, None), template_hash(&b, None));
        assert_ne!(template_hash(&a, None), template_hash(&a, Some(1)));
        assert_ne!(template_hash(&a, None), template_hash(&json!({}), None));
    }
}
