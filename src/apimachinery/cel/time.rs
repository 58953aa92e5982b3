//! Times and durations.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use super::value::Val;

/// A zone by name, or by an offset such as `+02:00`.
fn zone(name: &str) -> Result<TimeZone, String> {
    let unknown = || format!("unknown time zone {name}");
    let (sign, rest) = match name.split_at_checked(1) {
        Some(("-", rest)) => (-1, rest),
        Some(("+", rest)) => (1, rest),
        _ => (1, name),
    };
    if let Some((hours, minutes)) = rest.split_once(':') {
        let hours: i32 = hours.parse().map_err(|_| unknown())?;
        let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
        let offset = Offset::from_seconds(sign * (hours * 3600 + minutes * 60));
        return offset.map(TimeZone::fixed).map_err(|_| unknown());
    }
    TimeZone::get(name).map_err(|_| unknown())
}

/// One part of a time: `getHours` and its like.
pub(super) fn part(function: &str, time: Timestamp, name: Option<&str>) -> Result<Val, String> {
    let zone = name.map_or(Ok(TimeZone::UTC), zone)?;
    let time = time.to_zoned(zone);
    Ok(Val::Int(match function {
        "getFullYear" => time.year().into(),
        "getMonth" => i64::from(time.month()) - 1,
        "getDayOfYear" => i64::from(time.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(time.day()) - 1,
        "getDate" => time.day().into(),
        "getDayOfWeek" => time.weekday().to_sunday_zero_offset().into(),
        "getHours" => time.hour().into(),
        "getMinutes" => time.minute().into(),
        "getSeconds" => time.second().into(),
        _ => time.millisecond().into(),
    }))
}

/// A whole duration in one unit.
pub(super) fn duration_part(function: &str, nanos: i64) -> Val {
    Val::Int(match function {
        "getHours" => nanos / 3_600_000_000_000,
        "getMinutes" => nanos / 60_000_000_000,
        "getSeconds" => nanos / 1_000_000_000,
        _ => nanos / 1_000_000 % 1000,
    })
}
