//! `submodules` and `variants`: casts beside `mat`, in four measures.

use super::measure::FOUR;
use super::panel::Facets;
use super::series::{is_variant, present};
use crate::eval::tables::LayerRow;
use crate::words::{BlockCast, Cast};

/// Precision@1, @5, @10 and surprisal by layer for the casts that replace one kind of sub-module, against the cast that
/// skips the blocks, with their 95 % intervals.
pub(super) fn submodules(rows: &[LayerRow]) -> Option<Facets> {
    let casts = [BlockCast::Norms, BlockCast::Attn, BlockCast::Ffn].map(Cast::Blocks);
    let there = present(&casts, rows.iter().map(|row| &row.mapping));
    (!there.is_empty()).then(|| beside_mat(rows, there))
}

/// The same for casts that have no place in the paper: other maps between the same layers.
pub(super) fn variants(rows: &[LayerRow]) -> Option<Facets> {
    let mut there: Vec<Cast> = Vec::new();
    for row in rows.iter().filter(|row| is_variant(&row.mapping)) {
        if !there.contains(&row.mapping) {
            there.push(row.mapping.clone());
        }
    }
    there.sort();
    (!there.is_empty()).then(|| beside_mat(rows, there))
}

fn beside_mat(rows: &[LayerRow], mut mappings: Vec<Cast>) -> Facets {
    mappings.extend(present(&[Cast::MAT], rows.iter().map(|row| &row.mapping)));
    let facets = FOUR.map(|measure| measure.facet(rows, &mappings)).to_vec();
    Facets { facets, columns: 2, height: 270.0, shared_y: false, shade: Some("95 % interval") }
}
