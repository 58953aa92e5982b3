//! `k3s certificate check`: every certificate of this node, what it is for and how long it lasts.

use std::path::PathBuf;

use anyhow::Result;
use jiff::{Timestamp, Unit, tz::TimeZone};
use pki::Certificate;

use super::Service;
use crate::settings::Paths;

/// k3s' warning window.
const WARN_SECS: i64 = 120 * 24 * 3600;

/// One line of the answer.
struct Line {
    service: &'static str,
    path: PathBuf,
    certificate: Certificate,
}

/// Prints the certificates of these services, as sentences or as a table.
pub(super) fn run(paths: &Paths, services: &[Service], output: &str, now: Timestamp) -> Result<()> {
    let mut lines = Vec::new();
    for (service, leafs) in services {
        for leaf in *leafs {
            let path = leaf.cert(paths);
            if !path.exists() {
                continue;
            }
            for certificate in pki::inspect_file(&path)? {
                lines.push(Line { service, path: path.clone(), certificate });
            }
        }
    }
    let now = now.as_second();
    print!("{}", if output == "table" { table(&lines, now) } else { text(&lines, now) });
    Ok(())
}

fn status(certificate: &Certificate, now: i64) -> &'static str {
    let left = certificate.not_after - now;
    // A short life is no reason to worry: what matters is whether renewal is overdue.
    let late = now > certificate.renew_at + (certificate.not_after - certificate.renew_at) / 2;
    match left {
        _ if now < certificate.not_before => "NOT YET VALID",
        ..=0 => "EXPIRED",
        ..=WARN_SECS if late => "WARNING",
        _ => "OK",
    }
}

fn text(lines: &[Line], now: i64) -> String {
    let mut out = String::new();
    let mut last = "";
    for line in lines {
        if line.service != last {
            out += &format!("Checking certificates for {}\n", line.service);
            last = line.service;
        }
        let Line { path, certificate, .. } = line;
        let state = match status(certificate, now) {
            "OK" => "is ok",
            "WARNING" => "should have been renewed",
            "EXPIRED" => "has expired",
            _ => "is not valid yet",
        };
        out += &format!(
            "{}: certificate {} {state}, expires at {}\n",
            path.display(),
            certificate.subject,
            instant(certificate.not_after, "%Y-%m-%dT%H:%M:%SZ"),
        );
    }
    out
}

fn table(lines: &[Line], now: i64) -> String {
    let mut rows = vec![
        ["FILENAME", "SUBJECT", "USAGES", "EXPIRES", "RESIDUAL TIME", "STATUS"].map(str::to_owned),
    ];
    rows.push(rows[0].clone().map(|title| "-".repeat(title.len())));
    for Line { path, certificate, .. } in lines {
        rows.push([
            path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            certificate.common_name.clone(),
            certificate.usages.join(","),
            instant(certificate.not_after, "%b %d, %Y %H:%M UTC"),
            residual(certificate.not_after - now),
            status(certificate, now).to_owned(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn instant(secs: i64, format: &str) -> String {
    let at = Timestamp::from_second(secs).unwrap_or(Timestamp::MAX);
    at.to_zoned(TimeZone::UTC).strftime(format).to_string()
}

/// `1 year`, `10 years`, `3 days`: the largest unit that counts.
fn residual(secs: i64) -> String {
    if secs <= 0 {
        return "none".to_owned();
    }
    const UNITS: [(Unit, &str, i64); 5] = [
        (Unit::Year, "year", 365 * 24 * 3600),
        (Unit::Day, "day", 24 * 3600),
        (Unit::Hour, "hour", 3600),
        (Unit::Minute, "minute", 60),
        (Unit::Second, "second", 1),
    ];
    let (_, name, size) = UNITS.iter().find(|(_, _, size)| secs >= *size).unwrap_or(&UNITS[4]);
    let count = secs / size;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_the_largest_unit() {
        for (secs, expected) in [
            (0, "none"),
            (1, "1 second"),
            (3599, "59 minutes"),
            (7200, "2 hours"),
            (364 * 86400, "364 days"),
            (3650 * 86400, "10 years"),
        ] {
            assert_eq!(residual(secs), expected, "{secs}");
        }
    }

    #[test]
    fn renewal_that_is_overdue_is_a_warning() {
        let leaf = |from, to| Certificate {
            subject: String::new(),
            common_name: String::new(),
            usages: Vec::new(),
            not_before: from,
            not_after: to,
            renew_at: from + (to - from) * 2 / 3,
        };
        for (now, expected) in [(50, "OK"), (70, "OK"), (90, "WARNING"), (100, "EXPIRED")] {
            assert_eq!(status(&leaf(0, 100), now), expected, "{now}");
        }
        assert_eq!(status(&leaf(10, 100), 5), "NOT YET VALID");
    }
}
