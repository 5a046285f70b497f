use super::*;

/// Numbers without a pattern in `-1..1`, the same in every run.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// The plain form, in f64.
fn plain(
    (x, weight): (&[f32], &[f32]),
    inputs: usize,
    bias: Option<&[f32]>,
    addend: Option<&[f32]>,
) -> Vec<f64> {
    let outputs = weight.len() / inputs;
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let mut y = Vec::new();
    for row in x.chunks_exact(inputs) {
        for (output, weight) in weight.chunks_exact(inputs).enumerate() {
            let more = addend.map_or(0.0, |addend| addend[y.len() % addend.len()]);
            let bias = bias.map_or(0.0, |bias| bias[output]);
            y.push(dot(row, weight) + f64::from(bias) + f64::from(more));
        }
    }
    assert_eq!(y.len(), x.len() / inputs * outputs);
    y
}

fn largest_gap(y: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(y.len(), expected.len());
    y.iter().zip(expected).map(|(&y, &e)| (f64::from(y) - e).abs()).fold(0.0, f64::max)
}

/// Around the edges of tiles, panels, blocks of rows and of inputs.
const SHAPES: [(usize, usize, usize); 13] = [
    (1, 1, 1),
    (1, 768, 33),
    (2, 3, 16),
    (6, 8, 32),
    (7, 383, 17),
    (12, 385, 65),
    (13, 40, 31),
    (64, 96, 96),
    (95, 100, 15),
    (97, 769, 50),
    (200, 24, 100),
    (300, 1100, 40),
    (0, 5, 4),
];

#[test]
fn every_kernel_is_the_plain_product() {
    for isa in Isa::available() {
        for (rows, inputs, outputs) in SHAPES {
            let (x, weight) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
            let (bias, addend) = (numbers(outputs, 3), numbers(rows * outputs, 4));
            for (bias, addend) in [(None, None), (Some(&bias[..]), Some(&addend[..]))] {
                let given = (weight.as_slice(), inputs);
                let layer = PackedLinear::new(given, bias, Activation::None, (Storage::F32, isa));
                let y = layer.forward(&x, addend.map(Addend)).unwrap();
                let gap = largest_gap(&y, &plain((&x, &weight), inputs, bias, addend));
                assert!(
                    gap < 1e-5 * (inputs as f64).sqrt() + 1e-6,
                    "{isa:?} {rows} {inputs} {outputs}: {gap}"
                );
            }
        }
    }
}

#[test]
fn what_is_added_repeats() {
    let (rows, inputs, outputs) = (30, 20, 18);
    let (x, weight) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
    let addend = numbers(5 * outputs, 3);
    for isa in Isa::available() {
        let given = (weight.as_slice(), inputs);
        let layer = PackedLinear::new(given, None, Activation::None, (Storage::F32, isa));
        let y = layer.forward(&x, Some(Addend(&addend))).unwrap();
        assert!(largest_gap(&y, &plain((&x, &weight), inputs, None, Some(&addend))) < 1e-5);
        assert!(layer.forward(&x, Some(Addend(&addend[1..]))).is_err());
        assert!(layer.forward(&x[1..], None).is_err());
    }
}

/// The loss is that of rounding weights: relative to the largest sum that is possible.
#[test]
fn weights_of_fewer_bits_lose_little() {
    // A tile or two, whose vectors are widened one by one, and many, for which pieces are.
    for rows in [9, 100] {
        weights_of_fewer_bits_for(rows);
    }
}

fn weights_of_fewer_bits_for(rows: usize) {
    let (inputs, outputs) = (1500, 37);
    let (x, weight) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
    let bias = numbers(outputs, 3);
    let expected = plain((&x, &weight), inputs, Some(&bias), None);
    let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
    for isa in Isa::available() {
        let padded = outputs.next_multiple_of(isa.columns());
        let halves = if isa.multiplies_halves() { 4 * padded } else { 0 };
        for (storage, bytes, most) in [
            (Storage::Bf16, 2 * padded * inputs, 0.004),
            (Storage::Bf16Pairs, 2 * padded * inputs, 0.006),
            (Storage::Halves, 2 * padded * inputs + halves, 0.006),
            (Storage::Int8, padded * inputs + 4 * padded, 0.008),
        ] {
            let (given, bias) = ((weight.as_slice(), inputs), Some(&bias[..]));
            let layer = PackedLinear::new(given, bias, Activation::None, (storage, isa));
            assert_eq!(layer.bytes(), bytes);
            let gap = largest_gap(&layer.forward(&x, None).unwrap(), &expected) / largest;
            assert!(gap > 1e-5 && gap < most, "{isa:?} {storage:?}: {gap}");
        }
    }
}

