//! What the wheel brings along.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// A name, and the files that go by it.
type Bundled = (&'static str, Vec<(&'static str, &'static [u8])>);

#[cfg(feature = "bundled")]
fn all() -> Vec<Bundled> {
    use jumplens_assets::{TINY_BERT, TINY_GPT2, WIKIPEDIA_SAMPLE};
    let models = [TINY_GPT2, TINY_BERT].map(|model| {
        let files = vec![
            ("config.json", model.config),
            ("model.safetensors", model.weights),
            ("tokenizer.json", model.tokenizer),
            ("tokenizer_config.json", model.tokenizer_config),
        ];
        (model.name, files)
    });
    let corpora = [WIKIPEDIA_SAMPLE];
    let corpora = corpora.map(|corpus| (corpus.name, vec![("sentences.txt", corpus.sentences.as_bytes())]));
    models.into_iter().chain(corpora).collect()
}

#[cfg(not(feature = "bundled"))]
fn all() -> Vec<Bundled> {
    Vec::new()
}

/// The files of a bundled model or corpus, by name. `ValueError` where there is none of that name.
#[pyfunction]
pub fn bundled_files<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyDict>> {
    let all = all();
    let Some((_, files)) = all.iter().find(|(its, _)| *its == name) else {
        let there: Vec<String> = all.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        return Err(PyValueError::new_err(format!(
            "nothing that is bundled is called \"{name}\": there are {}",
            there.join(", ")
        )));
    };
    let by_name = PyDict::new(py);
    for (name, bytes) in files {
        by_name.set_item(name, PyBytes::new(py, bytes))?;
    }
    Ok(by_name)
}
