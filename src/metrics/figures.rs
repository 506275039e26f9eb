//! Gauges whose values were read from PostgreSQL. A scrape shows what was read last and sends no statement itself.
//!
//! A value that could not be read again for some time is left out: the recorder would show it for ever, and of removed
//! replicas as well.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::exposition::{Kind, write};

/// A gauge with at most one label.
#[derive(Debug)]
pub(super) struct Gauge {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) label: Option<&'static str>,
    pub(super) when_old: WhenOld,
}

/// What a scrape shows of a value that is too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenOld {
    /// Nothing.
    LeftOut,
    /// The value: it is a time, or belongs to one, and shows itself how old it is.
    Kept,
    /// 0, also while nothing was read yet.
    Zero,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    value: f64,
    at: Instant,
    holds: Duration,
}

/// The last readings of some gauges.
#[derive(Debug, Default)]
pub(super) struct Figures(Mutex<BTreeMap<&'static str, BTreeMap<String, Reading>>>);

impl Figures {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Takes over all series of a gauge; those of before are gone. They are shown for as long as `holds`.
    pub(super) fn replace(&self, gauge: &Gauge, holds: Duration, series: impl IntoIterator<Item = (String, f64)>) {
        let at = Instant::now();
        let read = series.into_iter().map(|(label, value)| (label, Reading { value, at, holds })).collect();
        self.lock().insert(gauge.name, read);
    }

    /// Takes over one series of a gauge whose series are read apart.
    pub(super) fn set(&self, gauge: &Gauge, holds: Duration, label: String, value: f64) {
        let reading = Reading { value, at: Instant::now(), holds };
        self.lock().entry(gauge.name).or_default().insert(label, reading);
    }

    /// Appends what was read of `gauges`, as of `now`.
    pub(super) fn render(&self, text: &mut String, gauges: &[&Gauge], now: Instant) {
        let readings = self.lock();
        for gauge in gauges {
            let none = BTreeMap::new();
            let read = readings.get(gauge.name).unwrap_or(&none);
            let shown = |reading: &Reading| {
                let is_old = now.saturating_duration_since(reading.at) > reading.holds;
                match gauge.when_old {
                    _ if !is_old => Some(reading.value),
                    WhenOld::LeftOut => None,
                    WhenOld::Kept => Some(reading.value),
                    WhenOld::Zero => Some(0.0),
                }
            };
            let mut series: Vec<_> =
                read.iter().filter_map(|(label, reading)| Some((label.as_str(), shown(reading)?))).collect();
            if series.is_empty() && gauge.when_old == WhenOld::Zero {
                series.push(("", 0.0));
            }
            write(text, (gauge.name, Kind::Gauge, gauge.help), gauge.label, series);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, BTreeMap<String, Reading>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn gauge(name: &'static str, label: Option<&'static str>, when_old: WhenOld) -> Gauge {
        Gauge { name, help: "Help.", label, when_old }
    }

    const BACKLOG: Gauge = gauge("backlog", Some("replica"), WhenOld::LeftOut);
    const COUNTED: Gauge = gauge("counted", Some("replica"), WhenOld::Kept);
    const UP: Gauge = gauge("up", None, WhenOld::Zero);
    const HOLDS: Duration = Duration::from_mins(1);

    fn samples(figures: &Figures, now: Instant) -> Vec<String> {
        let mut text = String::new();
        figures.render(&mut text, &[&BACKLOG, &COUNTED, &UP], now);
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn what_could_not_be_read_again_is_left_out_but_for_when_it_was_read_and_whether_it_can_be() {
        let figures = Figures::default();
        assert_eq!(samples(&figures, Instant::now()), ["up 0"]);
        figures.replace(&BACKLOG, HOLDS, [("scw".to_owned(), 3.0)]);
        figures.replace(&COUNTED, HOLDS, [("scw".to_owned(), 1_700_000_000.5)]);
        figures.replace(&UP, HOLDS, [(String::new(), 1.0)]);
        let now = Instant::now();
        assert_eq!(
            samples(&figures, now),
            ["backlog{replica=\"scw\"} 3", "counted{replica=\"scw\"} 1700000000.5", "up 1"]
        );
        let late = now + HOLDS + Duration::from_secs(1);
        assert_eq!(samples(&figures, late), ["counted{replica=\"scw\"} 1700000000.5", "up 0"]);
    }

    #[test]
    fn series_of_a_removed_replica_are_gone_with_the_next_reading() {
        let figures = Figures::default();
        for gauge in [&BACKLOG, &COUNTED] {
            figures.replace(gauge, HOLDS, [("scw".to_owned(), 3.0), ("wasabi".to_owned(), 4.0)]);
            figures.replace(gauge, HOLDS, [("wasabi".to_owned(), 4.0)]);
        }
        assert_eq!(
            samples(&figures, Instant::now()),
            ["backlog{replica=\"wasabi\"} 4", "counted{replica=\"wasabi\"} 4", "up 0"]
        );
    }

    #[test]
    fn series_that_are_read_apart_age_apart() {
        let figures = Figures::default();
        figures.set(&BACKLOG, Duration::from_secs(1), "scw".to_owned(), 1.0);
        figures.set(&BACKLOG, HOLDS, "wasabi".to_owned(), 2.0);
        let late = Instant::now() + Duration::from_secs(2);
        assert_eq!(samples(&figures, late), ["backlog{replica=\"wasabi\"} 2", "up 0"]);
    }
}
