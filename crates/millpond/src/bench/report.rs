//! The figures of a measurement.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::cluster::Reach;
use crate::output::{Output, quiet};
use crate::table::Table;

/// The longest time that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long things took, in microseconds and exact to three digits, in memory that does not grow.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Latencies {
        let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
        Latencies(Histogram::new_with_bounds(1, longest, 3).expect("an hour in microseconds is within bounds"))
    }

    pub(super) fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// `None` if there are none.
    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Quantiles {
            count: self.0.len(),
            min: ms(self.0.min()),
            mean: rounded(self.0.mean() / 1000.0, 3),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: ms(self.0.max()),
        })
    }
}

/// How long things took, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Quantiles {
    count: u64,
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    p9999: f64,
    max: f64,
}

/// The CPU time that this process has had, in all its threads.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

/// What was measured.
pub(super) struct Measured<'a> {
    pub(super) topic: &'a str,
    pub(super) records: u64,
    /// Of their keys and values.
    pub(super) bytes: u64,
    /// That were sent, and not acknowledged or not read back.
    pub(super) failed: u64,
    pub(super) took: Duration,
    pub(super) cpu: Duration,
    pub(super) latency: Option<Quantiles>,
    /// Why it ended early.
    pub(super) error: Option<String>,
}

/// What is told of it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    topic: &'a str,
    records: u64,
    bytes: u64,
    failed: u64,
    seconds: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    cpu_seconds: f64,
    records_per_cpu_second: f64,
    latency_ms: Option<&'a Quantiles>,
    error: Option<&'a str>,
}

impl Measured<'_> {
    fn report(&self) -> Report<'_> {
        let (seconds, cpu) = (self.took.as_secs_f64(), self.cpu.as_secs_f64());
        // Nothing was done in no time.
        let per = |amount: f64, time: f64| if time > 0.0 { amount / time } else { 0.0 };
        let (records, bytes) = (self.records as f64, self.bytes as f64);
        Report {
            topic: self.topic,
            records: self.records,
            bytes: self.bytes,
            failed: self.failed,
            seconds: rounded(seconds, 6),
            records_per_second: rounded(per(records, seconds), 1),
            megabytes_per_second: rounded(per(bytes / 1e6, seconds), 3),
            cpu_seconds: rounded(cpu, 6),
            records_per_cpu_second: rounded(per(records, cpu), 1),
            latency_ms: self.latency.as_ref(),
            error: self.error.as_deref(),
        }
    }

    /// Prints it as the caller wants it.
    pub(super) fn print(&self, reach: &Reach) -> Result<()> {
        let report = self.report();
        let mut out = Output::stdout();
        let printed = match reach.json {
            true => out.line(&serde_json::to_string(&report)?),
            false => tables(&report).iter().try_for_each(|table| table.print(&mut out)),
        };
        Ok(quiet(printed.and_then(|()| out.flush()))?)
    }
}

fn tables(report: &Report<'_>) -> Vec<Table> {
    let mut rates =
        Table::new(&["RECORDS", "FAILED", "SECONDS", "RECORDS/S", "MB/S", "CPU SECONDS", "RECORDS/CPU SECOND"]);
    rates.row([
        report.records.to_string(),
        report.failed.to_string(),
        format!("{:.2}", report.seconds),
        format!("{:.0}", report.records_per_second),
        format!("{:.1}", report.megabytes_per_second),
        format!("{:.2}", report.cpu_seconds),
        format!("{:.0}", report.records_per_cpu_second),
    ]);
    let mut tables = vec![rates];
    if let Some(ms) = report.latency_ms {
        let mut latency = Table::new(&["LATENCY MS", "MIN", "MEAN", "P50", "P90", "P99", "P99.9", "P99.99", "MAX"]);
        let cells = [ms.min, ms.mean, ms.p50, ms.p90, ms.p99, ms.p999, ms.p9999, ms.max];
        let cells = cells.map(|cell| format!("{cell:.2}"));
        latency.row(std::iter::once(format!("of {}", ms.count)).chain(cells));
        tables.push(latency);
    }
    tables
}

/// To so many digits behind the point: what is behind them is noise.
fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_three_digits_and_nothing_is_left_out() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.quantiles(), None);
        for micros in 1..=100_000 {
            latencies.record(Duration::from_micros(micros));
        }
        let found = latencies.quantiles().expect("some");
        let near = |found: f64, expected: f64| (found - expected).abs() <= expected / 1000.0;
        assert!(near(found.p50, 50.0) && near(found.p99, 99.0) && near(found.max, 100.0), "{found:?}");
        assert!(near(found.mean, 50.0) && found.min == 0.001 && found.count == 100_000, "{found:?}");
        latencies.record(Duration::ZERO);
        latencies.record(2 * LONGEST);
        let found = latencies.quantiles().expect("some");
        assert!(found.count == 100_002 && near(found.max, 3_600_000.0) && found.min == 0.0, "{found:?}");
    }

    #[test]
    fn a_measurement_of_nothing_has_rates_of_nothing() {
        let measured = Measured {
            topic: "logs",
            records: 0,
            bytes: 0,
            failed: 0,
            took: Duration::ZERO,
            cpu: Duration::ZERO,
            latency: None,
            error: None,
        };
        let report = measured.report();
        assert_eq!((report.records_per_second, report.records_per_cpu_second), (0.0, 0.0));
    }
}
