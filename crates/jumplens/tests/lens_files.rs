//! Lenses as PyTorch programs keep them (`fixtures/make_lens_fixtures.py`), read without running anything.

use jumplens::Error;
use jumplens::shortcut::{Foreign, Shortcuts};
use jumplens::words::{Cast, DerivativeCast, PRE_NORM_PARTS};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lenses").join(name)
}

fn entry(block: usize, at: usize) -> f64 {
    (block + 1) as f64 * (0.7 * at as f64).cos()
}

#[test]
fn a_published_jacobian_lens_and_its_sums_are_read() {
    for (name, tolerance) in [("jacobian.pt", 1e-3), ("sums.pt", 1e-6)] {
        let mut foreign = Foreign::read(&fixture(name)).unwrap();
        assert_eq!((foreign.format, foreign.width(), foreign.pairs.len()), ("jacobian-lens", 4, 2));
        // Number l is the output of block l, layer l + 1; of three blocks the last has none.
        for (block, pair) in [(1, 3), (2, 3)].into_iter().enumerate() {
            for (at, value) in foreign.pairs[&pair].weight().iter().enumerate() {
                let want = entry(block, at);
                assert!(
                    (f64::from(*value) - want).abs() <= tolerance * want.abs().max(0.1),
                    "{name}: {value}"
                );
            }
        }
        foreign.lead_to(7);
        assert_eq!(foreign.pairs.keys().copied().collect::<Vec<_>>(), [(1, 7), (2, 7)]);
        assert_eq!(foreign.fill(), [0, 3, 4, 5, 6]);
        let out = tempfile::tempdir().unwrap();
        let casts = foreign.save(out.path(), &foreign.origin, None, PRE_NORM_PARTS).unwrap();
        assert_eq!(casts, [Cast::Derivative(DerivativeCast::Jacobian)]);
        assert_eq!(Shortcuts::new(out.path()).casts().unwrap(), casts);
    }
}

#[test]
fn what_would_run_something_is_refused() {
    let error = Foreign::read(&fixture("evil.pt")).unwrap_err();
    assert!(
        matches!(&error, Error::RefusedPickle { callable, .. } if callable.contains("system")),
        "{error}"
    );
}

#[test]
fn a_checkpoint_that_is_no_lens_is_named() {
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("model.pt");
    std::fs::copy(other.join("state_dict.bin"), &copy).unwrap();
    let message = Foreign::read(&copy).unwrap_err().to_string();
    assert!(message.contains("neither `J` nor `jacobian_sum`"), "{message}");
}