/// Each output and each row has a scale of its own, so that neither large nor small numbers are lost;
/// a row that is not finite spoils no other one.
#[test]
fn f16_holds_numbers_of_any_size() {
    for isa in Isa::available().into_iter().filter(|isa| isa.multiplies_halves()) {
        for (rows, inputs, outputs) in SHAPES {
            let (mut x, mut weight) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
            let size = |index: usize| 1e5f32.powi(index as i32 % 7 - 3);
            x.iter_mut().enumerate().for_each(|(i, value)| *value *= size(i / inputs));
            weight.iter_mut().enumerate().for_each(|(i, value)| *value *= size(3 * (i / inputs)));
            let given = (weight.as_slice(), inputs);
            let layer = PackedLinear::new(given, None, Activation::None, (Storage::Halves, isa));
            let y = layer.forward(&x, None).unwrap();
            let expected = plain((&x, &weight), inputs, None, None);
            for (i, (&y, &expected)) in y.iter().zip(&expected).enumerate() {
                let unit = f64::from(size(i / outputs)) * f64::from(size(3 * (i % outputs)));
                let gap = (f64::from(y) - expected).abs() / unit;
                let most = 0.003 * (inputs as f64).sqrt();
                assert!(gap < most, "{rows} {inputs} {outputs}: {gap} of {most} at {i}");
            }
            if rows > 1 {
                x[0] = f32::INFINITY;
                let spoilt = layer.forward(&x, None).unwrap();
                assert!(spoilt[..outputs].iter().all(|value| value.is_nan()));
                assert_eq!(spoilt[outputs..], y[outputs..]);
            }
        }
        let largest =
            PackedLinear::new((&[1.9; 3000], 3000), None, Activation::None, (Storage::Halves, isa));
        let y = largest.forward(&[127.9; 3000], None).unwrap()[0];
        assert!((y / (3000.0 * 1.9 * 127.9) - 1.0).abs() < 0.01, "{y}");
    }
}

/// What lies on the grid of bytes is kept as it is, whatever the scales of the outputs.
#[test]
fn bytes_are_exact() {
    let (rows, inputs, outputs) = (90, 1200, 20);
    let x = numbers(rows * inputs, 1);
    let weight: Vec<f32> = (0..outputs * inputs)
        .map(|i| (i * 37 % 255) as f32 - 127.0)
        .enumerate()
        .map(|(i, byte)| byte * 0.25f32.powi((i / inputs) as i32 % 5))
        .collect();
    for isa in Isa::available() {
        let layer = |storage| {
            let given = (weight.as_slice(), inputs);
            PackedLinear::new(given, None, Activation::Relu, (storage, isa))
        };
        let exact = layer(Storage::F32).forward(&x, None).unwrap();
        let expected: Vec<f64> = exact.iter().map(|&value| value.into()).collect();
        let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
        let gap = largest_gap(&layer(Storage::Int8).forward(&x, None).unwrap(), &expected);
        assert!(gap < 1e-6 * largest, "{isa:?}: {gap} of {largest}");
    }
}

#[test]
fn activations_are_exact_to_single_precision() {
    let x: Vec<f32> = (-1000..=1000).map(|i| i as f32 / 80.0).collect();
    let tanh = |x: f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    type Exact<'a> = &'a dyn Fn(f64) -> f64;
    let cases: [(Activation, Exact); 3] = [
        (Activation::Relu, &|x| x.max(0.0)),
        (Activation::Relu6, &|x| x.clamp(0.0, 6.0)),
        (Activation::GeluTanh, &tanh),
    ];
    for isa in Isa::available() {
        for (activation, exact) in cases {
            let layer = PackedLinear::new((&[1.0], 1), None, activation, (Storage::F32, isa));
            let y = layer.forward(&x, None).unwrap();
            let expected: Vec<f64> = x.iter().map(|&x| exact(x.into())).collect();
            assert!(largest_gap(&y, &expected) < 2e-6, "{isa:?} {activation:?}");
            let odd = layer.forward(&[f32::NAN, -100.0, 100.0], None).unwrap();
            assert!(odd[0].is_nan() && odd[1].abs() < 1e-30, "{isa:?} {activation:?} {odd:?}");
        }
        let layer = PackedLinear::new((&[1.0], 1), None, Activation::Gelu, (Storage::F32, isa));
        let y = layer.forward(&x, None).unwrap();
        let tensor = candle_core::Tensor::new(x.as_slice(), &candle_core::Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(candle_core::DType::F64).unwrap().gelu_erf().unwrap();
        assert!(largest_gap(&y, &tensor.to_vec1().unwrap()) < 2e-6, "{isa:?}");
    }
}
