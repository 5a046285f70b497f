//! Does a pack fit into the memory of its device?

use std::fs;
use std::path::Path;

use anyhow::bail;
use candle_core::Device;

use crate::models::{device_name, ops};
use crate::pack::MemoryPlan;

/// Memory that is there to be taken.
#[derive(Debug, Clone)]
pub struct Available {
    /// Whose it is, e.g. `cuda:0`.
    pub device: String,
    /// How much; nothing where nobody knows.
    pub bytes: Option<u64>,
}

impl Available {
    /// On the device that the networks will use. What a file's tensors pass through on the way to a
    /// GPU, one by one, is not asked for.
    ///
    /// # Errors
    /// The GPU's driver does not say.
    pub fn on(device: &Device) -> anyhow::Result<Self> {
        let bytes = if device.is_cpu() { available() } else { ops::free_memory(device)? };
        Ok(Self { device: device_name(device), bytes })
    }
}

/// Refuses a plan that does not fit; says nothing where nobody knows how much there is.
///
/// # Errors
/// When the plan needs more than what is available.
pub fn refuse_too_large(
    name: &str,
    plan: &MemoryPlan,
    available: &Available,
) -> anyhow::Result<()> {
    let device = &available.device;
    let Some(available) = available.bytes.filter(|available| *available < plan.total()) else {
        return Ok(());
    };
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    bail!(
        "pack `{name}` needs about {:.0} MB ({:.0} MB of weights and an allowance for work), but only \
         {:.0} MB are available on {device}: use --dtype bf16 or a smaller pack, or turn --memory-check off",
        megabytes(plan.total()),
        megabytes(plan.weights),
        megabytes(available)
    )
}

/// Bytes that this process may still take: what the system has, and what its container allows.
fn available() -> Option<u64> {
    let of_system = of_system(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let of_container = of_container(Path::new("/sys/fs/cgroup"));
    Some(of_container.map_or(of_system, |bytes| bytes.min(of_system)))
}

fn of_system(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Of a control group of version 2, else of version 1, as a container sees its own.
fn of_container(root: &Path) -> Option<u64> {
    let second = ("memory.max", "memory.current", "memory.stat", "inactive_file");
    let first = (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    );
    [second, first].into_iter().find_map(|(limit, usage, statistics, cache)| {
        let number = |name: &str| fs::read_to_string(root.join(name)).ok()?.trim().parse().ok();
        let (limit, usage): (u64, u64) = (number(limit)?, number(usage)?);
        let statistics = fs::read_to_string(root.join(statistics)).unwrap_or_default();
        // Files that nobody has read lately give way to whoever asks for memory.
        let cached = statistics.lines().find_map(|line| {
            line.strip_prefix(cache)?.strip_prefix(' ')?.trim().parse::<u64>().ok()
        });
        Some(limit.saturating_sub(usage.saturating_sub(cached.unwrap_or(0))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_has() {
        let meminfo = "MemTotal:  16 kB\nMemFree:  1 kB\nMemAvailable:      12 kB\n";
        assert_eq!(of_system(meminfo), Some(12 * 1024));
        assert_eq!(of_system("MemTotal: 16 kB"), None);
    }

    #[test]
    fn what_a_container_allows() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        assert_eq!(of_container(root.path()), None);
        write("memory.max", "1000\n");
        write("memory.current", "700\n");
        assert_eq!(of_container(root.path()), Some(300));
        write("memory.stat", "anon 500\ninactive_file 150\nactive_file 50\n");
        assert_eq!(of_container(root.path()), Some(450));
        write("memory.max", "max\n");
        assert_eq!(of_container(root.path()), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_figures() {
        let plan = MemoryPlan {
            roles: Vec::new(),
            weights: 5_000_000_000,
            working: 1_000_000_000,
            largest_tensor: 2_000_000_000,
        };
        let check = |device: &str, bytes: Option<u64>| {
            refuse_too_large("big", &plan, &Available { device: device.into(), bytes })
        };
        assert!(check("cpu", None).is_ok());
        assert!(check("cpu", Some(7_000_000_000)).is_ok());
        let error = check("cuda:1", Some(6_999_999_999)).unwrap_err().to_string();
        for part in ["`big` needs about 7000 MB", "7000 MB are available on cuda:1", "--dtype"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_cpu_says_what_it_has() {
        let of_cpu = Available::on(&Device::Cpu).unwrap();
        assert_eq!(of_cpu.device, "cpu");
        assert_eq!(of_cpu.bytes.is_some(), Path::new("/proc/meminfo").exists());
    }
}
