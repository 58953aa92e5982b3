//! Cron schedules: five fields with ranges, steps, lists and names, or a macro. Pure.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

/// How far ahead a time is looked for: a schedule such as 30 February has none.
const DAYS_MAX: usize = 366 * 5;
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A parsed schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: BTreeSet<i8>,
    hours: BTreeSet<i8>,
    days: BTreeSet<i8>,
    months: BTreeSet<i8>,
    weekdays: BTreeSet<i8>,
    /// With both day fields restricted, either one is enough.
    either_day: bool,
}

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {text:?}", fields.len()));
        };
        let open = |field: &str| field.starts_with('*') || field.starts_with('?');
        Ok(Schedule {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 7, &DAYS)?.into_iter().map(|day| day % 7).collect(),
            either_day: !open(days) && !open(weekdays),
        })
    }

    /// The first time after `after`.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.checked_add(SignedDuration::from_secs(1)).ok()?.to_zoned(zone.clone());
        let mut date = start.date();
        for _ in 0..DAYS_MAX {
            if self.has_day(date)
                && let Some(found) = self.in_day(date, after, zone)
            {
                return Some(found);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn in_day(&self, date: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        for hour in &self.hours {
            for minute in &self.minutes {
                let Ok(zoned) = date.at(*hour, *minute, 0, 0).to_zoned(zone.clone()) else {
                    continue;
                };
                // A time that the clock jumps over does not exist on this day.
                let exists = zoned.hour() == *hour && zoned.minute() == *minute;
                if exists && zoned.timestamp() > after {
                    return Some(zoned.timestamp());
                }
            }
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let day = self.days.contains(&date.day());
        let weekday = self.weekdays.contains(&date.weekday().to_sunday_zero_offset());
        self.months.contains(&date.month())
            && if self.either_day { day || weekday } else { day && weekday }
    }
}

fn field(text: &str, least: i8, most: i8, names: &[&str]) -> Result<BTreeSet<i8>, String> {
    let mut found = BTreeSet::new();
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(a, b)| (a, Some(b)));
        let step: usize = match step {
            Some(step) => {
                step.parse().ok().filter(|it| *it > 0).ok_or(format!("bad step in {part:?}"))?
            }
            None => 1,
        };
        let number = |text: &str| -> Result<i8, String> {
            let name = names.iter().position(|name| name.eq_ignore_ascii_case(text));
            // Months count from one, days of the week from zero.
            let named = name.and_then(|at| i8::try_from(at).ok()).map(|at| at + least);
            let value = named.or_else(|| text.parse().ok());
            value.filter(|it| (least..=most).contains(it)).ok_or(format!("bad value {text:?}"))
        };
        let (first, last) = match range {
            "*" | "?" => (least, most),
            range => match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None if part.contains('/') => (number(range)?, most),
                None => (number(range)?, number(range)?),
            },
        };
        if first > last {
            return Err(format!("bad range {range:?}"));
        }
        found.extend((first..=last).step_by(step));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, after: &str, want: Option<&str>) {
        let found = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &TimeZone::UTC);
        assert_eq!(found.map(|it| it.to_string()).as_deref(), want, "{schedule}");
    }

    #[test]
    fn schedules_give_the_next_time() {
        check("*/1 * * * ?", "2026-01-01T00:00:00Z", Some("2026-01-01T00:01:00Z"));
        check("* */1 * * ?", "2026-01-01T00:00:30Z", Some("2026-01-01T00:01:00Z"));
        check("@hourly", "2026-01-01T00:00:00Z", Some("2026-01-01T01:00:00Z"));
        check("30 4 1,15 * *", "2026-01-02T00:00:00Z", Some("2026-01-15T04:30:00Z"));
        check("0 0 13 * fri", "2026-01-01T00:00:00Z", Some("2026-01-02T00:00:00Z"));
        check("0 12 29 feb *", "2026-01-01T00:00:00Z", Some("2028-02-29T12:00:00Z"));
        check("0 0 30 2 *", "2026-01-01T00:00:00Z", None);
        check("5-20/5 10 * * 7", "2026-01-01T00:00:00Z", Some("2026-01-04T10:05:00Z"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "*/0 * * * *", "5-1 * * * *", "x * * * *"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn zones_follow_the_clock_on_the_wall() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let check = |cron: &str, after: &str, want: &str| {
            let after: Timestamp = after.parse().unwrap();
            let found = Schedule::parse(cron).unwrap().next(after, &berlin).unwrap();
            assert_eq!(found.to_string(), want, "{cron}");
        };
        check("0 9 * * *", "2026-01-10T00:00:00Z", "2026-01-10T08:00:00Z");
        check("0 9 * * *", "2026-07-10T00:00:00Z", "2026-07-10T07:00:00Z");
        // The hour that is skipped in spring.
        check("30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z");
        assert!(TimeZone::get("Mars/Olympus").is_err());
    }
}
