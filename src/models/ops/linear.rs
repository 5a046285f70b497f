//! Linear layers.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Module, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use super::gemm::{Addend, PackedLinear, Storage};
use super::simd::Isa;
use super::{Activation, values};

/// `y = activation(x Wᵀ + b)` over the last dimension.
///
/// On the CPU the weights are packed for the kernel of [`super::gemm`] and kept in that form alone,
/// where the processor has one; elsewhere candle multiplies. A layer of type `bf16` on
/// the CPU, where candle multiplies none, keeps its weights so and takes and gives `f32`. A layer whose
/// file has bytes for weights ([`linear_storage`]) keeps bytes.
#[derive(Debug, Clone)]
pub struct Linear {
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    Packed(Arc<PackedLinear>),
    Plain(Plain),
}

/// The type in which a network's activations are computed whose weights have the type of `vb`:
/// `f32` for `bf16` on the CPU, where only linear layers keep that.
pub fn activation_type(vb: &VarBuilder) -> DType {
    match vb.dtype() {
        DType::BF16 if vb.device().is_cpu() => DType::F32,
        other => other,
    }
}

/// Beside a layer's `weight`: what each output's bytes are to be multiplied by.
pub const WEIGHT_SCALE: &str = "weight_scale";

/// How a layer is to be stored whose tensors lie below `vb`: as its file has it. Weights themselves
/// are read as numbers, whatever the file has.
pub fn linear_storage(vb: &VarBuilder) -> Storage {
    match vb.dtype() {
        _ if vb.contains_tensor(WEIGHT_SCALE) => Storage::Int8,
        DType::BF16 => Storage::Bf16,
        _ => Storage::F32,
    }
}

/// With candle's own operations.
#[derive(Debug, Clone)]
struct Plain {
    /// `[inputs, outputs]`, a transposed view of the stored weight.
    weight: Tensor,
    bias: Option<Tensor>,
    activation: Activation,
}

impl Linear {
    /// Reads `weight` `[outputs, inputs]` and `bias` `[outputs]`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::load_active((inputs, outputs), Activation::None, vb)
    }

    /// [`Linear::load`], followed by an activation.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load_active(
        (inputs, outputs): (usize, usize),
        activation: Activation,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((outputs, inputs), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        Self::new_stored(linear_storage(&vb), &weight, Some(&bias), activation)
    }

    /// From `weight` `[outputs, inputs]` and `bias` `[outputs]`.
    ///
    /// # Errors
    /// The shapes do not fit, or a tensor operation failed.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Self> {
        let storage = if weight.dtype() == DType::BF16 { Storage::Bf16 } else { Storage::F32 };
        Self::new_stored(storage, weight, bias, activation)
    }

    /// [`Linear::new`], stored so where the kernel of [`super::gemm`] multiplies.
    ///
    /// # Errors
    /// The shapes do not fit, or a tensor operation failed.
    pub fn new_stored(
        storage: Storage,
        weight: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Self> {
        Self::stored(weight, bias, activation, (storage, Isa::best()))
    }

    /// [`Linear::new_stored`] with the kernel given.
    fn stored(
        weight: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
        (storage, isa): (Storage, Option<Isa>),
    ) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        if let Some(bias) = bias
            && bias.dims() != [outputs]
        {
            return Err(candle_core::Error::msg(format!("{:?} biases for {outputs}", bias.dims())));
        }
        let packable = matches!(weight.dtype(), DType::F32 | DType::BF16) && inputs * outputs > 0;
        let form = match isa {
            Some(isa) if packable && weight.device().is_cpu() => {
                let host = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
                let (weight, bias) = (host(weight)?, bias.map(host).transpose()?);
                let weight = (weight.as_slice(), inputs);
                let stored = (storage.fastest_on(isa), isa);
                let packed = PackedLinear::new(weight, bias.as_deref(), activation, stored);
                Form::Packed(Arc::new(packed))
            }
            _ => {
                let bias = bias.cloned();
                Form::Plain(Plain { weight: weight.t()?, bias, activation })
            }
        };
        Ok(Self { form })
    }

    /// `[…, inputs]` → `[…, outputs]`.
    ///
    /// # Errors
    /// The shapes do not fit, or a tensor operation failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }

    /// `activation(x Wᵀ + b + addend)`: `addend` has the last dimensions of the result, its rows
    /// repeat.
    ///
    /// # Errors
    /// The shapes do not fit, or a tensor operation failed.
    pub fn forward_adding(&self, x: &Tensor, addend: &Tensor) -> Result<Tensor> {
        self.run(x, Some(addend))
    }

    fn run(&self, x: &Tensor, addend: Option<&Tensor>) -> Result<Tensor> {
        match (&self.form, addend) {
            (Form::Packed(packed), None) => x.contiguous()?.apply_op1_no_bwd(&Multiply(packed)),
            (Form::Packed(packed), Some(addend)) => {
                x.contiguous()?.apply_op2_no_bwd(&addend.contiguous()?, &Multiply(packed))
            }
            (Form::Plain(plain), _) => plain.forward(x, addend),
        }
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }
}

