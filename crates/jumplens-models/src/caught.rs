//! Panics of other crates that take for granted what a damaged file may lack, made into messages.

use crate::error::Error;
use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// True on a thread within a call whose panic becomes an [`Error`]: a panic hook has nothing to say of it.
pub fn panics_are_caught() -> bool {
    CAUGHT.get()
}

/// What `call` gives, which reads the file `path`; [`Error::Format`] where it fails, or panics.
pub fn caught<T, E: Display>(path: &Path, call: impl FnOnce() -> Result<T, E>) -> Result<T, Error> {
    match catching(call) {
        Ok(result) => result.map_err(Error::format(path)),
        Err(panic) => Err(Error::format(path)(format!("what it says does not fit together: {panic}"))),
    }
}

/// Gives what `call` gives, or the message that it panicked with. What it changed must not be used any more then.
pub fn catching<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CAUGHT.set(before);
    result.map_err(|panic| match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => (*message).to_owned(),
        (_, Some(message)) => message.clone(),
        _ => "a panic without words".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message_and_others_are_as_before() {
        assert_eq!(catching(panics_are_caught), Ok(true));
        let nested = catching(|| (catching(|| panic!("in {}", "it")), panics_are_caught()));
        let expected: (Result<(), String>, bool) = (Err("in it".to_owned()), true);
        assert_eq!(nested, Ok(expected));
        assert!(!panics_are_caught());
    }
}
