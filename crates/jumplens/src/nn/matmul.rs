//! The one place where f32 matrices are multiplied: the `gemm` crate behind slices, on all threads of the current pool.

/// A matrix seen in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `values` as a row-major `[rows, cols]` matrix.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols);
        Self { values, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            values: self.values,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// What becomes of the values that are in the output already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// They are overwritten.
    Replace,
    /// The product is added to them.
    Add,
}

/// `out = a·b` or `out += a·b`, `out` row-major `[a.rows, b.cols]`.
pub(crate) fn matmul(out: &mut [f32], write: Write, a: Matrix, b: Matrix) {
    assert_eq!(a.cols, b.rows);
    assert_eq!(out.len(), a.rows * b.cols);
    if out.is_empty() {
        return;
    }
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    // SAFETY: `Matrix` holds rows × cols values at its strides by construction, `out` was just checked to hold
    // a.rows × b.cols row-major ones, and being borrowed mutably it overlaps neither input.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            write == Write::Add,
            a.values.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_transposes_agree_with_sums() {
        let (m, k, n) = (5, 7, 3);
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32).sin()).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i as f32).cos()).collect();
        let b_t: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
        for (right, base) in [(Matrix::new(&b, k, n), 0.0), (Matrix::new(&b_t, n, k).t(), 2.0)] {
            let mut out = vec![base; m * n];
            matmul(
                &mut out,
                if base == 0.0 { Write::Replace } else { Write::Add },
                Matrix::new(&a, m, k),
                right,
            );
            for i in 0..m {
                for j in 0..n {
                    let want: f32 = base + (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f32>();
                    assert!((out[i * n + j] - want).abs() < 1e-5);
                }
            }
        }
    }
}
