//! The extension module of the Python package `jumplens`. What Python code sees of it is documented in
//! `python/jumplens/_jumplens.pyi`.

mod bundled;
mod call;
mod error;
mod evaluation;
mod fit;
mod map;
mod maps;
mod matrix;
mod path;
mod run;
mod shares;
mod sums;
mod threads;

use pyo3::pymodule;

/// The whole of it is re-exported by `jumplens`.
#[pymodule]
mod _jumplens {
    use crate::error::of_core;
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::bundled::bundled_files;
    #[pymodule_export]
    use crate::evaluation::{layer_table, positions};
    #[pymodule_export]
    use crate::fit::{fit, fit_layers};
    #[pymodule_export]
    use crate::map::Map;
    #[pymodule_export]
    use crate::maps::Maps;
    #[pymodule_export]
    use crate::run::Run;
    #[pymodule_export]
    use crate::shares::{
        ShareNeeds, SumsFile, Worker, is_whole, isa, join_fits, merge_sums, samples_of_shares, share_needs,
    };
    #[pymodule_export]
    use crate::sums::Sums;

    /// The program: does what `args` say, its name first, and gives the exit code.
    #[pyfunction]
    fn main(py: Python, args: Vec<std::ffi::OsString>) -> u8 {
        let code = py.detach(|| jumplens_cli::main(args));
        // An `ExitCode` can be made and compared, and not read.
        (0..=u8::MAX).find(|number| code == (*number).into()).unwrap_or(u8::MAX)
    }

    #[pymodule_init]
    fn init(module: &Bound<PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        crate::threads::loaded();
        match std::env::var_os("JUMPLENS_ISA").filter(|isa| !isa.is_empty()) {
            Some(isa) => {
                let isa: jumplens_core::linalg::Isa = isa.to_string_lossy().parse().map_err(of_core)?;
                isa.choose().map_err(of_core)
            }
            None => Ok(()),
        }
    }
}
