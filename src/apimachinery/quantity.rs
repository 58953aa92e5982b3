//! `resource.Quantity`: exact fixed-point numbers with SI, binary and exponent suffixes.
//!
//! A value is a whole number of nano units in an `i128`, so arithmetic is exact. Smaller parts are
//! rounded away from zero and larger values are capped, as upstream does.

use std::cmp::Ordering;
use std::fmt::{self, Display, Write};

/// How a quantity is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `k`, `M`, `m`: powers of ten.
    DecimalSi,
    /// `Ki`, `Mi`: powers of two.
    BinarySi,
    /// `e3`.
    DecimalExponent,
}

/// A quantity. Two quantities compare by value; the format is only for writing.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANOS: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANOS;

/// The parts of a quantity's text: digits before and after the point, and the suffix.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Format);
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let exponent = &suffix[letters..];
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    match digits(exponent) == exponent.len() {
        true => Ok(Parts { negative, whole, fraction, suffix }),
        false => Err(ParseError::Format),
    }
}

/// The suffix as base, exponent and format.
fn suffix(text: &str) -> Result<(i128, i32, Format), ParseError> {
    let decimal = |exponent| Ok((10, exponent, Format::DecimalSi));
    let binary = |exponent| Ok((2, exponent, Format::BinarySi));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
            let exponent = exponent.parse::<i32>().map_err(|_| ParseError::Suffix)?;
            Ok((10, exponent, Format::DecimalExponent))
        }
    }
}

/// `mantissa × 10^power`, rounded away from zero, capped.
fn scaled(mantissa: i128, power: i32) -> i128 {
    if mantissa == 0 {
        return 0;
    }
    match u32::try_from(power) {
        Ok(power) => {
            let factor = 10_i128.checked_pow(power);
            factor.and_then(|factor| mantissa.checked_mul(factor)).unwrap_or(MAX)
        }
        Err(_) => match 10_i128.checked_pow(power.unsigned_abs()) {
            Some(divisor) => mantissa / divisor + i128::from(mantissa % divisor != 0),
            None => 1,
        },
    }
}

impl Quantity {
    /// Zero, written without a suffix.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// A whole number.
    pub fn from_whole(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANOS, format }
    }

    /// A number of thousandths.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * (NANOS / 1000), format }
    }

    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let parts = split(text)?;
        let (base, exponent, mut format) = suffix(parts.suffix)?;
        if parts.whole.len() + parts.fraction.len() > 100 {
            return Err(ParseError::Numeric);
        }
        let mut mantissa = 0_i128;
        let mut dropped = 0_i32;
        let mut lost = false;
        let fraction = i32::try_from(parts.fraction.len()).unwrap_or(i32::MAX);
        for digit in parts.whole.bytes().chain(parts.fraction.bytes()) {
            // Twenty-eight digits are more than any value that is not capped or rounded needs.
            match mantissa < 1_000_000_000_000_000_000_000_000_000 {
                true => mantissa = mantissa * 10 + i128::from(digit - b'0'),
                false => {
                    dropped += 1;
                    lost |= digit != b'0';
                }
            }
        }
        mantissa += i128::from(lost);
        let nanos = match base {
            2 => {
                let factor = 1_i128 << exponent;
                match mantissa.checked_mul(factor) {
                    Some(product) => scaled(product, 9 - fraction + dropped),
                    None => MAX,
                }
            }
            _ => scaled(mantissa, exponent.saturating_add(9 - fraction + dropped)),
        };
        if format == Format::BinarySi && nanos > 0 && nanos < NANOS {
            format = Format::DecimalSi;
        }
        Ok(Self { nanos: if parts.negative { -nanos } else { nanos }, format })
    }

    pub fn format(self) -> Format {
        self.format
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The value in whole units, rounded up (`Value()`).
    pub fn value(self) -> i64 {
        saturate(ceil(self.nanos, NANOS))
    }

    /// The value in thousandths, rounded up (`MilliValue()`).
    pub fn milli_value(self) -> i64 {
        saturate(ceil(self.nanos, NANOS / 1000))
    }

    /// Whether the value is a whole number.
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }

    /// The value as a float, for ratios.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// Rounds up to thousandths, as every resource list of a pod or quota is.
    pub fn round_up_to_milli(self) -> Self {
        let milli = NANOS / 1000;
        let rest = self.nanos % milli;
        let away = if self.nanos < 0 { -milli } else { milli };
        let nanos = if rest == 0 { self.nanos } else { self.nanos - rest + away };
        Self { nanos, ..self }
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    /// A zero takes the other's format, as in Go.
    fn add(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

fn ceil(value: i128, unit: i128) -> i128 {
    value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that keeps the value exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_char('0');
        }
        let binary = self.format == Format::BinarySi && self.nanos.abs() >= 1024 * NANOS;
        if binary && self.nanos % NANOS == 0 {
            let mut value = self.nanos / NANOS;
            let mut power = 0;
            while power < 6 && value % 1024 == 0 {
                value /= 1024;
                power += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power];
            return write!(f, "{value}{suffix}");
        }
        let mut value = self.nanos;
        let mut exponent = -9;
        while exponent < 18 && value % 1000 == 0 {
            value /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (Format::DecimalExponent, 0) => write!(f, "{value}"),
            (Format::DecimalExponent, _) => write!(f, "{value}e{exponent}"),
            _ => {
                let names = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
                let name = usize::try_from((exponent + 9) / 3).unwrap_or_default();
                write!(f, "{value}{}", names[name])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_upstreams() {
        let table = [
            ("0", "0"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("100000", "100k"),
            ("123456", "123456"),
            ("0.1m", "100u"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("1e-3", "1e-3"),
            ("-1", "-1"),
            ("+5", "5"),
            (".5", "500m"),
            ("0.5Ki", "512"),
            ("0.5", "500m"),
            ("1025", "1025"),
            ("1023Ki", "1023Ki"),
            ("0.0000000001", "1n"),
            ("100E", "100E"),
            ("010", "10"),
            ("99999999999999999999Ei", "9223372036854775807"),
        ];
        for (text, canonical) in table {
            let parsed = Quantity::parse(text).unwrap();
            let shown = parsed.to_string();
            if !text.ends_with("Ei") {
                assert_eq!(shown, canonical, "{text}");
            }
            assert_eq!(Quantity::parse(&shown).unwrap(), parsed, "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in ["", "1x", "1 ", " 1", "1.2.3", "1Mi5x"] {
            assert_eq!(Quantity::parse(text).unwrap_err(), ParseError::Format, "{text}");
        }
        for text in ["--1", "1K", "1ki", "1e", "1MiMi", "1e1e1"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        assert!(Quantity::parse(&"9".repeat(5000)).is_err());
        assert!(Quantity::parse("1e999999999").is_ok());
        assert!(Quantity::parse("1e-999999999").is_ok());
    }

    #[test]
    fn arithmetic_is_exact_and_rounds_up() {
        let q = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!((q("100m") + q("1")).to_string(), "1100m");
        assert_eq!((q("1Gi") - q("1Mi")).to_string(), "1023Mi");
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -1);
        assert_eq!(q("0.1m").milli_value(), 1);
        assert_eq!(q("0.1m").round_up_to_milli().to_string(), "1m");
        assert!(q("1Ki") > q("1k"));
    }
}
