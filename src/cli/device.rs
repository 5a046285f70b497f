//! Which device, which data type.

use std::str::FromStr;

use anyhow::{Context, bail};
use candle_core::{DType, Device};

use crate::models::ops;
use crate::pack::WeightTypes;

/// A device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU where this build and this machine have one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU by its number.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => match name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Ok(Self::Cuda(ordinal)),
                None => bail!("unknown device `{name}`: use auto, cpu or cuda:N"),
            },
        }
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// When the GPU cannot be opened.
    pub fn open(self) -> anyhow::Result<Device> {
        let device = match self {
            Self::Auto if ops::has_gpu() => {
                Device::new_cuda(0).context("cannot open the first GPU")?
            }
            Self::Auto | Self::Cpu => Device::Cpu,
            Self::Cuda(ordinal) => Device::new_cuda(ordinal).with_context(|| {
                let hint = if cfg!(feature = "cuda") {
                    "does nvidia-smi list it?"
                } else {
                    "this riveg was built without --features cuda"
                };
                format!("cannot open cuda:{ordinal}: {hint}")
            })?,
        };
        ops::keep_freed_memory(&device).context("cannot set up the GPU's memory")?;
        Ok(device)
    }
}

/// A data type by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtypeName {
    /// What the pack says, else what suits the device: bf16 on a GPU, else f32.
    Auto,
    /// This one.
    Fixed(DType),
}

impl FromStr for DtypeName {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::Fixed(DType::F32)),
            "f16" => Ok(Self::Fixed(DType::F16)),
            "bf16" => Ok(Self::Fixed(DType::BF16)),
            _ => bail!("unknown dtype `{name}`: use auto, f32, f16 or bf16"),
        }
    }
}

impl DtypeName {
    /// The data types on this device.
    pub fn on(self, device: &Device) -> WeightTypes {
        let usual = if device.is_cuda() { DType::BF16 } else { DType::F32 };
        match self {
            Self::Auto => WeightTypes { forced: None, usual },
            Self::Fixed(dtype) => dtype.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!("cpu".parse::<DeviceName>().unwrap().open().unwrap().is_cpu());
        assert_eq!("cuda:3".parse::<DeviceName>().unwrap(), DeviceName::Cuda(3));
        for wrong in ["gpu", "cuda", "cuda:x", "cuda:-1", ""] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
        let on_cpu = |name: &str| name.parse::<DtypeName>().map(|dtype| dtype.on(&Device::Cpu));
        let auto = on_cpu("auto").unwrap();
        assert_eq!((auto.forced, auto.usual), (None, DType::F32));
        assert_eq!(on_cpu("bf16").unwrap().forced, Some(DType::BF16));
        assert!(on_cpu("f64").is_err());
    }
}
