//! The network benchmark: the four real programs between a load and sinks, beside the limit that the
//! kernel sets and beside other programs. See `--help`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is what it is for
#![allow(clippy::cast_precision_loss)] // figures are estimates

#[cfg(target_os = "linux")]
mod candidates;
#[cfg(target_os = "linux")]
mod chart;
#[cfg(target_os = "linux")]
mod clients;
#[cfg(target_os = "linux")]
mod fans;
#[cfg(target_os = "linux")]
mod feed;
#[cfg(target_os = "linux")]
mod limit;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod measures;
#[cfg(target_os = "linux")]
mod namespace;
mod options;
#[cfg(target_os = "linux")]
mod packets;
#[cfg(target_os = "linux")]
mod parts;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod scenarios;
#[cfg(target_os = "linux")]
mod sink;
#[cfg(target_os = "linux")]
mod streams;
#[cfg(target_os = "linux")]
mod tls;
#[cfg(target_os = "linux")]
mod writers;

use std::path::Path;
use std::process::ExitCode;

use options::{HELP, Options};

/// The result of everything here that can fail.
#[cfg(target_os = "linux")]
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(code) = run::part() {
        return code;
    }
    let mut arguments = pico_args::Arguments::from_env();
    // The argument of `cargo bench`; `cargo test --benches` has none, and wants nothing measured.
    let asked = arguments.contains("--bench");
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(fault) => {
            eprintln!("bench: {fault}; see --help");
            return ExitCode::from(2);
        }
    };
    if options.help {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if !asked {
        eprintln!("bench: measures under `cargo bench -p mproxy-bench` only");
        return ExitCode::SUCCESS;
    }
    // Cargo starts it in the directory of the package.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Err(error) = std::env::set_current_dir(&root) {
        eprintln!("bench: {}: {error}", root.display());
        return ExitCode::FAILURE;
    }
    measure(&options)
}

#[cfg(target_os = "linux")]
fn measure(options: &Options) -> ExitCode {
    run::run(options)
}

#[cfg(not(target_os = "linux"))]
fn measure(_: &Options) -> ExitCode {
    eprintln!("bench: needs Linux, whose network namespaces it runs in");
    ExitCode::from(2)
}
