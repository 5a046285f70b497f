//! NVIDIA GPUs: whether there is one, and its memory.

use candle_core::{Device, Result};

/// Whether this build can use GPUs and the machine has one, be it in order or not.
pub fn has_gpu() -> bool {
    #[cfg(feature = "cuda")]
    return cuda::has_gpu();
    #[cfg(not(feature = "cuda"))]
    false
}

/// Lets the driver's pool keep what was freed. By default it gives all of it back whenever a stream
/// is waited for, that is, after every batch, and the next batch asks for it anew. Does nothing on
/// other devices, and on GPUs without such pools.
///
/// # Errors
/// The driver refused.
pub fn keep_freed_memory(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::keep_freed_memory(device),
        _ => Ok(()),
    }
}

/// Bytes that a GPU has free, after its driver; nothing for other devices.
///
/// # Errors
/// The driver refused.
pub fn free_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::free_memory(device).map(Some),
        _ => Ok(None),
    }
}

#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod cuda {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
    use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUresult};
    use candle_core::{CudaDevice, Result};

    pub(super) fn has_gpu() -> bool {
        match CudaContext::device_count() {
            Ok(count) => count > 0,
            Err(error) => error.0 != CUresult::CUDA_ERROR_NO_DEVICE,
        }
    }

    pub(super) fn free_memory(on: &CudaDevice) -> Result<u64> {
        let (free, _) = on.cuda_stream().context().mem_get_info().w()?;
        Ok(free as u64)
    }

    pub(super) fn keep_freed_memory(on: &CudaDevice) -> Result<()> {
        let stream = on.cuda_stream();
        let context = stream.context();
        if !context.has_async_alloc() {
            return Ok(());
        }
        context.bind_to_thread().w()?;
        let mut bytes = u64::MAX;
        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the device is that of a living context, so it and its default pool are valid; the
        // attribute is read as the 64-bit number that `bytes` is, before the call returns.
        unsafe {
            let pool = device::get_default_mem_pool(context.cu_device()).w()?;
            mem_pool::set_attribute(pool, threshold, (&raw mut bytes).cast()).w()
        }
    }
}
