//! The same figures as those of `millpond bench --json`.

use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Microseconds.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("an hour in microseconds is within bounds")
}

pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub fn figures(
    records: u64,
    bytes: u64,
    failed: u64,
    took: Duration,
    cpu: Duration,
    latency: Option<&Histogram<u64>>,
) -> Value {
    let (seconds, cpu) = (took.as_secs_f64(), cpu.as_secs_f64());
    let ms = |micros: u64| micros as f64 / 1000.0;
    json!({
        "records": records,
        "bytes": bytes,
        "failed": failed,
        "seconds": seconds,
        "records_per_second": records as f64 / seconds,
        "megabytes_per_second": bytes as f64 / 1e6 / seconds,
        "cpu_seconds": cpu,
        "records_per_cpu_second": records as f64 / cpu,
        "latency_ms": latency.map(|of| json!({
            "count": of.len(),
            "p50": ms(of.value_at_quantile(0.5)),
            "p90": ms(of.value_at_quantile(0.9)),
            "p99": ms(of.value_at_quantile(0.99)),
            "p999": ms(of.value_at_quantile(0.999)),
            "max": ms(of.max()),
        })),
    })
}
