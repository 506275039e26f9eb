//! The `process_…` families of this process. The recorder's counters are whole numbers; CPU seconds have fractions.

use metrics_process::collector::{Metrics, collect};

use super::exposition::{Kind, write};

/// Appends what the operating system reports of this process at this moment.
pub(super) fn render(text: &mut String) {
    families(text, &collect());
}

fn families(text: &mut String, process: &Metrics) {
    let mut family = |name, kind, help, value: Option<f64>| {
        write(text, (name, kind, help), None, value.map(|value| ("", value)));
    };
    #[expect(clippy::cast_precision_loss, reason = "gauges are doubles; bytes stay exact up to 2^53")]
    let whole = |value: Option<u64>| value.map(|value| value as f64);
    family(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Total user and system CPU time spent in seconds.",
        process.cpu_seconds_total,
    );
    let mut gauge = |name, help, value| family(name, Kind::Gauge, help, whole(value));
    gauge("process_open_fds", "Number of open file descriptors.", process.open_fds);
    gauge("process_max_fds", "Maximum number of open file descriptors.", process.max_fds);
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", process.virtual_memory_bytes);
    gauge(
        "process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
        process.virtual_memory_max_bytes,
    );
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", process.resident_memory_bytes);
    gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        process.start_time_seconds,
    );
    gauge("process_threads", "Number of OS threads in the process.", process.threads);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_seconds_have_fractions_and_what_is_not_known_is_left_out() {
        let mut text = String::new();
        let process = Metrics { cpu_seconds_total: Some(0.37), threads: Some(4), ..Metrics::default() };
        families(&mut text, &process);
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 0.37\n"), "{text}");
        assert!(text.contains("\nprocess_threads 4\n") && !text.contains("open_fds"), "{text}");
    }
}
