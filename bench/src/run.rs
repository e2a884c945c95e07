//! The course of a run, from the options to the report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::geteuid;

use crate::candidates::Candidate;
use crate::options::Options;
use crate::report::{Measured, json, table};
use crate::scenarios::{Scenario, Stage, all};
use crate::streams::Streamed;
use crate::{Outcome, chart, namespace, parts, processes};

/// Runs a part, if this process is to be one.
pub(crate) fn part() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != parts::PART {
        return None;
    }
    Some(match parts::run(&arguments.collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: a part of the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Measures and reports.
pub(crate) fn run(options: &Options) -> ExitCode {
    let chosen: Vec<Scenario> = all()
        .into_iter()
        .filter(|scenario| {
            options.only.is_empty() || options.only.iter().any(|only| scenario.name.starts_with(only))
        })
        .collect();
    if options.list {
        for scenario in &chosen {
            println!("{:24}{}", scenario.name, scenario.title);
        }
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        eprintln!("bench: no scenario has such a name; see --list");
        return ExitCode::from(2);
    }
    if !geteuid().is_root() {
        eprintln!("bench: needs root, for a network namespace of its own");
        return ExitCode::from(2);
    }
    match measure(options, &chosen) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("bench: {failures} runs of ours or of the limit failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many runs failed that never should: those of our own programs and of the limit.
fn measure(options: &Options, chosen: &[Scenario]) -> Outcome<u32> {
    eprintln!("bench: building the four programs");
    let mut candidates = candidates(options, chosen)?;
    namespace::enter().map_err(|error| format!("no network namespace: {error}"))?;
    processes::start_watchdog()?;
    processes::raise_descriptor_limit()?;

    let stage = Stage::new(options.seconds);
    let (mut measured, mut failures) = (Vec::new(), 0);
    for scenario in chosen {
        let mut runs = vec![Vec::new(); candidates.len()];
        for _ in 0..options.runs {
            for (candidate, samples) in candidates.iter().zip(&mut runs) {
                match stage.run(scenario, candidate) {
                    Ok(Some(sample)) => {
                        let shown: Vec<_> = sample
                            .iter()
                            .map(|(kind, v)| format!("{} {}", kind.name(), kind.show(*v)))
                            .collect();
                        eprintln!("{:24}{:12}{}", scenario.name, candidate.name, shown.join(", "));
                        samples.push(sample);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        eprintln!("{:24}{:12}{error}", scenario.name, candidate.name);
                        failures += u32::from(candidate.is_ours() || candidate.is_limit());
                    }
                }
            }
        }
        measured.push(Measured { scenario, runs });
    }

    // Candidates that have nothing for any of the chosen scenarios would be empty columns.
    let taken: Vec<bool> = (0..candidates.len())
        .map(|n| measured.iter().any(|measured: &Measured<'_>| !measured.runs[n].is_empty()))
        .collect();
    retain(&mut candidates, &taken);
    for measured in &mut measured {
        retain(&mut measured.runs, &taken);
    }

    if candidates.is_empty() {
        return Err("nothing could be measured".into());
    }
    let machine = machine();
    println!("{machine}; median of {} of {} s each\n", runs(options.runs), options.seconds);
    print!("{}", table(&candidates, &measured));
    let svg = options.svg.clone().map_or_else(default_svg, Ok)?;
    write(&svg, &chart::chart(&machine, &candidates, &measured))?;
    if let Some(path) = &options.json {
        write(path, &json(&machine, &candidates, &measured))?;
    }
    Ok(failures)
}

fn runs(number: u32) -> String {
    if number == 1 { "1 run".to_owned() } else { format!("{number} runs") }
}

fn retain<T>(items: &mut Vec<T>, taken: &[bool]) {
    let mut taken = taken.iter();
    items.retain(|_| taken.next() == Some(&true));
}

/// The candidates, in the order in which they take turns.
fn candidates(options: &Options, chosen: &[Scenario]) -> Outcome<Vec<Candidate>> {
    let streamed: Vec<Streamed> = chosen.iter().filter_map(Scenario::streamed).collect();
    let mut candidates = vec![Candidate::ours(streamed.iter().any(|streamed| streamed.tls))];
    for (n, (name, directory)) in options.peers.iter().enumerate() {
        let name = match name {
            Some(name) => name.clone(),
            None if n == 0 => "peer".to_owned(),
            None => format!("peer {}", n + 1),
        };
        candidates.push(Candidate::peer(name, directory)?);
    }
    candidates.push(Candidate::limit());
    for (name, words) in &options.commands {
        candidates.push(Candidate::command(name.clone(), words.clone()));
    }
    if !streamed.is_empty() && !candidates.iter().any(Candidate::is_socat) {
        match Candidate::socat() {
            Some(socat) => candidates.push(socat),
            None => eprintln!("bench: there is no socat to measure TCP and TLS beside"),
        }
    }
    Ok(candidates)
}

/// The machine that the figures depend on.
fn machine() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("Linux {}, {processors} CPUs", kernel.trim())
}

/// `network.svg` in the target directory, which this executable is in.
fn default_svg() -> Outcome<PathBuf> {
    let executable = std::env::current_exe()?;
    let target = executable.ancestors().nth(3).ok_or("no target directory")?;
    Ok(target.join("bench").join("network.svg"))
}

fn write(path: &Path, content: &str) -> Outcome {
    let fault = |error| format!("{}: {error}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(fault)?;
    }
    std::fs::write(path, content).map_err(fault)?;
    eprintln!("bench: {} written", path.display());
    Ok(())
}
