//! `intstr.IntOrString`: a number or a text such as `25%` or a port's name.

use serde_json::Value;

/// Which way a percentage of a whole number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Up,
    Down,
}

/// The number, or the percentage of `total` (`GetScaledValueFromIntOrPercent`).
pub fn scaled(value: &Value, total: i64, round: Round) -> Result<i64, String> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let Some(text) = value.as_str() else {
        return Err("invalid type: neither int nor percentage".to_owned());
    };
    let percent = percent(text).ok_or_else(|| {
        format!("invalid value for IntOrString: invalid type: string is not a percentage: {text}")
    })?;
    let product = i128::from(percent) * i128::from(total);
    let scaled = match round {
        Round::Up => product.div_euclid(100) + i128::from(product.rem_euclid(100) != 0),
        Round::Down => product.div_euclid(100),
    };
    Ok(i64::try_from(scaled).unwrap_or(i64::MAX))
}

/// `25%` → 25.
pub fn percent(text: &str) -> Option<i64> {
    text.strip_suffix('%')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        assert_eq!(scaled(&json!(3), 10, Round::Up), Ok(3));
        assert_eq!(scaled(&json!("25%"), 10, Round::Up), Ok(3));
        assert_eq!(scaled(&json!("25%"), 10, Round::Down), Ok(2));
        assert!(scaled(&json!("x"), 10, Round::Up).is_err());
        assert!(scaled(&json!(null), 10, Round::Up).is_err());
    }
}
