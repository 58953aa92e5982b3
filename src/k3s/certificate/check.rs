//! `k3s certificate check`: every certificate of this node, what it is for and how long it lasts.

use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::{Timestamp, Unit, tz::TimeZone};
use pki::Certificate;

use super::Service;
use crate::settings::Paths;

/// k3s' warning window.
const WARN_SECS: i64 = 120 * 24 * 3600;

/// One certificate of a service.
pub(super) struct Line {
    pub(super) service: &'static str,
    pub(super) path: PathBuf,
    pub(super) certificate: Certificate,
}

/// What there is to say of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    NotYetValid,
    /// It should have been renewed.
    Overdue,
    Expired,
}

impl Verdict {
    /// k3s' word in tables.
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::NotYetValid => "NOT YET VALID",
            Verdict::Overdue => "WARNING",
            Verdict::Expired => "EXPIRED",
        }
    }
}

impl Line {
    /// The certificates of a file; none when it is not there.
    pub(super) fn all(service: &'static str, path: &Path) -> Result<Vec<Line>> {
        if !path.exists() {
            return Ok(Vec::new());
        }
        let found = pki::inspect_file(path)?.into_iter();
        Ok(found.map(|certificate| Line { service, path: path.to_owned(), certificate }).collect())
    }

    /// When this certificate, if it is not renewed, will be overdue and over.
    pub(super) fn moments(&self) -> [i64; 2] {
        [overdue_at(&self.certificate), self.certificate.not_after]
    }

    /// `certificate CN=… is ok, expires at …`
    pub(super) fn sentence(&self, now: i64) -> String {
        let state = match verdict(&self.certificate, now) {
            Verdict::Ok => "is ok",
            Verdict::Overdue => "should have been renewed",
            Verdict::Expired => "has expired",
            Verdict::NotYetValid => "is not valid yet",
        };
        let Certificate { subject, not_after, .. } = &self.certificate;
        let end = instant(*not_after, "%Y-%m-%dT%H:%M:%SZ");
        format!("certificate {subject} {state}, expires at {end}")
    }
}

/// The certificates of these services that are here.
pub(super) fn lines(paths: &Paths, services: &[Service]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (service, leafs) in services {
        for leaf in *leafs {
            lines.extend(Line::all(service, &leaf.cert(paths))?);
        }
    }
    Ok(lines)
}

/// Prints the certificates of these services, as sentences or as a table.
pub(super) fn run(paths: &Paths, services: &[Service], output: &str, now: Timestamp) -> Result<()> {
    let lines = lines(paths, services)?;
    let now = now.as_second();
    print!("{}", if output == "table" { table(&lines, now) } else { text(&lines, now) });
    Ok(())
}

/// A short life is no reason to worry: what matters is whether renewal is overdue.
fn overdue_at(certificate: &Certificate) -> i64 {
    certificate.renew_at + (certificate.not_after - certificate.renew_at) / 2
}

/// What a certificate is worth now.
pub(super) fn verdict(certificate: &Certificate, now: i64) -> Verdict {
    let left = certificate.not_after - now;
    match left {
        _ if now < certificate.not_before => Verdict::NotYetValid,
        ..=0 => Verdict::Expired,
        ..=WARN_SECS if now > overdue_at(certificate) => Verdict::Overdue,
        _ => Verdict::Ok,
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
        out += &format!("{}: {}\n", line.path.display(), line.sentence(now));
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
            verdict(certificate, now).word().to_owned(),
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
            assert_eq!(verdict(&leaf(0, 100), now).word(), expected, "{now}");
        }
        assert_eq!(verdict(&leaf(10, 100), 5), Verdict::NotYetValid);
    }
}
