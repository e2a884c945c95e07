//! The rule of the house: a file imports only from its own folder and from those before it in the list, by module path;
//! `unsafe` is only in `sys`, and what depends on the operating system only in `sys` and `udp/io`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// The folders, and the files that stand for one, from the lowest to the highest.
const ORDER: [&[&str]; 8] =
    [&["sys"], &["error", "log"], &["relay"], &["io"], &["net"], &["udp"], &["tcp"], &["program"]];
const LAST: &str = "cli";

/// What makes a `cfg` depend on the operating system.
const SYSTEMS: [&str; 5] = ["unix", "windows", "target_os", "target_vendor", "target_family"];

fn level(module: &str) -> Option<usize> {
    if module == LAST {
        return Some(ORDER.len());
    }
    ORDER.iter().position(|level| level.contains(&module))
}

/// All sources, with the path that a module of theirs has.
fn sources() -> Vec<(String, String)> {
    fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The first path segment after each `crate::` of a line.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    let word = |rest: &str| rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    line.match_indices("crate::").map(move |(at, found)| {
        let rest = &line[at + found.len()..];
        &rest[..word(rest)]
    })
}

/// What a line does that it must not, in this file; `following` is the text from the line on.
fn offence(file: &str, line: &str, following: &str) -> Option<String> {
    let folder = file.split(['/', '.']).next().unwrap_or_default();
    let in_sys = folder == "sys";
    if !in_sys && line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
        return Some("`unsafe` outside sys".to_owned());
    }
    if !in_sys && !file.starts_with("udp/io") {
        for cfg in ["cfg(", "cfg!(", "cfg_attr("] {
            let condition = line.find(cfg).map(|at| &following[at..]);
            let end = condition.and_then(|text| text.find([']', ';', '{'])).unwrap_or(0);
            let condition = &condition.unwrap_or_default()[..end];
            if let Some(system) = SYSTEMS.iter().find(|system| condition.contains(*system)) {
                return Some(format!("a cfg on `{system}` outside sys and udp/io: use a name of sys"));
            }
        }
    }
    if line.contains("super::super")
        || !file.contains('/') && line.contains("super::") && !line.contains("super::*")
    {
        return Some("`super::` out of the folder: import by module path".to_owned());
    }
    // The root lists the folders, and exports what users need.
    let own = level(folder)?;
    for module in imports(line) {
        match level(module) {
            None => {
                return Some(format!(
                    "`crate::{module}` is no module path: name the module, not a re-export"
                ));
            }
            Some(other) if other > own => {
                return Some(format!("{folder} imports from {module}, which is above it"));
            }
            Some(_) => {}
        }
    }
    None
}

#[test]
#[cfg_attr(windows, ignore = "reads the sources, which are the same on every system")]
fn imports_go_downwards_and_systems_stay_in_sys() {
    let (sources, mut offences) = (sources(), Vec::new());
    for (file, text) in &sources {
        let mut at = 0;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            if !line.trim_start().starts_with("//")
                && let Some(what) = offence(file, line, &text[at..])
            {
                offences.push(format!("mproxy-core/src/{file}:{}: {what}: {}", index + 1, line.trim()));
            }
            at += line.len();
        }
    }
    assert!(sources.len() > 50 && offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn each_offence_is_found() {
    let found = |file: &str, line: &str| offence(file, line, line).is_some();
    assert!(found("io/file.rs", "use crate::net::endpoint::Endpoint;"));
    assert!(found("error.rs", "    crate::relay::flow::relay();"));
    assert!(found("net/listen.rs", "use crate::Error;"));
    assert!(found("net/listen.rs", "    unsafe { call() };"));
    assert!(found("tcp/client.rs", "#[cfg(all(test, unix))]"));
    assert!(found("udp/source.rs", "    if cfg!(target_os = \"linux\") {"));
    assert!(found("net.rs", "use super::udp::sink::UdpSink;"));
    assert!(!found("udp/io/linux.rs", "#[cfg(windows)]"));
    assert!(!found("sys/unix.rs", "    unsafe { call() };"));
    assert!(!found("cli/help.rs", "use crate::sys::stdio;"));
    assert!(!found("lib.rs", "#![forbid(unsafe_code)]"));
}
