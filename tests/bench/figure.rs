//! A measured number beside what it must not exceed or fall below, and beside a peer's.

/// What a figure is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// The same measured of a real etcd on the same disk in the same run.
    Peer(f64),
    None,
}

/// Prints a figure in one line; a missed budget is marked, not an error: machines differ.
pub(crate) fn print(what: &str, value: f64, unit: &str, goal: Goal) {
    let text = format!("{value:.*}", digits(value));
    let judged = match goal {
        Goal::AtMost(most) => format!("≤ {most} {}", if value <= most { "ok" } else { "MISSED" }),
        Goal::AtLeast(least) => {
            format!("≥ {least} {}", if value >= least { "ok" } else { "MISSED" })
        }
        Goal::Peer(peer) => {
            format!("etcd {peer:.*}, ratio {:.2}", digits(peer), value / peer.max(f64::EPSILON))
        }
        Goal::None => String::new(),
    };
    println!("bench: {what:<58} {text:>9} {unit:<6} {judged}");
}

/// Three significant ones.
fn digits(value: f64) -> usize {
    match value.abs() {
        0.0..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    }
}

/// The value below which this part of the samples lies.
pub(crate) fn quantile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * part) as usize;
    samples.get(at.min(samples.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
