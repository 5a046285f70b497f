//! Which device, which data type.

use anyhow::{Context, bail};
use candle_core::{DType, Device};

/// Opens the device that the setting names; `auto` is the first GPU where this build and this
/// machine have one, else the CPU.
///
/// # Errors
/// When the name is none of `auto`, `cpu`, `cuda:N`, or the GPU cannot be opened.
pub fn open_device(name: &str) -> anyhow::Result<Device> {
    match name {
        "auto" => Device::cuda_if_available(0).context("cannot open the first GPU"),
        "cpu" => Ok(Device::Cpu),
        _ => match name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(ordinal) => Device::new_cuda(ordinal)
                .with_context(|| format!("cannot open {name} (built with --features cuda?)")),
            None => bail!("unknown device `{name}`: use auto, cpu or cuda:N"),
        },
    }
}

/// The data type that the setting names on this device.
///
/// # Errors
/// When the name is none of `auto`, `f32`, `f16`, `bf16`.
pub fn choose_dtype(name: &str, device: &Device) -> anyhow::Result<DType> {
    match name {
        "auto" if device.is_cuda() => Ok(DType::BF16),
        "auto" | "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => bail!("unknown dtype `{name}`: use auto, f32, f16 or bf16"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(open_device("cpu").unwrap().is_cpu());
        for wrong in ["gpu", "cuda", "cuda:x", ""] {
            assert!(open_device(wrong).is_err(), "{wrong}");
        }
        assert_eq!(choose_dtype("auto", &Device::Cpu).unwrap(), DType::F32);
        assert_eq!(choose_dtype("bf16", &Device::Cpu).unwrap(), DType::BF16);
        assert!(choose_dtype("f64", &Device::Cpu).is_err());
    }
}
