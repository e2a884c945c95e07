//! What `--help` prints, made of the table of options: ASCII, 80 columns at most.

use crate::cli::command::Command;
use crate::cli::options::{Feature, OptionSpec};

/// The most columns of a line.
const WIDTH: usize = 80;
/// The column of the long names.
const NAMES: usize = 6;
/// The column of what the options do.
const TEXT: usize = 30;

/// The help of a program.
pub(crate) fn help(command: &Command) -> String {
    let mut help = String::new();
    for part in [command.about, "\nUSAGE:\n", command.usage, "\nOPTIONS:\n"] {
        help.push_str(part);
    }
    let mut missing = None;
    for option in command.program.options() {
        if option.is_built_in() {
            push_option(&mut help, option);
        } else if missing != option.feature {
            missing = option.feature;
            push_missing(&mut help, command, option.feature);
        }
    }
    for part in ["\n", command.notes, "\nEXAMPLES:\n", command.examples] {
        help.push_str(part);
    }
    help
}

fn push_option(help: &mut String, option: &OptionSpec) {
    let mut line = String::new();
    if let Some(short) = option.short {
        line.push_str("  ");
        line.push_str(short);
        line.push(',');
    }
    pad(&mut line, NAMES);
    line.push_str(option.long);
    if let Some(value) = option.value {
        line.push(' ');
        line.push_str(value);
    }
    let mut text = String::from(option.help);
    if option.repeats {
        text.push_str("; may be repeated");
    }
    if let Some(default) = option.default {
        text.push_str("; default ");
        text.push_str(default);
    }
    if line.len() + 2 > TEXT {
        help.push_str(&line);
        help.push('\n');
        line.clear();
    }
    push_text(help, line, &text, TEXT);
}

/// The names of all options that need a feature which this build lacks.
fn push_missing(help: &mut String, command: &Command, feature: Option<Feature>) {
    let mut names = String::new();
    for option in command.program.options().iter().filter(|option| option.feature == feature) {
        if !names.is_empty() {
            names.push_str(", ");
        }
        names.push_str(option.long);
    }
    push_text(help, String::new(), &names, NAMES);
    if let Some(Feature::Tls) = feature {
        push_text(help, String::new(), "TLS, in a build with cargo's --features tls", TEXT);
    }
}

/// The words of a text from this column on, on as many lines as they need; `line` is what the first has
/// before it.
fn push_text(help: &mut String, mut line: String, text: &str, column: usize) {
    pad(&mut line, column);
    for word in text.split(' ') {
        if line.len() > column && line.len() + 1 + word.len() > WIDTH {
            help.push_str(&line);
            help.push('\n');
            line.clear();
            pad(&mut line, column);
        }
        if line.len() > column {
            line.push(' ');
        }
        line.push_str(word);
    }
    help.push_str(&line);
    help.push('\n');
}

fn pad(line: &mut String, column: usize) {
    while line.len() < column {
        line.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::ProgramSpec;

    fn help_of(program: ProgramSpec) -> String {
        help(&Command { program, version: "1", about: "a\n", usage: "u\n", notes: "n\n", examples: "e\n" })
    }

    #[test]
    fn every_option_has_a_line_of_its_own_with_its_text_beside_or_below() {
        let help = help_of(ProgramSpec::CLIENT);
        assert!(help.starts_with("a\n\nUSAGE:\nu\n\nOPTIONS:\n      --path FILE             What to send"));
        assert!(help.ends_with("  -V, --version               Print the version\n\nn\n\nEXAMPLES:\ne\n"));
        assert!(help.contains("      --server-addr HOST:PORT\n"), "{help}");
        assert!(help.contains("Where to send it; may be repeated\n"), "{help}");
        assert!(help.contains("; default 60s\n"), "{help}");
        for program in [ProgramSpec::CLIENT, ProgramSpec::SERVER, ProgramSpec::FORWARD, ProgramSpec::REVERSE]
        {
            let help = help_of(program);
            for option in program.options().iter().filter(|option| option.is_built_in()) {
                let count = help.lines().filter(|line| {
                    let mut words = line.split_whitespace().skip_while(|word| word.ends_with(','));
                    words.next() == Some(option.long) && line.find("--") == Some(NAMES)
                });
                assert_eq!(count.count(), 1, "{} {}:\n{help}", program.name(), option.long);
            }
        }
    }

    #[test]
    fn lines_are_ascii_and_fit() {
        for program in [ProgramSpec::CLIENT, ProgramSpec::SERVER, ProgramSpec::FORWARD, ProgramSpec::REVERSE]
        {
            let help = help_of(program);
            let options = help.lines().skip_while(|line| *line != "OPTIONS:").skip(1);
            for line in options.take_while(|line| !line.is_empty()) {
                assert!(line.is_ascii() && line.len() <= WIDTH && !line.ends_with(' '), "{line}");
                // What begins with a dash is an option, and nothing else.
                let text = line.trim_start();
                assert!(line.len() - text.len() < TEXT || !text.starts_with('-'), "{line}");
            }
        }
    }

    #[test]
    fn options_that_are_not_built_in_are_named_together() {
        let help = help_of(ProgramSpec::REVERSE);
        let note = help.contains("TLS, in a build with cargo's --features tls\n");
        assert_eq!(note, !Feature::Tls.is_built_in(), "{help}");
        for option in ProgramSpec::REVERSE.options() {
            assert!(help.contains(option.long), "{}", option.long);
        }
    }
}