impl Plain {
    fn forward(&self, x: &Tensor, addend: Option<&Tensor>) -> Result<Tensor> {
        let (inputs, outputs) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        let (weight, bias) = (self.like(&self.weight, x)?, self.bias.as_ref());
        let mut y = x.reshape(((), inputs))?.matmul(&weight)?.reshape(shape)?;
        if let Some(bias) = bias {
            y = y.broadcast_add(&self.like(bias, x)?)?;
        }
        if let Some(addend) = addend {
            y = y.broadcast_add(addend)?;
        }
        self.activation.apply(&y)
    }

    /// A weight in the type of `x`: another one where `bf16` is only kept in memory.
    fn like(&self, weight: &Tensor, x: &Tensor) -> Result<Tensor> {
        weight.to_dtype(x.dtype())
    }
}

/// [`PackedLinear`] as candle's operation, with or without something to add.
struct Multiply<'a>(&'a PackedLinear);

impl Multiply<'_> {
    fn run(
        &self,
        (x, layout): (&CpuStorage, &Layout),
        addend: Option<Addend>,
    ) -> Result<(CpuStorage, Shape)> {
        let (inputs, outputs) = self.0.shape();
        let mut shape = layout.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => return Err(candle_core::Error::msg(format!("{shape:?} for {inputs} inputs"))),
        }
        let y = self.0.forward(values(x, layout, "linear")?, addend)?;
        Ok((CpuStorage::F32(y), shape.into()))
    }
}

impl CustomOp1 for Multiply<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run((x, layout), None)
    }
}

impl CustomOp2 for Multiply<'_> {
    fn name(&self) -> &'static str {
        "linear with addend"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        addend: &CpuStorage,
        addend_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let addend = Addend(values(addend, addend_layout, "linear with addend")?);
        self.run((x, layout), Some(addend))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn gap(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let gap = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        gap.to_scalar().unwrap()
    }

    #[test]
    fn both_forms_answer_the_same_for_tensors_of_any_rank() {
        let (weight, bias) = (random(&[10, 7]), random(&[10]));
        for isa in Isa::available() {
            for activation in [Activation::None, Activation::Gelu, Activation::GeluTanh] {
                let form = |isa| {
                    Linear::stored(&weight, Some(&bias), activation, (Storage::F32, isa)).unwrap()
                };
                let (packed, plain) = (form(Some(isa)), form(None));
                for shape in [vec![7], vec![4, 7], vec![2, 3, 7], vec![2, 0, 7]] {
                    if shape.len() > 1 && shape[1] == 0 {
                        assert_eq!(packed.forward(&random(&shape)).unwrap().dims(), [2, 0, 10]);
                        continue;
                    }
                    let x = random(&shape);
                    let (y, z) = (packed.forward(&x).unwrap(), plain.forward(&x).unwrap());
                    let z = z.reshape(y.dims()).unwrap();
                    assert!(gap(&y, &z) < 1e-5, "{isa:?} {activation:?} {shape:?}");
                }
                let (x, addend) = (random(&[2, 3, 7]), random(&[3, 10]));
                let y = packed.forward_adding(&x, &addend).unwrap();
                assert!(gap(&y, &plain.forward_adding(&x, &addend).unwrap()) < 1e-5);
                assert!(packed.forward(&random(&[3, 8])).is_err());
            }
        }
    }

    #[test]
    fn bf16_weights_take_and_give_f32() {
        let (weight, bias, x) = (random(&[40, 96]), random(&[40]), random(&[5, 96]));
        let exact = x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        let largest = exact.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let largest: f32 = largest.to_scalar().unwrap();
        let half = |t: &Tensor| t.to_dtype(DType::BF16).unwrap();
        for isa in Isa::available().into_iter().map(Some).chain([None]) {
            let bias = half(&bias);
            let stored = (Storage::Bf16, isa);
            let layer = Linear::stored(&half(&weight), Some(&bias), Activation::None, stored);
            let y = layer.unwrap().forward(&x).unwrap();
            assert_eq!(y.dtype(), DType::F32);
            let gap = gap(&y, &exact) / largest;
            assert!(gap > 1e-6 && gap < 1e-2, "{isa:?}: {gap}");
        }
    }

    #[test]
    fn a_bias_of_another_length_is_an_error() {
        let layer = Linear::new(&random(&[4, 3]), Some(&random(&[3])), Activation::None);
        assert!(layer.is_err());
    }
}
