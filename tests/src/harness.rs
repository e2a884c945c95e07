//! The test harness: runs the tests of a file as Rust's own does, but a test can be ignored while it runs.

use std::any::Any;
use std::process::ExitCode;
use std::thread;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::needs::skip_reason;

/// The `main` function of a file of tests, with the tests of that file. A test that is not among them is dead code.
/// The file has `harness = false` in `Cargo.toml`.
#[macro_export]
macro_rules! main {
    ($($(#[$attribute:meta])* $test:ident),+ $(,)?) => {
        pub(crate) fn main() -> ::std::process::ExitCode {
            let mut tests: Vec<(&str, fn())> = Vec::new();
            $($(#[$attribute])* tests.push((stringify!($test), $test));)+
            $crate::run_tests(tests)
        }
    };
}

/// Runs the tests that the command line asks for: see [`main!`](crate::main).
pub fn run_tests(tests: Vec<(&'static str, fn())>) -> ExitCode {
    let trials =
        tests.into_iter().map(|(name, test)| Trial::ignorable_test(name, move || run_test(name, test)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Runs the test on a thread of its own, which the messages of panics name.
fn run_test(name: &str, test: fn()) -> Result<Completion, Failed> {
    match thread::Builder::new().name(name.to_owned()).spawn(test)?.join() {
        Ok(()) => Ok(Completion::Completed),
        Err(payload) => match skip_reason(&*payload) {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => Err(panic_message(&*payload).into()),
        },
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("the test panicked")
}
