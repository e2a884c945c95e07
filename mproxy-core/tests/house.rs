//! The rule of the house: a file imports only from its own folder and from those before it in the list, by module path;
//! `unsafe` is only in `sys`, and what depends on the operating system only in `sys` and `udp/io`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// The folders, and the files that stand for one, from the lowest to the highest.
const ORDER: [&[&str]; 9] =
    [&["sys"], &["error", "log"], &["relay"], &["io"], &["net"], &["udp"], &["tcp"], &["program"], &["cli"]];

/// What depends on the operating system, in a condition or by itself.
const CONDITIONS: [&str; 3] = ["cfg(", "cfg!(", "cfg_attr("];
const SYSTEMS: [&str; 6] = ["unix", "windows", "target_os", "target_vendor", "target_family", "target_env"];
const OF_A_SYSTEM: [&str; 4] = ["std::os::", "consts::OS", "consts::FAMILY", "cfg_select!"];

/// What hides where a name comes from.
const HIDDEN_IMPORTS: [&str; 5] = ["crate as", "extern crate", "#[path", "crate ::", "super::super"];

fn level(module: &str) -> Option<usize> {
    ORDER.iter().position(|level| level.contains(&module))
}

/// All sources of a crate, by their paths in it.
fn sources(root: &Path) -> Vec<(String, String)> {
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
    let mut files = Vec::new();
    collect(root, &mut files);
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// What a line does that only `sys` may, or `udp/io`; `following` is the text from the line on.
fn system_offence(file: &str, line: &str, following: &str) -> Option<String> {
    if file == "sys.rs" || file.starts_with("sys/") {
        return None;
    }
    if words(line).any(|word| word == "unsafe") {
        return Some("`unsafe` outside sys".to_owned());
    }
    if file == "udp/io.rs" || file.starts_with("udp/io/") {
        return None;
    }
    let mut conditions = CONDITIONS.iter().flat_map(|cfg| line.match_indices(cfg)).map(|(at, _)| {
        let condition = &following[at..];
        &condition[..condition.find([']', ';', '{']).unwrap_or(condition.len())]
    });
    let system = |condition: &str| SYSTEMS.into_iter().find(|system| condition.contains(system));
    let found = conditions.find_map(system);
    let found = found.or_else(|| OF_A_SYSTEM.into_iter().find(|name| line.contains(name)));
    found.map(|system| format!("`{system}` outside sys and udp/io: use a name of sys"))
}

/// What a line imports that it must not; in a module of tests all of the module may be imported.
fn import_offence(file: &str, line: &str, in_tests: bool) -> Option<String> {
    // The root lists the folders, and exports what users need.
    if file == "lib.rs" {
        return None;
    }
    let folder = file.split(['/', '.']).next().unwrap_or_default();
    let Some(own) = level(folder) else { return Some(format!("`{folder}` is not in the list of folders")) };
    if let Some(hidden) = HIDDEN_IMPORTS.into_iter().find(|hidden| line.contains(hidden)) {
        return Some(format!("`{hidden}`: import by module path"));
    }
    // The parent of a folder's own file is the root.
    if !file.contains('/') && line.contains("super::") && !in_tests {
        return Some("`super::` out of the folder: import by module path".to_owned());
    }
    if line.trim_start().starts_with("pub use crate::") && !["cli.rs", "sys.rs"].contains(&file) {
        return Some("a re-export: only the root has those".to_owned());
    }
    for (at, found) in line.match_indices("crate::") {
        let module = words(&line[at + found.len()..]).next().unwrap_or_default();
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

/// All offences of a file, each with its line.
fn offences(file: &str, text: &str, is_core: bool) -> Vec<String> {
    let (mut found, mut at, mut in_tests) = (Vec::new(), 0, false);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        in_tests |= line.trim_start().starts_with("mod tests");
        if !line.trim_start().starts_with("//") {
            let import = if is_core { import_offence(file, line, in_tests) } else { None };
            let offence = import.or_else(|| system_offence(file, line, &text[at..]));
            found.extend(offence.map(|what| format!("{file}:{}: {what}: {}", index + 1, line.trim())));
        }
        at += line.len();
    }
    found
}

#[test]
#[cfg_attr(windows, ignore = "reads the sources, which are the same on every system")]
fn imports_go_downwards_and_systems_stay_in_sys() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for package in ["mproxy-core", "mproxy-client", "mproxy-server", "mproxy-forward", "mproxy-reverse"] {
        // A packed crate is alone, and has another name.
        let crate_root =
            if package == "mproxy-core" { core.to_owned() } else { core.with_file_name(package) };
        let root = crate_root.join("src");
        let sources = if root.exists() { sources(&root) } else { Vec::new() };
        assert!(!sources.is_empty() || package != "mproxy-core", "no sources in {}", root.display());
        for (file, text) in sources {
            let offences = offences(&file, &text, package == "mproxy-core");
            found.extend(offences.into_iter().map(|offence| format!("{package}/src/{offence}")));
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn each_offence_is_found() {
    let found = |file: &str, text: &str| !offences(file, text, true).is_empty();
    for (file, text) in [
        ("io/file.rs", "use crate::net::endpoint::Endpoint;"),
        ("error.rs", "    crate::relay::flow::relay();"),
        ("net/listen.rs", "use crate::Error;"),
        ("net/listen.rs", "use crate::{net, io};"),
        ("net.rs", "use super::udp::sink::UdpSink;"),
        ("net.rs", "use super::*;"),
        ("util.rs", "use crate::sys::stdio;"),
        ("io/file.rs", "use crate as root;"),
        ("io/file.rs", "extern crate self as me;"),
        ("relay/flow.rs", "pub use crate::sys::*;"),
        ("io/file.rs", "#[path = \"../net/endpoint.rs\"] mod endpoint;"),
        ("net/listen.rs", "    unsafe { call() };"),
        ("tcp/client.rs", "#[cfg(all(test, unix))]"),
        ("tcp/client.rs", "#[cfg(test)] #[cfg(unix)]"),
        ("tcp/client.rs", "#[cfg(all(\n    unix,\n    test\n))]"),
        ("udp/source.rs", "    if cfg!(target_os = \"linux\") {"),
        ("udp/iox.rs", "#[cfg(windows)]"),
        ("io/file.rs", "use std::os::fd::AsFd;"),
        ("error/hint.rs", "match std::env::consts::OS {"),
    ] {
        assert!(found(file, text), "{file}: {text}");
    }
    for (file, text) in [
        ("udp/io/linux.rs", "#[cfg(windows)]"),
        ("sys/unix.rs", "    unsafe { call() };"),
        ("cli/help.rs", "use crate::sys::stdio;"),
        ("net.rs", "mod tests {\n    use super::*;"),
        ("lib.rs", "#![forbid(unsafe_code)]"),
        ("lib.rs", "pub use udp::sink::UdpSink;"),
        ("tcp/tls.rs", "#[cfg(feature = \"tls\")]"),
    ] {
        assert!(!found(file, text), "{file}: {text}");
    }
}
