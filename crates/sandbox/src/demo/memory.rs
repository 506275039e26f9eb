use std::fs;

use anyhow::bail;
use bytesize::ByteSize;

use super::{REPLICAS, objects::Object};

/// Memory for PostgreSQL, two daemons and this process, without the objects.
const BESIDE: u64 = 512 << 20;

/// Returns the bytes that the stores will hold: every object once per replica.
pub(super) fn of(objects: &[Object]) -> u64 {
    objects.iter().map(Object::size_bytes).sum::<u64>() * REPLICAS.len() as u64
}

/// Returns an error if the machine, or this process's container, has less memory left than the demo takes.
pub(super) fn check(objects: &[Object]) -> anyhow::Result<()> {
    let (stores, available) = (of(objects), available());
    if available.is_some_and(|available| stores + BESIDE > available) {
        let show = |bytes| ByteSize::b(bytes).display().iec().to_string();
        bail!(
            "the three stores keep their objects in memory, which would take {} and {} for the rest, but only {} are free: \
             ask for fewer --objects or for a smaller --size",
            show(stores),
            show(BESIDE),
            show(available.unwrap_or_default())
        );
    }
    Ok(())
}

/// Returns the free memory; `None`: the system does not report it.
fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let number =
        |name: &str| -> Option<u64> { fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok() };
    // `memory.max` is "max" if there is no limit.
    let container = number("memory.max").map(|most| most.saturating_sub(number("memory.current").unwrap_or(0)));
    [machine, container].into_iter().flatten().min()
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::objects::objects;

    #[test]
    fn available_memory_is_read_from_the_kernels_page() {
        let page = "MemTotal:       24683924 kB\nMemFree:         8700976 kB\nMemAvailable:   23569000 kB\n";
        assert_eq!(mem_available(page), Some(23_569_000 * 1024));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn each_object_is_held_once_per_store() {
        let objects = objects(10, 1000, 1);
        assert_eq!(of(&objects), 3 * objects.iter().map(Object::size_bytes).sum::<u64>());
    }
}
