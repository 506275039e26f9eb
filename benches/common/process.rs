//! CPU time and memory of a process, as the kernel reports them.

use std::{env, fs, path::PathBuf};

use anyhow::Context as _;

/// Returns the program whose daemons and stores are measured: built like the benchmark, unless the environment variable
/// `BENCH_PROGRAM` names another one to compare with.
pub fn program() -> PathBuf {
    env::var_os("BENCH_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_copyhold").into(), PathBuf::from)
}

/// The unit of CPU time in Linux, on all common architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns the CPU time of a process so far, user and system, without its children.
pub fn cpu_seconds(id: u32) -> anyhow::Result<f64> {
    ticks(&numbers(id)?[11..13])
}

/// Returns the CPU time of its children so far, including ended ones.
pub fn cpu_seconds_of_children(id: u32) -> anyhow::Result<f64> {
    let mut seconds = cpu_seconds_of_ended_children(id)?;
    for child in fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?.split_whitespace() {
        // The next call counts a child that has ended meanwhile.
        seconds += cpu_seconds(child.parse()?).unwrap_or_default();
    }
    Ok(seconds)
}

/// Returns the CPU time of its children that ended and were waited for.
pub fn cpu_seconds_of_ended_children(id: u32) -> anyhow::Result<f64> {
    ticks(&numbers(id)?[13..15])
}

/// Returns its parent process.
pub fn parent_of(id: u32) -> anyhow::Result<u32> {
    Ok(numbers(id)?[1].parse()?)
}

/// Returns the fields of `/proc/PID/stat` after its name, from its state on.
fn numbers(id: u32) -> anyhow::Result<Vec<String>> {
    let page = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The program's name, in parentheses, may contain anything.
    let (_, numbers) = page.rsplit_once(')').context("a page of numbers")?;
    Ok(numbers.split_whitespace().map(str::to_owned).collect())
}

fn ticks(numbers: &[String]) -> anyhow::Result<f64> {
    let ticks = numbers.iter().map(|ticks| ticks.parse::<u32>());
    Ok(f64::from(ticks.sum::<Result<u32, _>>()?) / TICKS_PER_SECOND)
}

/// Returns resident memory now, and its maximum so far, in MiB.
pub fn resident_mib(id: u32) -> anyhow::Result<(f64, f64)> {
    let page = fs::read_to_string(format!("/proc/{id}/status"))?;
    Ok((mib(&page, "VmRSS:")?, mib(&page, "VmHWM:")?))
}

/// Returns the value of a line like `VmHWM: 123456 kB`.
fn mib(page: &str, name: &str) -> anyhow::Result<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    let kib: u32 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(f64::from(kib) / 1024.0)
}
