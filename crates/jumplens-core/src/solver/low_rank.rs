//! Reduced-rank regression: of all maps of a rank, the one that fits the train states best.
//!
//! `‖X·Aᵀ − Y‖²` is what least squares leaves plus `‖(X·T)·(B − C)‖² = ‖B − C‖²`, where `C = (X·T)ᵀ·Y` and `B` are the map's own
//! coordinates. So the best `B` of rank r is `C` cut to its r largest singular values (Eckart and Young; Izenman 1975):
//! `C·W·Wᵀ`, with `W` `[d_out, r]` the leading eigenvectors of `Cᵀ·C`.

use super::least_squares::Coordinates;
use crate::error::Result;
use crate::linalg::dense::{product, symmetric_eigen};

/// `coordinates` cut to `rank`, or as they are where they are of no more.
pub(super) fn low_rank(coordinates: &Coordinates, rank: usize) -> Result<Coordinates> {
    if rank >= coordinates.nrows().min(coordinates.ncols()) {
        return Ok(coordinates.clone());
    }
    let gram = product(coordinates.transpose(), coordinates.as_ref());
    let eigen = symmetric_eigen(gram.as_ref())?;
    // Eigenvalues come in rising order.
    let leading = eigen.vectors.subcols(coordinates.ncols() - rank, rank);
    Ok(product(product(coordinates.as_ref(), leading).as_ref(), leading.transpose()))
}
