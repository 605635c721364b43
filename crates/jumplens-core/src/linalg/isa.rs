//! Which vector instructions the kernels use.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// A set of vector instructions that there are kernels for. Results are the same bytes wherever the same one is used; from
/// one to another they differ in their last digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Isa {
    /// What every CPU of the kind that the program was compiled for has.
    Portable,
    /// 256 bits, AVX2 and FMA, of x86-64.
    Avx2,
    /// 512 bits, AVX-512 F, BW, CD, DQ and VL, of x86-64; with AVX512-BF16 where the CPU has that too.
    Avx512,
    /// 128 bits, of aarch64.
    Neon,
}

thread_local! {
    /// What this thread is told to use.
    static HERE: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// The number of the one in use; above all numbers until that is known.
static IN_USE: AtomicU8 = AtomicU8::new(u8::MAX);

impl Isa {
    /// All of them, each before those that are to be preferred to it.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Neon];

    /// Its name, as in `JUMPLENS_ISA` and the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// True where this CPU has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => pulp::x86::V3::try_new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => pulp::x86::V4::try_new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => pulp::aarch64::Neon::try_new().is_some(),
            _ => false,
        }
    }

    /// Those that this CPU has, the best one last.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The one in use on this thread: that of the [pool](Self::pool) it belongs to, or else the best that this CPU has,
    /// unless another was [chosen](Self::choose).
    pub fn current() -> Self {
        if let Some(isa) = HERE.get() {
            return isa;
        }
        let in_use = || Self::ALL.get(usize::from(IN_USE.load(Ordering::Relaxed))).copied();
        in_use().unwrap_or_else(|| {
            let best = Self::available().last().unwrap_or(Self::Portable);
            IN_USE.store(best as u8, Ordering::Relaxed);
            best
        })
    }

    /// Has all kernels of this process use it from here on. [`Error::NoSuchIsa`] where this CPU lacks it.
    pub fn choose(self) -> Result<()> {
        if !self.is_available() {
            return Err(no_such(self.name(), true));
        }
        IN_USE.store(self as u8, Ordering::Relaxed);
        Ok(())
    }

    /// A pool of threads that use it, whatever others do. [`Error::NoSuchIsa`] where this CPU lacks it; [`Error::Threads`]
    /// where the system starts no more.
    pub fn pool(self, threads: usize) -> Result<rayon::ThreadPool> {
        if !self.is_available() {
            return Err(no_such(self.name(), true));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.start_handler(move |_| HERE.set(Some(self))).build();
        pool.map_err(|error| Error::Threads { threads, reason: error.to_string() })
    }
}

fn no_such(asked: &str, known: bool) -> Error {
    let here: Vec<String> = Isa::available().map(|isa| format!("`{isa}`")).collect();
    Error::NoSuchIsa { asked: asked.to_owned(), known, here: here.join(" or ") }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = Error;

    /// [`Error::NoSuchIsa`] for what is none's name.
    fn from_str(text: &str) -> Result<Self> {
        let named = Self::ALL.into_iter().find(|isa| isa.name() == text);
        named.ok_or_else(|| no_such(text, false))
    }
}

/// For tests: other instruction sets than the best one.
#[cfg(test)]
pub(crate) mod testing {
    use super::Isa;

    /// Runs `test` once on each instruction set that this CPU has, on threads that use no other.
    pub(crate) fn on_every(test: impl Fn() + Sync) {
        Isa::available().for_each(|isa| isa.pool(2).unwrap().install(&test));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse::<Isa>().unwrap(), isa);
            assert_eq!(serde_json::to_value(isa).unwrap(), isa.name());
        }
        assert!(matches!("sse9".parse::<Isa>(), Err(Error::NoSuchIsa { known: false, .. })));
    }

    #[test]
    fn what_the_cpu_lacks_cannot_be_chosen() {
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
            assert!(matches!(isa.choose(), Err(Error::NoSuchIsa { known: true, .. })));
        }
        assert!(Isa::Portable.is_available());
    }

    #[test]
    fn each_is_used_where_it_is_asked_for() {
        let seen = std::sync::Mutex::new(Vec::new());
        testing::on_every(|| seen.lock().unwrap().push(Isa::current()));
        assert_eq!(seen.into_inner().unwrap(), Isa::available().collect::<Vec<_>>());
    }
}
