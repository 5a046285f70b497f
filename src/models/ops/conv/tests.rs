use candle_core::{DType, Device};
use proptest::prelude::*;

use super::*;

const CPU: &Device = &Device::Cpu;

/// candle's own convolution, which has the channels first.
fn plain(x: &Tensor, weight: &Tensor, bias: &Tensor, travel: Travel) -> Result<Tensor> {
    let Travel { stride, before, after } = travel;
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
    let y = x.conv2d(weight, 0, stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()?;
    y.broadcast_add(bias)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, CPU).unwrap()
}

/// The largest difference, relative to the largest expected value.
fn gap(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(1f32, |largest, value| largest.max(value.abs()));
    ours.iter().zip(theirs).fold(0f32, |gap, (a, b)| gap.max((a - b).abs())) / largest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn every_form_is_candles_convolution(
        batch in 1..4usize, input in 1..20usize, out in 1..50usize,
        height in 1..12usize, width in 1..12usize, kernel in 1..5usize, stride in 1..4usize,
        before in 0..3usize, after in 0..3usize, kind in 0..4usize,
    ) {
        let travel = Travel { stride, before, after };
        prop_assume!(height + before + after >= kernel && width + before + after >= kernel);
        let all = [Activation::None, Activation::Relu, Activation::Relu6, Activation::Gelu];
        let activation = all[kind];
        let weight = random(&[out, input, kernel, kernel]);
        let bias = random(&[out]);
        let x = random(&[batch, height, width, input]);
        let expected = plain(&x, &weight, &bias, travel).unwrap();
        let residual = random(expected.dims());
        let onto = activation.apply(&(&expected + &residual).unwrap()).unwrap();
        let expected = activation.apply(&expected).unwrap();

        let steps = (travel, activation);
        let packed = Conv2d::stored(&weight, bias.clone(), steps, true).unwrap();
        let ours = packed.forward(&x).unwrap();
        prop_assert_eq!(ours.dims(), expected.dims());
        prop_assert!(gap(&numbers(&ours), &numbers(&expected)) < 1e-5);
        let ours = packed.forward_onto(&x, &residual).unwrap();
        prop_assert!(gap(&numbers(&ours), &numbers(&onto)) < 1e-5);

        // What other devices and types run.
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let composed = Conv2d::new(&double(&weight), double(&bias), travel, activation).unwrap();
        let ours = composed.forward(&double(&x)).unwrap();
        prop_assert_eq!(ours.dims(), expected.dims());
        prop_assert!(gap(&numbers(&ours), &numbers(&expected)) < 1e-5);
        let ours = composed.forward_onto(&double(&x), &double(&residual)).unwrap();
        prop_assert!(gap(&numbers(&ours), &numbers(&onto)) < 1e-5);
    }

    /// The processor's own instructions and plain ones; the picture has no padding here.
    #[test]
    fn kernels_agree(
        positions in 1..200usize, input in 1..40usize, out in 1..90usize, threads in 1..4usize,
    ) {
        let (weight, bias) = (random(&[out, input]), numbers(&random(&[out])));
        let (x, residual) = (random(&[positions, input]), random(&[positions, out]));
        let expected = x.matmul(&weight.t().unwrap()).unwrap();
        let expected = (expected + &residual).unwrap();
        let expected = numbers(&expected.broadcast_add(&Tensor::new(&*bias, CPU).unwrap()).unwrap());
        let weight = weight.to_vec2().unwrap();
        let (x, residual) = (numbers(&x), numbers(&residual));
        let reach = Reach { runs: 1, length: input, step: input };
        let places = Places { pictures: 1, rows: 1, columns: positions, steps: [input, 0, 0] };
        let range = Activation::None.range();
        let field = Field { x: &x, reach, places, residual: Some(&residual), range };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for processor in Processor::available() {
            let panels = Panels::new(&weight, bias.clone(), processor);
            let ours = pool.install(|| panels.multiply(&field));
            prop_assert!(gap(&ours, &expected) < 1e-5, "{processor:?}");
        }
    }
}

/// Answers must not change with who else asks.
#[test]
fn a_pictures_result_does_not_depend_on_its_batch() {
    for (kernel, side, pack) in [(1, 9, true), (3, 9, true), (1, 9, false), (3, 9, false)] {
        let steps = (Travel::padded(1, kernel / 2), Activation::Relu);
        let weight = random(&[24, 40, kernel, kernel]);
        let layer = Conv2d::stored(&weight, random(&[24]), steps, pack).unwrap();
        let x = random(&[3, side, side, 40]);
        let together = layer.forward(&x).unwrap();
        for picture in 0..3 {
            let alone = layer.forward(&x.narrow(0, picture, 1).unwrap()).unwrap();
            let part = together.narrow(0, picture, 1).unwrap();
            assert_eq!(numbers(&alone), numbers(&part), "{kernel}, packed: {pack}");
        }
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    let x = Tensor::new(&[f32::NAN, 1.0], CPU).unwrap().reshape((1, 1, 2, 1)).unwrap();
    let weight = Tensor::ones((17, 1, 1, 1), DType::F32, CPU).unwrap();
    for weight in [weight.clone(), weight.to_dtype(DType::F64).unwrap()] {
        let bias = Tensor::zeros(17, weight.dtype(), CPU).unwrap();
        let pack = weight.dtype() == DType::F32;
        let steps = (Travel::EVERY, Activation::Relu6);
        let layer = Conv2d::stored(&weight, bias, steps, pack).unwrap();
        let y = numbers(&layer.forward(&x.to_dtype(weight.dtype()).unwrap()).unwrap());
        assert!(y[..17].iter().all(|value| value.is_nan()) && y[17..] == [1f32; 17]);
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, CPU).unwrap();
    let layer = |weight: &[usize], bias, stride| {
        let steps = (Travel::padded(stride, 1), Activation::None);
        Conv2d::stored(&zeros(weight), zeros(&[bias]), steps, true)
    };
    assert!(layer(&[4, 3, 3, 2], 4, 1).is_err());
    assert!(layer(&[4, 3, 3, 3], 5, 1).is_err());
    assert!(layer(&[4, 3, 3, 3], 4, 0).is_err());
    assert!(layer(&[4, 0, 3, 3], 4, 1).is_err());
    let layer = layer(&[4, 3, 3, 3], 4, 1).unwrap();
    assert!(layer.forward(&zeros(&[1, 5, 5, 2])).is_err());
    assert!(layer.forward(&zeros(&[1, 0, 5, 3])).is_err());
    assert!(layer.forward(&zeros(&[5, 5, 3])).is_err());
    let (x, residual) = (zeros(&[1, 5, 5, 3]), zeros(&[1, 5, 4, 4]));
    assert!(layer.forward_onto(&x, &residual).is_err());
    assert!(layer.forward_onto(&x, &zeros(&[1, 5, 5, 4])).is_ok());
}
